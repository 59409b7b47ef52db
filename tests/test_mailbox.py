"""The mailbox: waiting letters are bounded and in order, and a sender learns once of an expiry."""

import tracemalloc

import pytest
from msgspec import Raw

from tests.sessions import make_session
from trio_signal.bus.names import Holder, Letter
from trio_signal.dialects.peerjs import PeerJsDialect
from trio_signal.mailbox import KEEP, MOST_IN_ALL, MOST_LETTERS, MOST_NAMES, Mail, Mailbox
from trio_signal.messages.identity import NameSignalKind
from trio_signal.namespace import MAX_MET, _Holder


def put(
    box: Mailbox,
    target: str,
    *,
    sender: str = "ann",
    kind: NameSignalKind = "offer",
    size: int = 1,
    now: float = 0.0,
) -> Mail | None:
    payload = Raw(b"1" * size)
    return box.put(Letter("here", box.next_number(), sender, target, kind, payload), now)


def absent(box: Mailbox, target: str, **given: object) -> Mail:
    """Mail for a name that nobody has."""
    mail = put(box, target, **given)  # type: ignore[arg-type]
    assert mail is not None
    mail.absent_until = KEEP
    return mail


def test_expiry_is_reported_once_per_pair() -> None:
    box = Mailbox()
    absent(box, "bob", now=1.0)
    put(box, "bob", kind="candidate", now=3.0)
    put(box, "bob", sender="eve", now=3.0)
    put(box, "bob", kind="leave", now=3.0)
    assert box.expire(1.0 + KEEP - 0.1) == []
    assert box.expire(1.0 + KEEP) == [("ann", "bob")]
    # A late candidate belongs to the expired offer; a new offer starts afresh.
    put(box, "bob", kind="candidate", now=6.5)
    assert box.expire(3.0 + KEEP) == [("eve", "bob")]
    assert (len(box), box.size) == (0, 0)
    put(box, "bob", now=9.0)
    assert box.expire(9.0 + KEEP) == [("ann", "bob")]


def test_leave_does_not_wait_for_an_absent_name() -> None:
    box = Mailbox()
    mail = absent(box, "bob")
    assert put(box, "bob", kind="leave") is mail
    assert [kept.letter.kind for kept in mail.waiting.values()] == ["offer"]


def test_letters_per_name_are_limited() -> None:
    box = Mailbox()
    mail = absent(box, "bob")
    for _ in range(MOST_LETTERS + 10):
        assert put(box, "bob") is mail  # its sender learns of the expiry of the earlier ones
    assert len(box) == MOST_LETTERS
    assert put(box, "bob", sender="eve") is None
    big = absent(box, "cyd", size=200_000)
    put(box, "cyd", size=100_000)
    assert len(big.waiting) == 1


def test_excess_letters_are_dropped_after_the_lookup() -> None:
    box = Mailbox()
    mail = put(box, "bob", kind="leave")
    assert mail is not None
    mail.is_sought = True
    for number in range(MOST_LETTERS + 10):
        put(box, "bob", sender="ann" if number < MOST_LETTERS else "eve")
    assert len(mail.waiting) == MOST_LETTERS + 11
    mail.is_sought = False
    assert box.drop_unkept(mail) == ["eve"]
    assert [kept.letter.kind for kept in mail.waiting.values()] == ["offer"] * MOST_LETTERS


def test_total_size_of_letters_is_limited() -> None:
    box = Mailbox()
    refused = 0
    for number in range(200):
        refused += put(box, f"absent{number}", size=100_000) is None
    assert refused > 30
    assert box.size <= MOST_IN_ALL
    for number in range(3 * MOST_NAMES):
        put(box, f"small{number}", now=number / 1000)
        box.expire(number / 1000)
    assert box.size <= MOST_IN_ALL
    assert len(box._mail) <= MOST_NAMES + len(box)


@pytest.mark.parametrize("filler", ["", 250 * "\N{GRINNING FACE}"])
def test_waiting_letters_use_no_more_memory_than_counted(filler: str) -> None:
    tracemalloc.start()
    box = Mailbox()
    number = 0
    while put(box, f"{number}{filler}") is not None:
        number += 1
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert MOST_IN_ALL / 2 < taken < MOST_IN_ALL


async def test_list_of_met_names_is_small() -> None:
    session = make_session("p1", PeerJsDialect("peerjs", "ann", "t"))
    tracemalloc.start()
    holder = _Holder(session, "c1")
    for number in range(MAX_MET + 10):
        holder.meet(f"{number}{250 * 'x'}")
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < 150_000
    assert [holder.has_met(f"{n}{250 * 'x'}") for n in (9, 10)] == [False, True]


def test_unconfirmed_letters_are_requeued_in_order() -> None:
    box = Mailbox()
    mail = absent(box, "bob")
    mail.holder = Holder("there", "c1")
    put(box, "bob")
    first = mail.post_waiting(1.0)
    put(box, "bob", now=1.0)
    second = mail.post_waiting(2.0)
    numbers = [letter.number for letter in first + second]
    assert numbers == sorted(numbers)
    assert box.unconfirmed(1.5) == [(mail, "c1")]
    box.remove(numbers[1])
    mail.holder = None
    put(box, "bob", now=2.0)
    mail.call_back("c1")
    assert [*mail.waiting] == [numbers[0], numbers[2], numbers[2] + 1]
    assert [letter.number for letter in box.take_waiting(mail)] == [
        *sorted({*numbers} - {numbers[1]}),
        numbers[2] + 1,
    ]
    assert (len(box), box.size) == (0, 0)


def test_payload_does_not_keep_the_whole_message() -> None:
    whole = memoryview(b'{"payload":1,"filler":"' + b"x" * 100_000 + b'"}')
    box = Mailbox()
    mail = box.put(Letter("here", 1, "ann", "bob", "offer", Raw(whole[11:12])), 0.0)
    assert mail is not None
    payload = mail.waiting[1].letter.payload
    assert isinstance(payload, Raw)
    assert memoryview(payload).obj is not whole.obj
