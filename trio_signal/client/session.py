"""Session: what the user of a client wants, and the known state of the room.

It outlives its connections, which `trio_signal.client.run` makes one after the other.
"""

import random
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import trio
from msgspec import Struct

from trio_signal.client.connection import Address, Connection, Received
from trio_signal.client.errors import ClosedError, NotConnectedError, SlowReaderError
from trio_signal.client.events import Candidate, Event, Offer, PeerLeft, State, StateChanged
from trio_signal.client.resumption import Resumption
from trio_signal.client.view import View
from trio_signal.dialects import mesh
from trio_signal.dialects.wire import encode
from trio_signal.errors import TrioSignalError
from trio_signal.messages.identity import MediaType

#: How many offers are kept, and how many candidates of each.
_MOST_OFFERS = 32
_MOST_CANDIDATES = 100

TokenSource = Callable[[], Awaitable[str]]


class Said(NamedTuple):
    """A message to be sent."""

    text: str
    #: Whether the server counts it.
    counted: bool


class Timing(Struct, frozen=True):
    """Time limits of a client, in seconds."""

    #: Until the room is joined, at each attempt.
    connect: float = 10.0
    #: Between pings.
    heartbeat: float = 10.0
    #: After a ping, until something must have arrived.
    patience: float = 10.0
    #: Before the first attempt to reconnect; doubled at each further one.
    first_pause: float = 0.5
    #: Maximum between two attempts. A connection that lasted so long counts as a success.
    longest_pause: float = 15.0
    #: How long a full event queue may wait for a reader.
    slow_reader: float = 10.0
    #: Maximum for the closing handshake.
    goodbye: float = 2.0

    def pause(self, attempt: int) -> float:
        """Seconds to wait before an attempt; random, so that clients do not all return at once."""
        longest = min(self.longest_pause, self.first_pause * 2 ** min(attempt, 32))
        return random.uniform(longest / 2, longest)  # noqa: S311  not for secrets


class Session:
    """A place in one room, with or without a connection."""

    def __init__(
        self,
        address: Address,
        *,
        token: str | TokenSource | None,
        client_id: str | None,
        username: str | None,
        ssl_context: ssl.SSLContext | None,
        max_events: int,
        timing: Timing,
    ) -> None:
        """Make a session without a connection."""
        if not callable(token):
            written(mesh.AuthToken(token, client_id, username))
        self.address = address
        self.token = token
        self.asked_username = username
        self.ssl_context = ssl_context
        self.timing = timing
        #: The broadcast that the user wants.
        self.broadcasting: MediaType | None = None
        #: The broadcast that was declared to the server since the room was joined.
        self.declared: MediaType | None = None
        #: The user has left, and pending messages are being sent.
        self.leaving = False

        # The server's latest state
        self.view = View()
        self.client_id = client_id or ""
        #: The client id for the next connection; empty if the server must make one.
        self.asked_id = self.client_id
        self.user_id = ""
        self.username = username or ""
        self.ice_servers: tuple[Mapping[str, object], ...] = ()
        self.state: State = "waiting"
        #: The connection to close with a goodbye, unless that was sent already or cannot be.
        self.connection: Connection | None = None
        #: What is needed to resume as the same peer; None if that is impossible.
        self.resumption: Resumption | None = None
        #: Set when it is time to confirm, and to ask for a confirmation.
        self.ask_now = trio.Event()

        #: For tasks that last as long as the client; set by the code that runs it.
        self.nursery: trio.Nursery | None = None
        #: Called at once for each event, and with None at the end. None of them may block.
        self.ears: set[Callable[[Event | None], None]] = set()
        #: The last offer of each present peer, and its candidates.
        self.offers: dict[str, list[Offer | Candidate]] = {}

        self._event_sender, self.events = trio.open_memory_channel[Event](max_events)
        #: Events that the queue has no room for yet. Only one task at a time puts them.
        self._untold = deque[Event]()
        # No buffer: a message that was accepted has a connection that is about to write it.
        self._outgoing, self.outgoing = trio.open_memory_channel[Said](0)
        self._reported = ""
        #: Whether an event waits for a slow reader, because nothing is read from the server
        #: meanwhile; and when the last one stopped waiting.
        self.stalled = False
        self.stalled_until = 0.0
        self._end: TrioSignalError | None = None
        self._over = trio.Event()

    @property
    def ended(self) -> bool:
        """Whether no further connection will be made."""
        return self._end is not None

    def why_ended(self) -> TrioSignalError:
        """A new exception with the reason of the end."""
        match self._end:
            case ClosedError(code=code, reason=reason):
                return ClosedError(code, reason)
            case NotConnectedError(reason=reason, status=status):
                return NotConnectedError(reason, status)
            case SlowReaderError():
                return SlowReaderError(*self._end.args)
            case None:
                return _closed()
            case error:
                return error

    def end(self, error: TrioSignalError) -> None:
        """End the session with this reason: make no further connection. Does not block."""
        self._end = _closed() if self.leaving else error
        self._over.set()

    def close(self) -> None:
        """Wake all waiting readers and senders. Does not block."""
        self._end = self._end or _closed()
        for ear in tuple(self.ears):
            ear(None)
        self._event_sender.close()
        self._outgoing.close()
        self.outgoing.close()

    async def leave(self) -> None:
        """Send pending messages and close; waits for both, `timing.goodbye` at most."""
        self.leaving = True
        self._outgoing.close()
        if self.state == "joined":
            with trio.move_on_after(self.timing.goodbye):
                await self._over.wait()
            self.connection = None

    async def say(self, message: Struct) -> None:
        """Pass a message to the connection; waits for one. Raises the reason if the session ended.

        Raises ValueError at once if the message cannot be encoded.
        """
        said = Said(written(message), not isinstance(message, mesh.Ping | mesh.AuthToken))
        try:
            await self._outgoing.send(said)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise self.why_ended() from None

    def enter(self, resumption: Resumption | None, came: Iterable[Received]) -> None:
        """The room was joined as a new peer; `came` is its snapshot. Does not block."""
        users: Sequence[mesh.User] = ()
        broadcasters: Sequence[mesh.Broadcaster] = ()
        for received in came:
            match received.message:
                case mesh.UsersInRoom(users=users):
                    pass
                case mesh.ActiveBroadcasts(broadcasters=broadcasters):
                    pass
        self.resumption, self.declared = resumption, None
        self.tell_joined()
        self.put(*self.view.enter(users, broadcasters))

    def tell_joined(self) -> None:
        """Report that the client is in the room, so that the next loss is reported too."""
        self._reported = ""
        self.put(StateChanged("joined"))

    def take(self, message: Struct, counts: int) -> None:
        """Process a message of the server; `tell_all` then delivers its events. Does not block.

        `counts` are its bytes: a processed message need not be repeated after a loss.
        """
        if self.resumption is not None and counts:
            self.resumption.came(counts)
            self._ask_if_due()
        if isinstance(message, mesh.Pong) and isinstance(message.received, int):
            self.confirmed(message.received)
        self.put(*self.view.follow(message))

    def confirmed(self, received: int) -> None:
        """Note how many of our messages the server has received."""
        if self.resumption is not None:
            self.resumption.confirm(received)

    def keep(self, text: str) -> None:
        """Keep a message that is about to be sent, in case it must be repeated. Does not block."""
        if self.resumption is None:
            return
        self.resumption.keep(text)
        self._ask_if_due()
        if self.resumption.overflowed:
            self.resumption = None

    def _ask_if_due(self) -> None:
        if self.resumption is not None and self.resumption.is_due:
            self.ask_now.set()

    def ping(self) -> mesh.Ping:
        """A ping that also confirms the messages received so far."""
        return mesh.Ping(received=self.resumption.ask() if self.resumption else None)

    def put(self, *events: Event) -> None:
        """Add events, in this order, for `tell_all`. Does not block."""
        for event in events:
            self._keep_offer(event)
            for ear in tuple(self.ears):
                ear(event)
        self._untold.extend(events)

    async def tell_all(self) -> None:
        """Put all events into the queue; while that is full, nothing is read from the server.

        If cancelled, the next call continues without a loss. Raises SlowReaderError.
        """
        while self._untold:
            event = self._untold[0]
            try:
                self._event_sender.send_nowait(event)
            except trio.WouldBlock:
                await self._wait_for_reader(event)
            self._untold.popleft()

    async def _wait_for_reader(self, event: Event) -> None:
        self.stalled = True
        with trio.move_on_after(self.timing.slow_reader) as patience:
            await self._event_sender.send(event)
        self.stalled, self.stalled_until = False, trio.current_time()
        if patience.cancelled_caught:
            raise SlowReaderError("the events were not read")

    def _keep_offer(self, event: Event) -> None:
        """Keep an offer, as the user may call `watch` only after it came."""
        match event:
            case Offer(sender=peer_id):
                self.offers.pop(peer_id, None)
                self.offers[peer_id] = [event]
                if len(self.offers) > _MOST_OFFERS:
                    del self.offers[next(iter(self.offers))]
            case Candidate(sender=peer_id) if peer_id in self.offers:
                kept = self.offers[peer_id]
                if len(kept) < _MOST_CANDIDATES:
                    kept.append(event)
            case PeerLeft(peer=peer):
                self.offers.pop(peer.id, None)

    async def tell_waiting(self, error: TrioSignalError) -> None:
        """Report that the connection was lost, once for each new reason."""
        if self._reported != str(error):
            self._reported = str(error)
            match error:
                case ClosedError(code=code, reason=reason):
                    self.put(StateChanged("waiting", reason, code))
                case _:
                    self.put(StateChanged("waiting", str(error)))
        await self.tell_all()

    def joined(self) -> None:
        """The room was joined."""
        self.state = "joined"

    def welcome(self, success: mesh.AuthSuccess) -> None:
        """Store what the server says about us."""
        self.client_id = self.asked_id = success.client_id
        self.user_id = success.user_id
        self.username = success.user
        self.ice_servers = tuple(success.ice_servers)

    async def fetch_token(self) -> str | None:
        """The token to send to the server; raises what the user's function raises."""
        token = await self.token() if callable(self.token) else self.token
        written(mesh.AuthToken(token))
        return token


def written(message: Struct) -> str:
    """Encode a message; raises ValueError."""
    try:
        return encode(message).decode()
    except UnicodeEncodeError:  # its text might quote a token
        raise ValueError("a string contains half a surrogate pair") from None


def _closed() -> NotConnectedError:
    return NotConnectedError("the client was closed")
