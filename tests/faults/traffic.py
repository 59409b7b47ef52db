"""Signals between guests that stay, on all replicas, and what became of each.

A signal is delivered once, in its order, or its sender is told once that its target was not
found. `error` names the target and no signal, so what is told is counted for each pair.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import trio

from tests.clients import Message
from tests.replicas.guests import Guest

#: Seconds between two signals of one guest.
RHYTHM = 0.05


class Pair(NamedTuple):
    """The connections between which a signal goes."""

    sender: Guest
    target: Guest


class Ledger:
    """All that was sent, and what was heard of it."""

    def __init__(self, choice: random.Random) -> None:
        self._choice = choice
        self._guests: dict[str, Guest] = {}
        self._sent: Counter[Pair] = Counter()
        self._told: Counter[Pair] = Counter()
        #: The numbers that came, in the order in which they came.
        self._came: defaultdict[Pair, list[int]] = defaultdict(list)
        self._resting = False
        #: How many signals were sent so far, and how many of them were reported as not delivered.
        self.sent = self.told = 0

    def add(self, guest: Guest) -> None:
        """Count what this guest hears from now on."""
        self._guests[guest.peer_id] = guest
        guest.on_signal = lambda message: self._hear(guest, message)

    def forget(self, guest: Guest) -> None:
        """It is about to lose its connection: what is on its way to it is nobody's fault."""
        self._guests.pop(guest.peer_id, None)
        for table in (self._sent, self._told, self._came):
            for pair in [pair for pair in table if guest in pair]:
                del table[pair]

    def _hear(self, guest: Guest, message: Message) -> None:
        if self._guests.get(guest.peer_id) is not guest:
            return  # its replica says goodbye, and passes on what it has
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
        """Send to the others, one after the other, while the guest is here."""
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
                        raise  # else its replica was ended while it sent
            await trio.sleep(RHYTHM)

    async def settle(self, within: float) -> list[str]:
        """Send nothing for a while, and wait until all has come; what then is wrong."""
        self._resting = True
        with trio.move_on_after(within):
            while any(self._find_missing()):  # noqa: ASYNC110
                await trio.sleep(0.02)
        # Something that comes twice may come a little later.
        await trio.sleep(0.2)
        wrong = [*self._find_missing(), *self._find_doubled()]
        self.sent += self._sent.total()
        self.told += self._told.total()
        # What is wrong once is said once.
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
