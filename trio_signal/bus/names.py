"""Names and their holders: the contract, the messages about them, and a directory in memory.

The directory serves one process, or holds the names of one replica.

Pure: callers pass the time, in seconds of a monotonic clock. claim.lua describes the same in Redis.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from msgspec import UNSET, Raw, Struct, UnsetType

from trio_signal.errors import JoinRefusedError
from trio_signal.messages.events import Refusal
from trio_signal.messages.identity import Name, NameSignalKind, Number

#: How many names are held for their last subject, and for how many names somebody waits. At least
#: as many as there may be undelivered letters.
MOST_HELD = 50_000
MOST_AWAITED = 20_000


#: Seconds for which a released name is held for its subject, and for which a replica that waits for
#: a name is notified of its next claim.
NAME_SECONDS = 10.0
TOLD_SECONDS = 11.0


class Holder(NamedTuple):
    """Who holds a name: a replica, and the claim by which one of its sessions got it."""

    replica: Name
    claim: Name


class Letter(Struct, frozen=True, tag=True):
    """A signal to a name on another replica, numbered by the sending replica."""

    origin: Name
    number: Number
    sender: Name
    target: Name
    kind: NameSignalKind
    payload: Raw | UnsetType = UNSET


class Receipt(Struct, frozen=True, tag=True):
    """The fate of letters: the delivered ones, and those whose target is not here."""

    delivered: tuple[Number, ...]
    absent: tuple[Number, ...]


class NameClaimed(Struct, frozen=True, tag=True):
    """A name was claimed; sent to its last holder, and to replicas with letters for it."""

    name: Name
    replica: Name
    claim: Name


class NameBus(Protocol):
    """Who holds which name, on all replicas.

    A name is held until it is released or its replica's lease ends. A name released with `hold` is
    reserved for its subject for `NAME_SECONDS` more.
    """

    async def claim(self, name: str, claim: str, subject: str) -> None:
        """Claim a name for this replica; raises JoinRefusedError if another subject has it.

        A present holder of the same subject is notified, and so are replicas with letters for the
        name. Without the directory, only this replica's names are checked. If this is cancelled,
        the name may be claimed: release it.
        """
        ...

    def release(self, name: str, claim: str, *, hold: bool) -> None:
        """Release a name, if this claim still holds it. Does not block."""
        ...

    def find(self, name: str, stale: str, found: Callable[[Holder | None, bool], None]) -> bool:
        """Find the holder of a name, by another claim than `stale`. Does not block.

        `found` is called once, perhaps before this returns. Its arguments are the holder, or None,
        and whether this replica will be notified of the next claim, for `TOLD_SECONDS`. Returns
        False, without calling `found`, if the directory cannot be asked.
        """
        ...

    async def list(self, namespace: str) -> list[str]:
        """The names in a namespace, without its prefix; sorted."""
        ...


class _Entry(NamedTuple):
    holder: Holder
    subject: str


class Names:
    """A directory of names."""

    def __init__(self) -> None:
        """Begin empty."""
        self._entries: dict[str, _Entry] = {}
        #: The subject for which a name is held, and until when; the first to expire is first.
        self._held: dict[str, tuple[str, float]] = {}
        #: The replicas to notify of the next claim of a name, and until when.
        self._awaited: dict[str, dict[str, float]] = {}

    def __len__(self) -> int:
        """How many names have a holder."""
        return len(self._entries)

    def get(self, name: str) -> Holder | None:
        """Return the holder of a name."""
        entry = self._entries.get(name)
        return entry.holder if entry is not None else None

    def check(self, name: str, subject: str, now: float) -> None:
        """Check that this subject may claim a name; raises JoinRefusedError."""
        entry = self._entries.get(name)
        held_for, until = self._held.get(name, ("", 0.0))
        if (entry is not None and entry.subject != subject) or (
            until > now and held_for != subject
        ):
            raise JoinRefusedError(Refusal.PEER_ID_IN_USE)

    def put(self, name: str, holder: Holder, subject: str, now: float) -> set[str]:
        """Set the holder of a name; return the replicas to notify."""
        self._held.pop(name, None)
        old = self._entries.get(name)
        self._entries[name] = _Entry(holder, subject)
        awaiting = self._awaited.pop(name, {})
        told = {replica for replica, until in awaiting.items() if until > now}
        return told | ({old.holder.replica} if old is not None else set())

    def release(self, name: str, claim: str, now: float, *, hold: bool) -> None:
        """Release a name, if this claim still holds it."""
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
        """Find the holder of a name, by another claim than `stale`; if None, `replica` waits."""
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
        """The claim and the subject of each name."""
        return {name: (entry.holder.claim, entry.subject) for name, entry in self._entries.items()}

    def list(self, namespace: str) -> list[str]:
        """The names in a namespace, without its prefix; sorted."""
        begin = f"{namespace}:"
        return sorted(name.removeprefix(begin) for name in self._entries if name.startswith(begin))
