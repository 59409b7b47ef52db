"""Which responses are aborted when too much data waits to be sent."""

import pytest

from trio_signal.errors import Reason, RequestRefusedError
from trio_signal.web.unsent import Answer, Unsent


class Budget:
    """100 bytes for all and 60 for one address; records the aborted responses by name."""

    def __init__(self) -> None:
        self.cut: list[str] = []
        self.counted = 0
        self.unsent = Unsent(self.count, most=100, most_each=60)

    def count(self) -> None:
        self.counted += 1

    def hold(self, name: str, address: str, size: int, now: float = 0) -> Answer:
        return self.unsent.hold(address, size, now, lambda: self.cut.append(name))


def test_slowest_response_of_an_address_is_aborted() -> None:
    budget = Budget()
    slow, fast = budget.hold("slow", "a", 30), budget.hold("fast", "a", 30)
    budget.hold("elsewhere", "b", 30)
    slow.sent, fast.sent = 10, 20
    budget.hold("new", "a", 20, now=1)
    assert budget.cut == ["slow"]
    assert budget.counted == 1
    assert budget.unsent.size == 110  # until the aborted response is released
    budget.unsent.release(slow)
    assert budget.unsent.size == 80


def test_slowest_response_is_aborted_for_another_address() -> None:
    budget = Budget()
    for address in "ab":
        budget.hold(address, address, 45).sent = ord(address)
    budget.hold("new", "c", 20)
    assert budget.cut == ["a"]


def test_largest_unread_response_is_aborted() -> None:
    budget = Budget()
    for size in (10, 30, 20):
        budget.hold(f"{size}", "a", size)
    budget.hold("new", "a", 20)
    assert budget.cut == ["30"]


@pytest.mark.parametrize("sizes", [[61], [60, 60, 1]])
def test_response_that_cannot_fit_is_refused(sizes: list[int]) -> None:
    budget = Budget()
    *before, last = sizes
    for size in before:
        budget.hold("before", "a", size)
    with pytest.raises(RequestRefusedError) as refused:
        budget.hold("new", "a", last)
    assert refused.value.reason is Reason.HTTP_BYTES
    assert budget.unsent.size == sum(before)


def test_released_response_leaves_nothing_behind() -> None:
    budget = Budget()
    answers = [budget.hold("some", address, 40) for address in "abcde"]
    for answer in answers:
        budget.unsent.release(answer)
    assert budget.unsent.size == 0
    assert budget.unsent._at == {}
    budget.hold("new", "a", 60)
    assert budget.cut == ["some"] * 3
