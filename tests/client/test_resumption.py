"""The state that a client needs to resume on another connection, without a network."""

import pytest

from trio_signal.client.resumption import (
    ASK_AFTER_BYTES,
    ASK_AFTER_MESSAGES,
    MOST_BYTES,
    MOST_MESSAGES,
    Resumption,
)


def kept(*texts: str, confirmed: int = 0) -> Resumption:
    resumption = Resumption("s")
    for text in texts:
        resumption.keep(text)
    resumption.confirm(confirmed)
    return resumption


#: Sent messages, confirmed before, the server's count of received ones: those that it lacks.
LACKING = [
    ((), 0, 0, []),
    (("a", "b"), 0, 0, ["a", "b"]),
    (("a", "b"), 0, 1, ["b"]),
    (("a", "b"), 0, 2, []),
    (("a", "b", "c"), 1, 1, ["b", "c"]),
    (("a", "b", "c"), 1, 3, []),
    (("a", "b"), 1, 0, ["b"]),  # a count below an earlier one is ignored,
    (("a", "b"), 0, 3, ["a", "b"]),  # and so is one above what was sent
    (("a", "b"), 0, -1, ["a", "b"]),
]


@pytest.mark.parametrize(("said", "confirmed", "received", "lacking"), LACKING)
def test_messages_that_the_server_lacks(
    said: tuple[str, ...], confirmed: int, received: int, lacking: list[str]
) -> None:
    resumption = kept(*said, confirmed=confirmed)
    assert resumption.lacking(received) == lacking
    assert resumption.lacking(received) == lacking  # lost again while sending again


def test_confirmed_messages_are_dropped_despite_late_pongs() -> None:
    resumption = kept("a", "b", "c", confirmed=2)
    resumption.keep("d")
    resumption.confirm(1)  # a late pong
    assert resumption.lacking(3) == ["d"]
    resumption.keep("e")
    assert resumption.lacking(4) == ["e"]


@pytest.mark.parametrize(
    ("texts", "overflowed"),
    [
        (["x"] * MOST_MESSAGES, False),
        (["x"] * (MOST_MESSAGES + 1), True),
        (["x" * MOST_BYTES], False),
        (["x" * (MOST_BYTES // 2), "x" * (MOST_BYTES // 2 + 1)], True),
    ],
)
def test_kept_messages_are_bounded(texts: list[str], overflowed: bool) -> None:
    resumption = kept(*texts)
    assert resumption.overflowed is overflowed
    resumption.confirm(len(texts))
    assert resumption.lacking(len(texts)) == []
    assert resumption.overflowed is overflowed


def test_the_first_message_is_confirmed_at_once() -> None:
    resumption = Resumption("s")
    resumption.keep("x")
    due = [resumption.is_due]
    resumption.came(1)
    due.append(resumption.is_due)
    assert resumption.ask() == 1
    resumption.came(1)
    assert [*due, resumption.is_due] == [False, True, False]


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize(
    ("times", "size"), [(ASK_AFTER_MESSAGES, 1), (ASK_AFTER_MESSAGES // 4, ASK_AFTER_BYTES // 16)]
)
def test_confirmation_is_requested_long_before_the_bound(ours: bool, times: int, size: int) -> None:
    resumption = Resumption("s")
    resumption.came(size)
    resumption.ask()
    for number in range(times):
        assert not resumption.is_due
        if ours:
            resumption.keep("x" * size)
        else:
            resumption.came(size)
            assert resumption.received == number + 2
        if number == times - 2:
            break
    resumption.came(ASK_AFTER_BYTES)
    assert resumption.is_due
    assert resumption.ask() == resumption.received
    assert not resumption.is_due
