"""A session's metrics equal what its clients sent and received, number for number."""

import json
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest
import trio

from tests.clients import PATIENCE, Client, Service
from tests.conftest import Serve
from tests.test_docs import outgoing, tag
from trio_signal.dialects import DIALECTS, OTHER
from trio_signal.dialects.wire import encode, type_of
from trio_signal.metrics import Histogram, Metrics

PATHS = {
    "room": "/ws/hall/{name}",
    "live": "/api/v1/ws/connect?user_id={name}",
    "stream": "/ws",
    "mesh": "/ws/cellar",
    "announce": "/api/creator/broadcast/ws?user_id={name}",
    "topics": "/topics",
    "peerjs": "/peerjs?key=peerjs&token=t&id={name}",
}


async def read_metrics(service: Service) -> Counter[str]:
    """Each series, summed over the replicas."""
    total: Counter[str] = Counter()
    for base in service.bases:
        async with httpx.AsyncClient(base_url=f"http://{base}", timeout=PATIENCE) as http:
            lines = (await http.get("/metrics")).text.splitlines()
        for line in lines:
            if not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                total[name] += float(value)  # type: ignore[assignment]
    return total


def series(metrics: Counter[str], name: str) -> dict[tuple[str, ...], float]:
    """The nonzero values of a metric, by label values."""
    found: dict[tuple[str, ...], float] = {}
    for line, value in metrics.items():
        if line.startswith(f"{name}{{") and value:
            found[tuple(re.findall('="([^"]*)"', line))] = value
    return found


class Session:
    """Clients of all dialects; everything that each sends and receives is counted."""

    def __init__(self, service: Service, stack: AsyncExitStack) -> None:
        self.service = service
        self.said: Counter[tuple[str, str]] = Counter()
        self._stack = stack
        self._clients: dict[Client, str] = {}
        self.ended: list[Client] = []

    async def connect(self, dialect: str, name: str) -> Client:
        path = PATHS[dialect].format(name=name)
        client = await self._stack.enter_async_context(self.service.connect(path))
        self._clients[client] = dialect
        return client

    async def say(self, client: Client, type_: str, /, **fields: Any) -> None:
        """Send a message, and wait until the server has processed it."""
        await self.say_text(client, type_, json.dumps({"type": type_, **fields}))

    async def say_text(self, client: Client, type_: str, text: str) -> None:
        await client.send_text(text)
        self.said[self._clients[client], type_] += 1
        await self.settle()

    async def settle(self) -> None:
        for client in self._clients.keys() - self.ended:
            await client.settle()

    def heard(self) -> Counter[tuple[str, str]]:
        return Counter(
            (dialect, message["type"])
            for client, dialect in self._clients.items()
            for message in client.log
        )


@asynccontextmanager
async def open_session(service: Service) -> AsyncIterator[Session]:
    async with AsyncExitStack() as stack:
        yield Session(service, stack)


async def send_before_authenticating(session: Session) -> None:
    """Send a message before authenticating."""
    client = await session.connect("mesh", "")
    await client.send("message", data="too early")
    session.said["mesh", "message"] += 1
    await client.expect_close(1008)
    session.ended.append(client)


async def play(session: Session) -> None:
    """A conversation in all dialects, with mistakes."""
    ann, bob, cyd = [await session.connect("room", name) for name in ("ann", "bob", "cyd")]
    await session.settle()
    await session.say(ann, "typing_start")
    for content in ("one", "two"):
        await session.say(bob, "message", content=content)
    await session.say(ann, "webrtc-signal", target_user_id="cyd", signal={"type": "offer"})
    await session.say(cyd, "webrtc-signal", target_user_id="nobody", signal={})
    await session.say(cyd, "broadcast-started")
    await session.say(ann, "keep_alive")
    await session.say_text(ann, OTHER, "nonsense")
    await session.say_text(ann, OTHER, '{"type": "never-heard-of-it"}')
    await session.say_text(ann, OTHER, '{"type": "message", "content": 7}')
    dan, eve = [await session.connect("live", name) for name in ("dan", "eve")]
    for client in (dan, eve):
        await session.say(client, "join_room", room_id="attic")
    await session.say(dan, "live_start", room_id="attic")
    await session.say(eve, "live_offer", room_id="attic", target_user_id="dan", payload={})
    await session.say(dan, "send_message", room_id="attic", content="hi")
    viewer, host = [await session.connect("stream", "") for _ in range(2)]
    await session.say(viewer, "join-stream", streamId="show")
    await session.say(host, "broadcaster-ready", streamId="show")
    await session.say(viewer, "ice-candidate", streamId="show", candidate=None)
    await session.say(viewer, "end-stream", streamId="show")
    fay, gil = [await session.connect("mesh", name) for name in ("fay", "gil")]
    for client, name in ((fay, "fay"), (gil, "gil")):
        await session.say(client, "auth_token", token="t", clientId=name, username=name)
    await session.say(fay, "message", data="to all")
    await session.say(gil, "ping", id=1)
    await send_before_authenticating(session)
    hal = await session.connect("announce", "hal")
    await session.settle()
    await session.say(hal, "get_active_broadcast")
    ivy = await session.connect("topics", "ivy")
    await session.say(ivy, "subscribe", topics=["t"])
    await session.say(ivy, "publish", topic="t", data=1)
    jan, kim = [await session.connect("peerjs", name) for name in ("jan", "kim")]
    await session.settle()
    await session.say(jan, "OFFER", dst="kim", payload={})
    await session.settle()
    await session.say(kim, "LEAVE", dst="jan")
    await session.say(kim, "HEARTBEAT")
    await session.say_text(kim, OTHER, '{"type": "EXPIRE"}')
    await session.settle()


async def test_session_is_counted_exactly(service: Service) -> None:
    async with open_session(service) as session:
        await play(session)
        during = await read_metrics(service)
    after = await read_metrics(service)
    for metrics in (during, after):
        assert series(metrics, "trio_signal_messages_in_total") == session.said
    assert series(during, "trio_signal_messages_out_total") == session.heard()
    assert series(during, "trio_signal_refused_total") == {
        ("malformed",): 2,
        ("not_live",): 1,
        ("target_not_found",): 1,
    }
    present = {("room",): 3, ("live",): 2, ("stream",): 2, ("mesh",): 2}
    present |= {("announce",): 1, ("topics",): 1, ("peerjs",): 2}
    assert series(during, "trio_signal_connections") == present
    assert series(after, "trio_signal_connections") == {}
    assert (during["trio_signal_peers"], after["trio_signal_peers"]) == (9, 0)
    assert (during["trio_signal_live"], after["trio_signal_live"]) == (3, 0)
    assert after["trio_signal_rooms"] == 0
    if len(service.bases) == 1:
        assert during["trio_signal_rooms"] == 4
    assert series(during, "trio_signal_closed_total") == {("1008",): 1}
    assert series(after, "trio_signal_closed_total") == {("1000",): 13, ("1008",): 1}


async def test_fan_out_counts_the_receivers(service: Service) -> None:
    async with open_session(service) as session:
        ann, *_ = [await session.connect("room", name) for name in ("ann", "bob", "cyd")]
        await session.settle()
        before = await read_metrics(service)
        await session.say(ann, "message", content="hi")
        after = await read_metrics(service)
        assert after["trio_signal_fan_out_peers_sum"] - before["trio_signal_fan_out_peers_sum"] == 3


async def test_delivery_between_replicas_is_measured(service: Service) -> None:
    """Each replica measures once a second, whether or not anybody is connected."""
    if len(service.bases) == 1:
        assert not series(await read_metrics(service), "trio_signal_redis_connected")
        return
    with trio.fail_after(PATIENCE):
        while True:
            metrics = await read_metrics(service)
            if metrics["trio_signal_delivery_seconds_count"] >= 3:
                break
    assert series(metrics, "trio_signal_redis_connected") == {("commands",): 3, ("events",): 3}
    assert metrics["trio_signal_lease_age_seconds"] < 3 * PATIENCE
    assert series(metrics, "trio_signal_redis_gaps_total") == {}


def test_histogram_buckets_are_cumulative() -> None:
    histogram = Histogram((1, 2))
    for value in (0.5, 1, 1.5, 7):
        histogram.observe(value)
    assert histogram.buckets() == [("1", 2), ("2", 3), ("+Inf", 4)]
    assert histogram.sum == 10


@pytest.mark.parametrize("dialect", DIALECTS)
def test_type_of_every_message_is_found(dialect: str) -> None:
    for struct in outgoing(dialect):
        fields = [field.encode_name for field in msgspec.structs.fields(struct)]
        if tag(struct) is None:  # it is nested in one, or several types share it
            assert "type" not in fields[1:]
        else:
            blank = struct(**dict.fromkeys((f.name for f in msgspec.structs.fields(struct)), ""))
            assert type_of(encode(blank)).decode() == tag(struct)


def test_plain_text_is_its_own_type() -> None:
    assert [type_of(b"ping"), type_of(b"")] == [b"ping", b""]


def test_unknown_close_codes_are_counted_together() -> None:
    metrics = Metrics()
    for code in (4000, 4999, 1000):
        metrics.count_closed(code)
    assert (metrics.closed[OTHER], metrics.closed[1000]) == (2, 1)


async def test_repeated_dialect_is_measured_once(serve: Serve) -> None:
    async with serve(dialects="mesh, room,mesh") as service, httpx.AsyncClient() as http:
        text = (await http.get(f"http://{service.base}/metrics")).text
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        names = [line.rsplit(" ", 1)[0] for line in lines]
        assert len(names) == len(set(names))


async def report_quality(service: Service, *reports: dict[str, Any]) -> Counter[str]:
    """The metrics after one client has sent these reports."""
    async with service.connect("/ws/r") as ann:
        await ann.expect("auth_required")
        await ann.send("auth_token", clientId="ann")
        success = await ann.expect("auth_success")
        assert success.get("quality") == (30 if reports else None)
        for report in reports or [{"checked": 1}]:
            await ann.send("quality", **report)
        await ann.settle()
        return await read_metrics(service)


async def test_quality_reports_are_summed_when_enabled(serve: Serve) -> None:
    async with serve(quality_interval=30) as service:
        first = {"checked": 3, "silent": 1, "connected": 4, "relayed": 2, "failed": 1}
        bad = {"checked": 201}, {"silent": -1}, {"round_trips": [70_000]}, {"round_trips": [1] * 51}
        metrics = await report_quality(
            service, first, {"checked": 1, "round_trips": [20, 300]}, *bad
        )
        assert series(metrics, "trio_signal_calls_total") == {
            ("checked",): 4,
            ("silent",): 1,
            ("connected",): 4,
            ("relayed",): 2,
            ("failed",): 1,
        }
        assert metrics["trio_signal_quality_reports_total"] == 2
        assert metrics["trio_signal_call_round_trip_seconds_sum"] == pytest.approx(0.32)
        assert series(metrics, "trio_signal_refused_total") == {("malformed",): 4}
    async with serve() as service:
        metrics = await report_quality(service)
        assert metrics["trio_signal_quality_reports_total"] == 0
        assert series(metrics, "trio_signal_calls_total") == {}


async def test_frequent_quality_reports_are_rate_limited(serve: Serve) -> None:
    async with serve(quality_interval=30, message_burst=50, messages_per_second=20) as service:
        began = trio.current_time()
        metrics = await report_quality(service, *[{"checked": 1}] * 10)
        assert metrics["trio_signal_quality_reports_total"] == 10
        assert trio.current_time() - began > 2  # 10 reports of 11 tokens each, with 50 available
