"""What messages cost, and who waits for whom; without sockets and clocks."""

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.conftest import settings
from trio_signal.pacing import MAX_ADDRESSES, Pacing, Payer, TokenBucket, cost_of_delivery

ANN, BOB = "192.0.2.1", "192.0.2.2"


def test_bucket_starts_full_and_refills() -> None:
    bucket = TokenBucket(rate=10, burst=20)
    assert bucket.spend(20, now=100) <= 100
    assert bucket.spend(1, now=100) == pytest.approx(100.1)
    assert bucket.spend(9, now=100) == pytest.approx(101)
    assert bucket.spend(10, now=102) <= 102 + 1e-9
    assert bucket.spend(1, now=102) == pytest.approx(102.1)
    assert bucket.spend(20, now=1000) <= 1000
    assert bucket.spend(1, now=1000) > 1000


@given(st.lists(st.tuples(st.integers(1, 50), st.floats(0, 3)), max_size=50))
def test_spending_never_exceeds_burst_and_rate(steps: list[tuple[int, float]]) -> None:
    bucket, now, spent = TokenBucket(rate=10, burst=20), 0.0, 0
    for tokens, pause in steps:
        now += pause
        now = max(now, bucket.spend(tokens, now))
        spent += tokens
        assert spent <= 20 + 10 * now + 1e-6


def pacing(*, rate: float = 10, burst: int = 20, **given: object) -> Pacing:
    return Pacing(settings(messages_per_second=rate, message_burst=burst, **given))


def wide(rate: float, burst: int) -> Pacing:
    """Connections without limits of their own, at addresses with limits."""
    return pacing(
        rate=1e6,
        burst=1,
        messages_per_ip_per_second=rate,
        message_burst_per_ip=burst,
    )


def test_address_limit_defaults_to_twenty_connections() -> None:
    given = settings(messages_per_second=7, message_burst=11)
    assert given.messages_of_address_per_second == 140
    assert given.message_burst_of_address == 220
    given = settings(messages_per_ip_per_second=3, message_burst_per_ip=2)
    assert given.messages_of_address_per_second == 3
    assert given.message_burst_of_address == 2


def test_delivery_cost_depends_on_peers_and_bytes() -> None:
    assert 50 * cost_of_delivery(0) == pytest.approx(1)
    assert cost_of_delivery(65536) == pytest.approx(1 + 1 / 50)


def test_single_connection_is_limited_by_its_own_bucket() -> None:
    payer = pacing().enter(ANN, 100)
    assert payer.spend(20, 100) <= 100
    assert payer.spend(5, 100) == pytest.approx(100.5)
    assert payer.waits_until(100) == pytest.approx(100.5)
    assert payer.waits_until(101) <= 101


def test_another_address_is_not_charged() -> None:
    book = wide(rate=10, burst=20)
    ann, bob = book.enter(ANN, 0), book.enter(BOB, 0)
    assert ann.spend(100, 0) > 0.1
    assert bob.spend(20, 0) <= 0.1


def test_reconnecting_client_keeps_its_bucket() -> None:
    book = wide(rate=10, burst=20)
    book.enter(ANN, 0).spend(40, 0)
    book.leave(ANN)
    again = book.enter(ANN, 1)
    assert again.spend(2, 1) > 1.1


@hypothesis_settings(max_examples=25)
@given(st.lists(st.floats(1, 20), min_size=2, max_size=8))
def test_busy_connections_get_equal_shares(appetites: list[float]) -> None:
    """However much each takes at once; together they get the address's limit."""
    rate, seconds = 100.0, 30.0
    book = wide(rate=rate, burst=1)
    payers = [book.enter(ANN, 0) for _ in appetites]
    given = serve(payers, dict(zip(payers, appetites, strict=True)), seconds)
    fair = rate * seconds / len(payers)
    for payer, appetite in zip(payers, appetites, strict=True):
        # They differ only by what they take at once, at the beginning and at the end.
        assert abs(given[payer] - fair) <= 2 * max(appetites) + fair * 0.02, appetite


def test_connection_below_its_share_does_not_wait() -> None:
    book = wide(rate=100, burst=1)
    flood = [book.enter(ANN, 0) for _ in range(20)]
    for payer in flood:
        payer.spend(1000, 0)
    honest = book.enter(ANN, 0)
    now = 0.0
    for _ in range(100):  # four a second; a share is nearly five
        now += 0.25
        assert honest.waits_until(now) <= now
        honest.spend(1, now)
        for payer in flood:
            if payer.waits_until(now) <= now:
                payer.spend(5, now)
    assert any(payer.waits_until(now) > now for payer in flood)


def test_connections_that_have_ended_have_no_share() -> None:
    """Else those who come, flood and go leave less and less to the others, for hours."""
    book = wide(rate=100, burst=1)
    for _ in range(1000):
        flood = book.enter(ANN, 0)
        flood.spend(1000, 0)
        flood.leave()
        book.leave(ANN)
        flood.spend(1, 0)  # as the end of a session does
    honest, now = book.enter(ANN, 0), 0.0
    for _ in range(100):
        now += 0.25
        assert honest.waits_until(now) <= now
        honest.spend(1, now)


def serve(payers: list[Payer], appetites: dict[Payer, float], seconds: float) -> dict[Payer, float]:
    """Let each take its amount whenever it need not wait; return what each got."""
    given = dict.fromkeys(payers, 0.0)
    now = 0.0
    while now < seconds:
        for payer in payers:
            while payer.waits_until(now) <= now:
                payer.spend(appetites[payer], now)
                given[payer] += appetites[payer]
        now = max(now + 1e-4, min(payer.waits_until(now) for payer in payers))
    return given


def test_debt_of_an_address_is_forgotten_after_a_while() -> None:
    book = wide(rate=10, burst=20)
    payer = book.enter(ANN, 0)
    for _ in range(100):
        payer.spend(1000, 0)
    book.leave(ANN)
    assert book.enter(ANN, 2).waits_until(2) <= 2
    book.leave(ANN)
    book.enter(BOB, 4.1)
    assert len(book) == 1


def test_addresses_with_full_buckets_are_forgotten() -> None:
    book = wide(rate=10, burst=20)
    for number in range(1000):
        book.enter(str(number), number).spend(10, number)
        book.leave(str(number))
    assert len(book) < 5


def test_number_of_stored_addresses_is_bounded() -> None:
    book = wide(rate=0.1, burst=20)
    for number in range(MAX_ADDRESSES + 1000):
        book.enter(str(number), 0).spend(30, 0)
        book.leave(str(number))
    assert len(book) <= MAX_ADDRESSES
    # The address that left first is forgotten first.
    assert book.enter("0", 0).waits_until(0) <= 0
    newest = book.enter(str(MAX_ADDRESSES + 999), 0)
    newest.spend(1, 0)
    assert newest.waits_until(0) > 0
