"""Who is refused, slowed down or closed; each limit with small numbers, on real sockets."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import NamedTuple

import httpx
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.clients import PATIENCE, Service
from tests.conftest import Serve, settings
from tests.raw import (
    PING,
    PONG,
    TEXT,
    Answer,
    Frame,
    RawClient,
    client_frame,
    client_text,
    open_raw,
    upgrade_head,
)
from tests.tokens import SECRET, make_token
from trio_signal.errors import Reason, RequestRefusedError
from trio_signal.limits import (
    MAX_ADDRESSES,
    Buckets,
    Limits,
    NoLease,
    RateCounter,
    client_address,
    network_of,
)
from trio_signal.messages.events import Refusal
from trio_signal.metrics import label_of
from trio_signal.names import MAX_ID

ANN, BOB = "192.0.2.1", "192.0.2.2"
ASK, ANSWER = client_text({"type": "keep_alive"}), "ping"


# Client addresses

ADDRESSES: list[tuple[str, list[str], int, str]] = [
    # (the TCP peer, X-Forwarded-For, trusted proxies, the client)
    (ANN, [], 0, ANN),
    (ANN, [BOB], 0, ANN),  # anybody can send this header
    (ANN, [BOB], 1, BOB),
    (ANN, [f"10.0.0.1, {BOB}"], 1, BOB),  # the proxy received the first entry
    (ANN, ["10.0.0.1", BOB], 1, BOB),
    (ANN, [BOB, "10.0.0.9"], 2, BOB),
    (ANN, [f"10.0.0.1,{BOB},10.0.0.9"], 2, BOB),
    (ANN, [BOB], 3, BOB),  # fewer proxies than allowed
    (ANN, [], 2, ANN),
    (ANN, [""], 1, ANN),
    (ANN, [" , ,"], 1, ANN),
    (ANN, [f",, {BOB} ,"], 1, BOB),
    (ANN, ["unknown"], 1, ANN),
    (ANN, ["10.0.0.1, _hidden"], 1, ANN),
    (ANN, ["unknown, 10.0.0.9"], 2, "10.0.0.9"),
    (ANN, ["1.2.3.4.5"], 1, ANN),
    (ANN, ["01.02.03.04"], 1, ANN),
    (ANN, [f"{BOB}:4711"], 1, BOB),
    (ANN, [f'"{BOB}"'], 1, BOB),
    (ANN, ["2001:DB8::7"], 1, "2001:db8::7"),
    (ANN, ["[2001:db8::7]"], 1, "2001:db8::7"),
    (ANN, ['"[2001:db8::7]:4711"'], 1, "2001:db8::7"),
    (ANN, ["fe80::7%eth0"], 1, "fe80::7"),
    (ANN, [f"::ffff:{BOB}"], 1, BOB),
    (f"::ffff:{ANN}", [], 0, ANN),
    ("2001:db8::1", [], 0, "2001:db8::1"),
    ("fe80::1%eth0", [], 0, "fe80::1"),
    ("", [], 0, ""),  # unknown address
]


@pytest.mark.parametrize(("peer", "forwarded", "proxies", "client"), ADDRESSES)
def test_client_address(peer: str, forwarded: list[str], proxies: int, client: str) -> None:
    assert client_address(peer, forwarded, proxies) == client


@given(st.lists(st.text()), st.integers(1, 3))
def test_forged_header_does_not_change_the_address(forged: list[str], proxies: int) -> None:
    behind = [BOB, "10.0.0.8", "10.0.0.9"][:proxies]
    assert client_address(ANN, [*forged, *behind], proxies) == BOB
    assert client_address(ANN, [", ".join([*forged, *behind])], proxies) == BOB
    assert client_address(ANN, forged, 0) == ANN


@pytest.mark.parametrize(
    ("address", "network"),
    [
        (ANN, ANN),
        ("2001:db8:0:1::7", "2001:db8:0:1::/64"),
        ("2001:db8:0:1:ffff:ffff:ffff:ffff", "2001:db8:0:1::/64"),
        ("2001:db8:0:2::7", "2001:db8:0:2::/64"),
        (f"::ffff:{ANN}", ANN),
        ("", ""),
        ("no:address", "no:address"),
    ],
)
def test_network_of_an_address(address: str, network: str) -> None:
    assert network_of(address) == network


# Counting


def test_rate_counter_resets_after_its_period() -> None:
    tally = RateCounter(2, 60)
    for now in (100, 110):
        assert tally.wait(ANN, now) == 0
        tally.count(ANN, now)
    assert tally.wait(ANN, 110) == 50
    assert tally.wait(BOB, 110) == 0
    assert tally.wait(ANN, 159.5) == 0.5
    assert tally.wait(ANN, 160) == 0
    tally.count(ANN, 160)
    assert tally.wait(ANN, 160) == 0
    assert len(tally) == 1


def test_penalty_lasts_from_the_last_failure() -> None:
    tally = RateCounter(3, 300, penalty=True)
    for now in (0, 100, 299):
        assert tally.wait(ANN, now) == 0
        tally.count(ANN, now)
    assert tally.wait(ANN, 299) == 300
    tally.count(ANN, 400)  # by a connection that was already open
    assert tally.wait(ANN, 598) == 1
    assert tally.wait(ANN, 599) == 0
    tally.count(ANN, 599)
    assert tally.wait(ANN, 599) == 0


def test_expired_counts_are_forgotten() -> None:
    tally = RateCounter(1, 60)
    for number in range(1000):
        tally.count(f"10.0.{number // 256}.{number % 256}", now=number)
    assert len(tally) <= 61


def test_number_of_counted_addresses_is_bounded() -> None:
    tally = RateCounter(1, 60)
    for number in range(MAX_ADDRESSES + 1000):
        tally.count(f"{number}", now=0)
    assert len(tally) == MAX_ADDRESSES
    assert tally.wait("999", now=1) == 0  # the one that would have expired first
    assert tally.wait("1000", now=1) == 59


async def test_places_are_released_after_an_error() -> None:
    limits = Limits(settings(max_connections=1, max_unauthenticated=1))

    def fail() -> None:
        with limits.admit(ANN, 0), limits.visit(ANN):
            with pytest.raises(RequestRefusedError):
                limits.admit(BOB, 0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    place = limits.admit(BOB, 0)
    place.authenticated()
    place.authenticated()
    place.leave()
    with place:
        pass
    assert (limits.websockets.size, limits.unauthenticated) == (0, 0)
    with limits.visit(ANN):
        assert limits.others.size == 1
    assert limits.others.size == 0


# Real sockets


async def ask(service: Service, path: str = "/ws/r/ann", **headers: str | None) -> Answer:
    """The response to an upgrade; the connection is then closed."""
    async with open_raw(service.base) as client:
        await client.send(upgrade_head(path, **headers))
        return await client.receive_head()


async def read_metrics(service: Service) -> dict[str, float]:
    async with httpx.AsyncClient(base_url=f"http://{service.base}") as http:
        lines = (await http.get("/metrics")).text.splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


async def refused(service: Service, reason: Reason | Refusal) -> float:
    metrics = await read_metrics(service)
    return metrics[f'trio_signal_refused_total{{reason="{label_of(reason)}"}}']


@asynccontextmanager
async def visitors(
    service: Service, number: int, path: str = "/ws/r/ann"
) -> AsyncIterator[list[RawClient]]:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(open_raw(service.base)) for _ in range(number)]
        for client in clients:
            await client.upgrade(path)
        yield clients


class Door(NamedTuple):
    """A limit on who may connect."""

    reason: Reason
    status: int
    given: dict[str, int]
    #: How many are admitted, and the path that each requests.
    most: int
    path: str = "/ws/r/ann"


DOORS = [
    Door(Reason.CONNECTIONS, 503, {"max_connections": 3}, 3),
    Door(Reason.CONNECTIONS_PER_IP, 429, {"max_connections_per_ip": 3}, 3),
    Door(Reason.CONNECTS_PER_IP, 429, {"connects_per_ip_per_minute": 3}, 3),
    Door(Reason.UNAUTHENTICATED, 503, {"max_unauthenticated": 3}, 3, "/ws/r"),
]


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.reason.name.lower())
async def test_connection_over_the_limit_is_refused_with_a_reason(serve: Serve, door: Door) -> None:
    async with serve(**door.given) as service, visitors(service, door.most, door.path) as all_:
        answer = await ask(service, door.path)
        assert answer.status == door.status
        assert answer.headers["content-type"].startswith("text/plain")
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert await refused(service, door.reason) == 1
        for client in all_:  # the admitted clients notice nothing
            await client.send(client_frame(PING))
            await client.receive_until(lambda frame: frame.opcode == PONG)


@pytest.mark.parametrize(
    "door",
    [door for door in DOORS if door.reason is not Reason.CONNECTS_PER_IP],
    ids=lambda door: door.reason.name.lower(),
)
@pytest.mark.parametrize("how", ["close", "half close", "reset"])
async def test_leaving_client_makes_room(serve: Serve, door: Door, how: str) -> None:
    async with (
        serve(**door.given) as service,
        visitors(service, door.most, door.path) as clients,
    ):
        for client in clients:
            if how == "reset":
                client.reset()
                continue
            if how == "close":
                await client.send(client_frame(8, b"\x03\xe8"))
            else:
                await client.half_close()
            await client.read_to_end()
        if how == "reset":
            await wait_until_admitted(service, door.path)
        else:
            assert (await ask(service, door.path)).status == 101


async def wait_until_admitted(service: Service, path: str) -> None:
    """No response shows when the server has seen a reset."""
    with trio.fail_after(PATIENCE):
        while (await ask(service, path)).status != 101:  # noqa: ASYNC110  there is no event
            await trio.sleep(0.01)


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.reason.name.lower())
async def test_burst_cannot_exceed_the_limit(serve: Serve, door: Door) -> None:
    """All connect at once, and none of them leaves."""
    statuses: list[int] = []

    async def knock() -> None:
        client = await stack.enter_async_context(open_raw(service.base))
        await client.send(upgrade_head(door.path))
        statuses.append((await client.receive_head()).status)

    async with serve(**door.given) as service, AsyncExitStack() as stack:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(knock)
        assert sorted(statuses) == [101] * door.most + [door.status] * (20 - door.most)


async def test_authenticated_client_frees_its_unauthenticated_place(serve: Serve) -> None:
    async with serve(max_unauthenticated=1) as service, AsyncExitStack() as stack:
        for _ in range(3):
            client = await stack.enter_async_context(open_raw(service.base))
            await client.upgrade("/ws/r")
            await client.wait_for("auth_required")
            assert (await ask(service, "/ws/r")).status == 503
            await client.say({"type": "auth_token"})
            await client.wait_for("auth_success")


# Behind proxies


@pytest.mark.parametrize("proxies", [0, 1, 2])
async def test_clients_behind_proxies_are_counted_separately(serve: Serve, proxies: int) -> None:
    async with (
        serve(trusted_proxies=proxies, max_connections_per_ip=1) as service,
        AsyncExitStack() as stack,
    ):
        statuses = []
        for client_id in range(4):
            raw = await stack.enter_async_context(open_raw(service.base))
            real = f"198.51.100.{client_id // 2}"
            forged = f"203.0.113.{client_id}"
            hops = ", ".join([forged, real, "10.0.0.9"][: proxies + 1])
            await raw.send(upgrade_head("/ws/r/ann", X_Forwarded_For=hops))
            statuses.append((await raw.receive_head()).status)
    assert statuses == ([101, 429, 101, 429] if proxies else [101, 429, 429, 429])


# Failed authentications


GUESSES: dict[str, Callable[[RawClient], object]] = {
    "/ws/r/eva": lambda client: client.send(b""),
    "/api/v1/ws/connect?user_id=eva": lambda client: client.send(b""),
    "/ws": lambda client: client.send(b""),
    "/ws/r": lambda client: client.say({"type": "auth_token", "token": "guessed"}),
}


@pytest.mark.parametrize("path", GUESSES)
async def test_too_many_failed_authentications_are_refused(serve: Serve, path: str) -> None:
    token = make_token("ann")
    async with (
        serve(auth_failures_per_ip=3, trusted_proxies=1, jwt_secret=SECRET) as service,
        open_raw(service.base) as ann,
    ):
        await ann.upgrade(f"/ws/r/ann?token={token}", X_Forwarded_For="198.51.100.1")
        await ann.wait_for("room_state")
        for _ in range(3):
            async with open_raw(service.base) as eva:
                await eva.upgrade(path, X_Forwarded_For="198.51.100.1")
                await GUESSES[path](eva)  # type: ignore[misc]
                assert (await eva.receive_until(lambda frame: frame.opcode == 8)).close_code
        async with open_raw(service.base) as eva:
            if path == "/ws/r":  # it authenticates only now
                await eva.upgrade(path, X_Forwarded_For="198.51.100.1")
                await GUESSES[path](eva)  # type: ignore[misc]
                assert (await eva.receive_until(lambda frame: frame.opcode == 8)).close_code
                assert await refused(service, Reason.AUTHENTICATION) == 4
            else:
                for bad in (path, with_token(path, "guessed")):
                    answer = await ask(service, bad, X_Forwarded_For="198.51.100.1")
                    assert answer.status == 429
                    assert 290 <= int(answer.headers["retry-after"]) <= 300
                assert await refused(service, Reason.AUTHENTICATION) == 3
                assert await refused(service, Reason.AUTH_FAILURES_PER_IP) == 2
        # Another address is admitted, and the earlier connection stays.
        assert (await ask(service, X_Forwarded_For="198.51.100.2")).status == 101
        await ann.send(ASK)
        await ann.wait_for(ANSWER)


def with_token(path: str, token: str) -> str:
    return f"{path}{'&' if '?' in path else '?'}token={token}"


@pytest.mark.parametrize("way", ["query", "header", "subprotocol", "cookie", "message"])
async def test_valid_token_is_admitted_despite_failures(serve: Serve, way: str) -> None:
    token = make_token("ann")
    async with serve(auth_failures_per_ip=2, jwt_secret=SECRET) as service:
        async with httpx.AsyncClient(base_url=f"http://{service.base}") as http:
            for status in (401, 401, 429, 429):
                answer = await http.get("/auth/me?token=x")
                assert answer.status_code == status
            answer = await http.get("/auth/me", headers={"Authorization": f"Bearer {token}"})
            assert answer.json()["user_id"] == "ann"
            answer = await http.get("/auth/me", headers={"Authorization": f"Bearer {token}x"})
            assert answer.status_code == 429
        if way == "message":
            for said, code in ((token, None), ("x", 1008), (token, None)):
                async with service.connect("/ws/r") as client:
                    await client.expect("auth_required")
                    await client.send("auth_token", token=said)
                    if code is None:
                        await client.expect("auth_success", user_id="ann")
                    else:
                        await client.expect_close(code, "Invalid token")
            return

        def door(token: str) -> tuple[str, dict[str, str]]:
            match way:
                case "query":
                    return with_token("/ws/r/ann", token), {}
                case "header":
                    return "/ws/r/ann", {"Authorization": f"Bearer {token}"}
                case "subprotocol":
                    return "/ws/r/ann", {"Sec_WebSocket_Protocol": f"bearer, {token}"}
            return "/ws/r/ann", {"Cookie": f"session={token}"}

        for said, status in ((token, 101), (f"{token}x", 429), (token, 101)):
            path, headers = door(said)
            assert (await ask(service, path, **headers)).status == status


async def test_valid_token_does_not_lift_the_connect_limit(serve: Serve) -> None:
    given = {"auth_failures_per_ip": 1, "connects_per_ip_per_minute": 5, "jwt_secret": SECRET}
    async with serve(**given) as service:
        good, bad = with_token("/ws/r/ann", make_token("ann")), with_token("/ws/r/ann", "x")
        async with open_raw(service.base) as eva:
            await eva.upgrade(bad)
            await eva.receive_until(lambda frame: frame.opcode == 8)
        paths = (good, bad, good, bad, good)
        statuses = [(await ask(service, path)).status for path in paths]
        assert statuses == [101, 429, 101, 429, 429]
        assert await refused(service, Reason.CONNECTS_PER_IP) == 1


async def test_silent_unauthenticated_client_is_closed(serve: Serve) -> None:
    async with serve(auth_timeout=0.05) as service, open_raw(service.base) as client:
        await client.upgrade("/ws/r")
        await client.expect_close(1008, "Authentication timeout")
        assert await refused(service, Reason.AUTHENTICATION_TIMEOUT) == 1


# Message rate


async def test_burst_is_read_at_once_and_the_rest_delayed(serve: Serve) -> None:
    async with (
        serve(messages_per_second=20, message_burst=10) as service,
        open_raw(service.base) as client,
    ):
        await client.upgrade("/ws/r/ann")
        began = trio.current_time()
        # One after the other, so that one read never returns more than one message.
        for _ in range(30):
            await client.send(ASK)
            await client.wait_for(ANSWER)
        assert trio.current_time() - began >= (30 - 10 - 1) / 20
        await client.send(client_frame(8, b"\x03\xe8"))
        await client.expect_close(1000)


async def test_delayed_messages_are_not_lost(serve: Serve) -> None:
    """As when a broadcaster greets its viewers: more than a burst, and then nothing."""
    async with (
        serve(messages_per_second=500, message_burst=50) as service,
        open_raw(service.base) as client,
    ):
        await client.upgrade("/ws/r/ann")
        for _ in range(1000):
            await client.send(ASK)
        for _ in range(1000):
            await client.wait_for(ANSWER)


FLOODS = {
    "messages": ASK,
    "pings": client_frame(PING),
    "pongs": client_frame(PONG),
    "fragments of a byte": client_frame(TEXT, b"x", final=False)
    + client_frame(0, b"x", final=False) * 100_000,
    "empty fragments": client_frame(TEXT, final=False) + client_frame(0, final=False) * 100_000,
}


@pytest.mark.parametrize("flood", FLOODS)
async def test_constant_flood_is_closed(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, flood: str
) -> None:
    monkeypatch.setattr("trio_signal.connection.MAX_PRESSING", 0.3)

    async def pour() -> None:
        while True:
            await client.stream.send_all(FLOODS[flood])

    async with serve(messages_per_second=50, message_burst=20) as service:
        async with open_raw(service.base) as client, trio.open_nursery() as nursery:
            await client.upgrade("/ws/r/ann")
            nursery.start_soon(pour)
            frame = await client.receive_until(lambda frame: frame.opcode == 8)
            nursery.cancel_scope.cancel()
        assert frame.close_reason == "Rate limit exceeded"
        assert frame.close_code == 1008
        metrics = await read_metrics(service)
        assert metrics['trio_signal_refused_total{reason="message_rate"}'] == 1
        assert metrics['trio_signal_closed_total{code="1008"}'] == 1


async def test_fan_out_is_charged_to_the_sender(serve: Serve) -> None:
    """Twenty messages to fifty peers cost more than forty tokens."""
    async with (
        serve(messages_per_second=40, message_burst=10) as service,
        visitors(service, 50) as others,
    ):
        ann = others[0]
        await ann.wait_for("room_state")
        began = trio.current_time()
        for number in range(20):
            await ann.say({"type": "message", "content": str(number)})
            while (await ann.wait_for("message"))["content"] != str(number):
                pass
        # Each message but the first waits until the bucket has refilled for the previous one.
        assert trio.current_time() - began >= (19 * 2 - 10) / 40


async def test_private_message_to_many_connections_is_charged_to_the_sender(serve: Serve) -> None:
    """As a message to a room: twenty messages to fifty peers cost more than forty tokens."""
    async with (
        serve(messages_per_second=40, message_burst=10) as service,
        AsyncExitStack() as stack,
        open_raw(service.base) as ann,
    ):
        for number in range(50):
            bob = await stack.enter_async_context(open_raw(service.base))
            await bob.upgrade(f"/ws/{number}/bob")
        await ann.upgrade("/ws/r/ann")
        await ann.wait_for("room_state")
        began = trio.current_time()
        for number in range(20):
            said = {"sender_id": "ann", "receiver_id": "bob", "content": str(number)}
            await ann.say({"type": "dm_message", **said, "timestamp": ""})
            while (await bob.wait_for("dm_message"))["message"]["content"] != str(number):
                pass
        assert trio.current_time() - began >= (19 * 2 - 10) / 40


async def test_large_answers_are_charged_to_the_client(serve: Serve) -> None:
    """A request of 42 bytes with an answer of 60 KB, which costs four tokens."""
    path = "/api/v1/ws/connect?user_id={:03}" + "x" * 240
    join = {"type": "join_room", "room_id": "r"}
    async with (
        serve(messages_per_second=20, message_burst=10) as service,
        AsyncExitStack() as stack,
    ):
        for number in range(250):
            client = await stack.enter_async_context(open_raw(service.base))
            await client.upgrade(path.format(number))
            await client.say(join)
        joined = await client.wait_for("joined_room")
        assert len(str(joined)) > 50_000
        began = trio.current_time()
        for _ in range(10):
            await client.say(join)
            await client.wait_for("joined_room")
        assert trio.current_time() - began >= (9 * 4 - 10) / 20


async def test_connections_of_one_address_share_a_limit(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that takes less than its share is still served, and not closed."""
    monkeypatch.setattr("trio_signal.connection.MAX_PRESSING", 0.5)
    limits = {"messages_per_ip_per_second": 50, "message_burst_per_ip": 20}

    async def pour(number: int) -> None:
        async with open_raw(service.base) as eva, trio.open_nursery() as nursery:
            await eva.upgrade(f"/ws/r/eva{number}")
            nursery.start_soon(send_for_ever, eva)
            frame = await eva.receive_until(lambda frame: frame.opcode == 8)
            assert (frame.close_code, frame.close_reason) == (1008, "Rate limit exceeded")
            nursery.cancel_scope.cancel()

    async def send_for_ever(eva: RawClient) -> None:
        with suppress(trio.BrokenResourceError):
            while True:
                await eva.stream.send_all(ASK * 100)

    async with serve(**limits) as service, open_raw(service.base) as ann:
        await ann.upgrade("/ws/r/ann")
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(pour, number)
            for _ in range(10):
                await ann.send(ASK)
                with trio.fail_after(2):
                    await ann.wait_for(ANSWER)
        assert await refused(service, Reason.MESSAGE_RATE_PER_IP) == 5
        assert await refused(service, Reason.MESSAGE_RATE) == 0


async def test_single_byte_reads_are_limited_too(serve: Serve) -> None:
    async with (
        serve(messages_per_second=1, message_burst=10) as service,
        open_raw(service.base) as client,
    ):
        await client.upgrade("/ws/r/ann")
        began = trio.current_time()
        for byte in ASK:
            await client.send(bytes((byte,)))
            # Even if a hundredth of a second is missing, because of the messages sent on joining.
            await trio.testing.wait_all_tasks_blocked(0.02)
        await client.wait_for(ANSWER)
        # Ten reads are a burst; after the next one, the rest had a second to arrive.
        assert trio.current_time() - began > 0.9


async def test_limited_client_that_pauses_is_not_closed(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_signal.connection.MAX_PRESSING", 0.2)
    async with (
        serve(messages_per_second=20, message_burst=1) as service,
        open_raw(service.base) as client,
    ):
        await client.upgrade("/ws/r/ann")
        for _ in range(20):  # for a second; after each message there is nothing to read
            await client.send(ASK)
            await client.wait_for(ANSWER)


async def test_earlier_flood_does_not_shorten_the_patience_with_a_later_one(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two bursts, each too short to be closed for, and a longer pause between them."""
    monkeypatch.setattr("trio_signal.connection.MAX_PRESSING", 0.4)
    # One read takes 16 KiB of it. The next one completes no message, so it costs nothing.
    burst = client_text({"type": "keep_alive", "padding": "x" * 900}) * 20
    begin, end = burst[: 16384 + 300], burst[16384 + 300 :]
    async with (
        serve(messages_per_second=50, message_burst=10) as service,
        open_raw(service.base) as client,
    ):
        await client.upgrade("/ws/r/ann")
        for _ in range(2):
            await client.send(begin)
            await trio.sleep(1)
            await client.send(end)
            for _ in range(20):
                await client.wait_for(ANSWER)
            await trio.sleep(1)


async def test_limited_client_is_not_considered_dead(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_signal.connection.MAX_PRESSING", 60)
    async with (
        serve(
            messages_per_second=30, message_burst=1, heartbeat=0.5, heartbeat_timeout=1
        ) as service,
        open_raw(service.base) as client,
    ):
        await client.upgrade("/ws/r/ann")
        # All of it is read at once, and takes three seconds.
        await client.send(ASK * 100)

        def answers(frame: Frame) -> bool:
            return frame.opcode == TEXT and frame.message["type"] == ANSWER

        for _ in range(100):
            await client.receive_until(answers)
        while (await client.receive()).opcode != PING:
            pass
        await client.send(client_frame(PONG), ASK)
        await client.wait_for(ANSWER)


async def test_departure_of_a_limited_client_is_announced_at_once(serve: Serve) -> None:
    async with (
        serve(messages_per_second=0.1, message_burst=1) as service,
        service.connect("/ws/r/ann") as ann,
        open_raw(service.base) as eva,
    ):
        await eva.upgrade("/ws/r/eva")
        await ann.wait_for("user_joined")
        await eva.send(ASK, ASK)
        for _ in range(2):
            await eva.wait_for(ANSWER)
        await eva.half_close()
        await ann.wait_for("user_left")


# Sizes and counts


async def test_oversized_message_is_counted(serve: Serve) -> None:
    async with serve(max_message_bytes=1024) as service, open_raw(service.base) as client:
        await client.upgrade("/ws/r/ann", client_frame(TEXT, b"x" * 1025))
        await client.expect_close(1009)
        assert await refused(service, Reason.MESSAGE_TOO_BIG) == 1


async def test_malformed_messages_are_counted(serve: Serve) -> None:
    async with serve() as service, open_raw(service.base) as client:
        await client.upgrade("/ws/r/ann", client_text("{"), client_text("[" * 5000))
        for _ in range(2):
            await client.wait_for("error")
        assert await refused(service, Reason.MALFORMED) == 2


ROOMS: dict[str, tuple[str, Callable[[str], dict[str, str]], str, dict[str, str]]] = {
    "live": (
        "/api/v1/ws/connect?user_id=ann",
        lambda room: {"type": "join_room", "room_id": room},
        "joined_room",
        {"message": "Too many rooms on one connection"},
    ),
    "stream": (
        "/ws",
        lambda room: {"type": "join-stream", "streamId": room},
        "viewer-count",
        {"code": "too_many_streams", "streamId": "c"},
    ),
}


@pytest.mark.parametrize("dialect", ROOMS)
async def test_rooms_per_connection_are_limited(serve: Serve, dialect: str) -> None:
    path, join, joined, error = ROOMS[dialect]
    async with serve(max_rooms_per_connection=2) as service, service.connect(path) as ann:
        for room in ("a", "b"):
            await ann.send_json(join(room))
            await ann.wait_for(joined)
        await ann.send_json(join("c"))
        await ann.wait_for("error", **error)
        assert await refused(service, Refusal.TOO_MANY_ROOMS) == 1
        await ann.send_json(join("b"))  # it is in this room already
        await ann.wait_for(joined)
        if dialect == "live":
            await ann.send("leave_room", room_id="a")
            await ann.send_json(join("c"))
            await ann.wait_for(joined, room_id="c")


LONG, TOO_LONG = "ü" * MAX_ID, "ü" * (MAX_ID + 1)


@pytest.mark.parametrize(
    "path", ["/ws/{}/ann", "/ws/r/{}", "/ws/{}", "/api/v1/ws/connect?user_id={}"]
)
async def test_id_length_in_the_path_is_limited(service: Service, path: str) -> None:
    encoded = "%C3%BC"
    assert (await ask(service, path.format(encoded * MAX_ID))).status == 101
    replica = Service(service.bases[0])
    answer = await ask(replica, path.format(encoded * (MAX_ID + 1)))
    assert answer.status == 400
    assert await refused(replica, Reason.ID_TOO_LONG) == 1


@pytest.mark.parametrize(
    ("path", "message", "error"),
    [
        ("/ws/r/ann", {"type": "webrtc-signal", "target_user_id": "?", "signal": 1}, {}),
        ("/api/v1/ws/connect", {"type": "join_room", "room_id": "?"}, {}),
        (
            "/api/v1/ws/connect",
            {"type": "live_offer", "room_id": "r", "target_user_id": "?", "payload": 1},
            {},
        ),
        ("/ws", {"type": "join-stream", "streamId": "?"}, {"code": "invalid_message"}),
        ("/ws", {"type": "start-streaming", "orderId": "?"}, {"code": "invalid_message"}),
        (
            "/ws",
            {"type": "webrtc-offer", "streamId": "s", "viewerId": "?", "offer": 1},
            {"code": "invalid_message"},
        ),
        ("/ws/r", {"type": "offer", "to": "?", "offer": 1}, {"code": "invalid_message"}),
        ("/ws/r", {"type": "kick", "client_id": "?"}, {"code": "invalid_message"}),
    ],
)
async def test_id_length_in_a_message_is_limited(
    service: Service, path: str, message: dict[str, object], error: dict[str, str]
) -> None:
    async with service.connect(path) as ann:
        if path == "/ws/r":
            await ann.send("auth_token")
            await ann.wait_for("users_in_room")

        def filled(id_: str) -> dict[str, object]:
            return {name: id_ if value == "?" else value for name, value in message.items()}

        await ann.send_json(filled(TOO_LONG))
        await ann.wait_for("error", **error)
        await ann.send_json(filled(LONG))
        said = await ann.settle()
        assert "invalid_message" not in {message.get("code") for message in said}
        assert "Invalid" not in str(said)


async def test_id_length_in_a_request_is_limited(service: Service) -> None:
    async with httpx.AsyncClient(base_url=f"http://{service.base}") as http:
        for id_, path_status, body_status in ((LONG, 200, 200), (TOO_LONG, 400, 422)):
            join = await http.post(f"/rooms/{id_}/join", json={"user_id": "ann"})
            assert join.status_code == path_status
            assert (await http.get(f"/rooms/{id_}/messages")).status_code == path_status
            join = await http.post("/rooms/r/join", json={"user_id": id_})
            assert join.status_code == body_status


# Connections without WebSocket


async def test_http_connections_per_address_are_limited(serve: Serve) -> None:
    async with serve(max_connections_per_ip=3) as service, AsyncExitStack() as stack:
        idle = [await stack.enter_async_context(open_raw(service.base)) for _ in range(3)]
        await idle[0].send(b"GET / HT")
        await idle[1].send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await idle[1].receive_head()  # kept alive
        async with open_raw(service.base) as one_more:
            answer = await one_more.receive_answer()
            assert answer.status == 429
            assert int(answer.headers["retry-after"]) > 0
        # A connection that becomes a WebSocket no longer counts as one of these.
        await idle[2].upgrade("/ws/r/ann")
        async with open_raw(service.base) as next_one:
            await next_one.send(
                b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            )
            assert (await next_one.receive_answer()).status == 200


async def test_trusted_proxy_does_not_count_as_one_client(serve: Serve) -> None:
    async with (
        serve(max_connections_per_ip=1, trusted_proxies=1) as service,
        AsyncExitStack() as stack,
    ):
        for _ in range(3):
            await stack.enter_async_context(open_raw(service.base))
        answer = await ask(service, X_Forwarded_For="198.51.100.1")
        assert answer.status == 101


# Metrics


async def test_refusals_have_their_labels(serve: Serve) -> None:
    async with serve() as service:
        assert (await ask(service, Origin="https://evil.example")).status == 403
        assert (await ask(service, "/nowhere")).status == 404
        assert (await ask(service, Sec_WebSocket_Key="x")).status == 400
        for reason in (Reason.ORIGIN, Reason.UNKNOWN_PATH, Reason.BAD_REQUEST):
            assert await refused(service, reason) == 1, reason
        metrics = await read_metrics(service)
        labels = {label_of(reason) for reason in (*Reason, *Refusal)}
        assert {name for name in metrics if name.startswith("trio_signal_refused_total")} == {
            f'trio_signal_refused_total{{reason="{label}"}}' for label in labels
        }


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (client_frame(8, b"\x03\xe8"), "1000"),
        (client_frame(8), "1005"),
        (client_frame(8, b"\x0f\xa7"), "other"),  # 4007
        (client_frame(2), "1003"),
    ],
)
async def test_closed_connections_are_counted_by_code(serve: Serve, said: bytes, code: str) -> None:
    async with serve() as service:
        async with open_raw(service.base) as client:
            await client.upgrade("/ws/r/ann", said)
            await client.read_to_end()
        metrics = await read_metrics(service)
        ended = {name for name, value in metrics.items() if "closed_total" in name and value}
        assert ended == {f'trio_signal_closed_total{{code="{code}"}}'}


async def test_aborted_connection_is_counted_as_1006(serve: Serve) -> None:
    async with serve() as service:
        async with open_raw(service.base) as client:
            await client.upgrade("/ws/r/ann")
            await client.half_close()
            await client.read_to_end()
        assert (await read_metrics(service))['trio_signal_closed_total{code="1006"}'] == 1


async def test_metrics_may_require_a_token(serve: Serve) -> None:
    async with (
        serve(metrics_token="m" * 32) as service,
        httpx.AsyncClient(base_url=f"http://{service.base}") as http,
    ):
        for given in ({}, {"Authorization": "Bearer n"}, {"Authorization": f"Basic {'m' * 32}"}):
            answer = await http.get("/metrics", headers=given)
            assert answer.status_code == 401
            assert "trio_signal" not in answer.text
        answer = await http.get("/metrics", headers={"Authorization": f"Bearer {'m' * 32}"})
        assert answer.status_code == 200


def test_charges_are_taken_from_a_bucket() -> None:
    buckets = Buckets(rate=2, burst=4)
    buckets.charge(ANN, 0, now=10)
    assert len(buckets) == 0, "an address without debt is not stored"
    buckets.charge(ANN, 3, now=10)
    assert buckets.spend(ANN, now=10) == 0
    assert buckets.spend(ANN, now=10) == 0.5
    assert buckets.spend(BOB, now=10) == 0
    buckets.charge(ANN, 1_000_000, now=10)
    assert buckets.spend(ANN, now=10) == 2.5, "the debt is at most one more burst"
    assert buckets.spend(ANN, now=12.5) == 0
    buckets.charge(BOB, 0, now=20)
    assert len(buckets) == 0


def test_session_without_connection_has_no_address() -> None:
    assert NoLease().address == ""
