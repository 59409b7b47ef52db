"""The peer connections of one client, in a thread of their own, because aiortc needs asyncio.

    open_client's nursery      run          the thread, and sending its signals
        in asyncio's thread    Link.run     one peer connection each

Trio's side posts work to the thread's loop; the links' signals come back through a queue. Each
`watch` or `publish` counts as a user; when the last one ends, the thread ends.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Protocol, TypeVar

import trio
from aiortc import MediaStreamTrack, RTCIceServer
from aiortc.contrib.media import MediaRelay

from trio_signal.client.client import Client
from trio_signal.client.errors import MediaError
from trio_signal.client.events import Answer, Candidate, Event, Offer, PeerJoined, PeerLeft
from trio_signal.client.link import Kind, Link
from trio_signal.errors import TrioSignalError

T = TypeVar("T")

#: Seconds to wait for a peer's offer before making one.
_ASK_AFTER = 1.0
#: How many signals of the links may be unsent; beyond that they are lost, and repeated.
_UNSAID = 1000

#: Called in Trio's thread with a peer's tracks; with None when none will come any more.
Watcher = Callable[[Sequence[MediaStreamTrack] | None], None]


class Player(Protocol):
    """An object with tracks to send, such as aiortc's `MediaPlayer`."""

    @property
    def audio(self) -> MediaStreamTrack | None:
        """Its audio track, if any."""

    @property
    def video(self) -> MediaStreamTrack | None:
        """Its video track, if any."""


class Calls:
    """The links of one client. Call its methods in Trio's thread, except those of `_Media`."""

    def __init__(self, client: Client) -> None:
        """Make the links' thread; the caller runs `run`."""
        self._client = client
        self._media = _Media(client, self._say, self._arrived)
        self._watchers: dict[str, set[Watcher]] = {}
        self._unsaid, self._saying = trio.open_memory_channel[tuple[Kind, str, Any]](_UNSAID)
        self.users = 0

    async def run(self) -> None:
        """Run the thread until `stop`, and send the links' signals."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._speak)
            await trio.to_thread.run_sync(self._media.run)
            nursery.cancel_scope.cancel()

    def stop(self) -> None:
        """Close all links, and end the thread."""
        self._client.session.ears.discard(self._hear)
        self._media.post(self._media.over.set)

    def start(self, nursery: trio.Nursery) -> None:
        """Run in this nursery, and receive events from now on."""
        self._client.session.ears.add(self._hear)
        nursery.start_soon(self.run)

    @contextmanager
    def watching(self, peer_id: str, watcher: Watcher) -> Iterator[None]:
        """Call the watcher with this peer's tracks, while the block runs."""
        self._watchers.setdefault(peer_id, set()).add(watcher)
        self._media.post(self._media.watch, peer_id)
        for event in self._client.session.offers.get(peer_id, ()):
            self._hear(event)
        with ExitStack() as leaving:
            leaving.callback(self._unwatch, peer_id, watcher)
            yield

    def _unwatch(self, peer_id: str, watcher: Watcher) -> None:
        self._watchers[peer_id].remove(watcher)
        if not self._watchers[peer_id]:
            del self._watchers[peer_id]
            self._media.post(self._media.unwatch, peer_id)

    @contextmanager
    def publishing(self, player: Player) -> Iterator[None]:
        """Send the player's tracks to everybody in the room, while the block runs."""
        self._media.post(self._media.publish, player, list(self._client.peers))
        with ExitStack() as leaving:
            leaving.callback(self._media.post, self._media.unpublish)
            yield

    def _hear(self, event: Event | None) -> None:
        match event:
            case None:
                for peer_id in list(self._watchers):
                    self._arrived(peer_id, None)
            case Offer(sender=peer_id, offer=payload):
                self._media.post(self._media.hear, "offer", peer_id, payload)
            case Answer(sender=peer_id, answer=payload):
                self._media.post(self._media.hear, "answer", peer_id, payload)
            case Candidate(sender=peer_id, candidate=payload):
                self._media.post(self._media.hear, "candidate", peer_id, payload)
            case PeerJoined(peer=peer):
                self._media.post(self._media.joined, peer.id)
            case PeerLeft(peer=peer):
                self._media.post(self._media.left, peer.id)

    def _arrived(self, peer_id: str, tracks: Sequence[MediaStreamTrack] | None) -> None:
        for watcher in tuple(self._watchers.get(peer_id, ())):
            watcher(tracks)

    def _say(self, kind: Kind, peer_id: str, payload: Any) -> None:
        with suppress(trio.WouldBlock, trio.BrokenResourceError):
            self._unsaid.send_nowait((kind, peer_id, payload))

    async def _speak(self) -> None:
        say = {"offer": self._client.offer, "answer": self._client.answer}
        with suppress(TrioSignalError):  # the client has ended, and its users will end too
            async for kind, peer_id, payload in self._saying:
                await say[kind](payload, to=peer_id)

    async def do(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run an asyncio function in the thread, and return its result or raise its exception.

        If this is cancelled, the function is cancelled, and its end awaited. If the thread has
        ended, or ends meanwhile, raises MediaError.
        """
        if not self.users:
            raise MediaError("the block of these tracks has ended")
        finished = trio.Event()
        doing: list[asyncio.Task[T]] = []

        def begin() -> None:
            doing.append(asyncio.get_running_loop().create_task(work()))
            doing[0].add_done_callback(lambda _: self._media.tell(finished.set))

        self._media.post(begin)
        try:
            await finished.wait()
        except trio.Cancelled:
            self._media.post(lambda: doing[0].cancel())
            with trio.CancelScope(shield=True):
                await finished.wait()
            raise
        if doing[0].cancelled():
            raise MediaError("the block of these tracks has ended")
        return doing[0].result()


class _Media:
    """The part in asyncio's thread. Only `post`, `run` and `over` are safe in other threads."""

    def __init__(
        self,
        client: Client,
        say: Callable[[Kind, str, Any], None],
        arrived: Callable[[str, Sequence[MediaStreamTrack] | None], None],
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self.over = asyncio.Event()
        self._client = client
        self._trio = trio.lowlevel.current_trio_token()
        self._say, self._arrived = say, arrived
        self._relay = MediaRelay()
        self._player: Player | None = None
        self._links: dict[str, tuple[Link, asyncio.Task[None]]] = {}
        #: Includes links that are closing.
        self._running: set[asyncio.Task[None]] = set()
        self._watched: set[str] = set()
        #: Those who left the room while their connection was up: their links end with it.
        self._gone: set[str] = set()

    def post(self, work: Callable[..., object], *args: object) -> None:
        """Call this in the thread; safe in any thread. Does not block."""
        with suppress(RuntimeError):  # the loop is closed: nothing to do any more
            self._loop.call_soon_threadsafe(work, *args)

    def run(self) -> None:
        """Run the thread's loop until `over` is set. Blocks."""
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._run())

    async def _run(self) -> None:
        await self.over.wait()
        for peer_id in list(self._links):
            self._drop(peer_id)
        # Wait until all links are closed. The runner cancels what is left, such as aiortc's tasks.
        await asyncio.gather(*self._running, return_exceptions=True)

    # In the thread

    def watch(self, peer_id: str) -> None:
        self._watched.add(peer_id)
        if peer_id in self._links:
            self._links[peer_id][0].receive(wanted=True)
        self._loop.call_later(_ASK_AFTER, self._ask, peer_id)

    def _ask(self, peer_id: str) -> None:
        """Make an offer: the peer's was lost, or the peer waits for ours."""
        if peer_id in self._watched:
            self._link(peer_id).open()

    def unwatch(self, peer_id: str) -> None:
        self._watched.discard(peer_id)
        if self._player is None:
            self._drop(peer_id)
        elif peer_id in self._links:
            self._links[peer_id][0].receive(wanted=False)

    def publish(self, player: Player, peer_ids: Sequence[str]) -> None:
        self._player = player
        for peer_id in peer_ids:
            self._drop(peer_id)
            self._link(peer_id).open()

    def unpublish(self) -> None:
        self._player = None
        for peer_id in list(self._links):
            self._drop(peer_id)
        for peer_id in self._watched:
            self._link(peer_id).open()

    def joined(self, peer_id: str) -> None:
        self._gone.discard(peer_id)
        if self._player is not None:
            self._link(peer_id).open()

    def left(self, peer_id: str) -> None:
        """Keep its connection while that is up: its media may continue, and it may resume."""
        if peer_id in self._links and self._links[peer_id][0].is_up:
            self._gone.add(peer_id)
        else:
            self._lose(peer_id)

    def _ended(self, peer_id: str) -> None:
        """A connection has ended: only a peer that is in the room can make another one."""
        if peer_id in self._gone:
            self._lose(peer_id)

    def _lose(self, peer_id: str) -> None:
        self._drop(peer_id)
        self.tell(self._arrived, peer_id, None)

    def hear(self, kind: Kind, peer_id: str, payload: Any) -> None:
        if peer_id in self._watched or self._player is not None:
            self._link(peer_id).hear(kind, payload)

    def _link(self, peer_id: str) -> Link:
        if peer_id not in self._links:
            link = Link(
                [_for_aiortc(server) for server in self._client.ice_servers],
                polite=self._client.id < peer_id,
                tell=lambda kind, payload: self.tell(self._say, kind, peer_id, payload),
                send=self._tracks,
                receives=peer_id in self._watched,
                connected=lambda tracks: self.tell(self._connected, peer_id, tracks),
                ended=lambda: self._ended(peer_id),
            )
            running = self._loop.create_task(link.run())
            self._running.add(running)
            running.add_done_callback(self._running.discard)
            self._links[peer_id] = link, running
        return self._links[peer_id][0]

    def _connected(self, peer_id: str, tracks: Sequence[MediaStreamTrack]) -> None:
        """Called in Trio's thread."""
        if tracks:
            self._arrived(peer_id, tracks)

    def _tracks(self) -> list[MediaStreamTrack]:
        """The tracks to send on one more link."""
        tracks = (self._player.audio, self._player.video) if self._player else ()
        return [self._relay.subscribe(track) for track in tracks if track is not None]

    def _drop(self, peer_id: str) -> None:
        self._gone.discard(peer_id)
        if peer_id in self._links:
            self._links.pop(peer_id)[1].cancel()

    def tell(self, hear: Callable[..., object], *args: object) -> None:
        """Call this in Trio's thread."""
        with suppress(trio.RunFinishedError):
            self._trio.run_sync_soon(hear, *args)


def _for_aiortc(server: Mapping[str, Any]) -> RTCIceServer:
    return RTCIceServer(server["urls"], server.get("username"), server.get("credential"))
