"""Namespace: names that clients claim, and signals from one name to another, without rooms.

Names are full names: the part before the first colon is the namespace. The directory knows who has
a name, in one key for each; only those who ask for a name are told about it.

Signals for a name that nobody has wait for some seconds at the sender's replica. Signals to another
replica are *letters*: numbered, kept until that replica confirms them, and routed again if it
answers that the name is not there. It remembers the last numbers, so none is delivered twice.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import NoReturn
from uuid import uuid4
from weakref import WeakValueDictionary

import trio

from trio_signal.bus import Bus
from trio_signal.bus.names import Holder, Letter, NameClaimed, Receipt
from trio_signal.clock import utc_now
from trio_signal.errors import CloseCode, JoinRefusedError
from trio_signal.mailbox import KEEP, Mail, Mailbox
from trio_signal.messages.commands import Claim, Close, SignalName
from trio_signal.messages.events import Claimed, NameSignalled, Refusal, Refused, Unreached
from trio_signal.session import Session

#: Seconds without a confirmation after which a letter is routed again; between two checks of
#: waiting letters; and until received letters are confirmed.
GIVE_UP = 2.5
LOOKING = 0.25
CONFIRMING = 0.02
#: Seconds until a directory that did not answer is asked again.
_ASK_AGAIN = 0.5
#: Extra cost of a signal that waits, in tokens.
_WAITING = 1 / 4
#: Maximum names that a holder is remembered to have exchanged signals with.
MAX_MET = 1000
#: Maximum letters from other replicas that are remembered, and that wait for a claim.
MOST_DECIDED = 50_000
MOST_PENDING = 1000
_REPLACED = Close(CloseCode.REPLACED, "Replaced by a newer connection")


class _Holder:
    """The peer that has a name on this replica."""

    __slots__ = ("claim", "met", "session")

    def __init__(self, session: Session, claim: str) -> None:
        self.session = session
        self.claim = claim
        #: Hashes of the names with which it has exchanged signals, the newest last; None for none.
        self.met: dict[int, None] | None = None

    def meet(self, name: str) -> None:
        if self.met is None:
            self.met = {}
        key = hash(name)
        if key not in self.met:
            if len(self.met) >= MAX_MET:
                del self.met[next(iter(self.met))]
            self.met[key] = None

    def has_met(self, name: str) -> bool:
        return self.met is not None and hash(name) in self.met


class Namespace:
    """The names that clients of this replica have claimed. Only `claim` and `run` block."""

    def __init__(self, bus: Bus, namespaces: Collection[str] = ()) -> None:
        """Start without names; clients claim names in these namespaces."""
        self._bus = bus
        self._namespaces = frozenset(namespaces)
        self._holders: dict[str, _Holder] = {}
        self._names: dict[Session, str] = {}
        #: Locks for claims, by name; and letters for names that are being claimed here.
        self._turns: WeakValueDictionary[str, trio.Lock] = WeakValueDictionary()
        self._claiming: dict[str, list[Letter]] = {}
        self.mailbox = Mailbox()
        #: Letters that came recently from other replicas, and those to be confirmed.
        self._decided: OrderedDict[tuple[str, int], bool] = OrderedDict()
        self._receipts: dict[str, tuple[list[int], list[int]]] = {}
        self._work = trio.Event()
        #: How often a sender was told that its target does not exist.
        self.unreached = 0

    def __len__(self) -> int:
        """The number of names of this replica's clients."""
        return len(self._holders)

    # Claims

    async def claim(self, peer: Session, command: Claim) -> None:
        """Claim a name for a peer, also from another peer with the same subject.

        Sends the peer the result. Blocks on the directory.
        """
        identity, name = peer.identity, command.name
        if identity is None or peer in self._names:
            peer.tell(Refused(command, Refusal.NOT_ALLOWED, utc_now()))
            return
        if name.partition(":")[0] not in self._namespaces:
            peer.tell(Refused(command, Refusal.UNKNOWN_NAMESPACE, utc_now()))
            return
        claim = uuid4().hex
        async with self._turns.setdefault(name, trio.Lock()):
            pending = self._claiming[name] = []
            try:
                await self._bus.names.claim(name, claim, identity.subject)
            except JoinRefusedError as error:
                peer.tell(Refused(command, error.reason, utc_now()))
            except BaseException:
                self._bus.names.release(name, claim, hold=True)  # it may have registered it
                self._end_claiming(name, pending)
                raise
            else:
                self._let_have(peer, name, claim)
            self._end_claiming(name, pending)

    def _let_have(self, peer: Session, name: str, claim: str) -> None:
        self._replace(name)
        self._holders[name] = _Holder(peer, claim)
        self._names[peer] = name
        peer.tell(Claimed(name))
        mail = self.mailbox.get(name)
        if mail is not None:
            mail.holder = None
            self._deliver_waiting(mail)

    def _end_claiming(self, name: str, pending: list[Letter]) -> None:
        del self._claiming[name]
        for letter in pending:
            self._take_letter(letter)
        mail = self.mailbox.get(name)
        if mail is not None and mail.waiting and name not in self._holders:
            self._seek(mail)

    def _replace(self, name: str) -> None:
        """Close the former holder of a name here, who must not release it: another one has it."""
        replaced = self._holders.pop(name, None)
        if replaced is not None:
            del self._names[replaced.session]
            replaced.session.close(_REPLACED)

    def remove(self, peer: Session, *, hold: bool = True) -> None:
        """Release a peer's name, if it has one. With `hold`, the name is kept for its subject."""
        name = self._names.pop(peer, None)
        if name is not None:
            holder = self._holders.pop(name)
            self._bus.names.release(name, holder.claim, hold=hold)

    # Signals

    def send(self, peer: Session, command: SignalName) -> None:
        """Deliver a signal to the holder of a name, now or soon, on any replica."""
        sender = self._names.get(peer)
        if sender is None:
            return  # it has released its name
        target, is_farewell = command.target, command.kind == "leave"
        holder = self._holders[sender]
        if is_farewell:
            if not holder.has_met(target):
                return  # a stranger could end other people's calls
        else:
            holder.meet(target)
        here = self._holders.get(target)
        if here is not None:
            self._hear(here, sender, target, command)
            return
        letter = Letter(
            self._bus.replica,
            self.mailbox.next_number(),
            sender,
            target,
            command.kind,
            command.payload,
        )
        mail = self._post(letter, trio.current_time())
        if mail is None:
            self._tell_unreached(sender, target)
        elif mail.holder is None:
            peer.owes += _WAITING

    def _hear(self, holder: _Holder, sender: str, target: str, said: SignalName | Letter) -> None:
        if said.kind != "leave":
            holder.meet(sender)
        holder.session.hear(NameSignalled(sender, target, said.kind, said.payload))

    def _post(self, letter: Letter, now: float) -> Mail | None:
        """Send a letter, or keep it; None if there is no room, and its sender must be notified."""
        self._work.set()
        mail = self.mailbox.put(letter, now)
        if mail is None:
            return None
        if mail.holder is not None:
            self._forward(mail, now)
        elif not mail.is_sought and now >= mail.absent_until:
            self._seek(mail)
        return mail

    def _forward(self, mail: Mail, now: float) -> None:
        """Send the waiting letters to the replica of their target."""
        assert mail.holder is not None  # noqa: S101
        for letter in mail.post_waiting(now):
            self._bus.send(mail.holder.replica, letter)

    def _deliver_waiting(self, mail: Mail) -> None:
        """Deliver waiting letters, since their target is here now."""
        holder = self._holders[mail.name]
        for letter in self.mailbox.take_waiting(mail):
            self._hear(holder, letter.sender, letter.target, letter)

    def _seek(self, mail: Mail) -> None:
        """Look up the holder of a name; if there is none, a later claim is reported here."""
        mail.is_sought = True
        asked = self._bus.names.find(mail.name, mail.stale, self._found(mail))
        if not asked:
            mail.is_sought = False
            mail.absent_until = trio.current_time() + _ASK_AGAIN

    def _found(self, mail: Mail) -> Callable[[Holder | None, bool], None]:
        def found(holder: Holder | None, known: bool) -> None:
            now, mail.is_sought = trio.current_time(), False
            if mail.name in self._holders:
                self._deliver_waiting(mail)
            elif mail.holder is not None or mail.name in self._claiming:
                pass  # a peer here has claimed the name meanwhile, or is about to
            elif holder is None:
                mail.absent_until = now + (KEEP if known else _ASK_AGAIN)
                self._drop_unkept(mail)
            elif holder.replica == self._bus.replica:
                mail.stale = holder.claim  # it was released just now
                self._seek(mail)
            else:
                mail.holder = holder
                self._forward(mail, now)

        return found

    def _drop_unkept(self, mail: Mail) -> None:
        for sender in self.mailbox.drop_unkept(mail):
            self._tell_unreached(sender, mail.name)

    def _tell_unreached(self, sender: str, target: str) -> None:
        """Tell a sender of this replica, once, that its target does not exist."""
        holder = self._holders.get(sender)
        if holder is not None:
            self.unreached += 1
            holder.session.tell(Unreached(target))

    # Messages from other replicas

    def take(self, told: Letter | Receipt | NameClaimed) -> None:
        """Process a message from another replica. Does not block."""
        match told:
            case Letter():
                self._take_letter(told)
            case Receipt():
                self._take_receipt(told)
            case NameClaimed():
                self._take_claim(told)

    def _take_letter(self, letter: Letter) -> None:
        delivered = self._decided.get((letter.origin, letter.number))
        if not delivered:
            pending = self._claiming.get(letter.target)
            if pending is not None and len(pending) < MOST_PENDING:
                pending.append(letter)
                return
        if not delivered:
            holder = self._holders.get(letter.target)
            delivered = holder is not None
            self._decided[letter.origin, letter.number] = delivered
            if len(self._decided) > MOST_DECIDED:
                self._decided.popitem(last=False)
            if holder is not None:
                self._hear(holder, letter.sender, letter.target, letter)
        receipt = self._receipts.setdefault(letter.origin, ([], []))
        receipt[0 if delivered else 1].append(letter.number)
        self._work.set()

    def _take_receipt(self, receipt: Receipt) -> None:
        for number in receipt.delivered:
            self.mailbox.remove(number)
        for number in receipt.absent:
            mail = self.mailbox.sent(number)
            if mail is not None:
                self._seek_anew(mail, mail.sent[number].claim)

    def _seek_anew(self, mail: Mail, claim: str) -> None:
        """Route letters again: their replica does not have the name, or does not answer.

        All letters that were sent there are called back at once, so that they stay in order.
        """
        mail.call_back(claim)
        if mail.holder is not None and mail.holder.claim == claim:
            mail.stale, mail.holder = claim, None
        if mail.name in self._holders:
            self._deliver_waiting(mail)
        elif mail.holder is not None:
            self._forward(mail, trio.current_time())
        elif not mail.is_sought:
            self._seek(mail)

    def _take_claim(self, claimed: NameClaimed) -> None:
        holder = self._holders.get(claimed.name)
        if holder is not None and holder.claim != claimed.claim:
            self._replace(claimed.name)
        mail = self.mailbox.get(claimed.name)
        if mail is not None and claimed.replica != self._bus.replica:
            mail.holder = Holder(claimed.replica, claimed.claim)
            self._forward(mail, trio.current_time())

    # Time

    async def run(self) -> NoReturn:
        """Confirm letters, and notify senders of lost signals, until cancelled."""
        look_at = 0.0
        while True:
            await self._work.wait()
            await trio.sleep(CONFIRMING if self._receipts else LOOKING)
            self._confirm()
            now = trio.current_time()
            if now >= look_at:
                look_at = now + LOOKING
                self.pass_time(now)
            if not self.mailbox and not self._receipts:
                self._work = trio.Event()

    def _confirm(self) -> None:
        receipts, self._receipts = self._receipts, {}
        for origin, (delivered, absent) in receipts.items():
            self._bus.send(origin, Receipt(tuple(delivered), tuple(absent)))

    def pass_time(self, now: float) -> None:
        """Notify senders of signals that expired, and route unconfirmed letters again."""
        for sender, target in self.mailbox.expire(now):
            self._tell_unreached(sender, target)
        for mail, claim in self.mailbox.unconfirmed(now - GIVE_UP):
            self._seek_anew(mail, claim)
        for mail in self.mailbox.unsought(now):
            if mail.name not in self._claiming:
                self._seek(mail)
