"""Pacing: what messages cost, and who pays.

No I/O: the time is an argument, in seconds of a clock that only goes forward.

A message costs one token, and more if it causes more work: a fraction of a token for each receiver,
for the bytes that they receive, and for the bytes of the answers to its sender. Tokens come from
two buckets: that of the connection, and that of its address. While the bucket of the address is
empty, its connections share new tokens as in fair queueing (Demers, Keshav and Shenker, 1989): a
connection that takes less than the others does not wait for them.
"""

from heapq import heapify, heappop, heappush, heapreplace

from trio_signal.config import Settings

#: Fractions of a token: for a delivery of an event, for a delivered byte, and for a byte of an
#: answer, which is encoded for one peer only. A token stands for about 200 microseconds.
DELIVERY = 1 / 50
_DELIVERED_BYTE = 1 / 65_536
ANSWER_BYTE = 1 / 16_384
#: Maximum addresses without connections that are remembered until their buckets are full again.
MAX_ADDRESSES = 65_536
#: The fraction of its burst that a connection gets before it shares with the others of its address.
_HEADSTART = 1 / 20
#: Seconds after which a waiting connection checks again: the others may have gone.
_LOOK_AGAIN = 1.0


def cost_of_delivery(size: int) -> float:
    """The cost of sending so many bytes to one peer."""
    return DELIVERY + size * _DELIVERED_BYTE


class TokenBucket:
    """A bucket of tokens, refilled at a steady rate; a full one holds a burst.

    It can be overdrawn, since messages are charged after they were read. Then the client waits.
    """

    __slots__ = ("_cost", "_patience", "full_at")

    def __init__(self, rate: float, burst: int) -> None:
        """Start full; `rate` is in tokens a second."""
        self._cost = 1 / rate
        self._patience = burst / rate
        #: When the bucket is full again.
        self.full_at = float("-inf")

    def spend(self, tokens: float, now: float) -> float:
        """Take tokens. Return until when the bucket is overdrawn; at most `now` if it is not."""
        full_at = self.full_at
        if full_at < now:
            full_at = now
        self.full_at = full_at = full_at + tokens * self._cost
        return full_at - self._patience

    @property
    def overdrawn_until(self) -> float:
        """Until when the bucket is overdrawn."""
        return self.full_at - self._patience


class Address(TokenBucket):
    """The bucket of one address, and how its connections share it when it is overdrawn.

    Connections that want more then get one token each, in turns. A connection's mark is the turn in
    which it gets what it has already taken. Until then it waits, and the others do not.
    """

    __slots__ = ("_headstart", "_rate", "_since", "_turn", "connections", "marks")

    def __init__(self, rate: float, burst: int, headstart: float = 0.0) -> None:
        """Start full, without connections; each may be `headstart` tokens ahead of the others."""
        super().__init__(rate, burst)
        self._rate = rate
        self._headstart = headstart
        self.connections = 0
        #: The current turn, with fractions, and since when.
        self._turn, self._since = 0.0, 0.0
        #: A heap of the connections that are ahead, by their marks, which may have moved on since.
        #: The number keeps entries distinct.
        self.marks: list[tuple[float, int, Payer]] = []

    def spend(self, tokens: float, now: float) -> float:
        """Take tokens. The debt is at most another burst; more is forgiven."""
        full_at = self.full_at
        if full_at < now:
            full_at = now
        self.full_at = min(full_at + tokens * self._cost, now + 2 * self._patience)
        return self.full_at - self._patience

    def is_shared(self, now: float) -> bool:
        """Whether new tokens are given to the connections in turns.

        Turns begin when the bucket is overdrawn, and end when all connections have had theirs. If
        they ended earlier, the first connection to ask would take all new tokens.
        """
        if self.marks:
            self._advance(now)
        return bool(self.marks) or self.full_at - self._patience > now

    def mark(self, payer: "Payer", tokens: float, now: float) -> None:
        """Note the tokens that a connection has taken."""
        self._advance(now)
        payer.mark = max(payer.mark, self._turn) + tokens
        if not payer.is_marked and not payer.has_left:
            payer.is_marked = True
            heappush(self.marks, (payer.mark, id(payer), payer))

    def waits_until(self, payer: "Payer", now: float) -> float:
        """Until when a connection must wait for the others; call this again then."""
        self._advance(now)
        ahead = payer.mark - self._headstart - self._turn
        if ahead <= 0:
            return now
        return now + min(ahead * len(self.marks) / self._rate, _LOOK_AGAIN)

    def drop(self, payer: "Payer") -> None:
        """Give a connection that has ended no share any more, however far it is ahead."""
        payer.has_left = True
        if payer.is_marked:
            payer.is_marked = False
            self.marks = [each for each in self.marks if each[2] is not payer]
            heapify(self.marks)

    def _advance(self, now: float) -> None:
        """Give the new tokens to all connections that are ahead, the same number to each."""
        tokens = (now - self._since) * self._rate
        self._since = now
        marks = self.marks
        while marks:
            mark, number, payer = marks[0]
            needed = (mark - self._turn) * len(marks)
            if needed > tokens:
                self._turn += tokens / len(marks)
                return
            tokens -= needed
            self._turn = mark
            if payer.mark > mark:
                heapreplace(marks, (payer.mark, number, payer))
            else:
                heappop(marks)
                payer.is_marked = False


class Payer(TokenBucket):
    """Pays for the messages of one connection, from its own bucket and its address's."""

    __slots__ = ("_address", "has_left", "is_marked", "mark")

    def __init__(self, rate: float, burst: int, address: Address) -> None:
        """Start with a full bucket of its own."""
        super().__init__(rate, burst)
        self._address = address
        #: Set by the address.
        self.mark = 0.0
        self.is_marked = False
        #: Whether its connection has ended: then only the buckets pay.
        self.has_left = False

    def spend(self, tokens: float, now: float) -> float:
        """Take tokens from both. Return until when to wait; at most `now` if there is no need."""
        full_at = self.full_at
        if full_at < now:
            full_at = now
        self.full_at = full_at = full_at + tokens * self._cost
        address = self._address
        if address.spend(tokens, now) > now or (address.marks and address.is_shared(now)):
            address.mark(self, tokens, now)
            return max(full_at - self._patience, address.waits_until(self, now))
        return full_at - self._patience

    def leave(self) -> None:
        """End its connection; what that has caused may still be charged."""
        self._address.drop(self)

    def waits_until(self, now: float) -> float:
        """Until when to wait before calling this again; at most `now` if there is no need."""
        if self._address.is_shared(now):
            return max(self.overdrawn_until, self._address.waits_until(self, now))
        return self.overdrawn_until


class Pacing:
    """The buckets of all addresses."""

    def __init__(self, settings: Settings) -> None:
        """Start without addresses."""
        self._rate, self._burst = settings.messages_per_second, settings.message_burst
        self._address_rate = settings.messages_of_address_per_second
        self._address_burst = settings.message_burst_of_address
        #: Addresses with connections, and those whose buckets are not full yet.
        self._addresses: dict[str, Address] = {}
        #: Addresses without connections, in the order in which the last one ended.
        self._left: dict[str, None] = {}

    def __len__(self) -> int:
        """The number of addresses that are remembered."""
        return len(self._addresses)

    def enter(self, network: str, now: float) -> Payer:
        """Add a connection of an address."""
        self._forget(now)
        address = self._addresses.get(network)
        if address is None:
            headstart = self._burst * _HEADSTART
            address = Address(self._address_rate, self._address_burst, headstart)
            self._addresses[network] = address
        address.connections += 1
        self._left.pop(network, None)
        return Payer(self._rate, self._burst, address)

    def leave(self, network: str) -> None:
        """Remove a connection."""
        address = self._addresses[network]
        address.connections -= 1
        if not address.connections:
            self._left[network] = None

    def _forget(self, now: float) -> None:
        while self._left:
            oldest = next(iter(self._left))
            if self._addresses[oldest].full_at > now and len(self._left) < MAX_ADDRESSES:
                return
            del self._left[oldest], self._addresses[oldest]
