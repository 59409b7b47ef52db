"""Replicas that stop do so in time, and their clients are told."""

import signal
import socket
import subprocess
import sys
from functools import partial
from itertools import cycle
from pathlib import Path

import pytest
import trio

from tests.raw import open_raw
from tests.redis.server import HOST
from tests.replicas.guests import Guest, Party, open_party
from tests.replicas.processes import (
    STARTING,
    Cluster,
    Replica,
    open_cluster,
    server_environment,
)
from tests.replicas.test_workers import is_running, open_workers, workers

#: An incomplete request, which delays everything that waits for its answer.
UNFINISHED = b"POST /auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"


async def restart(cluster: Cluster, replica: Replica, party: Party) -> None:
    """Replace a replica; its guests reconnect to others, as browsers do."""
    gone = party.forget_all(replica)
    cluster.replicas.remove(replica)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(replica.stop)
        others = cycle(cluster.replicas)
        for guest in gone:
            nursery.start_soon(come_back, party, guest, next(others))
    await cluster.add()
    await cluster.wait_status("ready")


async def come_back(party: Party, guest: Guest, replica: Replica) -> None:
    assert (await guest.wait_gone()).code == 1001
    gone = trio.current_time()
    await party.join(f"{guest.name}-again", replica)
    print(f"{guest} is back after {trio.current_time() - gone:.2f} s")


async def chatter(party: Party) -> None:
    """Everybody sends all the time."""
    for number in range(1_000_000):
        for guest in list(party.guests.values()):
            try:
                await guest.say("message", data=number)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                if guest in party.guests.values():  # otherwise its replica is stopping
                    raise
        await trio.sleep(0.02)


async def test_rolling_restart_under_load(tmp_path: Path) -> None:
    """Everybody reconnects, and all views are right."""
    async with open_cluster(tmp_path, TRIO_SIGNAL_DRAIN=5) as cluster, open_party() as party:
        for number, replica in enumerate(cluster.replicas * 6):
            guest = await party.join(f"guest-{number}", replica)
            if number % 3 == 0:
                await guest.go_live()
        await party.agree()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(chatter, party)
            for replica in list(cluster.replicas):
                with trio.fail_after(STARTING):
                    await restart(cluster, replica, party)
            nursery.cancel_scope.cancel()
        await party.agree()
        assert len(party.guests) == 18
        assert {guest.closed.code for guest in party.lost if guest.closed} <= {1001}
        party.lost.clear()


async def test_stopping_does_not_wait_for_stalled_parts(tmp_path: Path) -> None:
    """Such as a frozen Redis, a client that does not read, or a request that never ends."""
    async with open_cluster(
        tmp_path, 1, TRIO_SIGNAL_DRAIN=2, TRIO_SIGNAL_OUTBOX_BYTES=100_000_000
    ) as cluster:
        (replica,) = cluster.replicas
        async with (
            open_party() as party,
            open_raw(replica.base, receive_buffer=4096) as stalled,
            open_raw(replica.base) as slow,
        ):
            guest = await party.join("guest", replica)
            await stalled.upgrade(f"/ws/{party.room_id}")
            await stalled.say({"type": "auth_token", "username": "stalled"})
            await guest.wait_told("user_joined", "stalled")
            # More than the kernel buffers, so that some of it waits in the server.
            for _ in range(60):
                await guest.say("message", data="x" * 100_000)
            await slow.send(UNFINISHED)
            await guest.settle()
            party.forget(guest)
            cluster.redis.freeze()
            began = trio.current_time()
            replica.send(signal.SIGTERM)
            assert (await guest.wait_gone()).code == 1001
            with pytest.raises(OSError, match="attempts to connect"):
                await trio.open_tcp_stream(HOST, int(replica.base.rpartition(":")[2]))
            assert await replica.end(signal.SIGTERM) == 0  # the second signal changes nothing
            print(f"stopped after {trio.current_time() - began:.2f} s")
            cluster.redis.thaw()
        cluster.replicas.clear()
        await cluster.redis.ask("FLUSHALL")


async def test_a_second_sigint_to_the_parent_stops_at_once(tmp_path: Path) -> None:
    async with open_workers(tmp_path, TRIO_SIGNAL_DRAIN=1000) as (parent, _):
        processes = workers(parent).values()
        async with open_raw(parent.base) as slow:
            await slow.send(UNFINISHED)
            parent.send(signal.SIGINT)
            await parent.wait_logged("SIGINT: stopping")
            assert await parent.end(signal.SIGINT) == 0
        await parent.wait_all_gone()
        assert not any(map(is_running, processes))


@pytest.mark.parametrize("options", [(), ("--workers", "2")])
async def test_second_sigint_ends_a_server_that_still_starts(options: tuple[str, ...]) -> None:
    """Its Redis accepts connections, and says nothing for longer than this takes."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.setblocking(False)
        environment: dict[str, object] = {
            "REDIS_URL": f"redis://127.0.0.1:{silent.getsockname()[1]}"
        }
        async with trio.open_nursery() as nursery:
            process: trio.Process = await nursery.start(
                partial(
                    trio.run_process,
                    [sys.executable, "-m", "trio_signal", "serve", "--port", "0", *options],
                    env=server_environment(environment),
                    stdout=subprocess.DEVNULL,
                    check=False,
                )
            )
            with trio.fail_after(STARTING):
                await trio.lowlevel.wait_readable(silent)
            began = trio.current_time()
            process.send_signal(signal.SIGINT)
            await trio.sleep(0.5)
            process.send_signal(signal.SIGINT)
            with trio.fail_after(STARTING):
                assert await process.wait() == 0
            assert trio.current_time() - began < 3
