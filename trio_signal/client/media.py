"""Audio and video for programs: watch a peer, or publish a player's tracks, with aiortc.

    async with watch(client, peer) as tracks:
        await tracks.record("talk.mp4", seconds=10)

    async with publish(client, MediaPlayer("film.mp4")):
        ...

It needs the extra `media`: `pip install 'trio-signal[media]'`. aiortc runs in a thread of its own.
Use its tracks only in that thread, through `Tracks.run`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import trio

try:
    from aiortc import MediaStreamTrack
    from aiortc.contrib.media import MediaRecorder
    from aiortc.mediastreams import MediaStreamError
except ImportError as error:
    raise ImportError(f"{error}; install it with: pip install 'trio-signal[media]'") from error

from trio_signal.client.calls import Calls, Player
from trio_signal.client.client import Client
from trio_signal.client.errors import MediaError
from trio_signal.client.events import Peer
from trio_signal.errors import TrioSignalError

__all__ = ["MediaError", "Player", "Tracks", "publish", "watch"]

T = TypeVar("T")

#: Seconds to inform the server when publishing is cancelled.
_GOODBYE = 1.0
#: Seconds for which a recording waits for the second track after the first frame.
_OTHER_TRACK = 2.0
#: Seconds without a frame after which a recording that is due ends.
_STALLED = 5.0

_calls: "WeakKeyDictionary[Client, Calls]" = WeakKeyDictionary()


class Tracks(Sequence[MediaStreamTrack]):
    """The tracks of a peer: audio, video, or both.

    They end when the peer stops, and when the `watch` block ends.
    """

    def __init__(self, calls: Calls, tracks: Sequence[MediaStreamTrack]) -> None:
        """Made by `watch`."""
        self._calls = calls
        self._tracks = tracks

    def __getitem__(self, index: Any) -> Any:
        """Return one track."""
        return self._tracks[index]

    def __len__(self) -> int:
        """How many tracks there are."""
        return len(self._tracks)

    @property
    def audio(self) -> MediaStreamTrack | None:
        """The audio track, or None."""
        return next((track for track in self._tracks if track.kind == "audio"), None)

    @property
    def video(self) -> MediaStreamTrack | None:
        """The video track, or None."""
        return next((track for track in self._tracks if track.kind == "video"), None)

    async def run(self, work: Callable[..., Awaitable[T]], *args: object) -> T:
        """Run an asyncio function in aiortc's thread, and return its result.

        Only there can frames be received: `await track.recv()`. Its exceptions are raised. If this
        call is cancelled, the function is cancelled, and waited for.
        """

        async def do() -> T:
            return await work(*args)

        return await self._calls.do(do)

    async def record(self, path: str, seconds: float) -> None:
        """Write a file such as `talk.mp4`, which begins at the first frame and lasts `seconds`.

        The seconds are those of the media: on a busy machine recording takes longer, but the file
        does not get shorter. Ends early if the tracks end, or if no more frames arrive; raises
        `MediaError` if they ended before the first frame. A track without frames, such as that of
        a camera that is off, is left out.
        """
        await self.run(_record, self._tracks, path, seconds)


class _Recorded(MediaStreamTrack):
    """So many seconds of a track whose first frame was taken already."""

    def __init__(self, source: MediaStreamTrack, first: Any, seconds: float) -> None:
        super().__init__()
        self.kind = source.kind
        self._source = source
        self._first = first
        self._time = first.time
        self._seconds_left = seconds
        self.last_frame = time.monotonic()
        self.over = asyncio.Event()

    async def recv(self) -> Any:
        frame, self._first = self._first, None
        if frame is None:
            try:
                frame = await self._source.recv()
            except MediaStreamError:
                self.over.set()
                raise
        self.last_frame = time.monotonic()
        # Sum up the steps: RTP timestamps start again from 0 after some hours.
        self._seconds_left -= max(0.0, frame.time - self._time)
        self._time = frame.time
        if self._seconds_left <= 0:
            self.over.set()
            raise MediaStreamError
        return frame


async def _record(tracks: Sequence[MediaStreamTrack], path: str, seconds: float) -> None:
    recorder, recorded = MediaRecorder(path), await _begin(tracks, seconds)
    # The file's header is written with the first packet, and describes the video. So video is
    # first: its frame is there, and is encoded before any other.
    for track in sorted(recorded, key=lambda track: track.kind, reverse=True):
        recorder.addTrack(track)
    async with _Recording(recorder):
        ends = [asyncio.ensure_future(track.over.wait()) for track in recorded]
        time_left = seconds
        while time_left > 0:
            _, waiting = await asyncio.wait(ends, timeout=time_left)
            last_frame = max(track.last_frame for track in recorded)
            time_left = last_frame + _STALLED - time.monotonic() if waiting else 0
        for end in ends:
            end.cancel()


async def _begin(tracks: Sequence[MediaStreamTrack], seconds: float) -> list[_Recorded]:
    """The tracks that have frames; a camera may be off."""
    taking = {asyncio.ensure_future(track.recv()): track for track in tracks}
    await asyncio.wait(taking, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.wait(taking, timeout=_OTHER_TRACK)
    begun = []
    for take, track in taking.items():
        take.cancel()
        if take.done() and not take.cancelled() and take.exception() is None:
            begun.append(_Recorded(track, take.result(), seconds))
    if not begun:
        raise MediaError("the tracks have ended before their first frame")
    return begun


class _Recording:
    """Writes a file until the block ends, for whatever reason."""

    def __init__(self, recorder: MediaRecorder) -> None:
        self._recorder = recorder

    async def __aenter__(self) -> None:
        await self._recorder.start()

    async def __aexit__(self, *_: object) -> None:
        await self._recorder.stop()


@asynccontextmanager
async def watch(client: Client, peer: Peer | str) -> AsyncIterator[Tracks]:
    """Receive a peer's audio and video, over a peer connection that lasts as long as the block.

    Waits until it is connected; bound the wait with `trio.fail_after`. Raises `MediaError` if the
    peer leaves first, or the client ends. Keep reading the client's events if the block takes long.

    :param peer: a peer, or its id.
    """
    peer_id = peer if isinstance(peer, str) else peer.id
    arrived = trio.Event()
    found: list[Sequence[MediaStreamTrack] | None] = []

    def notice(tracks: Sequence[MediaStreamTrack] | None) -> None:
        found.append(tracks)
        arrived.set()

    with _using(client) as calls, calls.watching(peer_id, notice):
        await arrived.wait()
        if found[0] is None:
            raise MediaError(f"{peer_id} has left, or the client has ended")
        yield Tracks(calls, found[0])


@asynccontextmanager
async def publish(client: Client, player: Player) -> AsyncIterator[None]:
    """Broadcast a player's tracks to everybody in the room, as long as the block lasts.

    Waits until the server has accepted it. Late joiners receive it too. One player at a time.

    :param player: aiortc's `MediaPlayer`, or any object with `audio` and `video`, each an aiortc
        track or None. Stopping it is up to you.
    """
    with _using(client) as calls, calls.publishing(player):
        try:
            await client.broadcast("video" if player.video is not None else "audio")
            yield
        except BaseException:
            with trio.move_on_after(_GOODBYE, shield=True), suppress(TrioSignalError):
                await client.stop_broadcast()
            raise
        await client.stop_broadcast()


@contextmanager
def _using(client: Client) -> Iterator[Calls]:
    """The calls of this client, which run while anybody uses them."""
    nursery = client.session.nursery
    if nursery is None or client.session.ended:
        raise client.session.why_ended()
    calls = _calls.get(client)
    if calls is None:
        calls = _calls[client] = Calls(client)
        calls.start(nursery)
    calls.users += 1
    with ExitStack() as leaving:
        leaving.callback(_leave, client, calls)
        yield calls


def _leave(client: Client, calls: Calls) -> None:
    calls.users -= 1
    if not calls.users:
        del _calls[client]
        calls.stop()
