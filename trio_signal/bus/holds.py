"""What a room keeps for a while: peer ids for those who lost them, who is kept out, a lock.

Pure: the time is given, in seconds of a clock that only goes forward. What Redis keeps of
the same is in reserve.lua, ban.lua and join.lua.
"""

from collections import OrderedDict
from collections.abc import Iterator
from hashlib import sha1, sha256

from trio_signal.bus import Caps
from trio_signal.errors import JoinRefusedError
from trio_signal.messages.events import Refusal
from trio_signal.messages.identity import Member
from trio_signal.room import Room

#: Seconds for which a peer id stays reserved for its subject after it was lost.
RESERVED_SECONDS = 60.0
#: Seconds after which a lock that nobody lifts is lifted.
LOCK_SECONDS = 86400.0
#: Of one room, and rooms that have any.
MOST_OF_ROOM = 1000
MOST_ROOMS = 10_000


def digest_of(member: Member) -> str:
    """Who a member is, in whatever dialect, as SHA-1: Redis makes the same of it, by scripts.

    That is the subject of a verified token, which has a NUL; see `subject_of`. Of others, whose
    word had to be taken, it is the user id: by what else they say many would be the same.
    """
    return digest_of_user(member.subject.partition(" ")[2], member.user_id)


def digest_of_user(subject: str, user_id: str) -> str:
    """The same of somebody with this subject, which is of no dialect."""
    identity = subject if "\0" in subject else f"user {user_id}"
    return sha1(identity.encode(errors="surrogatepass"), usedforsecurity=False).hexdigest()


class _Until:
    """What is kept of one kind, by room and by key; bounded in both."""

    def __init__(self) -> None:
        self._rooms: OrderedDict[str, dict[str, tuple[float, bytes]]] = OrderedDict()

    def put(self, room_id: str, key: str, value: bytes, until: float, now: float) -> None:
        """Keep a value; what is over goes, and what would be over first if there is too much."""
        entries = self._rooms.setdefault(room_id, {})
        self._rooms.move_to_end(room_id)
        entries.pop(key, None)
        entries[key] = (until, value)
        self._forget(now)
        if len(entries) > MOST_OF_ROOM:
            for over in [k for k, (end, _) in entries.items() if end <= now]:
                del entries[over]
        if len(entries) > MOST_OF_ROOM:
            del entries[min(entries, key=lambda key: entries[key][0])]

    def get(self, room_id: str, key: str, now: float) -> tuple[float, bytes] | None:
        """Until when, and the value; None if there is none any more."""
        found = self._rooms.get(room_id, {}).get(key)
        return found if found is not None and found[0] > now else None

    def all(self, now: float) -> Iterator[tuple[str, str, float]]:
        """What is kept: by room and key, and until when."""
        for room_id, entries in self._rooms.items():
            for key, (end, _) in entries.items():
                if end > now:
                    yield room_id, key, end

    def _forget(self, now: float) -> None:
        while self._rooms:
            entries = next(iter(self._rooms.values()))
            if len(self._rooms) <= MOST_ROOMS and any(end > now for end, _ in entries.values()):
                return
            self._rooms.popitem(last=False)


class Holds:
    """What the rooms of one directory keep for a while."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._reserved = _Until()
        self._banned = _Until()
        #: With one entry for each room, whose key is empty.
        self._locked = _Until()

    def reserve(self, room_id: str, member: Member, now: float) -> None:
        """A member has left: keep its peer id for its subject, if that is to be."""
        if member.reserved:
            until = now + RESERVED_SECONDS
            self._reserved.put(room_id, member.peer_id, _digest(member.subject), until, now)

    def is_reserved(self, room_id: str, member: Member, now: float) -> bool:
        """Whether a newcomer's peer id is kept for another subject."""
        found = self._reserved.get(room_id, member.peer_id, now)
        return found is not None and found[1] != _digest(member.subject)

    def ban(self, room_id: str, digest: str, until: float, now: float) -> None:
        """Keep somebody out of a room; a ban that is longer already stays."""
        found = self._banned.get(room_id, digest, now)
        self._banned.put(room_id, digest, b"", max(until, found[0] if found else until), now)

    def is_banned(self, room_id: str, digest: str, now: float) -> bool:
        """Whether somebody is kept out."""
        return self._banned.get(room_id, digest, now) is not None

    def bans(self, now: float) -> Iterator[tuple[str, str, float]]:
        """All bans: the room, the digest, until when."""
        return self._banned.all(now)

    def lock(self, room_id: str, until: float, now: float) -> None:
        """Let nobody new into a room until then; a time that is over lifts that."""
        self._locked.put(room_id, "", b"", until, now)

    def is_locked(self, room_id: str, now: float) -> bool:
        """Whether nobody new is let into a room."""
        return self._locked.get(room_id, "", now) is not None

    def locks(self, now: float) -> Iterator[tuple[str, str, float]]:
        """All rooms that are locked, and until when."""
        return self._locked.all(now)

    def check(self, room: Room, member: Member, caps: Caps, now: float) -> None:
        """Whether a newcomer may enter a room; raises JoinRefusedError."""
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
    """A subject is as long as its token lets it be; this is not."""
    return sha256(text.encode()).digest()
