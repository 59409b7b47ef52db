"""The bytes of HTTP answers that clients have not accepted yet: bounded in total and per address.

No I/O. An answer is kept as a whole until its last byte is out, so all of it counts until then. If
there is no room for another one, the slowest answers are dropped, and their connections reset.
"""

from collections.abc import Callable
from http import HTTPStatus

from trio_signal.errors import Reason, RequestRefusedError

#: Most bytes of all answers, and of those to one address.
MOST = 64 << 20
MOST_EACH = 8 << 20


class Answer:
    """One answer that is being sent."""

    __slots__ = ("address", "begun", "cut_off", "given_up", "sent", "size")

    def __init__(self, address: str, size: int, begun: float, cut_off: Callable[[], None]) -> None:
        """`size` is in bytes; `cut_off` closes the answer's connection, and does not block."""
        self.address = address
        self.size = size
        self.begun = begun
        self.cut_off = cut_off
        self.given_up = False
        #: Bytes accepted by the client's side.
        self.sent = 0

    def pace(self, now: float) -> tuple[float, int]:
        """How fast it is accepted; of answers without progress, the largest counts as slowest."""
        return self.sent / (now - self.begun + 1), -self.size


class _Share:
    """Answers with a common bound."""

    def __init__(self, most: float) -> None:
        self.most = most
        self.answers: set[Answer] = set()
        self.size = 0
        #: Bytes of answers that are given up but not released yet.
        self.going = 0

    def excess(self, size: int) -> bool:
        """Whether `size` more bytes are too many."""
        return self.size - self.going + size > self.most

    def slowest(self, now: float) -> Answer:
        return min(
            (answer for answer in self.answers if not answer.given_up),
            key=lambda answer: answer.pace(now),
        )


class Unsent:
    """All answers that a server is sending. Nothing here blocks."""

    def __init__(
        self,
        count: Callable[[], None] = lambda: None,
        *,
        most: float = MOST,
        most_each: float = MOST_EACH,
    ) -> None:
        """Begin with none; `count` is called for each answer that is given up or refused."""
        self._count = count
        self._most_each = most_each
        self._all = _Share(most)
        self._at: dict[str, _Share] = {}

    @property
    def size(self) -> int:
        """Bytes of all answers."""
        return self._all.size

    def hold(self, address: str, size: int, now: float, cut_off: Callable[[], None]) -> Answer:
        """Count an answer until it is released.

        Raises RequestRefusedError if the answer is too big for its address, or if too much is given
        up but not released yet: the total never exceeds twice the bound.
        """
        shares = (self._at.get(address) or _Share(self._most_each), self._all)
        for share in shares:
            if size > share.most:
                self._refuse()
            while share.excess(size):
                self._give_up(share.slowest(now))
            if share.size + size > 2 * share.most:
                self._refuse()
        answer = Answer(address, size, now, cut_off)
        self._at[address] = shares[0]
        for share in shares:
            share.answers.add(answer)
            share.size += size
        return answer

    def release(self, answer: Answer) -> None:
        """The answer was sent, or its connection is gone."""
        own = self._at[answer.address]
        for share in (own, self._all):
            share.answers.discard(answer)
            share.size -= answer.size
            share.going -= answer.size if answer.given_up else 0
        if not own.answers:
            del self._at[answer.address]

    def _give_up(self, answer: Answer) -> None:
        answer.given_up = True
        for share in (self._at[answer.address], self._all):
            share.going += answer.size
        self._count()
        answer.cut_off()

    def _refuse(self) -> None:
        self._count()
        text = "Too many bytes are waiting to be sent."
        raise RequestRefusedError(HTTPStatus.SERVICE_UNAVAILABLE, Reason.HTTP_BYTES, text, 1)
