"""What a room keeps for a while: reserved peer ids, bans, and a lock.

Pure: callers pass the time, in seconds of a monotonic clock. reserve.lua, ban.lua and join.lua
describe the same in Redis.
"""

from collections import OrderedDict
from collections.abc import Iterator
from hashlib import sha1, sha256

from trio_signal.bus import Caps
from trio_signal.errors import JoinRefusedError
from trio_signal.messages.events import Refusal
from trio_signal.messages.identity import Member
from trio_signal.room import Room

#: Seconds for which a peer id stays reserved for its subject after it has left.
RESERVED_SECONDS = 60.0
#: Seconds after which a lock ends by itself.
LOCK_SECONDS = 86400.0
#: The most entries of one room, and the most rooms with entries.
MOST_OF_ROOM = 1000
MOST_ROOMS = 10_000


def digest_of(member: Member) -> str:
    """The identity of a member in every dialect, as SHA-1, which Redis scripts can compute too.

    For a verified token the identity is its subject, which contains a NUL; see `subject_of`. For
    other members it is the user id: everything else that they claim is not distinctive enough.
    """
    return digest_of_user(member.subject.partition(" ")[2], member.user_id)


def digest_of_user(subject: str, user_id: str) -> str:
    """The same digest for a user with this subject, which belongs to no dialect."""
    identity = subject if "\0" in subject else f"user {user_id}"
    return sha1(identity.encode(errors="surrogatepass"), usedforsecurity=False).hexdigest()


_Entries = OrderedDict[str, tuple[float, bytes]]


def _end(entries: _Entries, *, first: bool = False) -> float:
    """When the last of these entries expires, or the first."""
    return entries[next(iter(entries) if first else reversed(entries))][0]


class _Until:
    """Values of one kind that expire, by room and key; bounded in both."""

    def __init__(self) -> None:
        #: The values of each room in the order in which they expire, which is that of insertion
        #: unless bans differ in length.
        self._rooms: OrderedDict[str, _Entries] = OrderedDict()

    def put(self, room_id: str, key: str, value: bytes, until: float, now: float) -> None:
        """Keep a value. Drops expired ones, and beyond the bound the first to expire."""
        entries = self._rooms.setdefault(room_id, OrderedDict())
        self._rooms.move_to_end(room_id)
        entries.pop(key, None)
        is_in_order = not entries or _end(entries) <= until
        entries[key] = (until, value)
        if not is_in_order:
            for later in sorted(entries, key=lambda key: entries[key][0]):
                entries.move_to_end(later)
        while entries and (len(entries) > MOST_OF_ROOM or _end(entries, first=True) <= now):
            entries.popitem(last=False)
        self._forget(now)

    def get(self, room_id: str, key: str, now: float) -> tuple[float, bytes] | None:
        """The end and the value; None if it has expired."""
        found = self._rooms[room_id].get(key) if room_id in self._rooms else None
        return found if found is not None and found[0] > now else None

    def all(self, now: float) -> Iterator[tuple[str, str, float]]:
        """All that has not expired: room, key, end."""
        for room_id, entries in self._rooms.items():
            for key, (end, _) in entries.items():
                if end > now:
                    yield room_id, key, end

    def _forget(self, now: float) -> None:
        while self._rooms:
            entries = next(iter(self._rooms.values()))
            if len(self._rooms) <= MOST_ROOMS and entries and _end(entries) > now:
                return
            self._rooms.popitem(last=False)


class Holds:
    """Reservations, bans and locks of the rooms in one directory."""

    def __init__(self) -> None:
        """Begin empty."""
        self._reserved = _Until()
        self._banned = _Until()
        #: One entry for each locked room, with an empty key.
        self._locked = _Until()

    def reserve(self, room_id: str, member: Member, now: float) -> None:
        """Reserve the peer id of a member that has left, if the member asks for it."""
        if member.reserved:
            until = now + RESERVED_SECONDS
            self._reserved.put(room_id, member.peer_id, _digest(member.subject), until, now)

    def is_reserved(self, room_id: str, member: Member, now: float) -> bool:
        """Whether a newcomer's peer id is reserved for another subject."""
        found = self._reserved.get(room_id, member.peer_id, now)
        return found is not None and found[1] != _digest(member.subject)

    def ban(self, room_id: str, digest: str, until: float, now: float) -> None:
        """Ban an identity from a room; a longer ban stays."""
        found = self._banned.get(room_id, digest, now)
        self._banned.put(room_id, digest, b"", max(until, found[0] if found else until), now)

    def is_banned(self, room_id: str, digest: str, now: float) -> bool:
        """Whether an identity is banned from a room."""
        return self._banned.get(room_id, digest, now) is not None

    def bans(self, now: float) -> Iterator[tuple[str, str, float]]:
        """All bans: the room, the digest, until when."""
        return self._banned.all(now)

    def lock(self, room_id: str, until: float, now: float) -> None:
        """Lock a room for newcomers until then; a time in the past unlocks it."""
        self._locked.put(room_id, "", b"", until, now)

    def is_locked(self, room_id: str, now: float) -> bool:
        """Whether a room refuses newcomers."""
        return self._locked.get(room_id, "", now) is not None

    def locks(self, now: float) -> Iterator[tuple[str, str, float]]:
        """All locked rooms, and until when."""
        return self._locked.all(now)

    def check(self, room: Room, member: Member, caps: Caps, now: float) -> None:
        """Check that a newcomer may enter a room; raises JoinRefusedError."""
        if self.is_banned(room.id, digest_of(member), now):
            raise JoinRefusedError(Refusal.NOT_ALLOWED)
        old = room.members.get(member.peer_id)
        if old is not None:
            if old.subject != member.subject:
                raise JoinRefusedError(Refusal.PEER_ID_IN_USE)
            return
        if self.is_locked(room.id, now):
            raise JoinRefusedError(Refusal.NOT_ALLOWED)
        if self.is_reserved(room.id, member, now):
            raise JoinRefusedError(Refusal.PEER_ID_IN_USE)
        if len(room) >= caps.peers:
            raise JoinRefusedError(Refusal.ROOM_FULL)
        if caps.viewers is not None and room.viewers >= caps.viewers:
            raise JoinRefusedError(Refusal.STREAM_FULL)


def _digest(text: str) -> bytes:
    """A subject may be as long as its token; its digest has a fixed length."""
    return sha256(text.encode()).digest()
