"""Mailbox: signals for names on other replicas, or for names that nobody has claimed yet.

No I/O: the time is an argument, in seconds of a clock that only goes forward. Everything kept is
bounded, in total and for each name, and expires.
"""

from collections.abc import Iterator
from itertools import islice
from sys import getsizeof

from msgspec import UNSET
from msgspec.structs import replace

from trio_signal.bus.names import Holder, Letter

#: Maximum seconds for which a signal waits, or is on its way.
KEEP = 5.0
#: Maximum letters, and bytes, for one name and for all names, including those on their way.
MOST_LETTERS = 64
MOST_BYTES = 256 * 1024
MOST_IN_ALL = 16 * 2**20
#: The maximum for a name that is being looked up, which takes only a moment.
_MOST_SOUGHT, _MOST_SOUGHT_BYTES = 1000, 2**20
#: Approximate memory of a letter besides its payload and the name.
_OVERHEAD = 800
#: How many names are remembered with their replicas; and pairs whose sender was notified recently.
MOST_NAMES = 20_000
MOST_PAIRS = 10_000
#: How many names are checked for one that can be forgotten, to make room for a new one.
_LOOKED_AT = 50


class _Kept:
    """A letter, when its signal came, and when it was last sent."""

    __slots__ = ("at", "claim", "letter", "posted", "size")

    def __init__(self, letter: Letter, at: float, size: int) -> None:
        self.letter = letter
        self.at = at
        self.size = size
        #: When, and to which claim.
        self.posted, self.claim = 0.0, ""


class Mail:
    """The letters for one name, and the replica that has the name, if known."""

    __slots__ = ("absent_until", "holder", "is_sought", "name", "sent", "size", "stale", "waiting")

    def __init__(self, name: str) -> None:
        """Start empty, with the name's replica unknown."""
        self.name = name
        self.holder: Holder | None = None
        #: The claim of a holder that no longer has the name.
        self.stale = ""
        self.is_sought = False
        #: Until when this replica will be told if somebody claims the name.
        self.absent_until = 0.0
        #: By number: the letters that wait, their bytes, and those sent but not confirmed.
        self.waiting: dict[int, _Kept] = {}
        self.size = 0
        self.sent: dict[int, _Kept] = {}

    def post_waiting(self, now: float) -> list[Letter]:
        """Send the waiting letters to the holder, in order."""
        posted = list(self.waiting.values())
        for kept in posted:
            kept.posted, kept.claim = now, self.holder.claim if self.holder is not None else ""
        self.sent |= self.waiting
        self.waiting, self.size = {}, 0
        return [kept.letter for kept in posted]

    def is_absent(self, now: float) -> bool:
        """Whether nobody is known to have the name. Then a `leave` does not wait for it."""
        return self.holder is None and not self.is_sought and now < self.absent_until

    def has_any_of(self, sender: str) -> bool:
        """Whether a letter of this sender waits."""
        return any(kept.letter.sender == sender for kept in self.waiting.values())

    def call_back(self, claim: str) -> None:
        """Let letters that were sent to this claim wait again, in the order of their numbers."""
        back = {number: kept for number, kept in self.sent.items() if kept.claim == claim}
        self.sent = {n: kept for n, kept in self.sent.items() if n not in back}
        self.waiting = dict(sorted((back | self.waiting).items()))
        self.size = sum(kept.size for kept in self.waiting.values())


class Mailbox:
    """All letters of one replica."""

    def __init__(self) -> None:
        """Start empty."""
        self._mail: dict[str, Mail] = {}
        #: By number, the oldest first: the mail that the letter belongs to.
        self._letters: dict[int, Mail] = {}
        self._number = 0
        #: Bytes of all letters.
        self.size = 0
        #: Hashes of pairs whose sender was notified recently, and until when that counts.
        self._told: dict[int, float] = {}

    def __len__(self) -> int:
        """The number of letters."""
        return len(self._letters)

    def next_number(self) -> int:
        """The next unused number for a letter of this replica."""
        self._number += 1
        return self._number

    def get(self, name: str) -> Mail | None:
        """The mail for a name, if it is known."""
        return self._mail.get(name)

    def put(self, letter: Letter, now: float) -> Mail | None:
        """Keep a letter; return None if there is no room, and its sender must be notified.

        If the sender of this pair was notified just now, the rest of the same offer is dropped.
        """
        mail = self._mail.pop(letter.target, None) or Mail(letter.target)
        pair = hash((letter.sender, letter.target))
        size = _OVERHEAD + getsizeof(letter.target)
        if letter.payload is not UNSET:
            # A copy, since the payload may be a small part of a large message.
            letter = replace(letter, payload=letter.payload.copy())
            size += len(memoryview(letter.payload))  # type: ignore[arg-type]
        is_told = letter.kind != "offer" and mail.holder is None and self._told.get(pair, 0.0) > now
        is_farewell, is_absent = letter.kind == "leave", mail.is_absent(now)
        if is_told or (is_farewell and is_absent) or not self._has_room(mail, size, is_absent):
            self._put_back(mail)
            if is_told or is_farewell or mail.has_any_of(letter.sender):
                return mail  # the sender was notified, or will be when those letters expire
            self._note_told(pair, now)
            return None
        self._make_room()
        self._mail[letter.target] = mail  # as the most recently used
        mail.waiting[letter.number] = _Kept(letter, now, size)
        mail.size += size
        self.size += size
        self._letters[letter.number] = mail
        return mail

    def _has_room(self, mail: Mail, size: int, is_absent: bool) -> bool:
        most, most_bytes = _MOST_SOUGHT, _MOST_SOUGHT_BYTES
        if is_absent:
            most, most_bytes = MOST_LETTERS, MOST_BYTES
        return (
            len(mail.waiting) < most
            and mail.size + size <= most_bytes
            and self.size + size <= MOST_IN_ALL
        )

    def _put_back(self, mail: Mail) -> None:
        if mail.waiting or mail.sent or mail.is_sought or mail.holder is not None:
            self._mail[mail.name] = mail

    def _make_room(self) -> None:
        """Forget a name without letters; most names have none."""
        if len(self._mail) < MOST_NAMES:
            return
        for name, mail in islice(self._mail.items(), _LOOKED_AT):
            if not mail.waiting and not mail.sent and not mail.is_sought:
                del self._mail[name]
                return

    def _note_told(self, pair: int, now: float) -> None:
        self._told.pop(pair, None)
        self._told[pair] = now + KEEP
        while len(self._told) > MOST_PAIRS:
            del self._told[next(iter(self._told))]

    def sent(self, number: int) -> Mail | None:
        """The mail of a letter that was sent but not confirmed."""
        mail = self._letters.get(number)
        return mail if mail is not None and number in mail.sent else None

    def remove(self, number: int) -> None:
        """Remove a letter that was delivered or given up."""
        mail = self._letters.pop(number, None)
        if mail is None:
            return
        kept = mail.sent.pop(number, None)
        if kept is None:
            kept = mail.waiting.pop(number)
            mail.size -= kept.size
        self.size -= kept.size

    def take_waiting(self, mail: Mail) -> list[Letter]:
        """Take the waiting letters, in order, to deliver them now."""
        letters = [kept.letter for kept in mail.waiting.values()]
        for letter in letters:
            self.remove(letter.number)
        return letters

    def drop_unkept(self, mail: Mail) -> list[str]:
        """Drop letters that must not wait for a name that nobody has; return the senders to notify.

        Those are `leave`, and letters beyond the limits.
        """
        for number in [n for n, kept in mail.waiting.items() if kept.letter.kind == "leave"]:
            self.remove(number)
        senders: dict[str, None] = {}
        while len(mail.waiting) > MOST_LETTERS or mail.size > MOST_BYTES:
            last = next(reversed(mail.waiting))
            senders[mail.waiting[last].letter.sender] = None
            self.remove(last)
        left = {kept.letter.sender for kept in mail.waiting.values()}
        return [sender for sender in senders if sender not in left]

    def expire(self, now: float) -> list[tuple[str, str]]:
        """Drop expired letters; return the pairs whose sender must be notified, each once."""
        pairs: dict[tuple[str, str], None] = {}
        for number, mail in list(self._old(now - KEEP)):
            kept = mail.waiting.get(number) or mail.sent.get(number)
            if kept is None:
                continue  # another letter of the same pair has expired before
            letter = kept.letter
            self.remove(number)
            if letter.kind == "leave":
                continue
            pairs[letter.sender, letter.target] = None
            self._note_told(hash((letter.sender, letter.target)), now)
            for other in [n for n, k in mail.waiting.items() if k.letter.sender == letter.sender]:
                self.remove(other)
            if not mail.waiting and not mail.sent and not mail.is_sought and mail.holder is None:
                self._mail.pop(mail.name, None)
        return list(pairs)

    def _old(self, before: float) -> Iterator[tuple[int, Mail]]:
        for number, mail in self._letters.items():
            kept = mail.waiting.get(number) or mail.sent[number]
            if kept.at > before:
                return
            yield number, mail

    def unconfirmed(self, before: float) -> list[tuple[Mail, str]]:
        """Mail with a letter that was sent to a claim before that time, and is not confirmed."""
        found: dict[tuple[int, str], tuple[Mail, str]] = {}
        for number, mail in self._letters.items():
            kept = mail.sent.get(number)
            if kept is not None and kept.posted <= before:
                found[id(mail), kept.claim] = mail, kept.claim
        return list(found.values())

    def unsought(self, now: float) -> list[Mail]:
        """Mail that waits for a name, if nothing will report a claim of that name."""
        mails = {id(mail): mail for mail in self._letters.values()}
        return [
            mail
            for mail in mails.values()
            if mail.waiting
            and mail.holder is None
            and not mail.is_sought
            and now >= mail.absent_until
        ]
