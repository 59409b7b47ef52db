"""Media for programs: frames are sent from one client of the package to another."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from fractions import Fraction
from pathlib import Path

import av
import pytest
import trio
from aiortc import MediaStreamTrack
from aiortc.mediastreams import AudioStreamTrack, MediaStreamError, VideoStreamTrack

from tests.client.bots import bot, bots, until, wait_for
from tests.clients import PATIENCE
from tests.conftest import Serve
from trio_signal.client import Client, NotConnectedError, Stopped, WentLive, media
from trio_signal.client import calls as calls_module
from trio_signal.client.media import MediaError, publish, watch


class Card:
    """A player with aiortc's test tracks."""

    def __init__(self, *, audio: bool = True, video: bool = True) -> None:
        self.audio: MediaStreamTrack | None = AudioStreamTrack() if audio else None
        self.video: MediaStreamTrack | None = VideoStreamTrack() if video else None


@asynccontextmanager
async def going_live(client: Client, player: Card) -> AsyncIterator[trio.CancelScope]:
    """Publish until the block ends, or the scope is cancelled."""
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def go_live(*, task_status: trio.TaskStatus[None]) -> None:
            with scope:
                async with publish(client, player):
                    task_status.started()
                    await trio.sleep_forever()

        await nursery.start(go_live)
        yield scope
        nursery.cancel_scope.cancel()


async def take(track: MediaStreamTrack) -> object:
    return await track.recv()


async def test_a_broadcast_is_watched_recorded_and_stopped(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "talk.mp4"
    async with serve() as service, bots(service, "ann", "bob", "cyd") as (ann, bob, cyd):
        with trio.fail_after(PATIENCE):
            async with going_live(ann, Card()) as scope:
                went = await wait_for(bob, WentLive)
                async with watch(bob, went.peer) as tracks, watch(cyd, "ann") as others:
                    assert {track.kind for track in tracks} == {"audio", "video"}
                    assert tracks.video is not None
                    assert await others.run(take, others.audio)
                    await tracks.record(str(path), seconds=1)
                    scope.cancel()
                    await wait_for(bob, Stopped)
                # No task was left behind.
                await until(lambda: not any(client.session.ears for client in (ann, bob, cyd)))
    with av.open(str(path)) as file:
        assert {stream.type for stream in file.streams} == {"audio", "video"}
        assert file.duration is not None
        assert 0.5 < file.duration / 1_000_000 < 3


class Paced(VideoStreamTrack):
    """A limited number of frames that last a thirtieth of a second, sent at another pace."""

    def __init__(self, pace: float, count: int) -> None:
        super().__init__()
        self._pace = pace
        self._numbers = iter(range(count))

    async def recv(self) -> av.VideoFrame:
        number = next(self._numbers, None)
        if number is None:
            await asyncio.sleep(60)
            raise MediaStreamError
        await asyncio.sleep(self._pace)
        frame = av.VideoFrame(64, 64)
        frame.pts, frame.time_base = 1000 + 3000 * number, Fraction(1, 90000)
        return frame


@pytest.mark.parametrize(
    ("pace", "count", "recorded"),
    [
        pytest.param(0.07, 1000, 1.0, id="a busy machine: half as fast"),
        pytest.param(0.01, 1000, 1.0, id="what was waiting comes at once"),
        pytest.param(0.01, 15, 0.5, id="a camera that stops"),
    ],
)
def test_a_recording_has_the_requested_length(
    pace: float, count: int, recorded: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media, "_STALLED", 0.5)
    path = str(tmp_path / "talk.mp4")
    asyncio.run(media._record([Paced(pace, count)], path, 1.0))
    with av.open(path) as file:
        assert file.duration is not None
        assert file.duration / 1_000_000 == pytest.approx(recorded, abs=0.1)


async def test_two_peers_send_and_watch_at_once(serve: Serve) -> None:
    async def look(client: Client, peer_id: str) -> None:
        async with watch(client, peer_id) as tracks:
            await tracks.run(take, tracks.video)

    async with serve() as service, bots(service, "ann", "bob") as (ann, bob):
        with trio.fail_after(PATIENCE):
            async with (
                going_live(ann, Card(audio=False)),
                going_live(bob, Card(audio=False)),
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(look, ann, "bob")
                nursery.start_soon(look, bob, "ann")


async def test_late_joiners_and_late_requests_get_the_stream(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls_module, "_ASK_AFTER", 1000)  # the offer that arrived must be enough
    async with serve() as service, bot(service.base, "ann") as ann:
        with trio.fail_after(PATIENCE):
            async with going_live(ann, Card(audio=False)), bot(service.base, "bob") as bob:
                await until(lambda: "ann" in bob.session.offers)
                async with watch(bob, "ann") as tracks:
                    assert len(tracks) == 1
                    await tracks.run(take, tracks[0])


async def test_waiting_for_a_peer_ends_when_it_leaves(serve: Serve) -> None:
    async def look(client: Client) -> None:
        with pytest.raises(MediaError, match="bob has left"):
            async with watch(client, "bob"):
                raise AssertionError

    async with serve() as service, bot(service.base, "ann") as ann:
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery, bot(service.base, "bob"):
                nursery.start_soon(look, ann)
                await until(lambda: bool(ann.session.ears))
            await until(lambda: not ann.session.ears)


async def test_waiting_for_a_peer_ends_with_the_client(serve: Serve) -> None:
    async with serve() as service:
        async with bot(service.base, "ann") as ann:
            with trio.move_on_after(0.1):
                async with watch(ann, "bob"):
                    raise AssertionError
            assert not ann.session.ears
        with pytest.raises(NotConnectedError, match="the client was closed"):
            async with watch(ann, "bob"):
                raise AssertionError


async def test_work_in_the_thread_can_fail_and_be_cancelled(serve: Serve) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    ended = []

    async def last() -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            ended.append(True)
            raise

    async with serve() as service, bots(service, "ann", "bob") as (ann, bob):
        with trio.fail_after(PATIENCE):
            async with going_live(ann, Card(audio=False)), watch(bob, "ann") as tracks:
                with pytest.raises(ZeroDivisionError):
                    await tracks.run(fail)
                with trio.move_on_after(0.1) as scope:
                    await tracks.run(last)
    assert scope.cancelled_caught
    assert ended


async def test_work_in_the_thread_ends_with_the_block(serve: Serve) -> None:
    begun = trio.Event()
    refused = trio.Event()
    token = trio.lowlevel.current_trio_token()

    async def last() -> None:
        token.run_sync_soon(begun.set)
        await asyncio.sleep(1000)

    async def work(tracks: media.Tracks) -> None:
        with pytest.raises(MediaError, match="block of these tracks has ended"):
            await tracks.run(last)
        refused.set()

    async with serve() as service, bots(service, "ann", "bob") as (ann, bob):
        with trio.fail_after(PATIENCE):
            async with going_live(ann, Card(audio=False)), trio.open_nursery() as nursery:
                async with watch(bob, "ann") as tracks:
                    nursery.start_soon(work, tracks)
                    await begun.wait()
                await refused.wait()
                await work(tracks)


async def test_the_connections_of_viewers_that_left_are_closed(serve: Serve) -> None:
    """A viewer leaves the room before its connection ends."""
    async with serve() as service, bot(service.base, "ann") as ann:
        with trio.fail_after(PATIENCE):
            async with going_live(ann, Card(audio=False)):
                links = media._calls[ann]._media._links
                async with bot(service.base, "bob") as bob, watch(bob, "ann"):
                    await until(lambda: "bob" in links)
                    await until(lambda: links["bob"][0].is_up)
                    await bob.session.leave()
                    await until(lambda: "bob" not in ann.peers)
                    assert "bob" in links
                await until(lambda: not links)


async def test_publishing_that_is_cancelled_at_once_does_not_go_live_later(serve: Serve) -> None:
    async with serve() as service, bot(service.base, "ann") as ann:
        with trio.CancelScope() as scope:
            scope.cancel()
            async with publish(ann, Card()):
                raise AssertionError
        assert ann.broadcasting is None
