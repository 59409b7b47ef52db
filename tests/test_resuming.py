"""Resuming a session as the same peer, as `mesh` clients see it: over real sockets.

The counting alone is tested in tests/test_resumption.py.
"""

import json
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    suppress,
)
from random import Random
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
import trio
from trio_websocket import ConnectionClosed

from tests.clients import PATIENCE, Client, Message, Service, open_client
from tests.conftest import serve_once, serve_replicas
from tests.effort import EFFORT
from tests.raw import (
    TEXT,
    RawClient,
    client_close,
    client_text,
    get,
    open_raw,
    split_frames,
    upgrade_head,
)
from tests.redis.server import NOWHERE, open_proxy
from tests.tokens import SECRET, make_token
from tests.traveller import UNCOUNTED, Traveller
from trio_signal.bus.redis.feed import Feed
from trio_signal.bus.redis.handover import RedisHandover
from trio_signal.handover import Handover
from trio_signal.limits import RESUMES
from trio_signal.local_room import LocalRoom
from trio_signal.messages.events import NotResumedReason
from trio_signal.messages.handover import NotGiven, Sought
from trio_signal.messages.identity import Member

SEEDS = 40 * EFFORT
PATH = "/ws/r"


@pytest.fixture(autouse=True)
def exact_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replicas of one process agree on the time, however busy the machine is.

    Their own measurement of Redis's clock is as uncertain as Redis is slow.
    """
    monkeypatch.setattr(RedisHandover, "time", lambda _: trio.current_time())


class Guest(NamedTuple):
    """A client in the room, and what it needs to resume."""

    client: Client
    id: str
    claims: dict[str, Any]
    #: Counted messages received on earlier connections.
    before: int = 0

    def received(self) -> int:
        """How many counted messages it has received."""
        return self.before + sum(message["type"] not in UNCOUNTED for message in self.client.log)


class Room(NamedTuple):
    """A service, and the clients that connect to it."""

    service: Service
    nursery: trio.Nursery
    sockets: ExitStack

    async def connect(self, path: str = PATH) -> Client:
        client = await open_client(self.nursery, self.service.base, path)
        self.sockets.callback(client.socket._stream.socket.close)  # type: ignore[attr-defined]
        await client.expect("auth_required")
        return client

    async def enter(self, name: str, **claims: Any) -> Guest:
        client = await self.connect()
        claims = {"token": "t", "clientId": name, "username": name, "resume": True, **claims}
        await client.send("auth_token", **claims)
        success = await client.expect("auth_success")
        await client.expect("users_in_room")
        session = success.get("session", {"id": "", "grace": 0})
        return Guest(client, session["id"], claims)

    async def enter_all(self, *names: str) -> list[Guest]:
        guests: list[Guest] = []
        for name in names:
            guests.append(await self.enter(name))
            for other in guests[:-1]:
                await other.client.expect("user_joined", client_id=name)
        return guests

    async def ask(self, guest: Guest, received: int | None = None, **claims: Any) -> Client:
        """A new connection that asks to resume a guest's session."""
        client = await self.connect()
        received = guest.received() if received is None else received
        claims = {"token": guest.claims["token"], "session": guest.id, **claims}
        await client.send("auth_token", received=received, **claims)
        return client

    async def resume(self, guest: Guest, **claims: Any) -> tuple[Guest, Message]:
        client = await self.ask(guest, **claims)
        resumed = await client.expect("resumed")
        return guest._replace(client=client, before=guest.received()), resumed


@asynccontextmanager
async def open_room(**given: object) -> AsyncIterator[Room]:
    async with serve_once(**given) as service, trio.open_nursery() as nursery:
        with ExitStack() as sockets:
            yield Room(service, nursery, sockets)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_replicas(redis_url: str) -> AsyncIterator[tuple[Room, Room]]:
    """Two replicas of one service, each with a room for the clients that connect there."""
    async with serve_replicas(2, redis_url) as service, trio.open_nursery() as nursery:
        with ExitStack() as sockets:
            here, there = (Room(Service(base), nursery, sockets) for base in service.bases)
            yield here, there
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_wired(
    redis_url: str, **given: object
) -> AsyncIterator[tuple[Room, Room, Callable[[], AbstractAsyncContextManager[None]]]]:
    """Two replicas, and a block in which the first one cannot reach Redis."""
    given = {"redis_prefix": f"{uuid4()}:", "drain": 1, **given}
    async with (
        open_proxy(urlsplit(redis_url).port or 6379) as proxy,
        serve_once(**given, redis_url=redis_url) as well,
        serve_once(**given, redis_url=proxy.url) as wired,
        trio.open_nursery() as nursery,
    ):

        @asynccontextmanager
        async def unplugged() -> AsyncIterator[None]:
            target, proxy.target = proxy.target, NOWHERE
            for number in range(proxy.accepted):
                proxy.cut(number)
            await wait_status(wired, "degraded")
            yield
            proxy.target = target
            await wait_status(wired, "ready")

        with ExitStack() as sockets:
            here, there = (Room(service, nursery, sockets) for service in (wired, well))
            yield here, there, unplugged
        nursery.cancel_scope.cancel()


async def wait_status(service: Service, status: str) -> None:
    with trio.fail_after(PATIENCE):
        while json.loads(await get(service.base, "/readyz"))["status"] != status:  # noqa: ASYNC110
            await trio.sleep(0.02)


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    async with open_room() as room:
        yield room


async def fence(sender: Client, *others: Client) -> None:
    """Nothing up to now was sent to the others."""
    await sender.send("message", data="fence")
    for other in others:
        await other.expect("message", data="fence")


# Lost connections


async def test_resumed_peer_is_the_same_and_misses_nothing(room: Room) -> None:
    ann, bob, eve = await room.enter_all("ann", "bob", "eve")
    plain = (await room.enter("old", resume=False)).client  # a client without resuming
    for guest in (ann, bob, eve):
        await guest.client.expect("user_joined", client_id="old")
    await ann.client.send("broadcast_start")
    for client in (bob.client, eve.client, plain):
        await client.expect("broadcast_started", client_id="ann")

    ann.client.reset()
    for guest in (bob, eve):
        away = await guest.client.expect("user_away")
        assert away == {"type": "user_away", "client_id": "ann", "username": "ann"}
    # Messages for it are kept, since it has not left.
    await bob.client.send("offer", to_="ann", offer={"sdp": 1})
    await plain.send("message", data="to all")
    for client in (bob.client, eve.client):
        await client.expect("message", data="to all")
    await room.enter("late", resume=False)
    for client in (bob.client, eve.client, plain):
        await client.expect("user_joined", client_id="late")

    back, resumed = await room.resume(ann)
    assert resumed == {"type": "resumed", "received": 1, "replayed": 3}
    await back.client.expect("offer", from_="bob")
    await back.client.expect("message", data="to all")
    await back.client.expect("user_joined", client_id="late")
    for guest in (bob, eve):
        await guest.client.expect("user_back", client_id="ann", username="ann")
    await fence(back.client, bob.client, eve.client, plain)
    await back.client.send("broadcast_stop")  # it is still live
    await plain.expect("broadcast_stopped", client_id="ann")


async def test_both_sides_report_what_they_received(room: Room) -> None:
    ann, _ = await room.enter_all("ann", "bob")
    client = ann.client
    await client.send("ping", id=7, received=ann.received())
    await client.expect("pong", id=7, received=0)
    await client.send("message", data=1)
    await client.send("offer", to_="nobody", offer={})
    await client.expect("error", code="target_not_found")
    await client.send("auth_token", token="t")  # a new token is not counted
    await client.send("nonsense")
    await client.expect("error", code="unknown_type")
    await client.send("ping", received="much")  # nor is a malformed ping
    await client.expect("error", code="invalid_message")
    await client.send("ping")
    await client.expect("pong", received=3)
    # Without a session nothing is counted.
    plain = await room.enter("plain", resume=False)
    await plain.client.send("ping", id=1, received=0)
    assert await plain.client.receive() == {"type": "pong", "id": 1}


async def test_connection_that_seems_alive_is_taken_over(room: Room) -> None:
    ann, bob = await room.enter_all("ann", "bob")
    await ann.client.send("message", data=1)
    await bob.client.expect("message", data=1)
    back, resumed = await room.resume(ann)
    assert resumed == {"type": "resumed", "received": 1, "replayed": 0}
    again, _ = await room.resume(back)  # once more, while the second one is open
    for old in (ann.client, back.client):
        with pytest.raises(ConnectionClosed):
            await old.receive()
    await fence(again.client, bob.client)
    await fence(bob.client, again.client)


async def test_request_that_a_newer_connection_has_overtaken_is_refused(room: Room) -> None:
    ann, bob = await room.enter_all("ann", "bob")
    await expect_overtaken(ann, bob, room, room)


async def expect_overtaken(guest: Guest, other: Guest, slow: Room, fast: Room) -> None:
    """The network delays a request, so the client connects anew and abandons the connection."""
    late = await slow.connect()
    back, _ = await fast.resume(guest)
    await late.send("auth_token", token="t", session=guest.id, received=guest.received())
    await late.expect_close(1013)
    await fence(back.client, other.client)
    await fence(other.client, back.client)


async def test_confirmed_messages_are_not_replayed(room: Room) -> None:
    ann, bob = await room.enter_all("ann", "bob")
    await ann.client.send("ping", received=ann.received())
    await ann.client.expect("pong")
    ann.client.reset()
    await bob.client.expect("user_away")
    _, resumed = await room.resume(ann)
    assert resumed["replayed"] == 0


async def test_heir_of_a_peer_that_is_away_is_back(room: Room) -> None:
    ann, bob = await room.enter_all("ann", "bob")
    ann.client.reset()
    await bob.client.expect("user_away", client_id="ann")
    heir = await room.enter("ann")  # a page that was closed by a crash has no session id
    await bob.client.expect("user_back", client_id="ann", username="ann")
    await fence(heir.client, bob.client)
    # It is away no more, so a second heir changes nothing for the others.
    heir = await room.enter("ann")
    await fence(heir.client, bob.client)


# How a session ends


@pytest.mark.parametrize("code", [1001, 1011, 1012])
async def test_peer_that_may_resume_is_waited_for(room: Room, code: int) -> None:
    ann, bob = await room.enter_all("ann", "bob")
    await ann.client.close(code)
    await bob.client.expect("user_away", client_id="ann")
    await room.resume(ann)
    await bob.client.expect("user_back", client_id="ann")


@pytest.mark.parametrize("code", [1000, 4000])
async def test_normal_close_ends_the_session(room: Room, code: int) -> None:
    ann, bob = await room.enter_all("ann", "bob")
    await ann.client.close(code)
    await bob.client.expect("user_left", client_id="ann")
    await (await room.ask(ann)).expect("not_resumed", reason="unknown")


async def test_silent_peer_is_waited_for() -> None:
    async with open_room(heartbeat=0.2, heartbeat_timeout=0.2, resume_grace=60) as room:
        bob = await room.enter("bob")
        async with open_raw(room.service.base) as ann:
            await ann.upgrade(PATH)
            await ann.say({"type": "auth_token", "clientId": "ann", "resume": True})
            await bob.client.expect("user_joined")
            await bob.client.expect("user_away", client_id="ann")
            await ann.expect_close(1011)


@pytest.mark.parametrize("close", [b"", client_close(1001)])
async def test_lost_socket_is_closed_while_its_session_waits(close: bytes) -> None:
    """Else clients that come back need twice as many file descriptors."""
    async with open_room(resume_grace=60) as room:
        bob = await room.enter("bob")
        async with open_raw(room.service.base) as ann:
            await ann.upgrade(PATH)
            await ann.say({"type": "auth_token", "clientId": "ann", "resume": True})
            await bob.client.expect("user_joined")
            await ann.send(close)
            await ann.half_close()
            await bob.client.expect("user_away", client_id="ann")
            await ann.read_to_end()
        await bob.client.expect_nothing()


async def test_peer_leaves_after_the_grace_period() -> None:
    async with open_room(resume_grace=0.3) as room:
        ann, bob = await room.enter_all("ann", "bob")
        plain = await room.enter("plain", resume=False)
        for guest in (ann, bob):
            await guest.client.expect("user_joined")
        await ann.client.send("broadcast_start")
        ann.client.reset()
        for guest in (bob, plain):
            await guest.client.expect("broadcast_started")
        await bob.client.expect("user_away")
        for guest in (bob, plain):
            await guest.client.expect("broadcast_stopped", client_id="ann")
            await guest.client.expect("user_left", client_id="ann", cause="lost")
        await (await room.ask(ann)).expect("not_resumed", reason="expired")


async def test_peer_leaves_when_its_token_expires_while_away() -> None:
    async with open_room(jwt_secret=SECRET) as room:
        bob = await room.enter("bob", token=make_token("bob"))
        token = make_token("ann", exp=time.time() + 1)
        ann = await room.enter("ann", token=token)
        await bob.client.expect("user_joined")
        ann.client.reset()
        await bob.client.expect("user_away")
        await bob.client.expect("user_left", cause="token_expired")


async def test_kick_while_away_ends_the_session() -> None:
    async with open_room(jwt_secret=SECRET) as room:
        bob = await room.enter("bob", token=make_token("bob", moderator=True))
        ann = await room.enter("ann", token=make_token("ann"))
        await bob.client.expect("user_joined")
        ann.client.reset()
        await bob.client.expect("user_away")
        await bob.client.send("kick", client_id="ann")
        await bob.client.expect("user_left", cause="kicked")
        await (await room.ask(ann)).expect("not_resumed", reason="unknown")


async def test_no_sessions_when_resuming_is_disabled() -> None:
    async with open_room(resume_grace=0) as room:
        ann = await room.enter("ann")
        assert ann.id == ""
        stranger = await room.ask(ann._replace(id="x"))
        await stranger.expect("not_resumed", reason="unknown")
        assert "session" not in await stranger.expect("auth_success")


# Sessions that cannot be resumed


async def test_failed_resume_continues_as_a_normal_handshake() -> None:
    async with open_room(outbox_bytes=4096) as room:
        ann, bob = await room.enter_all("ann", "bob")
        ann.client.reset()
        await bob.client.expect("user_away")
        for _ in range(5):  # more than is kept
            await bob.client.send("message", data="x" * 1000)
        heir = await room.ask(ann, clientId="ann", username="ann")
        await heir.expect("not_resumed", reason="overflow")
        success = await heir.expect("auth_success", client_id="ann")
        assert success["session"]["id"] != ann.id  # and this session may be resumed later
        await heir.expect("users_in_room")
        await bob.client.expect("user_back", client_id="ann")
        await fence(heir, bob.client)  # nobody left, and nobody joined
        # An unknown session.
        for id_, reason in (("x", "unknown"), (f"{'0' * 32}.{'A' * 22}", "owner_lost")):
            stranger = await room.ask(ann._replace(id=id_), clientId=reason)
            await stranger.expect("not_resumed", reason=reason)
            await stranger.expect("auth_success", client_id=reason)
            await bob.client.expect("user_joined", client_id=reason)


async def test_session_is_bound_to_its_subject_and_room() -> None:
    async with open_room(jwt_secret=SECRET) as room:
        bob = await room.enter("bob", token=make_token("bob"))
        ann = await room.enter("ann", token=make_token("ann"))
        await bob.client.expect("user_joined")
        ann.client.reset()
        await bob.client.expect("user_away")
        eve = await room.ask(ann, token=make_token("eve"))
        await eve.expect("not_resumed", reason="other_identity")
        await bob.client.expect("user_joined")
        barred = await room.ask(ann, token=make_token("ann", rooms=["other"]))
        await barred.expect("not_resumed", reason="other_identity")
        await barred.expect_close(1008, "Not allowed in this room")
        elsewhere = await room.connect("/ws/elsewhere")
        await elsewhere.send("auth_token", token=ann.claims["token"], session=ann.id, received=1)
        await elsewhere.expect("not_resumed", reason="unknown")
        back, _ = await room.resume(ann)  # the attempts have not harmed it
        await bob.client.expect("user_back")
        await fence(back.client, bob.client)


async def test_open_mode_session_is_bound_to_its_token(room: Room) -> None:
    ann, bob = await room.enter_all("ann", "bob")
    ann.client.reset()
    await bob.client.expect("user_away")
    await (await room.ask(ann, token="u")).expect("not_resumed", reason="other_identity")
    await room.resume(ann)


async def test_guessing_sessions_is_limited(room: Room) -> None:
    ann, bob = await room.enter_all("ann", "bob")
    for _ in range(RESUMES):
        await (await room.ask(ann._replace(id="guess"))).expect("not_resumed")
    ann.client.reset()
    await bob.client.wait_for("user_away")
    await (await room.ask(ann)).expect("not_resumed", reason="unknown")
    refused = 'trio_signal_refused_total{reason="resumes_per_ip"} 1.0'
    assert refused in (await get(room.service.base, "/metrics")).decode()


# Several replicas


async def test_signals_from_other_replicas_are_kept(redis_url: str) -> None:
    async with open_replicas(redis_url) as (here, there):
        ann, bob = await here.enter("ann"), await there.enter("bob")
        await ann.client.expect("user_joined")
        ann.client.reset()
        await bob.client.expect("user_away", client_id="ann")
        await bob.client.send("offer", to_="ann", offer={"sdp": 1})
        await bob.client.send("message", data="to all")
        ann, _ = await here.resume(ann)
        await bob.client.expect("user_back", client_id="ann")
        heard = {(await ann.client.receive())["type"] for _ in range(2)}  # on two paths
        assert heard == {"offer", "message"}


async def test_session_resumes_on_another_replica(redis_url: str) -> None:
    async with open_replicas(redis_url) as (here, there):
        ann, bob, eve = await here.enter("ann"), await there.enter("bob"), await here.enter("eve")
        await ann.client.expect("user_joined", client_id="bob")
        for guest in (ann, bob):
            await guest.client.expect("user_joined", client_id="eve")
        await ann.client.send("broadcast_start")
        for guest in (bob, eve):
            await guest.client.expect("broadcast_started")
        ann.client.reset()
        for guest in (bob, eve):
            await guest.client.expect("user_away", client_id="ann")
        await bob.client.send("message", data="from there")
        await eve.client.expect("message", data="from there")
        await eve.client.send("message", data="from here")
        await bob.client.expect("message", data="from here")
        ann, resumed = await there.resume(ann)
        assert resumed == {"type": "resumed", "received": 1, "replayed": 2}
        await ann.client.expect("message", data="from there")
        await ann.client.expect("message", data="from here")
        for guest in (bob, eve):
            await guest.client.expect("user_back", client_id="ann")
        for guest in (bob, eve):  # it is on this replica now
            await guest.client.send("offer", to_="ann", offer={"sdp": 1})
            await ann.client.expect("offer", from_=guest.claims["clientId"])
        await ann.client.send("broadcast_stop")  # it is still live
        for guest in (bob, eve):
            await guest.client.expect("broadcast_stopped")
        # A connection that seems alive is replaced by one on the replica where it began.
        ann, _ = await here.resume(ann)
        await fence(ann.client, bob.client, eve.client)
        await fence(bob.client, ann.client, eve.client)
        await fence(eve.client, ann.client, bob.client)


async def test_overtaken_request_is_refused_on_any_replica(redis_url: str) -> None:
    async with open_replicas(redis_url) as (here, there):
        ann, bob = await here.enter("ann"), await there.enter("bob")
        await ann.client.expect("user_joined", client_id="bob")
        await expect_overtaken(ann, bob, here, there)


async def test_session_is_bound_to_its_subject_on_other_replicas(redis_url: str) -> None:
    async with open_replicas(redis_url) as (here, there):
        ann, bob = await here.enter("ann"), await there.enter("bob")
        await ann.client.expect("user_joined")
        thief = await there.ask(ann, token="u")
        await thief.expect("not_resumed", reason="other_identity")
        await (await there.ask(ann, received=9)).expect("not_resumed", reason="unknown")
        await ann.client.send("message", data="here")  # the attempts have not harmed it
        await bob.client.wait_for("message", data="here")
        await ann.client.close(1000)
        await bob.client.wait_for("user_left", client_id="ann")
        await (await there.ask(ann)).expect("not_resumed", reason="owner_lost")


@pytest.mark.parametrize("is_here", [True, False])
async def test_heir_is_back_on_any_replica(redis_url: str, is_here: bool) -> None:
    async with open_replicas(redis_url) as (here, there):
        ann, bob, eve = await here.enter("ann"), await there.enter("bob"), await here.enter("eve")
        await bob.client.expect("user_joined", client_id="eve")
        ann.client.reset()
        for guest in (bob, eve):
            await guest.client.expect("user_away", client_id="ann")
        heir = await (here if is_here else there).enter("ann")
        for guest in (bob, eve):
            await guest.client.expect("user_back", client_id="ann")
        await fence(heir.client, bob.client, eve.client)


@pytest.mark.parametrize("cut_off", ["its replica", "the other one"])
async def test_others_learn_who_is_away_and_back_after_an_outage(
    redis_url: str, cut_off: str
) -> None:
    """They are told nothing while one of the replicas cannot reach Redis."""
    async with open_wired(redis_url) as (wired, other, unplugged):
        here, there = (wired, other) if cut_off == "its replica" else (other, wired)
        ann, bob = await here.enter("ann"), await there.enter("bob")
        eve = await here.enter("eve")
        await bob.client.expect("user_joined", client_id="eve")
        await eve.client.send("offer", to_="ann", offer={})
        await ann.client.wait_for("offer")
        for type_ in ("user_away", "user_back"):
            async with unplugged():
                if type_ == "user_away":
                    ann.client.reset()
                else:
                    ann, _ = await here.resume(ann)
                await eve.client.expect(type_, client_id="ann")
            await bob.client.expect(type_, client_id="ann")
        await fence(ann.client, bob.client, eve.client)


async def test_an_abandoned_connection_without_redis_does_not_replace_a_session(
    redis_url: str,
) -> None:
    """The client was cut off there again, and has resumed elsewhere."""
    async with open_wired(redis_url) as (here, there, unplugged):
        ann, bob = await there.enter_all("ann", "bob")
        eve = await here.enter("eve")
        for guest in (ann, bob):
            await guest.client.expect("user_joined", client_id="eve")
        async with unplugged():
            ann.client.reset()
            await bob.client.expect("user_away", client_id="ann")
            abandoned = await here.ask(ann, **ann.claims)
            await abandoned.wait_for("users_in_room")
            abandoned.reset()
            await eve.client.expect("user_away", client_id="ann")
            ann, _ = await there.resume(ann)
            await bob.client.expect("user_back", client_id="ann")
        await eve.client.expect("user_back", client_id="ann")
        await fence(ann.client, bob.client, eve.client)
        await fence(eve.client, ann.client, bob.client)


@pytest.mark.parametrize("has_moved", [True, False])
async def test_ban_reaches_a_peer_after_an_outage(redis_url: str, *, has_moved: bool) -> None:
    """Its moderator's replica cannot reach the others, and does not know that the peer moves."""
    given = {"redis_prefix": f"{uuid4()}:", "jwt_secret": SECRET}
    async with (
        open_wired(redis_url, **given) as (here, there, unplugged),
        serve_once(**given, redis_url=redis_url) as third,
    ):
        mod = await here.enter("mod", token=make_token("mod", moderator=True))
        ann = await there.enter("ann", token=make_token("ann"))
        await mod.client.expect("user_joined", client_id="ann")
        async with unplugged():
            if has_moved:
                ann, _ = await there._replace(service=third).resume(ann)
                await fence(ann.client)
            await mod.client.send("ban", client_id="ann", reason="Be kind")
            await fence(mod.client)
        await ann.client.expect_close(1008, "Be kind")
        await mod.client.expect("user_left", client_id="ann", cause="banned")


@pytest.mark.parametrize("records_away", [True, False])
async def test_an_old_replica_gets_no_record_of_who_is_away(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, *, records_away: bool
) -> None:
    """It would never change that, so the peer would look away after it is back."""
    if not records_away:
        monkeypatch.setattr("trio_signal.handover.Sought", old_request)
    given: list[bool | None] = []
    give = RedisHandover.give

    def note(self: RedisHandover, room: LocalRoom, member: Member, sought: Sought) -> None:
        given.append(member.away)
        give(self, room, member, sought)

    monkeypatch.setattr(RedisHandover, "give", note)
    async with open_replicas(redis_url) as (here, there):
        ann, bob = await here.enter_all("ann", "bob")
        ann.client.reset()
        await bob.client.expect("user_away", client_id="ann")
        ann, _ = await there.resume(ann)
        await bob.client.expect("user_back", client_id="ann")
        await fence(ann.client, bob.client)
        assert given == [True if records_away else None]


def old_request(*args: Any, **_: Any) -> Sought:
    """A request of a session by a replica of version 0.2.0."""
    return Sought(*args)


async def test_only_the_newest_connection_joins_anew(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client has abandoned the older ones, which must not replace it."""
    monkeypatch.setattr("trio_signal.handover.TIMEOUT", 2.0)  # all must ask before it is over
    async with open_wired(redis_url) as (here, there, unplugged):
        ann, bob = await here.enter("ann"), await there.enter("bob")
        await ann.client.expect("user_joined", client_id="bob")
        async with unplugged():
            late = await there.connect()
            *older, newest = [await there.ask(ann, **ann.claims) for _ in range(3)]
            # The network has delayed a request on a connection that is older still.
            await late.send("auth_token", session=ann.id, received=ann.received(), **ann.claims)
            for client in (*older, late):
                await client.expect_close(1013, "A newer connection has the session")
            await newest.expect("not_resumed", reason="owner_lost")
            await newest.expect("auth_success", client_id="ann")
            await newest.expect("users_in_room")
            await fence(newest, bob.client)
        await fence(bob.client, newest)


class Requests:
    """Requests of sessions that their replica does not answer."""

    def __init__(self) -> None:
        self.came = trio.Event()
        self._refuse: list[Callable[[], None]] = []

    def hold(self, handover: RedisHandover, _: str, sought: Sought) -> None:
        def refuse() -> None:
            told = NotGiven(sought.session, sought.attempt, NotResumedReason.OWNER_LOST)
            assert isinstance(handover._mover, Handover)
            handover._mover.take(told)

        self._refuse.append(refuse)
        self.came.set()

    def give_up(self) -> None:
        """As if no answer had come in time."""
        for refuse in self._refuse:
            refuse()


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Requests:
    requests = Requests()
    monkeypatch.setattr(RedisHandover, "_ask", lambda *args: requests.hold(*args))
    monkeypatch.setattr("trio_signal.handover.TIMEOUT", PATIENCE)
    return requests


async def test_an_older_connection_without_its_session_does_not_replace_a_newer_one(
    redis_url: str, requests: Requests
) -> None:
    """Its replica waits for a session in vain; meanwhile the client connects to another one."""
    async with open_replicas(redis_url) as (here, there):
        ann, bob = await here.enter_all("ann", "bob")
        ann.client.reset()
        await bob.client.expect("user_away", client_id="ann")
        older = await there.ask(ann, **ann.claims)
        await requests.came.wait()
        newer = await here.enter("ann")
        await bob.client.expect("user_back", client_id="ann")
        requests.give_up()
        await older.expect_close(1013, "A newer connection has the session")
        await fence(newer.client, bob.client)
        await fence(bob.client, newer.client)


async def test_connection_without_its_session_replaces_one_that_is_lost(
    redis_url: str, requests: Requests
) -> None:
    """As above, but the other connection was the older one, and joined anew first."""
    async with open_replicas(redis_url) as (here, there):
        ann, bob = await here.enter("ann"), await there.enter("bob")
        ann.client.reset()
        await bob.client.expect("user_away", client_id="ann")
        newer = await there.ask(ann, **ann.claims)
        await requests.came.wait()
        older = await here.enter("ann")
        await bob.client.expect("user_back", client_id="ann")
        older.client.reset()
        await bob.client.expect("user_away", client_id="ann")
        requests.give_up()
        await newer.expect("not_resumed", reason="owner_lost")
        await newer.wait_for("users_in_room")
        await bob.client.expect("user_back", client_id="ann")
        await fence(newer, bob.client)


class Admissions:
    """Whether newcomers that are in the directory are admitted by their replica."""

    def __init__(self) -> None:
        self.are_held = False
        self.go_on = trio.Event()


@pytest.fixture
def admissions(monkeypatch: pytest.MonkeyPatch) -> Admissions:
    admissions, wait_reached = Admissions(), Feed.wait_reached

    async def wait_longer(feed: Feed, seq: int) -> None:
        await wait_reached(feed, seq)
        if admissions.are_held and seq:
            await admissions.go_on.wait()

    monkeypatch.setattr(Feed, "wait_reached", wait_longer)
    # However busy the machine is, a session waits until the test goes on.
    monkeypatch.setattr("trio_signal.handover._SETTLING", PATIENCE)
    monkeypatch.setattr("trio_signal.handover.TIMEOUT", PATIENCE)
    return admissions


async def test_a_session_that_moves_misses_no_peer_that_is_replaced(
    redis_url: str, admissions: Admissions
) -> None:
    """The newer connection is in the directory, but its replica has not admitted it yet."""
    async with open_replicas(redis_url) as (here, there):
        ann, bob = await here.enter_all("ann", "bob")
        eve = await there.enter("eve")
        for guest in (ann, bob):
            await guest.client.expect("user_joined", client_id="eve")
        bob.client.reset()
        for guest in (ann, eve):
            await guest.client.expect("user_away", client_id="bob")
        admissions.are_held = True
        heir = await here.connect()
        await heir.send("auth_token", **bob.claims)
        await eve.client.expect("user_back", client_id="bob")
        again = await there.ask(ann)
        await trio.sleep(0.1)
        admissions.go_on.set()
        await again.expect("resumed")
        await again.expect("user_back", client_id="bob")
        await heir.wait_for("users_in_room")
        await fence(again, heir, eve.client)


@pytest.mark.parametrize("is_there", [True, False])
@pytest.mark.parametrize("state", ["away", "live"])
async def test_a_session_that_moves_is_told_once_that_a_peer_is_replaced(
    redis_url: str, admissions: Admissions, state: str, *, is_there: bool
) -> None:
    """Its last replica has told it; the next one has not admitted the newer connection yet."""
    async with open_replicas(redis_url) as (here, there):
        ann, eve = await here.enter("ann"), await there.enter("eve")
        bob = await (there if is_there else here).enter("bob")
        await ann.client.expect("user_joined", client_id="eve")
        for guest in (ann, eve):
            await guest.client.expect("user_joined", client_id="bob")
        if state == "away":
            bob.client.reset()
        else:
            await bob.client.send("broadcast_start")
        began, ended = {
            "away": ("user_away", "user_back"),
            "live": ("broadcast_started", "broadcast_stopped"),
        }[state]
        for guest in (ann, eve):
            await guest.client.expect(began, client_id="bob")
        admissions.are_held = True
        heir = await there.connect()
        await heir.send("auth_token", **bob.claims)
        await ann.client.expect(ended, client_id="bob")
        ann, _ = await there.resume(ann)
        admissions.are_held = False
        admissions.go_on.set()
        await heir.wait_for("users_in_room")
        await eve.client.expect(ended, client_id="bob")
        await fence(eve.client, ann.client, heir)
        # It hears of the peer again.
        await heir.close(1000)
        for guest in (ann, eve):
            await guest.client.expect("user_left", client_id="bob")
        await there.enter("bob")
        for guest in (ann, eve):
            await guest.client.expect("user_joined", client_id="bob")


# Stopping servers


async def test_stopping_server_hands_sessions_over(redis_url: str) -> None:
    given = {"redis_url": redis_url, "redis_prefix": f"{uuid4()}:", "drain_pause": 0, "drain": 1}
    async with trio.open_nursery() as nursery, AsyncExitStack() as servers:
        with ExitStack() as sockets:
            base = await servers.enter_async_context(serve_once(**given))
            async with serve_once(**given) as other:
                there = Room(other, nursery, sockets)
                here = Room(base, nursery, sockets)
                ann = await there.enter("ann")
                await there.enter("eve", resume=False)
                bob = await here.enter("bob")
                await ann.client.send("broadcast_start")
                await bob.client.expect("broadcast_started")
            await ann.client.expect("user_joined", client_id="eve")
            await ann.client.expect("user_joined", client_id="bob")
            await ann.client.expect_close(1001)
            await bob.client.send("message", data="meanwhile")
            # Only eve, who cannot resume, has left.
            heard = [await bob.client.receive() for _ in range(2)]
            assert {message["type"] for message in heard} == {"user_away", "user_left"}
            assert {message["client_id"] for message in heard} == {"ann", "eve"}
            ann, _ = await here.resume(ann)
            await ann.client.wait_for("message", data="meanwhile")
            await bob.client.expect("user_back")
            await ann.client.send("broadcast_stop")
            await bob.client.expect("broadcast_stopped")
        nursery.cancel_scope.cancel()


async def test_a_session_on_its_way_to_a_stopping_server_is_handed_over(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client asks for it just before the server stops; it is given just after."""
    asked, stopping = trio.Event(), trio.Event()
    follow = RedisHandover.follow

    async def follow_later(handover: RedisHandover, room: LocalRoom) -> bool:
        asked.set()
        await stopping.wait()
        return await follow(handover, room)

    given = {"redis_url": redis_url, "redis_prefix": f"{uuid4()}:", "drain_pause": 0, "drain": 2}
    async with trio.open_nursery() as nursery, AsyncExitStack() as servers:
        with ExitStack() as sockets:
            here = Room(await servers.enter_async_context(serve_once(**given)), nursery, sockets)
            async with serve_once(**given) as other:
                there = Room(other, nursery, sockets)
                ann, bob = await here.enter_all("ann", "bob")
                ann.client.reset()
                await bob.client.expect("user_away", client_id="ann")
                monkeypatch.setattr(RedisHandover, "follow", follow_later)
                again = await there.ask(ann)
                await asked.wait()
                monkeypatch.undo()

                async def go_on() -> None:
                    await trio.sleep(0.1)
                    stopping.set()

                nursery.start_soon(go_on)
            await again.expect_close(1001)
            ann, _ = await here.resume(ann)
            await bob.client.expect("user_back", client_id="ann")
            await fence(bob.client, ann.client)
        nursery.cancel_scope.cancel()


async def test_a_server_that_closes_its_connections_refuses_no_session(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections that it has not closed yet are closed when they ask to resume."""
    monkeypatch.setattr("trio_signal.hub.LEAVE_RATE", 2)
    given = {"redis_url": redis_url, "redis_prefix": f"{uuid4()}:", "drain_pause": 0, "drain": 5}
    async with trio.open_nursery() as nursery, AsyncExitStack() as servers:
        with ExitStack() as sockets:
            here = Room(await servers.enter_async_context(serve_once(**given)), nursery, sockets)
            ann = await here.enter("ann")
            ann.client.reset()
            async with serve_once(**given) as other:
                there = Room(other, nursery, sockets)
                clients = [await there.connect() for _ in range(5)]
                is_closing = trio.Event()

                async def ask(client: Client) -> None:
                    await is_closing.wait()
                    with suppress(ConnectionClosed):
                        await client.send("auth_token", session=ann.id, **ann.claims)

                async def expect_close(client: Client) -> None:
                    assert await client.expect_close(1001) == []
                    is_closing.set()

                for client in clients:
                    nursery.start_soon(ask, client)
                    nursery.start_soon(expect_close, client)
            await here.resume(ann)
        nursery.cancel_scope.cancel()


async def test_session_moves_to_a_server_that_starts_before_its_own_has_ended(
    redis_url: str,
) -> None:
    """A client that does not answer the close frame delays the end."""
    given = {"redis_url": redis_url, "redis_prefix": f"{uuid4()}:", "drain_pause": 0, "drain": 5}
    async with trio.open_nursery() as nursery, AsyncExitStack() as servers:
        with ExitStack() as sockets:
            ended = trio.Event()

            async def serve(*, task_status: trio.TaskStatus[tuple[Service, trio.Event]]) -> None:
                stop = trio.Event()
                async with serve_once(**given) as service:
                    task_status.started((service, stop))
                    await stop.wait()
                ended.set()

            first, stop = await nursery.start(serve)
            ann = await Room(first, nursery, sockets).enter("ann")
            async with open_raw(first.base) as slow:
                await slow.upgrade(PATH)
                stop.set()
                await ann.client.expect_close(1001)
                second = await servers.enter_async_context(serve_once(**given))
                assert not ended.is_set()
                await ended.wait()
            here = Room(second, nursery, sockets)
            bob = await here.enter("bob")
            ann, _ = await here.resume(ann)
            await ann.client.expect("user_joined", client_id="bob")
            await bob.client.expect("user_back", client_id="ann")
        nursery.cancel_scope.cancel()


async def test_sessions_survive_a_restart_of_the_only_server(redis_url: str) -> None:
    given = {"redis_url": redis_url, "redis_prefix": f"{uuid4()}:", "drain_pause": 0, "drain": 1}
    async with trio.open_nursery() as nursery:
        with ExitStack() as sockets:
            async with serve_once(**given) as service:
                room = Room(service, nursery, sockets)
                ann, bob = await room.enter_all("ann", "bob")
                await ann.client.send("broadcast_start")
                await bob.client.expect("broadcast_started")
                await room.enter("eve", resume=False)
                for guest in (ann, bob):
                    await guest.client.expect("user_joined", client_id="eve")
            for guest in (ann, bob):
                await guest.client.expect_close(1001)
            async with serve_once(**given, resume_grace=1) as service:
                room = Room(service, nursery, sockets)
                bob, resumed = await room.resume(bob)
                # Departures during the restart are announced as well.
                assert resumed["replayed"] == 2
                heard = [(await bob.client.receive()) for _ in range(2)]
                assert {each["type"] for each in heard} == {"user_left", "user_away"}
                await bob.client.send("offer", to_="ann", offer={})
                await bob.client.expect("broadcast_stopped", client_id="ann")
                await bob.client.expect("user_left", client_id="ann", cause="lost")
        nursery.cancel_scope.cancel()


# Connections cut at any point


class Walker:
    """A client whose connection is cut anywhere, in either direction."""

    def __init__(self, base: str, room: str, traveller: Traveller, chance: Random) -> None:
        self.base = base
        self.path = f"/ws/{room}"
        self.traveller = traveller
        self.chance = chance
        self.stream: trio.SocketStream | None = None
        self.buffer = b""
        #: The longest pause before it reconnects, in seconds.
        self.pause = 0.0

    async def connect(self) -> None:
        # Replicas tell the newer of two connections only by their clocks.
        await trio.sleep(self.chance.random() * self.pause)
        host, _, port = self.base.partition(":")
        with trio.fail_after(PATIENCE):
            self.stream = await trio.open_tcp_stream(host, int(port))
            await self.stream.send_all(upgrade_head(self.path))
            head = b""
            while b"\r\n\r\n" not in head:
                head += await self.stream.receive_some()
        self.buffer = head.partition(b"\r\n\r\n")[2]
        await self.send(self.traveller.hello())

    async def send(self, *messages: Message) -> None:
        assert self.stream is not None
        with suppress(trio.BrokenResourceError):  # it has ended, which is not read yet
            await self.stream.send_all(b"".join(client_text(message) for message in messages))

    async def say(self) -> None:
        """Send some numbers, and perhaps a confirmation."""
        said = [self.traveller.say() for _ in range(self.chance.randrange(1, 6))]
        if self.stream is not None and self.traveller.is_in:
            await self.send(*said, *[self.traveller.ping()] * self.chance.randrange(2))

    async def read(self, most: int) -> None:
        """Read some bytes; they may end in the middle of a message."""
        if self.stream is None:
            await self.connect()
            return
        data = b""
        with trio.fail_after(PATIENCE), suppress(trio.BrokenResourceError):
            data = await self.stream.receive_some(most)
            await self.take(data)
        if not data:  # the other replica took an earlier connection for the newer one
            await self.cut()

    async def look(self, most: int) -> None:
        """Read what has arrived by now."""
        assert self.stream is not None
        await trio.lowlevel.checkpoint()
        with suppress(BlockingIOError, ConnectionResetError):
            await self.take(os.read(self.stream.socket.fileno(), most))

    async def take(self, data: bytes) -> None:
        self.buffer += data
        frames, self.buffer = split_frames(self.buffer)
        for frame in frames:
            if frame.opcode == TEXT:
                await self.send(*self.traveller.hear(frame.message))
        # Earlier numbers would be missing after a refusal.
        assert self.traveller.refusals == [], (self.traveller.name, self.traveller.refusals)

    async def cut(self) -> None:
        """End the connection in the middle of a message; half of the time with a reset."""
        stream, self.stream, self.buffer = self.stream, None, b""
        if stream is None:
            return
        if self.traveller.is_in:
            said = b"".join(client_text(self.traveller.say()) for _ in range(3))
            with suppress(trio.BrokenResourceError):
                await stream.send_all(said[: self.chance.randrange(len(said))])
        RawClient(stream).reset() if self.chance.random() < 0.5 else await stream.aclose()

    async def close(self) -> None:
        if self.stream is not None:
            await self.stream.aclose()

    async def step(self) -> None:
        if self.stream is None:
            await self.connect()
        match self.chance.choice(["say", "say", "read", "read", "read", "cut"]):
            case "say":
                await self.say()
            case "read":
                await self.look(self.chance.randrange(1, 400))
            case "cut":
                await self.cut()

    async def settle(self) -> None:
        """Read until the server has received everything."""
        while self.stream is None or not self.traveller.is_in or self.traveller.kept:
            if self.stream is None:
                await self.connect()
            elif self.traveller.is_in:
                await self.send(self.traveller.ping())
            await self.read(65536)


async def walk(bases: Sequence[str], seed: int) -> int:
    """Two clients talk while they are cut off; returns how often they resumed."""
    chance = Random(seed)
    names = "ann", "bob"
    others = reversed(names) if chance.random() < 0.5 else (None, None)  # or to the whole room
    travellers = [Traveller(name, to=to) for name, to in zip(names, others, strict=True)]
    room = f"{seed}"
    walkers = [Walker(chance.choice(bases), room, each, chance) for each in travellers]
    for walker in walkers:
        walker.pause = 0.03 if len(bases) > 1 else 0.0
        await walker.settle()
    while "user_joined" not in travellers[0].types:  # now each knows the other, on any replica
        await walkers[0].read(65536)
    for _ in range(40):
        walker = chance.choice(walkers)
        walker.base = chance.choice(bases)
        await walker.step()
    for walker in walkers:
        await walker.settle()
    ann, bob = travellers
    for walker, other in zip(walkers, (bob, ann), strict=True):
        while len(walker.traveller.heard) < other.number:
            await walker.read(65536)
        assert walker.traveller.heard == list(range(1, other.number + 1)), seed
        assert walker.traveller.refusals == [], seed
    for walker in walkers:
        await walker.close()
    return ann.resumes + bob.resumes


async def test_no_message_is_lost_repeated_or_reordered() -> None:
    async with serve_once() as service:
        resumes = 0
        for seed in range(SEEDS):
            resumes += await walk(service.bases, seed)
    assert resumes > 2 * SEEDS


async def test_no_message_is_lost_repeated_or_reordered_on_three_replicas(redis_url: str) -> None:
    async with serve_replicas(3, redis_url) as service:
        resumes = 0
        for seed in range(SEEDS // 4):
            resumes += await walk(service.bases, seed)
    assert resumes > SEEDS // 2
