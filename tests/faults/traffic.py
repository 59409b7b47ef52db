"""Signals between guests that stay, on all replicas, and the outcome of each.

A signal is delivered once and in order, or its sender is told once that the target was not
found. `error` names the target but no signal, so reports are counted for each pair.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import trio

from tests.clients import Message
from tests.replicas.guests import Guest

#: Seconds between two signals of a guest.
RHYTHM = 0.05


class Pair(NamedTuple):
    """The sender's and the receiver's connection."""

    sender: Guest
    target: Guest


class Ledger:
    """All signals that were sent, and their outcomes."""

    def __init__(self, choice: random.Random) -> None:
        self._choice = choice
        self._guests: dict[str, Guest] = {}
        self._sent: Counter[Pair] = Counter()
        self._told: Counter[Pair] = Counter()
        #: The numbers that arrived, in order.
        self._came: defaultdict[Pair, list[int]] = defaultdict(list)
        self._resting = False
        #: How many signals were sent, and how many of them were reported as undelivered.
        self.sent = self.told = 0

    def add(self, guest: Guest) -> None:
        """Count what this guest receives from now on."""
        self._guests[guest.peer_id] = guest
        guest.on_signal = lambda message: self._hear(guest, message)

    def forget(self, guest: Guest) -> None:
        """Stop counting for a guest about to lose its connection; data on the way may be lost."""
        self._guests.pop(guest.peer_id, None)
        for table in (self._sent, self._told, self._came):
            for pair in [pair for pair in table if guest in pair]:
                del table[pair]

    def _hear(self, guest: Guest, message: Message) -> None:
        if self._guests.get(guest.peer_id) is not guest:
            return  # its replica stops, and sends what it has
        if message["type"] == "error":
            assert message["code"] == "target_not_found", message
            target = self._guests.get(message["to"])
            if target is not None:
                self._told[Pair(guest, target)] += 1
        elif message["type"] == "message":
            sender = self._guests.get(message["from"])
            if sender is not None and message["data"]["to"] == id(guest):
                self._came[Pair(sender, guest)].append(message["data"]["number"])
        else:
            guest.received.append(message)

    async def signal(self, guest: Guest) -> None:
        """Send to the others in turn, while the guest is here."""
        while self._guests.get(guest.peer_id) is guest:
            others = [other for other in self._guests.values() if other is not guest]
            if others and not self._resting:
                pair = Pair(guest, self._choice.choice(others))
                data = {"number": self._sent[pair], "to": id(pair.target)}
                self._sent[pair] += 1
                try:
                    await guest.say("message", to=pair.target.peer_id, data=data)
                except trio.BrokenResourceError:
                    if self._guests.get(guest.peer_id) is guest:
                        raise  # otherwise its replica ended while it sent
            await trio.sleep(RHYTHM)

    async def settle(self, within: float) -> list[str]:
        """Pause sending, and wait until everything has arrived; the violations."""
        self._resting = True
        with trio.move_on_after(within):
            while any(self._find_missing()):  # noqa: ASYNC110
                await trio.sleep(0.02)
        # A duplicate may arrive a little later.
        await trio.sleep(0.2)
        wrong = [*self._find_missing(), *self._find_doubled()]
        self.sent += self._sent.total()
        self.told += self._told.total()
        # Report each violation only once.
        for table in (self._sent, self._told, self._came):
            table.clear()
        self._resting = False
        return wrong

    def _find_missing(self) -> Iterator[str]:
        for pair, sent in self._sent.items():
            missing = sent - len(self._came[pair]) - self._told[pair]
            if missing > 0:
                yield f"{missing} of {sent} from {pair.sender} to {pair.target}: nobody was told"

    def _find_doubled(self) -> Iterator[str]:
        for pair, came in self._came.items():
            if came != sorted(set(came)):
                yield f"from {pair.sender} to {pair.target} out of order, or twice: {came[-20:]}"
            if len(came) + self._told[pair] > self._sent[pair]:
                yield f"from {pair.sender} to {pair.target}: told to be lost, and delivered"
