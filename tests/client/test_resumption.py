"""What a client needs to go on by another connection, without a network."""

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


#: What we said, what was confirmed before, what the server says that it got: what it lacks.
LACKING = [
    ((), 0, 0, []),
    (("a", "b"), 0, 0, ["a", "b"]),
    (("a", "b"), 0, 1, ["b"]),
    (("a", "b"), 0, 2, []),
    (("a", "b", "c"), 1, 1, ["b", "c"]),
    (("a", "b", "c"), 1, 3, []),
    (("a", "b"), 1, 0, ["b"]),  # less than it said before is not believed,
    (("a", "b"), 0, 3, ["a", "b"]),  # nor more than there was
    (("a", "b"), 0, -1, ["a", "b"]),
]


@pytest.mark.parametrize(("said", "confirmed", "received", "lacking"), LACKING)
def test_what_the_server_lacks(
    said: tuple[str, ...], confirmed: int, received: int, lacking: list[str]
) -> None:
    resumption = kept(*said, confirmed=confirmed)
    assert resumption.lacking(received) == lacking
    assert resumption.lacking(received) == lacking  # lost again, while it was said again


def test_what_is_confirmed_is_forgotten_whatever_came_between() -> None:
    resumption = kept("a", "b", "c", confirmed=2)
    resumption.keep("d")
    resumption.confirm(1)  # a pong that was late
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
def test_no_more_is_kept_than_there_is_room_for(texts: list[str], overflowed: bool) -> None:
    resumption = kept(*texts)
    assert resumption.overflowed is overflowed
    resumption.confirm(len(texts))
    assert resumption.lacking(len(texts)) == []
    assert resumption.overflowed is overflowed


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize(
    ("times", "size"), [(ASK_AFTER_MESSAGES, 1), (ASK_AFTER_MESSAGES // 4, ASK_AFTER_BYTES // 16)]
)
def test_it_is_asked_long_before_too_much_is_kept(ours: bool, times: int, size: int) -> None:
    resumption = Resumption("s")
    for number in range(times):
        assert not resumption.is_due
        if ours:
            resumption.keep("x" * size)
        else:
            resumption.came(size)
            assert resumption.received == number + 1
        if number == times - 2:
            break
    resumption.came(ASK_AFTER_BYTES)
    assert resumption.is_due
    assert resumption.ask() == resumption.received
    assert not resumption.is_due
