"""What became of signals between two replicas: the pure part, with the time given."""

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
    """Both are in it; bob is ours."""
    made = Room("r", "here")
    made.restore([ANN, BOB])
    if in_step:
        made.catch_up(Snapshot(1, (ANN, BOB)), 0, AT)
    return made


def came(number: int, base: int = 1, target: str = "bob", sender: str = "ann") -> Numbered:
    return Numbered("there", number, base, 0.0, "r", "offer", Raw(b"0"), sender, target)


def test_what_is_confirmed_is_over_and_what_is_refused_comes_back() -> None:
    outgoing = Outgoing()
    numbers = [outgoing.add(signal(str(n)), 0.0) for n in range(5)]
    assert numbers == [1, 2, 3, 4, 5]
    assert outgoing.confirm(3, {2}) == [signal("1")]
    assert (len(outgoing), outgoing.base) == (2, 4)
    assert outgoing.confirm(3, {2}) == []


def test_what_is_not_confirmed_is_given_up_once() -> None:
    outgoing = Outgoing()
    outgoing.add(signal("old"), 0.0)
    outgoing.add(signal("new"), 1.0)
    assert outgoing.give_up(GIVE_UP - 0.01) == []
    assert outgoing.give_up(GIVE_UP) == [signal("old")]
    assert outgoing.give_up(GIVE_UP) == []
    assert outgoing.confirm(2, set()) == []
    assert (len(outgoing), outgoing.base) == (0, 3)


def test_no_more_is_under_way_than_may_be() -> None:
    outgoing = Outgoing()
    for _ in range(MOST_UNCONFIRMED):
        assert outgoing.add(signal(), 0.0)
    assert not outgoing.add(signal(), 0.0)
    assert not Outgoing().add(signal("1" * (33 << 20)), 0.0)


def test_numbers_go_on_though_a_replica_was_forgotten_meanwhile() -> None:
    incoming, outgoing = Incoming(1), Outgoing(0)
    outgoing.add(signal(), 0.0)
    assert incoming.take(came(1), room(), age=0, now=0)
    again = Outgoing(outgoing.number)
    number = again.add(signal(), 0.0)
    assert incoming.take(came(number, base=again.base), room(), age=0, now=0)
    assert incoming.confirm() == (2, ())


def test_the_receiver_is_asked_now_and_then() -> None:
    outgoing = Outgoing()
    assert not outgoing.should_ask(10.0)
    outgoing.add(signal(), 10.0)
    asked = [time / 10 for time in range(100, 125) if outgoing.should_ask(time / 10)]
    assert asked == [10.7, 11.4, 12.1]
    outgoing.must_ask = True
    assert [outgoing.should_ask(12.5) for _ in range(2)] == [True, False]


def test_what_was_skipped_is_refused_as_long_as_its_sender_wants_to_know() -> None:
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
def test_what_cannot_be_delivered_is_refused(
    number: int, age: float, target: str, where: Room | None
) -> None:
    incoming = Incoming(1)
    assert not incoming.take(came(number, target=target), where, age=age, now=0)
    assert incoming.confirm() == (1, (1,))


def test_a_signal_waits_for_its_room_and_nothing_overtakes_it_there() -> None:
    incoming, here = Incoming(1), room(in_step=False)
    assert not incoming.take(came(1), here, age=0, now=0)
    here.catch_up(Snapshot(1, (ANN, BOB)), 0, AT)
    assert not incoming.take(came(2), here, age=0, now=0)
    assert incoming.confirm() == (0, ())
    assert [each.number for each in incoming.take_waiting(lambda _: here, 0.1)] == [1, 2]
    assert incoming.confirm() == (2, ())


def test_a_signal_whose_sender_does_not_come_is_refused_in_the_end() -> None:
    incoming, here = Incoming(1), room()
    assert not incoming.take(came(1, sender="eve"), here, age=0, now=0)
    assert list(incoming.take_waiting(lambda _: here, MAX_WAIT - 0.1)) == []
    assert list(incoming.take_waiting(lambda _: here, MAX_WAIT)) == []
    assert incoming.confirm() == (1, (1,))


def test_one_that_waits_is_not_delivered_when_it_has_become_too_old() -> None:
    incoming, here = Incoming(1), room(in_step=False)
    assert not incoming.take(came(1), here, age=MAX_AGE - 0.3, now=0)
    here.catch_up(Snapshot(1, (ANN, BOB)), 0, AT)
    assert list(incoming.take_waiting(lambda _: here, 0.4)) == []
    assert incoming.confirm() == (1, (1,))


def test_an_offer_costs_little_more_on_its_way_than_it_is_long() -> None:
    payload = Raw(b'"' + b"s" * 1998 + b'"')
    replica, ann, bob = "0" * 32, str(UUID(int=1)), str(UUID(int=2))
    sent = Numbered(replica, 10**6, 10**6, 1.8e9 + 0.1234567, "r", "offer", payload, ann, bob)
    channel = f"trio_signal:replica:{replica}"
    assert len(encode(sent)) + len(channel) < 1.2 * len(payload)
