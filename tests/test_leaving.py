"""Leaving, however it happens: the others hear of it once and in order, and nothing remains.

First "broadcast stopped", then "left". The clients of all dialects are in one room, and each
receives it in its own dialect.
"""

import gc
import os
import signal
import socket
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from trio._core._run import GLOBAL_RUN_CONTEXT

from tests.clients import PATIENCE, Client, Message, Service, open_client, settle
from tests.conftest import Serve
from tests.effort import EFFORT
from tests.families import FAMILIES, Family, open_member
from tests.leaving import WAYS, Way
from tests.raw import TEXT, RawClient, client_close, client_frame, open_raw, upgrade_head
from trio_signal.config import Settings
from trio_signal.connection import Connection
from trio_signal.dialects import DIALECTS, Dialect
from trio_signal.messages.commands import Action
from trio_signal.messages.events import Notice, RoomEvent, WentLive
from trio_signal.outbox import Outbox
from trio_signal.room import Room
from trio_signal.server import open_sockets
from trio_signal.session import Session
from trio_signal.websocket import FrameParser


class Witness:
    """A member of the room that sees others come and go."""

    def __init__(self, client: Client, family: Family) -> None:
        self.client = client
        self.family = family

    async def sees_coming(self, type_: str) -> str | None:
        """Wait for this message; return the id in it."""
        message = await self.client.wait_for(type_)
        return message[self.family.who] if self.family.who else None

    async def sees_leaving(self, who: str | None, *, live: bool = True, cause: str = "") -> None:
        """Next it hears the peer leave, once, and nothing else; `mesh` also hears the cause."""
        fields = {self.family.who: who} if self.family.who else {}
        if live:
            await self.client.expect(self.family.stopped, **fields)
        if cause and self.family is FAMILIES["mesh"]:
            fields["cause"] = cause
        await self.client.expect(self.family.left, **fields)
        await self.client.expect_nothing()


@asynccontextmanager
async def open_witnesses(service: Service, *dialects: str) -> AsyncIterator[list[Witness]]:
    """A member for each dialect; each has seen the later ones join."""
    async with AsyncExitStack() as stack:
        witnesses: list[Witness] = []
        for number, dialect in enumerate(dialects):
            family, name = FAMILIES[dialect], f"witness{number}"
            client = await stack.enter_async_context(open_member(service, family, name))
            for witness in witnesses:
                await witness.sees_coming(witness.family.joined)
            witnesses.append(Witness(client, family))
        yield witnesses


async def go_live_before(
    witnesses: Iterable[Witness], leaver: RawClient, dialect: str, name: str = "ann"
) -> list[str | None]:
    """Join and go live, seen by all; return the id by which each witness knows the peer."""
    family = FAMILIES[dialect]
    await family.upgrade(leaver, name)
    seen = [await witness.sees_coming(witness.family.joined) for witness in witnesses]
    await leaver.say(family.go_live)
    for witness in witnesses:
        await witness.sees_coming(witness.family.live)
        await witness.client.expect_nothing()
    return seen


# In every way


async def _half_close(client: RawClient) -> None:
    """It ends only its own side: it could still read, but does not."""
    await client.half_close()


async def _half_close_within_a_frame(client: RawClient) -> None:
    await client.send(client_frame(TEXT, b"x" * 1000)[:500])
    await client.half_close()


async def _reset_with_a_goodbye_before(client: RawClient) -> None:
    await client.send(client_close(1000))
    client.reset()


async def _send_what_is_not_utf8(client: RawClient) -> None:
    await client.send(client_frame(TEXT, b"\xff"))


async def _send_a_broken_frame(client: RawClient) -> None:
    await client.send(b"\xff" * 100)


ALL_WAYS = WAYS | {
    leave.__name__.lstrip("_"): Way(leave, {}, cause)
    for leave, cause in (
        (_half_close, "lost"),
        (_half_close_within_a_frame, "lost"),
        (_reset_with_a_goodbye_before, "closed"),
        (_send_what_is_not_utf8, "error"),
        (_send_a_broken_frame, "error"),
    )
}


@pytest.mark.parametrize("dialect", FAMILIES)
@pytest.mark.parametrize("way", ALL_WAYS.values(), ids=ALL_WAYS)
async def test_leaving_is_announced_once_and_in_order(serve: Serve, dialect: str, way: Way) -> None:
    async with (
        serve(**way.settings) as service,
        open_witnesses(service, *FAMILIES) as witnesses,
        open_raw(service.base) as ann,
        open_raw(service.base) as bea,
    ):
        family = FAMILIES[dialect]
        seen = await go_live_before(witnesses, ann, dialect)
        await way.leave(ann)
        for witness, who in zip(witnesses, seen, strict=True):
            await witness.sees_leaving(who, cause=way.cause)
        for witness in witnesses:
            await witness.client.expect_nothing()
        # A peer that was not live only leaves.
        await family.upgrade(bea, "bea")
        seen = [await witness.sees_coming(witness.family.joined) for witness in witnesses]
        await way.leave(bea)
        for witness, who in zip(witnesses, seen, strict=True):
            await witness.sees_leaving(who, live=False, cause=way.cause)
        await check_newcomer(service, family, others=len(witnesses))


async def check_newcomer(service: Service, family: Family, *, others: int) -> None:
    """A late joiner finds these members, and nobody live."""
    async with open_member(service, family, "cleo") as cleo:
        assert family.count(cleo.log[-1]) == others + 1
        told = {message["type"] for message in (*cleo.log, *await cleo.settle())}
        assert told.isdisjoint({"active-broadcasts", "active_broadcasts", family.live})


@pytest.mark.parametrize("dialect", FAMILIES)
async def test_leaving_without_a_broadcast_announces_no_stop(
    service: Service, dialect: str
) -> None:
    async with (
        open_witnesses(service, *FAMILIES) as witnesses,
        open_raw(service.base) as ann,
    ):
        await FAMILIES[dialect].upgrade(ann, "ann")
        seen = [await witness.sees_coming(witness.family.joined) for witness in witnesses]
        ann.reset()
        for witness, who in zip(witnesses, seen, strict=True):
            await witness.sees_leaving(who, live=False, cause="lost")
        await check_newcomer(service, FAMILIES[dialect], others=len(witnesses))


@pytest.mark.parametrize("dialect", FAMILIES)
async def test_simultaneous_departures_are_announced_separately(
    service: Service, dialect: str
) -> None:
    other = "mesh" if dialect != "mesh" else "room"
    async with (
        open_witnesses(service, "room", "live", "mesh") as witnesses,
        open_raw(service.base) as ann,
        open_raw(service.base) as bob,
    ):
        anns = await go_live_before(witnesses, ann, dialect)
        bobs = await go_live_before(witnesses, bob, other, "bob")
        ann.reset()
        bob.reset()
        for witness, *both in zip(witnesses, anns, bobs, strict=True):
            family = witness.family
            heard = [await witness.client.receive() for _ in range(4)]
            await witness.client.expect_nothing()
            for who in both:
                types = [message["type"] for message in heard if message[family.who or ""] == who]
                assert types == [family.stopped, family.left]


@pytest.mark.parametrize("dialect", ["room", "live"])
async def test_closing_all_tabs_announces_one_departure(service: Service, dialect: str) -> None:
    async with open_witnesses(service, *FAMILIES) as witnesses, AsyncExitStack() as stack:
        room, live, stream, mesh = witnesses
        tabs = [await stack.enter_async_context(open_raw(service.base)) for _ in range(5)]
        for tab in tabs:
            await FAMILIES[dialect].upgrade(tab, "ann")
            for witness in (stream, mesh):  # they count peers
                await witness.sees_coming(witness.family.joined)
        await tabs[0].say(FAMILIES[dialect].go_live)
        for witness in witnesses:
            await witness.sees_coming(witness.family.live)
        for tab in tabs:
            tab.reset()
        for witness in (room, live):
            await witness.sees_leaving("ann")
        heard = [(await mesh.client.receive())["type"] for _ in range(6)]
        assert Counter(heard) == {mesh.family.stopped: 1, mesh.family.left: 5}
        await mesh.client.expect_nothing()


@pytest.mark.parametrize("dialect", FAMILIES)
async def test_last_peer_leaves_an_empty_room(service: Service, dialect: str) -> None:
    for _ in range(3):
        async with open_raw(service.base) as ann:
            await FAMILIES[dialect].upgrade(ann, "ann")
            await ann.say(FAMILIES[dialect].go_live)
            await ann.send(client_close(1000))
            await ann.expect_close(1000)
        # A late joiner finds no members, and nobody live.
        async with open_witnesses(service, "mesh") as (witness,):
            assert witness.client.log[-1] == {"type": "users_in_room", "users": []}
            await witness.client.expect_nothing()


# A client that reads nothing


@pytest.mark.parametrize("dialect", FAMILIES)
async def test_client_that_does_not_read_is_closed_and_others_miss_nothing(
    serve: Serve, dialect: str
) -> None:
    family = FAMILIES[dialect]
    async with (
        serve(outbox_bytes=100_000) as service,
        open_witnesses(service, dialect, dialect) as witnesses,
        open_raw(service.base, receive_buffer=4096) as ann,
    ):
        await go_live_before(witnesses, ann, dialect)
        talker, listener = (witness.client for witness in witnesses)
        listener.log.clear()
        said = 0
        while family.left not in types(listener.log):
            said += 1
            assert said < 2000
            # Nobody waits for the client that does not read.
            with trio.fail_after(PATIENCE):
                await talker.send_json(family.chatter(f"{said} {'x' * 10_000}"))
                if family.all_hear_chatter:
                    await listener.wait_for("message")
                await settle(talker)
                await listener.settle()
        heard = types(listener.log)
        assert heard.count("message") == (said if family.all_hear_chatter else 0)
        assert [type_ for type_ in heard if type_ != "message"] == [family.stopped, family.left]
        # It received complete frames, followed by the reason.
        await ann.expect_close(1013, "Reads too slowly")


async def test_simultaneous_departures_with_full_sockets_are_announced(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each departing client is sent messages while it leaves, and its socket is full."""

    async def open_narrow_sockets(settings: Settings) -> list[socket.socket]:
        sockets = await open_sockets(settings)
        for sock in sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return sockets

    monkeypatch.setattr("trio_signal.server.open_sockets", open_narrow_sockets)
    family, crowd = FAMILIES["mesh"], []
    async with serve(dialects=("mesh",)) as service, AsyncExitStack() as clients:
        for number in range(100):
            client = await clients.enter_async_context(open_raw(service.base, receive_buffer=2048))
            await family.upgrade(client, f"p{number}")
            if number % 3 == 0:
                await client.say(family.go_live)
            crowd.append(client)
        watcher = await clients.enter_async_context(open_raw(service.base))
        await family.upgrade(watcher, "watcher")
        for client in crowd:
            client.send_nowait(client_close(1000))
        with trio.fail_after(PATIENCE):
            left = {(await watcher.wait_for(family.left))[family.who or ""] for _ in crowd}
        assert left == {f"p{number}" for number in range(100)}


def types(messages: Iterable[Message]) -> list[str]:
    return [message["type"] for message in messages]


# Server errors


def replace_dialect(monkeypatch: pytest.MonkeyPatch, name: str, **methods: Any) -> None:
    """Replace a dialect by a subclass of it."""
    base = DIALECTS[name]
    monkeypatch.setitem(DIALECTS, name, type(f"Failing{base.__name__}", (base,), methods))


@pytest.mark.parametrize("dialect", FAMILIES)
async def test_error_in_a_message_closes_only_its_sender(
    service: Service,
    dialect: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    base = DIALECTS[dialect]

    def received(self: Dialect, text: bytes, now: str) -> Iterable[Action]:
        if b"explode" in text:
            raise RuntimeError("it exploded")
        return base.received(self, text, now)

    replace_dialect(monkeypatch, dialect, received=received)
    async with (
        open_witnesses(service, *FAMILIES) as witnesses,
        open_raw(service.base) as ann,
        open_raw(service.base) as bob,
    ):
        seen = await go_live_before(witnesses, ann, dialect)
        await ann.say({"type": "explode"})
        for witness, who in zip(witnesses, seen, strict=True):
            await witness.sees_leaving(who)
        await ann.expect_close(1011, "Internal error")
        # The next client is served.
        await go_live_before(witnesses, bob, dialect, "bob")
    # A slow machine may log more, but no other exception.
    (error,) = [record.exc_info for record in caplog.get_records("call") if record.exc_info]
    assert str(error[1]) == "it exploded"


@pytest.mark.parametrize("dialect", FAMILIES)
async def test_error_in_encoding_closes_only_the_receiver(
    service: Service,
    dialect: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    base = DIALECTS[dialect]

    def tell(event: RoomEvent) -> Iterable[Notice]:
        if isinstance(event, WentLive) and event.member.username == "witness0":
            raise RuntimeError("it exploded")
        return base.tell(event)

    replace_dialect(monkeypatch, dialect, tell=staticmethod(tell))
    others = [name for name in ("mesh", "room", "live") if name != dialect]
    async with open_witnesses(service, *others) as witnesses, open_raw(service.base) as ann:
        seen = await go_live_before(witnesses, ann, dialect)
        first, *rest = witnesses
        await first.client.send_json(first.family.go_live)
        for witness in rest:
            await witness.sees_coming(witness.family.live)
        for witness, who in zip(witnesses, seen, strict=True):
            await witness.sees_leaving(who)
        await ann.expect_close(1011, "Internal error")
    # A slow machine may log more, but no other exception.
    (error,) = [record.exc_info for record in caplog.get_records("call") if record.exc_info]
    assert str(error[1]) == "it exploded"


@pytest.mark.parametrize("dialect", FAMILIES)
async def test_failing_dialect_does_not_affect_the_others(
    service: Service,
    dialect: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def tell(event: RoomEvent) -> Iterable[Notice]:
        raise RuntimeError(f"no words for {event}")

    replace_dialect(monkeypatch, dialect, tell=staticmethod(tell))
    others = [name for name in FAMILIES if name != dialect]
    async with open_witnesses(service, *others) as witnesses, open_raw(service.base) as ann:
        await ann.upgrade(FAMILIES[dialect].path.format(name="ann"))
        await ann.say(*FAMILIES[dialect].entering("ann"))
        for witness in witnesses:
            who = await witness.sees_coming(witness.family.joined)
            await witness.sees_leaving(who, live=False)
        await ann.expect_close(1011, "Internal error")


# The server stops


async def expect_going_away(client: Client) -> None:
    await client.expect_close(1001, "Server going away")
    client.reset()


@pytest.mark.parametrize("dialect", FAMILIES)
async def test_stopping_server_closes_all_clients(
    serve: Serve, dialect: str, caplog: pytest.LogCaptureFixture
) -> None:
    family = FAMILIES[dialect]
    path = family.path.format(name="ann")
    async with trio.open_nursery() as nursery, serve() as service:
        # Even if they are tabs of one user.
        tabs = []
        for number in range(10):
            tab = await open_client(nursery, service.base, path)
            tabs.append(tab)
            for message in family.entering("ann" if family.who == "user_id" else f"ann{number}"):
                await tab.send_json(message)
            await tab.wait_for(family.entered)
            await tab.send_json(family.go_live)
        # Each tab but the last has sent nothing since the next one connected.
        await settle(tabs[-1])
        for tab in tabs:
            nursery.start_soon(expect_going_away, tab)
    assert [record for record in caplog.get_records("call") if record.levelname == "ERROR"] == []


@asynccontextmanager
async def open_process(**env: str) -> AsyncIterator[tuple[trio.Process, Service]]:
    """The server in a process of its own."""
    command = [sys.executable, "-m", "trio_signal", "serve", "--port", "0"]
    environment = {name: value for name, value in os.environ.items() if "TRIO_SIGNAL" not in name}
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(
            partial(
                trio.run_process,
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment | env,
                check=False,
            )
        )
        assert process.stdout is not None
        said = b""
        with trio.fail_after(PATIENCE * 3):
            while not said.endswith(b"\n"):
                said += await process.stdout.receive_some()
        assert said.startswith(b"listening on http://")
        yield process, Service(said.split(b"http://")[1].strip().decode())
        nursery.cancel_scope.cancel()


async def test_drain_time_limits_slow_closing_handshakes(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_signal.connection._GOODBYE", PATIENCE * 2)
    async with AsyncExitStack() as clients:
        with trio.fail_after(PATIENCE):
            async with serve(drain=0.2) as service:
                silent = await clients.enter_async_context(open_raw(service.base))
                await FAMILIES["room"].upgrade(silent, "silent")


@pytest.mark.parametrize(
    ("number", "drain"),
    [
        (signal.SIGTERM, PATIENCE * 2),
        (signal.SIGINT, PATIENCE * 2),
        (signal.SIGHUP, PATIENCE * 2),
        (signal.SIGTERM, 0.4),
    ],
    ids=["SIGTERM", "SIGINT", "SIGHUP", "SIGTERM with little time"],
)
async def test_server_stops_in_time_whatever_its_clients_do(
    number: signal.Signals, drain: float
) -> None:
    async with (
        open_process(TRIO_SIGNAL_DRAIN=str(drain), TRIO_SIGNAL_OUTBOX_BYTES="100000000") as (
            process,
            service,
        ),
        open_witnesses(service, *FAMILIES) as witnesses,
        open_raw(service.base, receive_buffer=4096) as stalled,
        open_raw(service.base) as silent,
        open_raw(service.base) as slow,
        open_raw(service.base) as idle,
    ):
        for witness in witnesses:
            await witness.client.send_json(witness.family.go_live)
        await FAMILIES["room"].upgrade(stalled, "stalled")
        # More than the kernel buffers, so that some of it waits in the server.
        for _ in range(60):
            await witnesses[0].client.send("message", content="x" * 100_000)
        await settle(*(witness.client for witness in witnesses))
        # One client ignores the closing handshake, one is in the middle of its request, one is
        # between two requests.
        await FAMILIES["room"].upgrade(silent, "silent")
        await slow.send(upgrade_head("/ws/r")[:-2])
        await idle.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await idle.receive_head()).status == 200
        for witness in witnesses:
            await witness.client.settle()
            witness.client.log.clear()

        process.send_signal(number)
        for witness in witnesses:
            check_order(witness, await witness.client.expect_close(1001, "Server going away"))
        with trio.fail_after(PATIENCE):
            assert await process.wait() == 0
        assert process.stderr is not None
        assert b"Traceback" not in await process.stderr.receive_some(100_000)


def check_order(witness: Witness, heard: Iterable[Message]) -> None:
    """It heard of each client that was closed earlier, once and in order."""
    family = witness.family
    if family.who is None:
        return
    about: dict[str, list[str]] = {}
    for message in heard:
        name = str(message.get("username", message[family.who]))
        about.setdefault(name, []).append(message["type"])
    for name, types_ in about.items():
        live = name not in {"stalled", "silent"}
        assert types_ == ([family.stopped, family.left] if live else [family.left])


# Nothing remains

OURS = (Session, Connection, Outbox, FrameParser, Room, *DIALECTS.values())
TRIOS = (trio.Nursery, trio.lowlevel.Task)


def take_census() -> Counter[str]:
    """Count the objects in this process that come with connections."""
    # Trio keeps up to a thousand expired deadlines, with their scopes.
    GLOBAL_RUN_CONTEXT.runner.deadlines._prune()
    gc.collect()
    objects = gc.get_objects()
    census = Counter(type(thing).__name__ for thing in objects if isinstance(thing, OURS + TRIOS))
    census["descriptors"] = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    census["tasks"] = count_tasks(trio.lowlevel.current_root_task())
    return census


def count_tasks(task: trio.lowlevel.Task | None) -> int:
    assert task is not None
    children = [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return 1 + sum(map(count_tasks, children))


LEAVE = [way.leave for way in ALL_WAYS.values() if not way.settings]


async def come_and_go(base: str, number: int, name: str) -> None:
    """One of many visits, each different from the previous one."""
    dialect = list(FAMILIES.values())[number % 4]
    leave = LEAVE[number // 4 % len(LEAVE)]
    async with open_raw(base) as client:
        if number % 10 == 9:  # clients that never join must leave nothing either
            await client.send(upgrade_head("/ws/r/ann")[: number % 150])
            return
        await dialect.upgrade(client, name)
        if number % 3:
            await client.say(dialect.go_live)
        await leave(client)


async def come_and_go_often(base: str, visits: int, *, visitors: int = 20) -> None:
    async def visit(visitor: int) -> None:
        for number in range(visitor, visits, visitors):
            await come_and_go(base, number, f"visitor{visitor}")

    async with trio.open_nursery() as nursery:
        for visitor in range(visitors):
            nursery.start_soon(visit, visitor)


async def wait_until_gone(census: Counter[str]) -> None:
    """Taking a census blocks everything else, so wait first until the tasks are gone."""
    root = trio.lowlevel.current_root_task()
    with trio.move_on_after(PATIENCE):
        while count_tasks(root) > census["tasks"]:  # noqa: ASYNC110  there is no event
            await trio.sleep(0.05)
        while take_census() - census:  # noqa: ASYNC110  descriptors have no event
            await trio.sleep(0.5)


VISITS = 80 * EFFORT
#: Bytes by which the visits may grow memory. A leaked connection takes several thousand bytes. With
#: EFFORT=10, 300 bytes in each visit, as for a dict entry with its key and value, are too many as
#: well. Caches, pools, buffers and threads take up to 100,000 on a busy machine.
MOST_GROWTH = 150 * VISITS + 100_000


@pytest.fixture
def _traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.usefixtures("_traced")
async def test_hundreds_of_visits_leave_no_objects_behind(service: Service) -> None:
    before = take_census()
    # Caches and pools, which are created once for the first of their kind, do not count.
    await come_and_go_often(service.base, VISITS // 2)
    await wait_until_gone(before)
    # A leak grows in each round; something that is loaded or cached late does so only once.
    grown: list[int] = []
    while len(grown) < 3 and not any(each < MOST_GROWTH for each in grown):
        warm, _ = tracemalloc.get_traced_memory()
        await come_and_go_often(service.base, VISITS)
        await wait_until_gone(before)
        after, _ = tracemalloc.get_traced_memory()
        grown.append(after - warm)
    # What the servers did at the start, such as a database query, may have ended since.
    assert not take_census() - before
    assert min(grown) < MOST_GROWTH, grown


async def test_ended_connection_is_freed_at_once(serve: Serve) -> None:
    """It is in no reference cycle: the collector looks at long-lived objects only rarely."""
    gc.collect()
    gc.disable()
    try:
        async with serve() as service:
            for dialect in FAMILIES:
                async with open_witnesses(service, dialect) as (witness,):
                    await witness.client.send_json(witness.family.go_live)
                    await witness.client.settle()
            with trio.fail_after(PATIENCE):
                while any(isinstance(each, Connection) for each in gc.get_objects()):  # noqa: ASYNC110
                    await trio.sleep(0.01)
    finally:
        gc.enable()


#: An incomplete request, which blocks whoever waits for its answer.
_UNFINISHED = b"POST /auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"


async def test_second_sigterm_changes_nothing() -> None:
    async with (
        open_process(TRIO_SIGNAL_DRAIN="3") as (process, service),
        open_witnesses(service, *FAMILIES) as witnesses,
        open_raw(service.base) as slow,
    ):
        await slow.send(_UNFINISHED)
        process.send_signal(signal.SIGTERM)
        await witnesses[0].client.expect_close(1001, "Server going away")
        process.send_signal(signal.SIGTERM)
        for witness in witnesses[1:]:
            await witness.client.expect_close(1001, "Server going away")
        with trio.fail_after(PATIENCE):
            assert await process.wait() == 0


async def test_second_sigint_stops_at_once() -> None:
    async with (
        open_process(TRIO_SIGNAL_DRAIN="1000") as (process, service),
        open_raw(service.base) as slow,
        open_witnesses(service, "mesh") as (witness,),
    ):
        await slow.send(_UNFINISHED)
        await witness.client.settle()
        process.send_signal(signal.SIGINT)
        await witness.client.expect_close(1001, "Server going away")
        process.send_signal(signal.SIGINT)
        with trio.fail_after(PATIENCE):
            assert await process.wait() == 0
