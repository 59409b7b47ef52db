"""`make cluster`: replicas behind nginx, as visitors and the person who runs it see them."""

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from functools import partial
from pathlib import Path

import trio

from tests.clients import PATIENCE, Quiesce, Service, connect
from tests.raw import RawClient, get, upgrade_head
from tests.replicas.processes import STARTING, server_environment
from tests.test_docs import EXAMPLE, page_of, play
from trio_signal.dialects import DIALECTS

CLUSTER = Path(__file__).parents[2] / "deploy" / "cluster.py"
#: The connection limit of one address on each replica.
PER_IP = 10


class Running:
    """The cluster as a process, and its output."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.output = ""
        self._heard = trio.Event()

    async def follow(self) -> None:
        """Read the output until the process has ended."""
        assert self.process.stdout is not None
        async for chunk in self.process.stdout:
            self.output += chunk.decode()
            self._heard.set()
            self._heard = trio.Event()

    async def wait_ended(self) -> int:
        with trio.fail_after(STARTING):
            return await self.process.wait()

    async def wait_said(self, pattern: str) -> re.Match[str]:
        with trio.fail_after(STARTING):
            while (found := re.search(pattern, self.output, re.MULTILINE)) is None:
                await self._heard.wait()
        return found


async def _interrupt(process: trio.Process) -> None:
    """Stop it in order, then at once; if it were killed, its child processes would stay."""
    for number in (signal.SIGINT, signal.SIGTERM):
        process.send_signal(number)
        await trio.sleep(STARTING)
    process.kill()


@asynccontextmanager
async def run_cluster(*options: str, **environment: object) -> AsyncIterator[Running]:
    async with trio.open_nursery() as nursery:
        process = await nursery.start(
            partial(
                trio.run_process,
                [sys.executable, CLUSTER, "--port", "0", *options],
                env=server_environment(environment),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
                deliver_cancel=_interrupt,
            )
        )
        running = Running(process)
        nursery.start_soon(running.follow)
        yield running
        nursery.cancel_scope.cancel()


async def wait_empty(base: str) -> None:
    """Wait, by polling, until no replica lists a room any more."""
    with trio.fail_after(PATIENCE):
        while json.loads(await get(base, "/rooms")) != []:  # noqa: ASYNC110
            await trio.sleep(0.02)


@asynccontextmanager
async def open_witnesses(replicas: Sequence[str]) -> AsyncIterator[Quiesce]:
    """Yield a function that waits until each replica has received everything that any has sent.

    It publishes on a topic, which arrives after all earlier messages.
    """
    async with AsyncExitStack() as stack:
        witnesses = [await stack.enter_async_context(connect(each, "/topics")) for each in replicas]
        for witness in witnesses:
            await witness.send("subscribe", topic="witness")
            await witness.send("ping")
            await witness.expect("pong")

        async def hear_all() -> None:
            for speaker in witnesses:
                await speaker.send("publish", topic="witness", data={})
                for witness in witnesses:
                    await witness.expect("publish", topic="witness")

        yield hear_all


async def visit_all_dialects(base: str, replicas: Sequence[str]) -> None:
    """Hold the conversations of all protocol pages, one after the other."""
    async with open_witnesses(replicas) as quiesce:
        service = Service(base, quiesce=quiesce)
        for dialect in DIALECTS:
            (example,) = EXAMPLE.findall(page_of(dialect))
            await play(example, service)
            await wait_empty(base)


async def connect_from(stack: AsyncExitStack, base: str, address: str, **headers: str) -> int:
    """Open a WebSocket from an address of this machine, and keep it open; the status."""
    host, _, port = base.rpartition(":")
    stream = await trio.open_tcp_stream(host, int(port), local_address=address)
    stack.enter_context(closing(stream.socket))
    client = RawClient(stream)
    await client.send(upgrade_head("/ws/lobby", Host=base, **headers))
    return (await client.receive_head()).status


async def check_addresses(base: str, replicas: Sequence[str]) -> None:
    """Check that only an address with too many connections is refused, whatever its headers say."""
    async with AsyncExitStack() as stack:
        most = PER_IP * len(replicas)
        forged = [
            await connect_from(stack, base, "127.0.0.2", X_Forwarded_For=f"192.0.2.{number}")
            for number in range(most + 1)
        ]
        assert set(forged) == {101, 429}
        assert await connect_from(stack, base, "127.0.0.3") == 101
        for replica in replicas:
            health = json.loads(await get(replica, "/health"))
            assert 0 < health["active_connections"] <= PER_IP + 1


async def check_origins(base: str) -> None:
    """Check that the replica knows its public host and port."""
    async with AsyncExitStack() as stack:
        for origin, status in ((f"http://{base}", 101), ("http://127.0.0.1:1", 403)):
            assert await connect_from(stack, base, "127.0.0.4", Origin=origin) == status


async def is_served(base: str) -> bool:
    host, _, port = base.rpartition(":")
    try:
        await (await trio.open_tcp_stream(host, int(port))).aclose()
    except OSError:
        return False
    return True


async def test_a_cluster_serves_all_dialects_and_stops() -> None:
    async with run_cluster(TRIO_SIGNAL_MAX_CONNECTIONS_PER_IP=PER_IP) as cluster:
        base = (await cluster.wait_said(r"^listening on http://(\S+)\n"))[1]
        replicas = re.findall(r"^replica-\d is http://(\S+),", cluster.output, re.MULTILINE)
        stores = re.findall(r"(127\.0\.0\.1:\d+)/postgres|redis://(\S+),", cluster.output)
        await visit_all_dialects(base, replicas)
        await check_addresses(base, replicas)
        await check_origins(base)
        cluster.process.send_signal(signal.SIGINT)
        await cluster.wait_said(r"^stopped\n")
        assert await cluster.wait_ended() == 0
        stopped = [base, *replicas, *(address for pair in stores for address in pair if address)]
        assert len(stopped) == 6
        if media_server := re.search(
            r"^media server is janus\+ws://(\S+)\n", cluster.output, re.MULTILINE
        ):
            stopped.append(media_server[1])
        assert not any([await is_served(address) for address in stopped])
    assert "Traceback" not in cluster.output
    assert "restarting it" not in cluster.output


async def test_closing_the_terminal_stops_everything() -> None:
    async with run_cluster("--replicas", "1") as cluster:
        base = (await cluster.wait_said(r"^listening on http://(\S+)\n"))[1]
        replica = (await cluster.wait_said(r"^replica-1 is http://(\S+),"))[1]
        redis = (await cluster.wait_said(r"^redis is redis://(\S+),"))[1]
        cluster.process.send_signal(signal.SIGHUP)
        assert await cluster.wait_ended() == 0
        assert not any([await is_served(address) for address in (base, replica, redis)])


async def test_the_reason_is_printed_if_the_cluster_cannot_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        async with (
            run_cluster("--replicas", "1", "--port", port) as without_port,
            run_cluster("--replicas", "1", TRIO_SIGNAL_JWT_SECRET="short") as without_secret,
        ):
            await without_port.wait_said(r"^cluster: nginx did not start\n")
            await without_secret.wait_said(r"^cluster: Command .*'upgrade'.* exit status 2\.\n")
            for cluster in (without_port, without_secret):
                assert await cluster.wait_ended() == 1
                assert "Traceback" not in cluster.output
