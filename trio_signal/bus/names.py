"""Names, and who has them: the contract, and what is told of them; and a directory of them.

The directory is that of one process, or what one replica knows of its own.

Pure: the time is given, in seconds of a clock that only goes forward. What Redis keeps of the
same is in claim.lua.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from msgspec import UNSET, Raw, Struct, UnsetType

from trio_signal.errors import JoinRefusedError
from trio_signal.messages.events import Refusal
from trio_signal.messages.identity import Name, NameSignalKind, Number

#: Names that are held for who had them, and names for which somebody waits: no fewer than
#: there may be letters.
MOST_HELD = 50_000
MOST_AWAITED = 20_000


#: Seconds for which a name is held for who had it, and for which one is told of its next claim.
NAME_SECONDS = 10.0
TOLD_SECONDS = 11.0


class Holder(NamedTuple):
    """Who has a name: a session of a replica, which had claimed it so."""

    replica: Name
    claim: Name


class Letter(Struct, frozen=True, tag=True):
    """A signal from one name to another, which is on another replica; numbered by the first."""

    origin: Name
    number: Number
    sender: Name
    target: Name
    kind: NameSignalKind
    payload: Raw | UnsetType = UNSET


class Receipt(Struct, frozen=True, tag=True):
    """What became of letters: these were delivered, and of those the target is not here."""

    delivered: tuple[Number, ...]
    absent: tuple[Number, ...]


class NameClaimed(Struct, frozen=True, tag=True):
    """A name was claimed: told to who had it, and to those with letters for it."""

    name: Name
    replica: Name
    claim: Name


class NameBus(Protocol):
    """Who has which name, on all replicas.

    A name is held until it is released, or its replica's lease is over. One that was released
    to `hold` it is for its subject alone for `NAME_SECONDS` more.
    """

    async def claim(self, name: str, claim: str, subject: str) -> None:
        """Have a name here; raises JoinRefusedError if it is somebody else's.

        Who has it as the same subject is told, and so is who has letters for it. Without the
        directory only this replica is asked. When this is cancelled, the name may be claimed:
        release it.
        """
        ...

    def release(self, name: str, claim: str, *, hold: bool) -> None:
        """Give a name back, if it is still claimed so. Does not block."""
        ...

    def find(self, name: str, stale: str, found: Callable[[Holder | None, bool], None]) -> bool:
        """Find who has a name, by another claim than `stale`. Does not block.

        `found` is called once, perhaps at once: if nobody has it, this replica is told of the
        next claim, for `TOLD_SECONDS`; but not if its second argument is false. False if the
        directory cannot be asked: then it is not called.
        """
        ...

    async def list(self, namespace: str) -> list[str]:
        """The names in a namespace, without that; sorted."""
        ...


class _Entry(NamedTuple):
    holder: Holder
    subject: str


class Names:
    """A directory of names."""

    def __init__(self) -> None:
        """Begin without any."""
        self._entries: dict[str, _Entry] = {}
        #: For whom a name is held, and until when; the first to be over stands first.
        self._held: dict[str, tuple[str, float]] = {}
        #: Who is to be told of the next claim, and until when.
        self._awaited: dict[str, dict[str, float]] = {}

    def __len__(self) -> int:
        """How many names somebody has."""
        return len(self._entries)

    def get(self, name: str) -> Holder | None:
        """Who has a name."""
        entry = self._entries.get(name)
        return entry.holder if entry is not None else None

    def check(self, name: str, subject: str, now: float) -> None:
        """Whether this subject may have a name; raises JoinRefusedError."""
        entry = self._entries.get(name)
        held_for, until = self._held.get(name, ("", 0.0))
        if (entry is not None and entry.subject != subject) or (
            until > now and held_for != subject
        ):
            raise JoinRefusedError(Refusal.PEER_ID_IN_USE)

    def put(self, name: str, holder: Holder, subject: str, now: float) -> set[str]:
        """Let somebody have a name; which replicas are to be told."""
        self._held.pop(name, None)
        old = self._entries.get(name)
        self._entries[name] = _Entry(holder, subject)
        awaiting = self._awaited.pop(name, {})
        told = {replica for replica, until in awaiting.items() if until > now}
        return told | ({old.holder.replica} if old is not None else set())

    def release(self, name: str, claim: str, now: float, *, hold: bool) -> None:
        """Take a name from who has it by this claim."""
        entry = self._entries.get(name)
        if entry is None or entry.holder.claim != claim:
            return
        del self._entries[name]
        if hold:
            self._held[name] = entry.subject, now + NAME_SECONDS
        while self._held:
            first = next(iter(self._held))
            if len(self._held) <= MOST_HELD and self._held[first][1] > now:
                break
            del self._held[first]

    def find(self, name: str, stale: str, replica: str, now: float) -> Holder | None:
        """Who has a name, by another claim than `stale`; else `replica` is told of the next."""
        holder = self.get(name)
        if holder is not None and holder.claim != stale:
            return holder
        awaiting = self._awaited.pop(name, {})
        awaiting[replica] = now + TOLD_SECONDS
        self._awaited[name] = awaiting
        while self._awaited:
            first = next(iter(self._awaited))
            is_over = all(until <= now for until in self._awaited[first].values())
            if len(self._awaited) <= MOST_AWAITED and not is_over:
                break
            del self._awaited[first]
        return None

    def own(self) -> dict[str, tuple[str, str]]:
        """Of each name the claim and the subject."""
        return {name: (entry.holder.claim, entry.subject) for name, entry in self._entries.items()}

    def list(self, namespace: str) -> list[str]:
        """The names in a namespace, without that; sorted."""
        begin = f"{namespace}:"
        return sorted(name.removeprefix(begin) for name in self._entries if name.startswith(begin))
