"""Redis's clock, as estimated from its answers."""

import pytest

from trio_signal.bus.redis.lease import RedisClock

#: How far Redis's clock is ahead in these tests.
AHEAD = 1e9


def test_the_time_is_unknown_before_the_first_answer() -> None:
    assert RedisClock().span(5.0) == (0.0, 0.0)


def test_the_true_time_lies_within_the_estimate_even_with_slow_answers() -> None:
    """The first answer took two seconds and has the time of its start, the second of its end."""
    clock = RedisClock()
    clock.note(10.0, 12.0, AHEAD + 10.0)
    least, most = clock.span(20.0)
    assert least <= AHEAD + 20.0 <= most
    assert most - least > 1.9
    clock.note(21.0, 22.0, AHEAD + 22.0)
    least, most = clock.span(30.0)
    assert least <= AHEAD + 30.0 <= most
    assert most - least < 0.1


def test_a_quick_answer_counts_for_more_than_a_later_slow_one() -> None:
    clock = RedisClock()
    clock.note(10.0, 10.002, AHEAD + 10.001)
    clock.note(20.0, 25.0, AHEAD + 20.0)
    least, most = clock.span(30.0)
    assert (least, most) == pytest.approx((AHEAD + 30, AHEAD + 30), abs=0.05)


@pytest.mark.parametrize("step", [-3600.0, 3600.0])
def test_a_clock_that_was_set_is_followed(step: float) -> None:
    clock = RedisClock()
    assert clock.note(10.0, 10.002, AHEAD + 10.001) == 0
    forward = clock.note(20.0, 20.002, AHEAD + 20.001 + step)
    assert forward == pytest.approx(max(step, 0.0), abs=0.02)
    assert clock.note(21.0, 21.002, AHEAD + 21.001 + step) == 0
    assert clock.span(20.0) == pytest.approx((AHEAD + step + 20,) * 2, abs=0.01)
