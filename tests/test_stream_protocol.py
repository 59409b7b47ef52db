"""The `stream` dialect as its clients see it: every row of its page, over real sockets.

To show that somebody received nothing, a test uses a fence: a `start-streaming` from whoever
could have caused it, which must be the next to arrive.
"""

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio

from tests.clients import PATIENCE, Client, Message, Service
from tests.conftest import Serve
from tests.raw import open_raw
from tests.tokens import SECRET, make_token

STREAM = "9c23f06d-2f69-46d6-8a81-3057e5d90a32"


class Stream:
    """A stream with a broadcaster and viewers that know about each other."""

    def __init__(self, caster: Client, viewers: list[Client], ids: list[str]) -> None:
        self.caster = caster
        self.viewers = viewers
        #: The viewer ids that the broadcaster received.
        self.ids = ids

    @property
    def everybody(self) -> list[Client]:
        return [self.caster, *self.viewers]


async def expect_count(count: int, *clients: Client, stream: str = STREAM) -> None:
    for client in clients:
        assert await client.receive() == {
            "type": "viewer-count",
            "count": count,
            "streamId": stream,
        }


async def expect_viewer(caster: Client, type_: str = "viewer-joined") -> str:
    """The id of the viewer in the broadcaster's next message."""
    message = await caster.expect(type_, streamId=STREAM)
    assert message.keys() == {"type", "streamId", "viewerId"}
    viewer_id = message["viewerId"]
    assert isinstance(viewer_id, str)
    return viewer_id


async def join(stream: Stream, viewer: Client) -> str:
    """Add a viewer; return its id."""
    await viewer.send("join-stream", streamId=STREAM)
    stream.viewers.append(viewer)
    await expect_count(len(stream.everybody), *stream.everybody)
    viewer_id = await expect_viewer(stream.caster)
    stream.ids.append(viewer_id)
    return viewer_id


@asynccontextmanager
async def watched(service: Service, viewers: int) -> AsyncIterator[Stream]:
    async with AsyncExitStack() as stack:
        caster = await stack.enter_async_context(service.connect("/ws"))
        await caster.send("broadcaster-ready", streamId=STREAM)
        await expect_count(1, caster)
        stream = Stream(caster, [], [])
        for _ in range(viewers):
            await join(stream, await stack.enter_async_context(service.connect("/ws")))
        yield stream


async def fence(sender: Client, *others: Client, stream: str = STREAM) -> None:
    """Nothing that this client did up to now reached the others."""
    await sender.send("start-streaming", orderId=stream)
    for other in others:
        assert await other.receive() == {"type": "stream-started", "streamId": stream}


async def expect_error(client: Client, code: str, stream: str | None = STREAM) -> None:
    error = await client.receive()
    expected: Message = {"type": "error", "code": code, "message": error["message"]}
    if stream is not None:
        expected["streamId"] = stream
    assert error == expected
    assert error["message"]


# Broadcasters


async def test_broadcaster_without_viewers_gets_a_count_of_one(service: Service) -> None:
    async with watched(service, 0) as stream:
        await stream.caster.expect_nothing()


async def test_waiting_viewers_learn_of_the_broadcaster(service: Service) -> None:
    async with (
        service.connect("/ws") as early,
        service.connect("/ws") as late,
        service.connect("/ws") as caster,
    ):
        await early.send("join-stream", streamId=STREAM)
        await expect_count(1, early)
        await late.send("join-stream", streamId=STREAM)
        await expect_count(2, early, late)
        await caster.send("broadcaster-ready", streamId=STREAM)
        await expect_count(3, early, late, caster)
        for viewer in (early, late):
            assert await viewer.receive() == {
                "type": "broadcaster-ready-signal",
                "streamId": STREAM,
            }
        first, second = await expect_viewer(caster), await expect_viewer(caster)
        await caster.send("webrtc-offer", streamId=STREAM, viewerId=first, offer=1)
        await caster.send("webrtc-offer", streamId=STREAM, viewerId=second, offer=2)
        await early.expect("webrtc-offer", offer=1, viewerId=first)
        await late.expect("webrtc-offer", offer=2, viewerId=second)
        await fence(caster, early, late)
        await fence(early, late, caster)


async def test_viewer_may_become_the_broadcaster(service: Service) -> None:
    async with service.connect("/ws") as viewer, service.connect("/ws") as caster:
        await caster.send("join-stream", streamId=STREAM)
        await expect_count(1, caster)
        await viewer.send("join-stream", streamId=STREAM)
        await expect_count(2, caster, viewer)
        await caster.send("broadcaster-ready", streamId=STREAM)
        await viewer.expect("broadcaster-ready-signal", streamId=STREAM)
        await expect_viewer(caster)
        await fence(viewer, caster)
        await fence(caster, viewer)


async def test_broadcaster_that_is_ready_again_gets_the_viewers_again(
    service: Service,
) -> None:
    async with watched(service, 2) as stream:
        await stream.caster.send("broadcaster-ready", streamId=STREAM)
        for viewer in stream.viewers:
            await viewer.expect("broadcaster-ready-signal", streamId=STREAM)
        assert [await expect_viewer(stream.caster) for _ in range(2)] == stream.ids
        await fence(stream.viewers[0], stream.caster, stream.viewers[1])
        await fence(stream.caster, *stream.viewers)


async def test_newest_broadcaster_wins(service: Service) -> None:
    async with watched(service, 2) as stream, service.connect("/ws") as newer:
        older = stream.caster
        await newer.send("broadcaster-ready", streamId=STREAM)
        await expect_count(4, older, *stream.viewers, newer)
        for viewer in stream.viewers:
            told = [await viewer.receive() for _ in range(2)]
            assert {"type": "viewer-count", "count": 3, "streamId": STREAM} in told
            assert {"type": "broadcaster-ready-signal", "streamId": STREAM} in told
        ids = [(await newer.wait_for("viewer-joined"))["viewerId"] for _ in range(2)]
        assert ids == stream.ids
        assert not any(m["type"] == "viewer-joined" for m in await newer.settle())
        # The older broadcaster sees the newer one as a viewer first.
        assert await expect_viewer(older) not in ids
        await expect_error(older, "stream_taken")
        # From now on the stream belongs to the newer broadcaster.
        await newer.send("webrtc-offer", streamId=STREAM, viewerId=ids[0], offer=1)
        await stream.viewers[0].expect("webrtc-offer", offer=1)
        await stream.viewers[1].send("webrtc-answer", streamId=STREAM, answer=2)
        await newer.expect("webrtc-answer", answer=2, viewerId=ids[1])
        for type_, fields in (
            ("webrtc-offer", {"offer": 3, "viewerId": ids[0]}),
            ("ice-candidate", {"candidate": 3, "viewerId": ids[0]}),
            ("end-stream", {}),
        ):
            await older.send(type_, streamId=STREAM, **fields)
            await expect_error(older, "not_allowed")
        await older.close()
        await fence(newer, *stream.viewers)


async def test_replaced_broadcaster_may_watch(service: Service) -> None:
    async with watched(service, 0) as stream, service.connect("/ws") as newer:
        older = stream.caster
        await newer.send("broadcaster-ready", streamId=STREAM)
        await expect_count(2, older, newer)
        await newer.wait_for("viewer-count", count=1)
        await older.send("join-stream", streamId=STREAM)
        await newer.wait_for("viewer-count", count=2)
        older_id = await expect_viewer(newer)
        await newer.send("webrtc-offer", streamId=STREAM, viewerId=older_id, offer=1)
        await older.wait_for("webrtc-offer", offer=1, viewerId=older_id)


# Viewers


async def test_join_updates_the_count_and_tells_the_broadcaster_the_id(
    service: Service,
) -> None:
    async with watched(service, 2) as stream, service.connect("/ws") as viewer:
        await viewer.send("join-stream", streamId=STREAM)
        await expect_count(4, viewer, *stream.everybody)
        viewer_id = await expect_viewer(stream.caster)
        assert viewer_id not in stream.ids
        await fence(viewer, *stream.everybody)
        await fence(stream.caster, viewer, *stream.viewers)


async def test_joining_again_requests_a_new_offer(service: Service) -> None:
    async with watched(service, 2) as stream:
        await stream.viewers[0].send("join-stream", streamId=STREAM)
        await expect_count(3, *stream.everybody)
        assert await expect_viewer(stream.caster) == stream.ids[0]
        await fence(stream.viewers[0], stream.caster, stream.viewers[1])


async def test_broadcaster_joining_its_own_stream_is_no_viewer(service: Service) -> None:
    async with watched(service, 1) as stream:
        await stream.caster.send("join-stream", streamId=STREAM)
        await expect_count(2, *stream.everybody)
        await fence(stream.viewers[0], stream.caster)
        await stream.viewers[0].send("webrtc-answer", streamId=STREAM, answer=1)
        await stream.caster.expect("webrtc-answer", viewerId=stream.ids[0])


async def test_viewer_ids_are_random_and_unique(service: Service) -> None:
    async with watched(service, 10) as stream:
        assert len(set(stream.ids)) == 10
        for viewer_id in stream.ids:
            assert re.fullmatch(r"client_[A-Za-z0-9_-]{22,}", viewer_id)
        starts = {viewer_id[:15] for viewer_id in stream.ids}
        assert len(starts) == 10, "ids with the same start can be guessed"


async def test_any_token_is_accepted_in_open_mode(service: Service) -> None:
    async with (
        service.connect("/ws?token=t") as caster,
        service.connect("/ws?token=&user_id=ann") as viewer,
    ):
        await caster.send("broadcaster-ready", streamId=STREAM)
        await expect_count(1, caster)
        await viewer.send("join-stream", streamId=STREAM)
        await expect_count(2, caster, viewer)
        await expect_viewer(caster)


@pytest.mark.parametrize("stream", ["s", "a/b", "Straße ☃", "x" * 256])
async def test_stream_ids_may_be_any_text(service: Service, stream: str) -> None:
    async with service.connect("/ws") as caster, service.connect("/ws") as viewer:
        await caster.send("broadcaster-ready", streamId=stream)
        await expect_count(1, caster, stream=stream)
        await viewer.send("join-stream", streamId=stream)
        await expect_count(2, caster, viewer, stream=stream)


# Signals

PAYLOADS = [
    '{"type": "offer",  "sdp":"v=0\\r\\no=- 1 2 IN IP4 127.0.0.1\\r\\n"}',
    '{"b":1.50,"a":1e3,"a":"twice","u":"\\u00e4\\ud83d\\ude00 ä😀","s":"\\/"}',
    '"text"',
    '""',
    "null",
    "{ }",
    "-0.0",
    "[" * 200 + "]" * 200,
]
CANDIDATES = ["webrtc-ice-candidate", "ice-candidate"]


@pytest.mark.parametrize("payload", PAYLOADS)
async def test_offer_goes_to_one_viewer_unchanged(service: Service, payload: str) -> None:
    async with watched(service, 3) as stream:
        common = f'"offer":{payload},"streamId":"{STREAM}","viewerId":"{stream.ids[1]}"}}'
        text = '{"type":"webrtc-offer",' + common
        await stream.caster.send_text(text)
        assert await stream.viewers[1].receive_text() == text
        await fence(stream.caster, *stream.viewers)
        await stream.caster.expect_nothing()


@pytest.mark.parametrize("forged", [False, True])
@pytest.mark.parametrize("payload", PAYLOADS)
async def test_answer_goes_to_the_broadcaster_with_the_viewer_id(
    service: Service, payload: str, forged: bool
) -> None:
    async with watched(service, 2) as stream:
        claim = stream.ids[0] if forged else stream.ids[1]
        head = f'{{"type":"webrtc-answer","answer":{payload},"streamId":"{STREAM}"'
        await stream.viewers[1].send_text(f'{head},"viewerId":"{claim}"}}')
        expected = f'{head},"viewerId":"{stream.ids[1]}"}}'
        assert await stream.caster.receive_text() == expected
        await fence(stream.viewers[1], stream.caster, stream.viewers[0])
        await stream.viewers[1].expect_nothing()


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("type_", CANDIDATES)
async def test_candidate_of_the_broadcaster_goes_to_one_viewer(
    service: Service, type_: str, payload: str
) -> None:
    async with watched(service, 2) as stream:
        text = (
            f'{{"type":"{type_}","candidate":{payload},'
            f'"streamId":"{STREAM}","viewerId":"{stream.ids[0]}"}}'
        )
        await stream.caster.send_text(text)
        assert await stream.viewers[0].receive_text() == text
        await fence(stream.caster, *stream.viewers)


@pytest.mark.parametrize("claim", [None, "", "client_forged", 0])
@pytest.mark.parametrize("type_", CANDIDATES)
async def test_candidate_of_a_viewer_goes_to_the_broadcaster(
    service: Service, type_: str, claim: str | int | None
) -> None:
    """`claim` is the viewer id in the message; 0 stands for another viewer's id."""
    async with watched(service, 2) as stream:
        viewer_id = stream.ids[claim] if isinstance(claim, int) else claim
        candidate = {"candidate": "candidate:1 1 udp 1 127.0.0.1 9 typ host", "sdpMid": "0"}
        await stream.viewers[1].send(
            type_, streamId=STREAM, candidate=candidate, viewerId=viewer_id
        )
        assert await stream.caster.receive() == {
            "type": type_,
            "candidate": candidate,
            "streamId": STREAM,
            "viewerId": stream.ids[1],
        }
        await fence(stream.viewers[1], stream.caster, stream.viewers[0])


async def test_answer_and_candidate_need_no_viewer_id(service: Service) -> None:
    async with watched(service, 1) as stream:
        await stream.viewers[0].send("webrtc-answer", streamId=STREAM, answer=1)
        await stream.viewers[0].send("ice-candidate", streamId=STREAM, candidate=None)
        await stream.caster.expect("webrtc-answer", answer=1, viewerId=stream.ids[0])
        await stream.caster.expect("ice-candidate", candidate=None, viewerId=stream.ids[0])


async def test_signals_arrive_in_order(service: Service) -> None:
    """Descriptions and candidates, and no candidate before its description."""
    async with watched(service, 2) as stream:
        target = {"streamId": STREAM, "viewerId": stream.ids[0]}
        caster, viewer = stream.caster, stream.viewers[0]
        begun = len(viewer.log)
        for n in range(100):
            await caster.send("webrtc-offer", offer=n, **target)
            await caster.send("ice-candidate", candidate=n, **target)
            await viewer.wait_for("webrtc-offer", offer=n)
            await viewer.send("webrtc-answer", streamId=STREAM, answer=n)
            await viewer.send("ice-candidate", streamId=STREAM, candidate=n)
        await viewer.wait_for("ice-candidate", candidate=99)
        answers = [await caster.receive() for _ in range(200)]
        for kind, heard in (("offer", viewer.log[begun:]), ("answer", answers)):
            assert [m[kind] for m in heard if kind in m] == [*range(100)]
            assert [m["candidate"] for m in heard if "candidate" in m] == [*range(100)]
            places = {(m["type"], m.get(kind, m.get("candidate"))): i for i, m in enumerate(heard)}
            for n in range(100):
                assert places["ice-candidate", n] > places[f"webrtc-{kind}", n]


# Clients drop candidates that arrive before they have applied the description


async def test_candidates_for_a_viewer_wait_for_its_answer(service: Service) -> None:
    async with watched(service, 2) as stream:
        caster, viewer = stream.caster, stream.viewers[0]
        target = {"streamId": STREAM, "viewerId": stream.ids[0]}
        await caster.send("webrtc-offer", offer=1, **target)
        for type_, candidate in (("ice-candidate", 1), ("webrtc-ice-candidate", None)):
            await caster.send(type_, candidate=candidate, **target)
        await viewer.expect("webrtc-offer", offer=1)
        await fence(caster, viewer, stream.viewers[1])
        await viewer.send("webrtc-answer", streamId=STREAM, answer=1)
        await viewer.expect("ice-candidate", candidate=1, viewerId=stream.ids[0])
        await viewer.expect("webrtc-ice-candidate", candidate=None, viewerId=stream.ids[0])
        await caster.expect("webrtc-answer", answer=1)
        await caster.send("ice-candidate", candidate=2, **target)
        await viewer.expect("ice-candidate", candidate=2)
        await fence(viewer, caster)


async def test_candidates_for_the_broadcaster_follow_the_answer(service: Service) -> None:
    async with watched(service, 2) as stream:
        caster, viewer = stream.caster, stream.viewers[0]
        await caster.send("webrtc-offer", streamId=STREAM, viewerId=stream.ids[0], offer=1)
        await viewer.expect("webrtc-offer")
        for candidate in (1, 2, None):
            await viewer.send("ice-candidate", streamId=STREAM, candidate=candidate)
        await fence(viewer, caster)
        await stream.viewers[1].send("ice-candidate", streamId=STREAM, candidate="of another")
        await caster.expect("ice-candidate", candidate="of another")
        await viewer.send("webrtc-answer", streamId=STREAM, answer=1)
        await viewer.send("ice-candidate", streamId=STREAM, candidate="late")
        await caster.expect("webrtc-answer", answer=1)
        answered = trio.current_time()
        for each in (1, 2, None, "late"):
            await caster.expect("ice-candidate", candidate=each, viewerId=stream.ids[0])
            assert trio.current_time() - answered > 0.05


async def test_unanswered_offer_is_requested_again(service: Service) -> None:
    """Candidates wait until then, but no longer."""
    async with watched(service, 1) as stream:
        caster, viewer = stream.caster, stream.viewers[0]
        target = {"streamId": STREAM, "viewerId": stream.ids[0]}
        await caster.send("webrtc-offer", offer=1, **target)
        began = trio.current_time()
        await caster.send("ice-candidate", candidate=1, **target)
        await viewer.send("ice-candidate", streamId=STREAM, candidate=2)
        await viewer.expect("webrtc-offer", offer=1)
        told = sorted([await caster.receive(), await caster.receive()], key=lambda m: m["type"])
        assert [m["type"] for m in told] == ["ice-candidate", "viewer-joined"]
        assert [m["viewerId"] for m in told] == stream.ids * 2
        await viewer.expect("ice-candidate", candidate=1)
        assert trio.current_time() - began > 2.5
        await caster.send("webrtc-offer", offer=2, **target)
        await viewer.expect("webrtc-offer", offer=2)
        await viewer.send("webrtc-answer", streamId=STREAM, answer=2)
        await caster.expect("webrtc-answer", answer=2)
        await trio.sleep_until(began + 6.2)  # when it would be requested again
        await fence(viewer, caster)


async def test_departed_viewer_causes_no_further_signals(
    service: Service,
) -> None:
    async with watched(service, 2) as stream:
        caster, viewer = stream.caster, stream.viewers[0]
        await caster.send("webrtc-offer", streamId=STREAM, viewerId=stream.ids[0], offer=1)
        began = trio.current_time()
        await viewer.expect("webrtc-offer", offer=1)
        await viewer.send("ice-candidate", streamId=STREAM, candidate=2)
        await viewer.close()
        await caster.expect("viewer-left", viewerId=stream.ids[0])
        await expect_count(2, caster)
        await trio.sleep_until(began + 3.5)
        await fence(stream.viewers[1], caster)


async def test_signals_with_other_dialects_are_not_delayed(service: Service) -> None:
    async with watched(service, 0) as stream, service.connect(f"/ws/{STREAM}") as mesh:
        caster = stream.caster
        await mesh.expect("auth_required")
        await mesh.send("auth_token", clientId="bob")
        await mesh.wait_for("users_in_room")
        await expect_count(2, caster)
        target = {"streamId": STREAM, "viewerId": await expect_viewer(caster)}
        await caster.send("webrtc-offer", offer=1, **target)
        await caster.send("ice-candidate", candidate=1, **target)
        offer = await mesh.wait_for("offer", offer=1)
        await mesh.expect("ice_candidate", candidate=1)
        await mesh.send("ice_candidate", to=offer["from"], candidate=2)
        await caster.expect("webrtc-ice-candidate", candidate=2, viewerId="bob")


@pytest.mark.parametrize("type_", ["webrtc-offer", *CANDIDATES])
async def test_broadcaster_reaches_only_its_own_stream(service: Service, type_: str) -> None:
    """With the id of a viewer in another stream, an unknown id, and no id."""
    async with watched(service, 1) as stream, service.connect("/ws") as stranger:
        await stranger.send("broadcaster-ready", streamId="another")
        await expect_count(1, stranger, stream="another")
        async with service.connect("/ws") as other_viewer:
            await other_viewer.send("join-stream", streamId="another")
            await expect_count(2, other_viewer, stranger, stream="another")
            foreign = (await stranger.expect("viewer-joined"))["viewerId"]
            for viewer_id in (foreign, "client_nobody", ""):
                await stream.caster.send(
                    type_, streamId=STREAM, viewerId=viewer_id, offer=1, candidate=1
                )
                await expect_error(stream.caster, "not_allowed")
            # A correct viewer id, but in another broadcaster's stream.
            await stream.caster.send(
                type_, streamId="another", viewerId=foreign, offer=1, candidate=1
            )
            await expect_error(stream.caster, "not_allowed", "another")
            await fence(stream.caster, *stream.viewers)
            await fence(stranger, other_viewer, stream="another")


async def test_viewer_may_not_offer(service: Service) -> None:
    async with watched(service, 2) as stream:
        for target in (stream.ids[1], stream.ids[0], "client_nobody"):
            await stream.viewers[0].send("webrtc-offer", streamId=STREAM, viewerId=target, offer=1)
            await expect_error(stream.viewers[0], "not_allowed")
        await fence(stream.viewers[0], stream.viewers[1], stream.caster)


async def test_broadcaster_may_not_answer(service: Service) -> None:
    async with watched(service, 1) as stream:
        await stream.caster.send("webrtc-answer", streamId=STREAM, viewerId=stream.ids[0], answer=1)
        await expect_error(stream.caster, "not_allowed")
        await fence(stream.caster, *stream.viewers)


SIGNALS: list[tuple[str, dict[str, Any]]] = [
    ("webrtc-offer", {"offer": 1, "viewerId": "v"}),
    ("webrtc-answer", {"answer": 1}),
    ("webrtc-ice-candidate", {"candidate": 1}),
    ("ice-candidate", {"candidate": 1}),
]


@pytest.mark.parametrize(("type_", "fields"), SIGNALS)
async def test_signals_need_stream_membership(
    service: Service, type_: str, fields: dict[str, Any]
) -> None:
    async with watched(service, 1) as stream, service.connect("/ws") as stranger:
        fields = {**fields, "viewerId": stream.ids[0]}
        await stranger.send(type_, streamId=STREAM, **fields)
        await expect_error(stranger, "not_allowed")
        await join(stream, stranger)  # they received nothing before this


@pytest.mark.parametrize(("type_", "fields"), SIGNALS)
async def test_signals_need_a_broadcaster(
    service: Service, type_: str, fields: dict[str, Any]
) -> None:
    async with service.connect("/ws") as viewer:
        await viewer.send("join-stream", streamId=STREAM)
        await expect_count(1, viewer)
        await viewer.send(type_, streamId=STREAM, **fields)
        await expect_error(viewer, "not_allowed")


# Starting and ending


async def test_stream_start_is_announced_to_the_others(service: Service) -> None:
    async with watched(service, 2) as stream:
        await fence(stream.caster, *stream.viewers)
        await fence(stream.viewers[0], stream.caster, stream.viewers[1])
        await stream.caster.expect_nothing()


async def test_starting_a_stream_joins_it(service: Service) -> None:
    async with service.connect("/ws") as viewer, service.connect("/ws") as caster:
        await viewer.send("join-stream", streamId=STREAM)
        await expect_count(1, viewer)
        await caster.send("start-streaming", orderId=STREAM)
        await expect_count(2, viewer, caster)
        await viewer.expect("stream-started", streamId=STREAM)
        await caster.send("broadcaster-ready", streamId=STREAM)
        await viewer.expect("broadcaster-ready-signal", streamId=STREAM)
        await expect_viewer(caster)
        await fence(viewer, caster)


async def test_stream_end_is_announced_and_confirmed(service: Service) -> None:
    async with watched(service, 2) as stream:
        await stream.caster.send("end-stream", streamId=STREAM)
        for viewer in stream.viewers:
            assert await viewer.receive() == {"type": "stream-ended", "streamId": STREAM}
        assert await stream.caster.receive() == {
            "type": "stream-end-confirmed",
            "streamId": STREAM,
        }
        await stream.caster.send("end-stream", streamId=STREAM)
        await expect_error(stream.caster, "not_allowed")
        await stream.viewers[0].send("webrtc-answer", streamId=STREAM, answer=1)
        await expect_error(stream.viewers[0], "not_allowed")
        await fence(stream.caster, *stream.viewers)


async def test_ended_stream_may_start_again(service: Service) -> None:
    async with watched(service, 1) as stream:
        viewer = stream.viewers[0]
        await stream.caster.send("end-stream", streamId=STREAM)
        await viewer.expect("stream-ended")
        await stream.caster.expect("stream-end-confirmed")
        await stream.caster.send("broadcaster-ready", streamId=STREAM)
        await viewer.expect("broadcaster-ready-signal")
        assert await expect_viewer(stream.caster) == stream.ids[0]


async def test_leaving_after_the_end_announces_no_broadcaster(service: Service) -> None:
    async with watched(service, 2) as stream:
        await stream.caster.send("end-stream", streamId=STREAM)
        for viewer in stream.viewers:
            await viewer.expect("stream-ended")
        await stream.caster.close()
        await expect_count(2, *stream.viewers)
        await fence(stream.viewers[0], stream.viewers[1])


async def test_only_the_broadcaster_ends_a_stream(service: Service) -> None:
    async with watched(service, 2) as stream, service.connect("/ws") as stranger:
        await stream.viewers[0].send("end-stream", streamId=STREAM)
        await expect_error(stream.viewers[0], "not_allowed")
        await fence(stream.viewers[0], stream.caster, stream.viewers[1])
        await stranger.send("end-stream", streamId=STREAM)
        await expect_error(stranger, "not_allowed")
        await join(stream, stranger)


# Leaving


async def test_broadcaster_learns_which_viewer_left(service: Service) -> None:
    async with (
        watched(service, 1) as stream,
        open_raw(service.base) as viewer,
    ):
        await viewer.upgrade("/ws")
        await viewer.say({"type": "join-stream", "streamId": STREAM})
        await expect_count(3, *stream.everybody)
        viewer_id = await expect_viewer(stream.caster)
        viewer.reset()
        assert await expect_viewer(stream.caster, "viewer-left") == viewer_id
        await expect_count(2, *stream.everybody)
        await fence(stream.caster, *stream.viewers)
        await fence(stream.viewers[0], stream.caster)
        await stream.caster.send("webrtc-offer", streamId=STREAM, viewerId=viewer_id, offer=1)
        await expect_error(stream.caster, "not_allowed")


async def test_disconnecting_leaves_every_stream(service: Service) -> None:
    async with (
        watched(service, 1) as stream,
        service.connect("/ws") as other,
        service.connect("/ws") as both,
    ):
        await join(stream, both)
        await both.send("broadcaster-ready", streamId="another")
        await expect_count(1, both, stream="another")
        await other.send("join-stream", streamId="another")
        await expect_count(2, both, other, stream="another")
        await both.expect("viewer-joined", streamId="another")
        # Messages of one stream do not reach the other.
        await fence(both, other, stream="another")
        await fence(both, *stream.everybody[:-1])
        await both.close()
        assert await expect_viewer(stream.caster, "viewer-left") == stream.ids[1]
        await expect_count(2, stream.caster, stream.viewers[0])
        await other.expect("broadcaster-disconnected", streamId="another")
        await expect_count(1, other, stream="another")
        await other.expect_nothing()


# Limits


async def test_viewers_over_the_limit_are_refused(serve: Serve) -> None:
    async with (
        serve(max_viewers=2) as service,
        watched(service, 2) as stream,
        service.connect("/ws") as late,
    ):
        await late.send("join-stream", streamId=STREAM)
        await expect_error(late, "stream_full")
        await late.send("webrtc-answer", streamId=STREAM, answer=1)
        await expect_error(late, "not_allowed")
        await fence(stream.caster, *stream.viewers)
        await late.send("join-stream", streamId="another")
        await expect_count(1, late, stream="another")
        # A place is free again.
        leaver = stream.viewers.pop()
        await leaver.close()
        await expect_viewer(stream.caster, "viewer-left")
        await expect_count(2, *stream.everybody)
        await join(stream, late)


async def test_viewer_may_rejoin_a_full_stream(serve: Serve) -> None:
    async with serve(max_viewers=1) as service, watched(service, 1) as stream:
        await stream.viewers[0].send("join-stream", streamId=STREAM)
        await expect_count(2, *stream.everybody)


async def test_broadcaster_may_enter_a_full_stream(serve: Serve) -> None:
    async with (
        serve(max_viewers=1) as service,
        service.connect("/ws") as viewer,
        service.connect("/ws") as caster,
    ):
        await viewer.send("join-stream", streamId=STREAM)
        await expect_count(1, viewer)
        await caster.send("broadcaster-ready", streamId=STREAM)
        await expect_count(2, viewer, caster)
        await viewer.expect("broadcaster-ready-signal")
        await expect_viewer(caster)


async def test_start_streaming_does_not_bypass_the_viewer_cap(serve: Serve) -> None:
    async with (
        serve(max_viewers=1) as service,
        watched(service, 1) as stream,
        service.connect("/ws") as late,
    ):
        await late.send("start-streaming", orderId=STREAM)
        await expect_error(late, "stream_full")
        await late.expect_nothing()
        await fence(stream.caster, *stream.viewers)


async def test_start_streaming_by_a_viewer_requests_no_offer(serve: Serve) -> None:
    async with serve(max_viewers=1) as service, watched(service, 1) as stream:
        await stream.viewers[0].send("start-streaming", orderId=STREAM)
        await stream.caster.expect("stream-started", streamId=STREAM)
        await fence(stream.caster, *stream.viewers)


async def test_former_broadcaster_does_not_bypass_the_viewer_cap(serve: Serve) -> None:
    async with (
        serve(max_viewers=1) as service,
        watched(service, 1) as stream,
        service.connect("/ws") as late,
    ):
        (viewer,) = stream.viewers
        await stream.caster.send("end-stream", streamId=STREAM)
        await stream.caster.expect("stream-end-confirmed")
        await viewer.expect("stream-ended")
        await expect_count(1, viewer)
        await stream.caster.expect_nothing()
        await late.send("join-stream", streamId=STREAM)
        await expect_error(late, "stream_full")
        await stream.caster.send("broadcaster-ready", streamId=STREAM)
        await expect_count(2, viewer, stream.caster)
        await viewer.expect("broadcaster-ready-signal")
        await expect_viewer(stream.caster)


async def test_start_streaming_needs_permission_to_broadcast(serve: Serve) -> None:
    mute, other = make_token("eve", publish=False), make_token("bob")
    async with (
        serve(jwt_secret=SECRET) as service,
        service.connect(f"/ws?token={make_token('ann')}") as caster,
        service.connect(f"/ws?token={mute}") as eve,
        service.connect(f"/ws?token={other}") as bob,
    ):
        await caster.send("broadcaster-ready", streamId=STREAM)
        await expect_count(1, caster)
        for client, code in ((eve, "not_allowed"), (bob, "stream_taken")):
            await client.send("start-streaming", orderId=STREAM)
            await expect_error(client, code)
        for count, client, code in ((2, eve, "not_allowed"), (3, bob, "stream_taken")):
            await client.send("join-stream", streamId=STREAM)
            await expect_count(count, client, caster)
            await expect_viewer(caster)
            for type_, field in (("start-streaming", "orderId"), ("broadcaster-ready", "streamId")):
                await client.send(type_, **{field: STREAM})
                await expect_error(client, code)
            await client.expect_nothing()
        await caster.expect_nothing()
        await expect_count(3, eve)  # for bob
        await fence(caster, eve, bob)


async def test_default_viewer_cap_is_fifty(service: Service) -> None:
    async with watched(service, 50) as stream, service.connect("/ws") as late:
        await late.send("join-stream", streamId=STREAM)
        await expect_error(late, "stream_full")
        await fence(stream.caster, *stream.viewers)


@pytest.mark.parametrize(
    ("type_", "field"),
    [
        ("join-stream", "streamId"),
        ("broadcaster-ready", "streamId"),
        ("start-streaming", "orderId"),
    ],
)
async def test_full_room_is_reported_once(serve: Serve, type_: str, field: str) -> None:
    async with (
        serve(max_room_peers=2) as service,
        watched(service, 1) as stream,
        service.connect("/ws") as late,
    ):
        await late.send(type_, **{field: STREAM})
        await expect_error(late, "stream_full")
        await late.expect_nothing()
        await fence(stream.caster, *stream.viewers)


# Unexpected input


async def test_unknown_fields_are_ignored(service: Service) -> None:
    async with watched(service, 1) as stream, service.connect("/ws") as viewer:
        await viewer.send(
            "join-stream", streamId=STREAM, viewerId=stream.ids[0], count=99, from_="x"
        )
        await expect_count(3, viewer, *stream.everybody)
        assert await expect_viewer(stream.caster) not in stream.ids


async def test_refused_messages_do_not_count_as_malformed(service: Service) -> None:
    async with watched(service, 1) as stream:
        viewer = stream.viewers[0]
        for _ in range(60):
            await viewer.send("end-stream", streamId=STREAM)
            await expect_error(viewer, "not_allowed")
        await fence(viewer, stream.caster)


# A complete conversation, as on the old server's page


async def test_complete_conversation(service: Service) -> None:
    with trio.fail_after(PATIENCE):
        async with service.connect("/ws") as caster, service.connect("/ws") as viewer:
            await caster.send("broadcaster-ready", streamId=STREAM)
            await viewer.send("join-stream", streamId=STREAM)
            viewer_id = (await caster.wait_for("viewer-joined"))["viewerId"]
            both = {"streamId": STREAM, "viewerId": viewer_id}
            await caster.send("webrtc-offer", offer={"type": "offer", "sdp": "v=0"}, **both)
            offer = await viewer.wait_for("webrtc-offer")
            assert offer == {
                "type": "webrtc-offer",
                "offer": {"type": "offer", "sdp": "v=0"},
                **both,
            }
            own_id = offer["viewerId"]
            await viewer.send(
                "webrtc-answer", answer={"type": "answer"}, streamId=STREAM, viewerId=own_id
            )
            await viewer.send(
                "webrtc-ice-candidate", candidate=None, streamId=STREAM, viewerId=own_id
            )
            assert await caster.receive() == {
                "type": "webrtc-answer",
                "answer": {"type": "answer"},
                **both,
            }
            await caster.expect("webrtc-ice-candidate", candidate=None, **both)
            await caster.send("webrtc-ice-candidate", candidate={"candidate": ""}, **both)
            await viewer.expect("webrtc-ice-candidate", candidate={"candidate": ""}, **both)
            await caster.send("end-stream", streamId=STREAM)
            await viewer.expect("stream-ended", streamId=STREAM)
            await caster.expect("stream-end-confirmed", streamId=STREAM)
