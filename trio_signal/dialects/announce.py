"""Dialect `announce`: banners from creators to every user.

A user may have many connections. See docs/protocols/announce.md.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from msgspec import Struct

from trio_signal.dialects.base import Dialect
from trio_signal.dialects.rest import Route
from trio_signal.dialects.wire import Reader, UnreadableError, encode
from trio_signal.errors import AuthenticationError, CloseCode, IdentityMismatchError
from trio_signal.messages.commands import (
    Acknowledge,
    Action,
    AskAnnouncement,
    Authenticate,
    Close,
    HearAnnouncements,
    IdlePing,
    Send,
)
from trio_signal.messages.events import (
    Acknowledged,
    ActiveAnnouncement,
    Announced,
    AnnouncementCleared,
    Answer,
    Audience,
    Event,
    Notice,
)
from trio_signal.messages.identity import Announcement, Identity, ServerInfo

#: Seconds of silence after which a client is sent `ping`.
IDLE = 30.0

# Messages from clients, besides the bare texts `ping` and `pong`


class GetActiveBroadcast(Struct, tag="get_active_broadcast"):
    """Requests the active announcement."""


class AcknowledgeBroadcast(Struct, tag="acknowledge_broadcast"):
    """The user has seen the announcement."""

    broadcast_id: str


_reader = Reader((GetActiveBroadcast, AcknowledgeBroadcast))

# Messages to clients, besides the same bare texts


class Broadcast(Struct):
    """An announcement, as a banner shows it."""

    id: str
    message: str
    message_type: str
    created_by: str
    created_at: str


class Connected(Struct, tag="connected"):
    """The first message."""

    message: str = "Connected to broadcast live updates"


class NewBroadcast(Struct, tag="new_broadcast"):
    """A new announcement; `created_by` is a name."""

    broadcast: Broadcast


class ActiveBroadcast(Struct, tag="active_broadcast"):
    """An earlier announcement that is active; `created_by` is a user id."""

    broadcast: Broadcast


class BroadcastCleared(Struct, tag="broadcast_cleared"):
    """The announcement was removed."""

    message: str = "Active broadcast has been cleared"


class BroadcastAcknowledged(Struct, tag="broadcast_acknowledged"):
    """The number of users that have seen it; for its creator and the creator's team."""

    broadcast_id: str
    acknowledged: int


_CONNECTED = Send(encode(Connected()))
_CLEARED = Notice(Audience.EVERYONE, encode(BroadcastCleared()))
_IDLE_PING = IdlePing(b"ping", IDLE)
_NOBODY = Close(CloseCode.POLICY, "User not found")


class AnnounceDialect(Dialect):
    """One connection that speaks `announce`."""

    __slots__ = ("_is_known", "_user_id")

    name = "announce"
    address = "/api/creator/broadcast/ws"
    query = ("user_id", "token")
    reader = _reader
    samples = (AcknowledgeBroadcast("1f0c"), BroadcastAcknowledged("1f0c", 7))
    words = frozenset({"ping", "pong"})
    cookie_path = "/api/creator/broadcast"
    http_prefix = "/api/creator"
    announces = True

    def __init__(self, user_id: str | None) -> None:
        """Take the user id that the client claims."""
        super().__init__()
        self._user_id = user_id
        self._is_known = False

    @classmethod
    def routes(cls) -> Sequence[Route]:
        """HTTP routes for creators, and for users without a WebSocket."""
        from trio_signal.dialects.rest import announcements

        return announcements.ROUTES

    @staticmethod
    def problem(status: int, detail: str) -> object:
        """An error in the format of these routes' clients."""
        from trio_signal.dialects.rest.announcements import problem

        return problem(status, detail)

    @classmethod
    def at(cls, path: Sequence[str], query: Mapping[str, str]) -> Self | None:
        """A dialect for `/api/creator/broadcast/ws`; None for other paths."""
        match path:
            case ["api", "creator", "broadcast", "ws"]:
                return cls(query.get("user_id") or None)
        return None

    def opened(self, peer_id: str) -> Iterable[Action]:
        """Authenticate with the query or the token."""
        return [Authenticate(self._user_id or "", claimed=self._user_id)]

    def authenticated(self, identity: Identity, server: ServerInfo, now: str) -> Iterable[Action]:
        """Subscribe to announcements, and request the active one."""
        if not identity.user_id:
            return [_NOBODY]
        self._is_known = True
        return [HearAnnouncements(), _CONNECTED, _IDLE_PING, AskAnnouncement()]

    def authentication_failed(self, error: AuthenticationError) -> Close:
        """Close with the one reason that clients know, and with our own as a detail."""
        if isinstance(error, IdentityMismatchError):
            return Close(CloseCode.POLICY, "Identity mismatch")
        return Close(CloseCode.POLICY, str(error)) if self._is_known else _NOBODY

    def received(self, text: bytes, now: str) -> Iterable[Action]:
        """Handle the bare texts, which are not JSON; pass on the others."""
        if text in (b"ping", b"pong"):
            self.received_type = text.decode()
            return [Send(b"pong")] if text == b"ping" else []
        return super().received(text, now)

    def unreadable(self, text: bytes, error: UnreadableError) -> Iterable[Action]:
        """Ignore unreadable messages."""
        return []

    def commands(self, message: Any, now: str) -> Iterable[Action]:
        """Translate the client's message."""
        if isinstance(message, AcknowledgeBroadcast):
            return [Acknowledge(message.broadcast_id)]
        return [AskAnnouncement()]

    def answered(self, answer: Answer) -> Iterable[Send | Close]:
        """Send the announcement to show."""
        match answer:
            case ActiveAnnouncement(announcement=announcement):
                broadcast = _broadcast(announcement, announcement.created_by)
                return [Send(encode(ActiveBroadcast(broadcast)))]
        return []

    @staticmethod
    def tell(event: Event) -> Iterable[Notice]:
        """Send announcements; members of rooms are not shown."""
        match event:
            case Announced(announcement=announcement):
                broadcast = _broadcast(announcement, announcement.created_by_name)
                return [Notice(Audience.EVERYONE, encode(NewBroadcast(broadcast)))]
            case AnnouncementCleared():
                return [_CLEARED]
            case Acknowledged(announcement=announcement):
                seen = BroadcastAcknowledged(announcement.id, event.acknowledged)
                return [Notice(Audience.EVERYONE, encode(seen))]
        return []


def _broadcast(announcement: Announcement, created_by: str) -> Broadcast:
    return Broadcast(
        announcement.id,
        announcement.message,
        announcement.type,
        created_by,
        announcement.created_at,
    )
