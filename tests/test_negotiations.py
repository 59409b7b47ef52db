"""Signals held back from a client, for how long, and when an offer is requested again."""

from msgspec import Raw

from tests.members import AT, member
from trio_signal.messages.events import Signalled
from trio_signal.messages.identity import Member, SignalKind
from trio_signal.negotiations import (
    ANSWER_WAIT,
    ASK_AFTER,
    IGNORED_WAIT,
    MAX_HELD,
    MAX_HELD_BYTES,
    NEVER,
    SETTLE,
    Negotiations,
    Unanswered,
)

HOST = member("host", dialect="stream", live="video")
EVE = member("eve", dialect="stream")
BOB = member("bob", dialect="stream")


def signal(
    kind: SignalKind, sender: Member, target: Member, payload: bytes = b"1", room: str = "r"
) -> Signalled:
    return Signalled(room, kind, Raw(payload), sender, target, "", AT)


def offer(target: Member = EVE) -> Signalled:
    return signal("offer", HOST, target)


def answer(sender: Member = EVE) -> Signalled:
    return signal("answer", sender, HOST)


# A viewer


def test_candidates_for_a_viewer_wait_for_its_answer() -> None:
    eve, first, last = Negotiations(), *(signal("candidate", HOST, EVE, p) for p in (b"1", b"null"))
    assert eve.hear(offer(), 10) == [offer()]
    assert eve.hear(first, 10.1) == eve.hear(last, 10.2) == []
    assert eve.say(answer(), 10.3) == [first, last]
    assert eve.hear(first, 10.4) == [first]
    assert eve.take_due(20) == ([], [])
    assert eve.due == NEVER


def test_candidates_for_viewer_ignoring_offers_wait_or_are_dropped() -> None:
    """They would keep its old connection from failing, so it would never answer."""
    eve = Negotiations()
    first, second, third = (signal("candidate", HOST, EVE, p) for p in (b"1", b"2", b"3"))
    eve.hear(offer(), 10)
    assert eve.hear(first, 10.1) == []
    assert eve.take_due(13) == ([first], [])
    for now, candidate in ((13.1, second), (16.1, third)):
        assert eve.hear(offer(), now) == [offer()]
        assert eve.hear(candidate, now + 0.1) == []
        assert eve.take_due(now + 5) == ([], [])
    assert eve.say(answer(), 25) == [third]
    assert eve.hear(third, 26) == [third]


def test_candidates_for_viewer_that_answered_before_wait_or_are_dropped() -> None:
    """Also those of another broadcaster: a page that reloads is another one."""
    eve, other = Negotiations(), member("other", dialect="stream", live="video")
    eve.hear(offer(), 10)
    eve.say(answer(), 11)
    again, candidate = (signal(kind, other, EVE) for kind in ("offer", "candidate"))
    assert eve.hear(again, 30) == [again]
    assert eve.hear(candidate, 30.1) == []
    assert eve.take_due(30 + IGNORED_WAIT) == ([], [])
    assert eve.hear(again, 70) == [again]
    assert eve.hear(candidate, 70.1) == []
    assert eve.say(signal("answer", EVE, other), 71) == [candidate]
    eve.take_due(200)
    assert eve.due == NEVER


def test_candidates_wait_no_longer_than_three_seconds() -> None:
    eve, candidate = Negotiations(), signal("candidate", HOST, EVE)
    eve.hear(offer(), 10)
    assert eve.hear(candidate, 12.9) == []
    assert eve.due == 10 + ANSWER_WAIT
    assert eve.take_due(12.99) == ([], [])
    assert eve.take_due(13) == ([candidate], [])
    assert eve.hear(candidate, 13.1) == [candidate]


def test_candidates_wait_for_the_answer_to_the_latest_offer() -> None:
    eve, candidate = Negotiations(), signal("candidate", HOST, EVE)
    eve.hear(offer(), 10)
    assert eve.hear(candidate, 11) == []
    assert eve.hear(offer(), 12) == [offer()]
    assert eve.take_due(13.1) == ([], [])
    assert eve.take_due(15) == ([candidate], [])


def test_candidates_without_an_offer_do_not_wait() -> None:
    candidate = signal("candidate", HOST, EVE)
    assert Negotiations().hear(candidate, 10) == [candidate]


def test_too_many_candidates_are_released_in_order() -> None:
    for size, count in ((1, MAX_HELD), (9_000, MAX_HELD_BYTES // 9_200)):
        eve = Negotiations()
        eve.hear(offer(), 10)
        payload = b"9" * size
        candidates = [signal("candidate", HOST, EVE, payload) for _ in range(count + 1)]
        told = [eve.hear(candidate, 11) for candidate in candidates]
        assert told == [[]] * count + [candidates]
        assert eve.hear(candidates[0], 11) == [candidates[0]]


# The broadcaster


def test_candidates_for_the_broadcaster_follow_the_answer() -> None:
    host, early, late = Negotiations(), *(signal("candidate", EVE, HOST, p) for p in (b"1", b"2"))
    assert host.say(offer(), 10) == []
    assert host.hear(early, 11) == []
    assert host.hear(answer(), 12) == [answer()]
    assert host.hear(late, 12.05) == []
    assert host.take_due(12 + SETTLE / 2) == ([], [])
    assert host.due == 12 + SETTLE
    assert host.take_due(12 + SETTLE) == ([early, late], [])
    assert host.due == NEVER


def test_viewers_are_waited_for_separately() -> None:
    host, candidate = Negotiations(), signal("candidate", BOB, HOST)
    host.say(offer(EVE), 10)
    assert host.hear(candidate, 10.1) == [candidate]


def asked(host: Negotiations, until: float, *, offering: float = NEVER) -> list[float]:
    """When offers are requested until a time; the broadcaster answers `offering` seconds later."""
    times = []
    while (now := host.due) <= until:
        _, unanswered = host.take_due(now)
        for viewer in unanswered:
            assert viewer == Unanswered("r", "eve")
            times.append(now)
            if offering < NEVER:
                host.say(offer(), now + offering)
    return times


def test_unanswered_offer_is_requested_four_times() -> None:
    host = Negotiations()
    host.say(offer(), 0)
    assert asked(host, 1000) == [3, 6, 12, 24] == list(ASK_AFTER)
    assert host.due == NEVER
    host.say(offer(), 2000)
    assert asked(host, 3000) == [2003, 2006, 2012, 2024]


def test_repeated_offers_are_requested_in_two_rounds() -> None:
    """A viewer may need half a minute; one that never answers is given up after a minute."""
    host = Negotiations()
    host.say(offer(), 0)
    assert asked(host, 1000, offering=0) == [3, 6, 12, 24, 27, 30, 36, 48]


def test_no_offer_is_requested_after_an_answer() -> None:
    host = Negotiations()
    host.say(offer(), 0)
    assert asked(host, 4, offering=0.1) == [3]
    host.hear(answer(), 4)
    assert asked(host, 1000) == []


def test_no_offer_is_requested_for_a_departed_viewer() -> None:
    host = Negotiations()
    host.say(offer(), 0)
    host.hear(signal("candidate", EVE, HOST), 1)
    host.forget(Unanswered("r", "eve"))
    assert asked(host, 1000) == []


def test_new_unrequested_offer_starts_over() -> None:
    host = Negotiations()
    host.say(offer(), 0)
    host.say(offer(), 2)
    assert asked(host, 10) == [5, 8]
    host.say(offer(), 12)
    assert asked(host, 1000) == [15, 18, 24, 36]
