"""The client and the real server: every message, and the begin and end of a connection."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, get_args

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.client.bots import PATIENT, Sends, bot, bots, enter, heard, receive, wait_for, wait_state
from tests.client.lines import open_line
from tests.clients import PATIENCE, Service
from tests.clients import Client as RawClient
from tests.conftest import Serve
from tests.tokens import SECRET, make_token
from trio_signal.client import (
    Answer,
    Candidate,
    Client,
    ClosedError,
    Error,
    Message,
    NotConnectedError,
    Offer,
    Peer,
    PeerJoined,
    PeerLeft,
    StateChanged,
    Stopped,
    TokenExpiring,
    TokenRenewed,
    WentLive,
)
from trio_signal.client import connection as connection_module
from trio_signal.client.connection import Address
from trio_signal.dialects import mesh

pytestmark = pytest.mark.usefixtures("front")

ANN, BOB = Peer("ann", "Ann"), Peer("bob", "Bob")


@asynccontextmanager
async def raw(service: Service, client_id: str) -> AsyncIterator[RawClient]:
    """A peer for which the test writes every byte."""
    async with service.connect("/ws/r") as client:
        await client.expect("auth_required")
        await client.send("auth_token", clientId=client_id, username=client_id.title())
        await client.expect("auth_success")
        await client.expect("users_in_room")
        yield client


# Entering


async def test_alone_in_a_room(serve: Serve) -> None:
    async with (
        serve(stun_urls="stun:stun.example.com:3478") as service,
        bot(service.base, "ann") as ann,
    ):
        assert (ann.id, ann.user_id, ann.username, ann.state) == ("ann", "ann", "Ann", "joined")
        assert ann.ice_servers == ({"urls": ["stun:stun.example.com:3478"]},)
        assert (dict(ann.peers), dict(ann.live), ann.broadcasting) == ({}, {}, None)
        assert await heard(ann) == [StateChanged("joined")]


async def test_the_server_gives_an_id_and_a_name(service: Service) -> None:
    async with bot(service.base, None) as ann:
        assert len(ann.id) == 32
        assert ann.username == f"Guest-{ann.id[:4]}"


async def test_peers_in_the_room_are_reported_as_joins(service: Service) -> None:
    async with bots(service, "ann", "bob") as (ann, bob):
        await ann.broadcast("audio")
        live = (await wait_for(bob, WentLive)).peer.live
        assert live is not None
        assert live.media_type == "audio"
        async with bot(service.base, "carl") as carl:
            on_air = Peer("ann", "Ann", live)
            events = await heard(carl)
            assert events[0] == StateChanged("joined")
            # With several replicas, this order is not that of the joins.
            assert sorted(events[1:], key=repr) == sorted(
                [PeerJoined(ANN), WentLive(on_air), PeerJoined(BOB)], key=repr
            )
            assert events.index(PeerJoined(ANN)) < events.index(WentLive(on_air))
            assert dict(carl.peers) == {"ann": on_air, "bob": BOB}
            assert dict(carl.live) == {"ann": on_air}


@pytest.mark.parametrize(
    ("url", "path", "secure", "port"),
    [
        ("http://example.com", "/ws/a%20b%2Fc", False, 80),
        ("ws://example.com/", "/ws/a%20b%2Fc", False, 80),
        ("https://example.com/signal/", "/signal/ws/a%20b%2Fc", True, 443),
        ("wss://example.com:9000", "/ws/a%20b%2Fc", True, 9000),
        ("http://[::1]:8000", "/ws/a%20b%2Fc", False, 8000),
    ],
)
def test_addresses_of_rooms(url: str, path: str, secure: bool, port: int) -> None:
    address = Address.of_room(url, "a b/c")
    assert (address.path, address.secure, address.port) == (path, secure, port)
    assert address.netloc == url.partition("//")[2].partition("/")[0]


@pytest.mark.parametrize(
    ("url", "room"),
    [
        ("ftp://x", "r"),
        ("example.com", "r"),
        ("http://", "r"),
        ("http://x:y", "r"),
        ("ws://x", ""),
        ("http://x:0", "r"),
        ("http://a..b", "r"),
        (f"http://{'x' * 64}.com", "r"),
        ("http://\ud800", "r"),
    ],
)
async def test_a_wrong_address_is_refused_at_once(url: str, room: str) -> None:
    with pytest.raises(ValueError):
        async with enter(url, room=room):
            raise AssertionError("this is no address")


async def test_a_refused_client_gets_the_reason(service: Service) -> None:
    with pytest.raises(ClosedError, match="Invalid client id") as closed:
        async with bot(service.base, "not an id"):
            raise AssertionError("this is no id")
    assert (closed.value.code, closed.value.reason) == (1008, "Invalid client id")


async def test_an_unreachable_server_raises() -> None:
    with pytest.raises(NotConnectedError) as failed:
        async with bot("127.0.0.1:1", "ann"):
            raise AssertionError("nobody is there")
    assert failed.value.status is None
    assert failed.value.reason


async def test_a_server_without_the_dialect_raises(serve: Serve) -> None:
    async with serve(dialects="room") as service:
        with pytest.raises(NotConnectedError, match="404") as failed:
            async with bot(service.base, "ann"):
                raise AssertionError("mesh is switched off")
        assert failed.value.status == 404


# Events of other peers


async def test_joins_leaves_and_broadcasts_are_reported(service: Service) -> None:
    async with bots(service, "ann") as (ann,):
        async with bot(service.base, "bob") as bob:
            assert await receive(ann) == PeerJoined(BOB)
            assert dict(ann.peers) == {"bob": BOB}
            await bob.broadcast()
            went = await receive(ann)
            assert isinstance(went, WentLive)
            assert went.peer.live is not None
            assert went.peer.live.media_type == "video"
            assert dict(ann.live) == dict(ann.peers) == {"bob": went.peer}
            await bob.broadcast()  # a repeated start is not reported
            await bob.broadcast("audio")
            other = await receive(ann)
            assert isinstance(other, WentLive)
            assert other.peer.live is not None
            assert other.peer.live.media_type == "audio"
            assert other.peer.live.started_at == went.peer.live.started_at
            await bob.stop_broadcast()
            assert await receive(ann) == Stopped(BOB)
            assert dict(ann.live) == {}
            await bob.broadcast()
            await wait_for(ann, WentLive)
        assert [await receive(ann), await receive(ann)] == [Stopped(BOB), PeerLeft(BOB)]
        assert dict(ann.peers) == {}
        assert await heard(ann, service) == []


PAYLOADS: list[Any] = [
    None,
    0,
    "",
    [],
    {"sdp": "v=0\r\n", "ü": [1.5, True, {"x": None}]},
    "𝄞" * 1000,
]


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda payload: repr(payload)[:20])
async def test_signals_to_one_peer_and_to_all(service: Service, payload: Any) -> None:
    async with bots(service, "ann", "bob", "carl") as (ann, bob, carl):
        for to in ("bob", None):
            await ann.offer(payload, to=to)
            await ann.answer(payload, to=to)
            await ann.candidate(payload, to=to)
            await ann.send(payload, to=to)
        all_four = [
            Offer("ann", "Ann", payload),
            Answer("ann", "Ann", payload),
            Candidate("ann", "Ann", payload),
            Message("ann", "Ann", payload),
        ]
        assert [await receive(bob) for _ in range(8)] == all_four * 2
        assert [await receive(carl) for _ in range(4)] == all_four
        for client in (ann, bob, carl):
            assert await heard(client, service) == []


SENDS: dict[str, Sends] = {
    "offer": lambda client: client.offer({}, to="zed"),
    "answer": lambda client: client.answer({}, to="zed"),
    "candidate": lambda client: client.candidate({}, to="zed"),
    "send": lambda client: client.send({}, to="zed"),
}


@pytest.mark.parametrize("name", SENDS)
async def test_a_missing_target_is_reported(service: Service, name: str) -> None:
    async with bots(service, "ann") as (ann,):
        await SENDS[name](ann)
        assert await receive(ann) == Error("Target client zed not found", "target_not_found", "zed")


async def test_actions_without_the_grant_are_refused(service: Service) -> None:
    async with bots(service, "ann", "bob") as (ann, bob):
        await ann.kick("bob")
        assert await receive(ann) == Error("Not allowed", "not_allowed")
        assert await heard(bob) == []


async def test_values_that_are_not_json_raise(service: Service) -> None:
    async with bots(service, "ann") as (ann,):
        endless: list[object] = []
        endless.append(endless)
        with pytest.raises(TypeError):
            await ann.send(object())
        with pytest.raises(ValueError, match="not JSON"):
            await ann.send(endless)
        with pytest.raises(ValueError, match="not JSON"):
            await ann.offer({"sdp": "\ud800"})
        with pytest.raises(ValueError, match="surrogate"):
            await ann.send("x", to="\ud800")
        with pytest.raises(ValueError, match="surrogate"):
            await ann.renew("\ud800")
        assert await heard(ann) == []


@pytest.mark.parametrize("given", ["token", "username", "client_id"])
async def test_invalid_credentials_raise(given: str) -> None:
    said: dict[str, Any] = {given: "\ud800"}
    with pytest.raises(ValueError, match="surrogate"):
        async with enter("http://127.0.0.1:1", room="r", **said):
            raise AssertionError


async def test_an_invalid_fetched_token_raises() -> None:
    async def fetch() -> str:
        return "\ud800"

    with pytest.raises(ValueError, match="surrogate"):
        async with enter("http://127.0.0.1:1", room="r", token=fetch):
            raise AssertionError


@pytest.mark.parametrize("payload", ['"\\ud800"', "1e999", "9" * 5000, "[" * 900 + "]" * 900])
async def test_payloads_that_python_cannot_hold_do_no_harm(service: Service, payload: str) -> None:
    async with bots(service, "ann") as (ann,), raw(service, "bob") as bob:
        await wait_for(ann, PeerJoined)
        await bob.send_text(f'{{"type":"message","data":{payload}}}')
        await bob.send("message", data="then")
        while (await wait_for(ann, Message)).data != "then":
            pass


def test_every_message_is_known() -> None:
    """The client can read all that the server sends in this dialect, and send all that it reads."""
    read = set(get_args(connection_module._reader._decoder.type))
    said = set(get_args(mesh._reader._decoder.type))
    tagged = {
        value
        for value in vars(mesh).values()
        if isinstance(value, type)
        and issubclass(value, msgspec.Struct)
        and value.__struct_config__.tag
        and value.__module__ == mesh.__name__
    }
    # Broadcasters send these about a media server; this client does not.
    assert read == tagged - said - {mesh.Relay, mesh.RelayOver}


# Tokens


@pytest.fixture
async def guarded(serve: Serve) -> AsyncIterator[Service]:
    """A server that requires tokens."""
    async with serve(jwt_secret=SECRET) as service:
        yield service


def token_for(user_id: str, seconds: float = 600, **claims: Any) -> str:
    return make_token(user_id, exp=time.time() + seconds, name=user_id.title(), **claims)


async def test_a_token_gives_the_identity(guarded: Service) -> None:
    async with bot(guarded.base, "a-1", token=token_for("ann"), username=None) as ann:
        assert (ann.id, ann.user_id, ann.username) == ("a-1", "ann", "Ann")


async def test_an_invalid_token_is_final(guarded: Service) -> None:
    for token in (None, "nonsense", token_for("ann", key="x" * 40)):
        with pytest.raises(ClosedError) as closed:
            async with bot(guarded.base, "ann", token=token):
                raise AssertionError("that is no token")
        assert (closed.value.code, closed.value.reason) == (1008, "Invalid token")


async def test_an_expiring_token_is_fetched_again(guarded: Service) -> None:
    lasting = iter([5, 500])

    async def fetch() -> str:
        return token_for("ann", next(lasting))

    async with bot(guarded.base, "ann", token=fetch) as ann:
        await wait_for(ann, TokenExpiring)
        assert (await wait_for(ann, TokenRenewed)).expires_in > 400
    assert [*lasting] == []


async def test_fetching_a_token_is_retried(guarded: Service) -> None:
    tries = 0

    async def fetch() -> str:
        nonlocal tries
        tries += 1
        if 1 < tries < 4:
            raise OSError("the token endpoint is away")
        return token_for("ann", 5 if tries == 1 else 500)

    async with bot(guarded.base, "ann", token=fetch) as ann:
        await wait_for(ann, TokenRenewed)
    assert tries == 4


async def test_a_given_token_is_renewed_by_the_user(guarded: Service) -> None:
    async with bot(guarded.base, "ann", token=token_for("ann", 50)) as ann:
        assert (await wait_for(ann, TokenExpiring)).expires_in <= 50
        await ann.renew(token_for("bob"))
        assert (await wait_for(ann, Error)).code == "invalid_token"
        await ann.renew(token_for("ann"))
        assert (await wait_for(ann, TokenRenewed)).expires_in > 400


async def test_an_expired_token_is_final(guarded: Service) -> None:
    async with bot(guarded.base, "ann", token=token_for("ann", 3)) as ann:
        with pytest.raises(ClosedError) as closed:
            await wait_state(ann, "waiting")
        assert (closed.value.code, closed.value.reason) == (1008, "Token expired")
        assert ann.state == "waiting"
        with pytest.raises(ClosedError):
            await ann.send("hello")


async def test_an_error_of_the_token_source_is_raised_unchanged(service: Service) -> None:
    async def fetch() -> str:
        raise LookupError("no such key")

    with pytest.raises(LookupError, match="no such key"):
        async with bot(service.base, "ann", token=fetch):
            raise AssertionError("there is no token")


async def test_publishing_needs_the_grant(guarded: Service) -> None:
    async with bot(guarded.base, "ann", token=token_for("ann", publish=False)) as ann:
        await ann.broadcast()
        assert await wait_for(ann, Error) == Error("Not allowed", "not_allowed")


async def test_a_kicked_client_does_not_reconnect(guarded: Service) -> None:
    async with (
        bot(guarded.base, "ann", token=token_for("ann", moderator=True)) as ann,
        bot(guarded.base, "bob", token=token_for("bob")) as bob,
    ):
        await wait_for(ann, PeerJoined)
        await ann.kick("bob", "enough")
        with pytest.raises(ClosedError) as closed:
            await wait_state(bob, "waiting")
        assert (closed.value.code, closed.value.reason) == (1008, "enough")
        assert await receive(ann) == PeerLeft(BOB)
        await ann.kick("zed")
        assert (await receive(ann)) == Error(
            "Target client zed not found", "target_not_found", "zed"
        )


# Leaving


async def test_the_last_messages_arrive_before_the_leave(service: Service) -> None:
    async with bots(service, "ann") as (ann,):
        async with bot(service.base, "bob") as bob:
            for number in range(300):
                await bob.send([number, "x" * 1000])
        events = [await receive(ann) for _ in range(302)]
        assert [event.data[0] for event in events[1:-1] if isinstance(event, Message)] == list(
            range(300)
        )
        assert events[-1] == PeerLeft(BOB)
        assert await heard(ann, service) == []


async def test_leaving_with_unread_messages_loses_nothing(service: Service) -> None:
    """Unread data must not turn the close into a reset."""
    async with bots(service, "ann") as (ann,):
        async with bot(service.base, "bob", max_events=100_000) as bob:
            await wait_for(ann, PeerJoined)
            for number in range(300):
                await ann.send("x" * 1000, to="bob")
                await bob.send(number)
        assert [(await wait_for(ann, Message)).data for _ in range(300)] == list(range(300))


@pytest.mark.of_trio("the asyncio block runs in another thread: see test_aio.py")
async def test_an_error_in_the_block_is_raised_unchanged(service: Service) -> None:
    cause = ValueError("the cause")
    with pytest.raises(KeyError) as failed:
        async with bot(service.base, "ann"):
            raise KeyError("of the user") from cause
    assert failed.value.__cause__ is cause


@pytest.mark.of_trio("as above")
async def test_an_error_group_in_the_block_is_raised_unchanged(service: Service) -> None:
    group = ExceptionGroup("of the user", [KeyError(1), KeyError(2)])
    with pytest.raises(ExceptionGroup) as failed:
        async with bot(service.base, "ann"):
            raise group
    assert (str(failed.value), failed.value.exceptions) == (str(group), group.exceptions)


async def test_a_cancelled_block_is_cancelled(service: Service) -> None:
    async with bots(service, "ann") as (ann,):
        with trio.move_on_after(PATIENCE) as scope:
            async with bot(service.base, "bob"):
                await wait_for(ann, PeerJoined)
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert await receive(ann) == PeerLeft(BOB)


async def test_a_client_cannot_be_used_after_its_block(service: Service) -> None:
    async with bot(service.base, "ann") as ann:
        pass
    with pytest.raises(NotConnectedError, match="the client was closed"):
        await anext(ann)
    with pytest.raises(NotConnectedError, match="the client was closed"):
        await ann.send("too late")
    with pytest.raises(NotConnectedError, match="the client was closed"):
        await ann.broadcast()


async def test_a_waiting_send_fails_when_the_block_ends(serve: Serve) -> None:
    async with serve() as service, open_line(service.base) as line, trio.open_nursery() as nursery:
        ended = trio.Event()

        async def say(ann: Client) -> None:
            with pytest.raises(NotConnectedError, match="the client was closed"):
                await ann.send("x")
            ended.set()

        async with bot(line.base, "ann") as ann:
            line.break_down()
            await wait_state(ann, "waiting")
            nursery.start_soon(say, ann)
            await wait_all_tasks_blocked()
        with trio.fail_after(PATIENCE):
            await ended.wait()


# The same id twice


async def test_a_newer_client_with_the_same_id_replaces_the_older_for_good(
    service: Service,
) -> None:
    async with bots(service, "zoe", "ann") as (zoe, ann):
        await ann.broadcast()
        await wait_for(zoe, WentLive)
        async with bot(service.base, "ann") as newer:
            with pytest.raises(ClosedError) as closed:
                await wait_state(ann, "waiting")
            assert closed.value.code == 4409
            assert await heard(zoe, service) == [Stopped(ANN)]
            assert newer.state == "joined"
    # The older client leaving its block is not visible to others.


async def test_the_id_of_another_user_is_refused(service: Service) -> None:
    async with bots(service, "ann"):
        with pytest.raises(ClosedError, match="Client id in use"):
            async with bot(service.base, "ann", username="Mallory"):
                raise AssertionError("the id is Ann's")


# Several readers and senders


async def test_several_tasks_may_read_and_send(service: Service) -> None:
    async with bots(service, "ann", "bob") as (ann, bob):
        seen: list[int] = []

        async def say(client: Client, numbers: range) -> None:
            for number in numbers:
                await client.send(number)

        async def read(scope: trio.CancelScope) -> None:
            async for event in bob:
                assert isinstance(event, Message)
                seen.append(event.data)
                if len(seen) == 200:
                    scope.cancel()

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for start in range(0, 200, 50):
                    nursery.start_soon(say, ann, range(start, start + 50))
                for _ in range(3):
                    nursery.start_soon(read, nursery.cancel_scope)
        assert sorted(seen) == list(range(200))


@pytest.mark.of_trio("this would cancel the harness: see test_aio.py")
async def test_a_cancelled_iteration_takes_no_event(service: Service) -> None:
    async with bots(service, "ann", "bob") as (ann, bob):
        seen: list[int] = []
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_count_to, ann, 100)
                while len(seen) < 100:
                    with trio.move_on_after(0.001):
                        event = await anext(bob)
                        assert isinstance(event, Message)
                        seen.append(event.data)
        assert seen == list(range(100))


async def _count_to(client: Client, end: int) -> None:
    for number in range(end):
        await client.send(number)


def test_events_are_json() -> None:
    """As `tail --json` prints them."""
    event = PeerJoined(Peer("ann", "Ann"))
    assert json.loads(msgspec.json.encode(event)) == {
        "type": "peer_joined",
        "peer": {"id": "ann", "username": "Ann", "live": None, "away": False},
    }


def test_pauses_grow_and_are_jittered() -> None:
    timing = PATIENT
    assert all(0.005 <= timing.pause(0) <= 0.01 for _ in range(100))
    assert all(0.025 <= timing.pause(attempt) <= 0.05 for attempt in range(3, 3000))
    assert len({timing.pause(5) for _ in range(100)}) > 90
