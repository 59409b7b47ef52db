"""Which answers are given up when too much waits to be sent."""

import pytest

from trio_signal.errors import Reason, RequestRefusedError
from trio_signal.web.unsent import Answer, Unsent


class Budget:
    """100 bytes for all and 60 for one address; who was cut off, by name."""

    def __init__(self) -> None:
        self.cut: list[str] = []
        self.counted = 0
        self.unsent = Unsent(self.count, most=100, most_each=60)

    def count(self) -> None:
        self.counted += 1

    def hold(self, name: str, address: str, size: int, now: float = 0) -> Answer:
        return self.unsent.hold(address, size, now, lambda: self.cut.append(name))


def test_the_slowest_of_an_address_makes_room() -> None:
    budget = Budget()
    slow, fast = budget.hold("slow", "a", 30), budget.hold("fast", "a", 30)
    budget.hold("elsewhere", "b", 30)
    slow.sent, fast.sent = 10, 20
    budget.hold("new", "a", 20, now=1)
    assert budget.cut == ["slow"]
    assert budget.counted == 1
    assert budget.unsent.size == 110  # until what is given up is gone
    budget.unsent.release(slow)
    assert budget.unsent.size == 80


def test_the_slowest_of_all_makes_room_for_another_address() -> None:
    budget = Budget()
    for address in "ab":
        budget.hold(address, address, 45).sent = ord(address)
    budget.hold("new", "c", 20)
    assert budget.cut == ["a"]


def test_of_those_that_are_not_taken_at_all_the_greatest_makes_room() -> None:
    budget = Budget()
    for size in (10, 30, 20):
        budget.hold(f"{size}", "a", size)
    budget.hold("new", "a", 20)
    assert budget.cut == ["30"]


@pytest.mark.parametrize("sizes", [[61], [60, 60, 1]])
def test_what_cannot_have_room_is_refused(sizes: list[int]) -> None:
    budget = Budget()
    *before, last = sizes
    for size in before:
        budget.hold("before", "a", size)
    with pytest.raises(RequestRefusedError) as refused:
        budget.hold("new", "a", last)
    assert refused.value.reason is Reason.HTTP_BYTES
    assert budget.unsent.size == sum(before)


def test_what_is_released_leaves_nothing_behind() -> None:
    budget = Budget()
    answers = [budget.hold("some", address, 40) for address in "abcde"]
    for answer in answers:
        budget.unsent.release(answer)
    assert budget.unsent.size == 0
    assert budget.unsent._at == {}
    budget.hold("new", "a", 60)
    assert budget.cut == ["some"] * 3
