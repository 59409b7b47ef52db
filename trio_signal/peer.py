"""Peer: one connection as the hub sees it."""

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import islice

import trio
from msgspec import Struct

from trio_signal.dialects import Dialect
from trio_signal.dialects.wire import type_of
from trio_signal.errors import CloseCode
from trio_signal.messages.commands import Close, LeaveCause, Send
from trio_signal.messages.events import Answer, PrivateEvent, Refusal, Refused, Signalled
from trio_signal.messages.identity import Identity
from trio_signal.negotiations import NEVER, Negotiations, Unanswered
from trio_signal.outbox import Outbox, ignore
from trio_signal.pacing import ANSWER_BYTE
from trio_signal.websocket import text_frame

logger = logging.getLogger(__name__)

INTERNAL_ERROR = Close(CloseCode.INTERNAL_ERROR, "Internal error")


class Peer:
    """One connection as the hub sees it: who it is, its rooms, its outbox."""

    __slots__ = (
        "_scope",
        "arrived",
        "closed_with",
        "count_refused",
        "dialect",
        "heard",
        "id",
        "identity",
        "inherit",
        "left",
        "memberships",
        "outbox",
        "owes",
        "recalled",
        "received",
        "said_goodbye",
        "sent",
        "told",
    )

    def __init__(self, peer_id: str, dialect: Dialect, outbox: Outbox) -> None:
        """Make a peer that is nobody yet."""
        self.id = peer_id
        self.dialect = dialect
        self.outbox = outbox
        self.identity: Identity | None = None
        #: The rooms it is in, and under which peer id in each.
        self.memberships: dict[str, str] = {}
        self.closed_with: Close | None = None
        #: When it came, and when it was last heard of; Trio's clock.
        self.arrived = trio.current_time()
        self.heard = self.arrived
        #: Takes over rooms from a connection that is found dead; set by its own.
        self.inherit: Callable[[Sequence[str]], None] = ignore
        #: The rooms of a lost connection that it is to enter and has not yet.
        self.recalled: tuple[str, ...] = ()
        #: Counts what it is refused; set by its own as well.
        self.count_refused: Callable[[Refusal], None] = ignore
        #: What all peers of its dialect were told, by type; that of the server, set likewise.
        self.told: defaultdict[bytes, int] = defaultdict(int)
        #: How many messages came, and how many were told to it.
        self.received = self.sent = 0
        #: What it made the server do and has not paid for yet, in tokens; its connection pays.
        self.owes = 0.0
        #: The client closed the connection, and did not say that it will be back.
        self.said_goodbye = False
        #: The rooms in which it was when it ended.
        self.left: tuple[str, ...] = ()
        self._scope: trio.CancelScope | None = None

    def live_in(self, scope: trio.CancelScope) -> None:
        """Take the scope of the connection's nursery, which `close` cancels."""
        self._scope = scope
        if self.closed_with is not None:
            self._cancel(self.closed_with)

    @property
    def leave_cause(self) -> LeaveCause:
        """Why it leaves its rooms, once the connection ends."""
        if self.closed_with is not None:
            return self.closed_with.cause
        return LeaveCause.CLOSED if self.said_goodbye else LeaveCause.LOST

    @property
    def is_leaving(self) -> bool:
        """Whether the connection is about to end."""
        return self.closed_with is not None or (
            self._scope is not None and self._scope.cancel_called
        )

    def send(self, text: bytes) -> None:
        """Send a text to this peer alone; does not block."""
        self.told[type_of(text)] += 1
        self.send_frame(text_frame(text))

    def answer(self, text: bytes) -> None:
        """Send a text to this peer at its own cost; does not block."""
        self.owes += len(text) * ANSWER_BYTE
        self.send(text)

    def send_frame(self, frame: bytes) -> None:
        """Send a message's frame that others get as well; does not block.

        A peer whose outbox is full is closed as too slow.
        """
        self.sent += 1
        self.put(frame)

    def put(self, frames: bytes) -> None:
        """The same for what is no message, or was counted already."""
        if not self.outbox.put(frames) and self.outbox.overflowed:
            self.close(Close(CloseCode.TRY_AGAIN_LATER, "Reads too slowly", LeaveCause.TOO_SLOW))

    def tell(self, answer: Answer) -> None:
        """Tell this peer what became of its command, at its own cost; does not block."""
        if isinstance(answer, Refused):
            self.count_refused(answer.reason)
        try:
            actions = list(self.dialect.answered(answer))
        except Exception:
            close_untold([self], answer)
            return
        for action in actions:
            match action:
                case Send(text=text):
                    self.answer(text)
                case Close():
                    self.close(action)

    def hear(self, event: Signalled | PrivateEvent) -> None:
        """Tell this peer alone what another sent to it; does not block."""
        try:
            notices = list(self.dialect.tell(event))
        except Exception:
            close_untold([self], event)
            return
        for notice in notices:
            self.send(notice.text)

    @property
    def due(self) -> float:
        """When the hub is to look after this peer, by Trio's clock; it has nothing to wait for."""
        return NEVER

    def said(self, signal: Signalled) -> None:
        """Its own offer or answer is on its way to another; does not block."""

    def close(self, close: Close) -> None:
        """End the connection; does not block. The first reason counts."""
        if self.closed_with is None:
            self.closed_with = close
            self._cancel(close)

    def _cancel(self, close: Close) -> None:
        if self._scope is not None:
            self._scope.cancel(reason=close.reason or None)


class HoldingPeer(Peer):
    """A peer whose client can use candidates at certain times only.

    `due` is when `Hub.pass_time` has something to do for it.
    """

    __slots__ = ("_negotiations", "wake_at")

    def __init__(self, peer_id: str, dialect: Dialect, outbox: Outbox) -> None:
        """Make a peer that is nobody yet."""
        super().__init__(peer_id, dialect, outbox)
        self._negotiations = Negotiations()
        #: Has the connection look at `due` then; set by it.
        self.wake_at: Callable[[float], None] = ignore

    @property
    def due(self) -> float:
        """When there is something to do, by Trio's clock."""
        return self._negotiations.due

    def hear(self, event: Signalled | PrivateEvent) -> None:
        """Tell this peer what another sent to it, now or a little later; does not block."""
        if not isinstance(event, Signalled) or not _is_among_equals(event):
            super().hear(event)
            return
        self._tell(self._negotiations.hear(event, trio.current_time()))

    def said(self, signal: Signalled) -> None:
        """Its own offer or answer is on its way: tell it what waited for that; does not block."""
        if _is_among_equals(signal):
            self._tell(self._negotiations.say(signal, trio.current_time()))

    def _tell(self, signals: Iterable[Signalled]) -> None:
        for signal in signals:
            super().hear(signal)
        self.wake_at(self.due)

    def take_due(self, now: float) -> tuple[list[Signalled], list[Unanswered]]:
        """What has waited long enough, and which offers had no answer; see `Negotiations`."""
        return self._negotiations.take_due(now)

    def tell_late(self, signal: Signalled) -> None:
        """Tell this peer a signal that has waited; does not block."""
        super().hear(signal)

    def forget(self, unanswered: Unanswered) -> None:
        """That counterpart is gone."""
        self._negotiations.forget(unanswered)


def _is_among_equals(signal: Signalled) -> bool:
    """Whether both sides speak one dialect: others know themselves what to do and when."""
    return signal.target is not None and signal.target.dialect == signal.sender.dialect


def close_untold(peers: Collection[Peer], untold: Struct) -> None:
    """End connections that their dialect failed to tell something; called in its `except`.

    Their picture would be wrong from here on. That of new connections will be right.
    """
    some = ", ".join(peer.id for peer in islice(peers, 3))
    logger.exception("cannot tell %s to %d peers: %s", type(untold).__name__, len(peers), some)
    for peer in peers:
        peer.close(INTERNAL_ERROR)
