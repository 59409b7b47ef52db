"""The outcomes of signals between two replicas: the pure part, in which time is an argument."""

from uuid import UUID

import pytest
from msgspec import Raw

from tests.members import AT, member
from trio_signal.bus.redis.receipts import GIVE_UP, MAX_AGE, MAX_WAIT, Incoming, Outgoing
from trio_signal.bus.redis.wire import MOST_UNCONFIRMED, Numbered, encode
from trio_signal.messages.events import Signalled
from trio_signal.presence import Snapshot
from trio_signal.room import Room

ANN, BOB = member("ann", replica="there"), member("bob", replica="here")


def signal(text: str = "0") -> Signalled:
    return Signalled("r", "offer", Raw(text.encode()), ANN, BOB, "offer", AT)


def room(*, in_step: bool = True) -> Room:
    """A room with both members; bob is on this replica."""
    made = Room("r", "here")
    made.restore([ANN, BOB])
    if in_step:
        made.catch_up(Snapshot(1, (ANN, BOB)), 0, AT)
    return made


def came(number: int, base: int = 1, target: str = "bob", sender: str = "ann") -> Numbered:
    return Numbered("there", number, base, 0.0, "r", "offer", Raw(b"0"), sender, target)


def test_confirmed_signals_are_done_and_refused_ones_are_returned() -> None:
    outgoing = Outgoing()
    numbers = [outgoing.add(signal(str(n)), 0.0) for n in range(5)]
    assert numbers == [1, 2, 3, 4, 5]
    assert outgoing.confirm(3, {2}) == [signal("1")]
    assert (len(outgoing), outgoing.base) == (2, 4)
    assert outgoing.confirm(3, {2}) == []


def test_unconfirmed_signals_are_given_up_once() -> None:
    outgoing = Outgoing()
    outgoing.add(signal("old"), 0.0)
    outgoing.add(signal("new"), 1.0)
    assert outgoing.give_up(GIVE_UP - 0.01) == []
    assert outgoing.give_up(GIVE_UP) == [signal("old")]
    assert outgoing.give_up(GIVE_UP) == []
    assert outgoing.confirm(2, set()) == []
    assert (len(outgoing), outgoing.base) == (0, 3)


def test_unconfirmed_signals_are_bounded() -> None:
    outgoing = Outgoing()
    for _ in range(MOST_UNCONFIRMED):
        assert outgoing.add(signal(), 0.0)
    assert not outgoing.add(signal(), 0.0)
    assert not Outgoing().add(signal("1" * (33 << 20)), 0.0)


def test_numbers_continue_after_a_replica_was_forgotten() -> None:
    incoming, outgoing = Incoming(1), Outgoing(0)
    outgoing.add(signal(), 0.0)
    assert incoming.take(came(1), room(), age=0, now=0)
    again = Outgoing(outgoing.number)
    number = again.add(signal(), 0.0)
    assert incoming.take(came(number, base=again.base), room(), age=0, now=0)
    assert incoming.confirm() == (2, ())


def test_the_receiver_is_asked_at_intervals() -> None:
    outgoing = Outgoing()
    assert not outgoing.should_ask(10.0)
    outgoing.add(signal(), 10.0)
    asked = [time / 10 for time in range(100, 125) if outgoing.should_ask(time / 10)]
    assert asked == [10.7, 11.4, 12.1]
    outgoing.must_ask = True
    assert [outgoing.should_ask(12.5) for _ in range(2)] == [True, False]


def test_skipped_numbers_are_refused_until_the_sender_has_moved_on() -> None:
    incoming = Incoming(1)
    assert incoming.take(came(1), room(), age=0, now=0)
    assert incoming.take(came(4), room(), age=0, now=0)
    assert incoming.confirm() == (4, (2, 3))
    assert not incoming.take(came(3), room(), age=0, now=0)  # too late
    assert incoming.take(came(5, base=3), room(), age=0, now=0)
    assert incoming.confirm() == (5, (3,))


@pytest.mark.parametrize(
    ("number", "age", "target", "where"),
    [(1, MAX_AGE + 0.1, "bob", room()), (1, 0, "eve", room()), (1, 0, "bob", None)],
    ids=["too old", "nobody", "no such room"],
)
def test_undeliverable_signals_are_refused(
    number: int, age: float, target: str, where: Room | None
) -> None:
    incoming = Incoming(1)
    assert not incoming.take(came(number, target=target), where, age=age, now=0)
    assert incoming.confirm() == (1, (1,))


def test_signals_wait_in_order_until_their_room_is_in_step() -> None:
    incoming, here = Incoming(1), room(in_step=False)
    assert not incoming.take(came(1), here, age=0, now=0)
    here.catch_up(Snapshot(1, (ANN, BOB)), 0, AT)
    assert not incoming.take(came(2), here, age=0, now=0)
    assert incoming.confirm() == (0, ())
    assert [each.number for each in incoming.take_waiting(lambda _: here, 0.1)] == [1, 2]
    assert incoming.confirm() == (2, ())


def test_a_signal_of_an_unknown_sender_is_refused_after_a_while() -> None:
    incoming, here = Incoming(1), room()
    assert not incoming.take(came(1, sender="eve"), here, age=0, now=0)
    assert list(incoming.take_waiting(lambda _: here, MAX_WAIT - 0.1)) == []
    assert list(incoming.take_waiting(lambda _: here, MAX_WAIT)) == []
    assert incoming.confirm() == (1, (1,))


def test_a_signal_that_waited_behind_a_refused_one_is_delivered() -> None:
    """It came a moment later, so the time to wait for a sender is over for both."""
    here, incoming = room(), Incoming(1)
    assert not incoming.take(came(1, sender="nobody"), here, age=0.0, now=0.0)
    assert not incoming.take(came(2), here, age=0.0, now=0.01)
    assert not incoming.take(came(3), here, age=MAX_AGE - 0.5, now=0.02)
    late = MAX_WAIT + 0.02
    assert [each.number for each in incoming.take_waiting(lambda _: here, late)] == [2]
    assert incoming.confirm() == (3, (1, 3))  # the third is too old


def test_a_waiting_signal_is_refused_when_it_is_too_old() -> None:
    incoming, here = Incoming(1), room(in_step=False)
    assert not incoming.take(came(1), here, age=MAX_AGE - 0.3, now=0)
    here.catch_up(Snapshot(1, (ANN, BOB)), 0, AT)
    assert list(incoming.take_waiting(lambda _: here, 0.4)) == []
    assert incoming.confirm() == (1, (1,))


def test_an_offer_has_little_overhead_on_the_bus() -> None:
    payload = Raw(b'"' + b"s" * 1998 + b'"')
    replica, ann, bob = "0" * 32, str(UUID(int=1)), str(UUID(int=2))
    sent = Numbered(replica, 10**6, 10**6, 1.8e9 + 0.1234567, "r", "offer", payload, ann, bob)
    channel = f"trio_signal:replica:{replica}"
    assert len(encode(sent)) + len(channel) < 1.2 * len(payload)
