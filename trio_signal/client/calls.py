"""The peer connections of one client, in a thread of their own: aiortc needs asyncio.

    open_client's nursery      run          the thread, and who speaks for it
        in asyncio's thread    Link.run     a peer connection each

Trio's side posts what is to be done to the thread's loop; what the links say comes back through a
queue. Whoever wants media counts as a user; when the last one has gone, the thread ends.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Protocol, TypeVar

import trio
from aiortc import MediaStreamTrack, RTCIceServer
from aiortc.contrib.media import MediaRelay

from trio_signal.client.client import Client
from trio_signal.client.events import Answer, Candidate, Event, Offer, PeerJoined, PeerLeft
from trio_signal.client.link import Kind, Link
from trio_signal.errors import TrioSignalError

T = TypeVar("T")

#: Seconds that a peer has for its offer, before we make one.
_ASK_AFTER = 1.0
#: What the links have said and the server has not heard yet; what is more is lost, and said again.
_UNSAID = 1000

#: Told of what comes from a peer, in Trio's thread; of None when nothing will come.
Watcher = Callable[[Sequence[MediaStreamTrack] | None], None]


class Player(Protocol):
    """What has tracks to send, as aiortc's `MediaPlayer`."""

    @property
    def audio(self) -> MediaStreamTrack | None:
        """Its sound, if it has any."""

    @property
    def video(self) -> MediaStreamTrack | None:
        """Its picture, if it has any."""


class Calls:
    """The links of one client. Its methods are for Trio's thread, but for those of `_Media`."""

    def __init__(self, client: Client) -> None:
        """Whoever makes it runs `run`."""
        self._client = client
        self._media = _Media(client, self._say, self._arrived)
        self._watchers: dict[str, set[Watcher]] = {}
        self._unsaid, self._saying = trio.open_memory_channel[tuple[Kind, str, Any]](_UNSAID)
        self.users = 0

    async def run(self) -> None:
        """Run the thread until `stop`, and say what the links have to say."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._speak)
            await trio.to_thread.run_sync(self._media.run)
            nursery.cancel_scope.cancel()

    def stop(self) -> None:
        """Close all links, and end the thread."""
        self._client.session.ears.discard(self._hear)
        self._media.post(self._media.over.set)

    def start(self, nursery: trio.Nursery) -> None:
        """Run in this nursery, and hear what the server says from now on."""
        self._client.session.ears.add(self._hear)
        nursery.start_soon(self.run)

    @contextmanager
    def watching(self, peer_id: str, watcher: Watcher) -> Iterator[None]:
        """Tell the watcher of what comes from this peer, while the block runs."""
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
        """Send what the player has to everybody in the room, while the block runs."""
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
        with suppress(TrioSignalError):  # the client has ended, and so will those that use it
            async for kind, peer_id, payload in self._saying:
                await say[kind](payload, to=peer_id)

    async def do(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run an async function of asyncio in the thread, and wait for what it returns or raises.

        Cancelled, it is cancelled there, and its end is waited for.
        """
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
        return doing[0].result()


class _Media:
    """What runs in asyncio's thread. Only `post`, `run` and `over` are for others."""

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
        #: Also of links that are no longer used, and hang up.
        self._running: set[asyncio.Task[None]] = set()
        self._watched: set[str] = set()
        self._present: set[str] = set()

    def post(self, work: Callable[..., object], *args: object) -> None:
        """Have this done in the thread; from any. Does not block."""
        with suppress(RuntimeError):  # the loop is closed: nobody wants anything any more
            self._loop.call_soon_threadsafe(work, *args)

    def run(self) -> None:
        """Be the thread, until `over` is set. Blocks."""
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._run())

    async def _run(self) -> None:
        await self.over.wait()
        for peer_id in list(self._links):
            self._drop(peer_id)
        # Until all have hung up. What is left then, as tasks of aiortc's, the runner cancels.
        await asyncio.gather(*self._running, return_exceptions=True)

    # In the thread

    def watch(self, peer_id: str) -> None:
        self._watched.add(peer_id)
        if peer_id in self._links:
            self._links[peer_id][0].receive(wanted=True)
        self._loop.call_later(_ASK_AFTER, self._ask, peer_id)

    def _ask(self, peer_id: str) -> None:
        """No offer came: it was lost, or it is a client that waits for ours."""
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
        self._present = set(peer_ids)
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
        self._present.add(peer_id)
        if self._player is not None:
            self._link(peer_id).open()

    def left(self, peer_id: str) -> None:
        """The server has lost it; its media may go on, and it may come back."""
        self._present.discard(peer_id)
        if peer_id not in self._links or not self._links[peer_id][0].is_up:
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
            )
            running = self._loop.create_task(link.run())
            self._running.add(running)
            running.add_done_callback(self._running.discard)
            self._links[peer_id] = link, running
        return self._links[peer_id][0]

    def _connected(self, peer_id: str, tracks: Sequence[MediaStreamTrack]) -> None:
        """In Trio's thread."""
        if tracks:
            self._arrived(peer_id, tracks)

    def _tracks(self) -> list[MediaStreamTrack]:
        """What there is to send, for one link more."""
        tracks = (self._player.audio, self._player.video) if self._player else ()
        return [self._relay.subscribe(track) for track in tracks if track is not None]

    def _drop(self, peer_id: str) -> None:
        if peer_id in self._links:
            self._links.pop(peer_id)[1].cancel()

    def tell(self, hear: Callable[..., object], *args: object) -> None:
        """Have this done in Trio's thread."""
        with suppress(trio.RunFinishedError):
            self._trio.run_sync_soon(hear, *args)


def _for_aiortc(server: Mapping[str, Any]) -> RTCIceServer:
    return RTCIceServer(server["urls"], server.get("username"), server.get("credential"))
