"""Limits: the number of connections, in total and for each address, and how often they come.

No I/O: the time is an argument, in seconds of a clock that only goes forward. Each call costs the
same for any number of addresses, and memory is bounded. Each replica counts for itself.
"""

from collections.abc import Iterable
from http import HTTPStatus
from ipaddress import IPv4Address, IPv6Address, ip_address
from types import TracebackType
from typing import Self

from trio_signal.config import Settings
from trio_signal.errors import Reason, RequestRefusedError
from trio_signal.pacing import Address, Pacing, Payer

#: Addresses that a counter remembers. It forgets the one whose period ends first.
MAX_ADDRESSES = 65_536
#: The periods, in seconds, of the counters of connects and of failed authentications.
MINUTE = 60.0
PENALTY = 300.0
#: Failed resumes of an address in a minute; then it may not resume for a minute.
RESUMES = 10
#: Value of `Retry-After` where it is unknown when there will be room.
_SOME_SECONDS = 5.0


# Addresses


def client_address(peer: str, forwarded: Iterable[str], trusted_proxies: int) -> str:
    """The address of a client whose connection comes from `peer`.

    `forwarded` are the values of `X-Forwarded-For`, in the order of the request. Each trusted proxy
    has appended the address that it saw. So the client's address is the entry as far from the end
    as there are proxies; anybody may have written the entries before it. If there are fewer entries
    than proxies, the first one counts. If an entry is no address, the next one towards us counts.
    """
    if not trusted_proxies and ":" not in peer:
        return peer
    entries = [entry for value in forwarded for entry in value.split(",") if entry.strip()]
    trusted = entries[-trusted_proxies:] if trusted_proxies else []
    for entry in (*trusted, peer):
        address = _parse(entry)
        if address is not None:
            return str(address)
    return peer


def _parse(entry: str) -> IPv4Address | IPv6Address | None:
    """An address, also with brackets, a port or a zone; None for anything else."""
    text = entry.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def network_of(address: str) -> str:
    """The network that counts as one address: for IPv6 the /64, which is one household."""
    if ":" not in address:
        return address
    parsed = _parse(address)
    if not isinstance(parsed, IPv6Address):
        return str(parsed or address)
    return f"{IPv6Address(int(parsed) >> 64 << 64)}/64"


# Counting


class RateCounter:
    """How often each address did something, in a period that begins with the first time.

    An address that has reached the limit is refused until its period is over. With `penalty`, the
    period starts again when the limit is reached.
    """

    def __init__(self, limit: int, period: float, *, penalty: bool = False) -> None:
        """Start with all counts at 0; `period` is in seconds."""
        self._limit = limit
        self._period = period
        self._penalty = penalty
        #: By address: when its period ends, and the count so far. They are in the order in which
        #: they end, since all periods have the same length.
        self._counts: dict[str, tuple[float, int]] = {}

    def __len__(self) -> int:
        """The number of addresses that are remembered."""
        return len(self._counts)

    def count(self, address: str, now: float) -> None:
        """Count one more for this address."""
        self._forget(now)
        end, number = self._counts.get(address, (now + self._period, 0))
        number += 1
        if number == self._limit and self._penalty:
            self._counts.pop(address, None)
            end = now + self._period
        self._counts[address] = (end, number)

    def wait(self, address: str, now: float) -> float:
        """Seconds until this address is allowed again; 0 if it is now."""
        end, number = self._counts.get(address, (now, 0))
        return max(0.0, end - now) if number >= self._limit else 0.0

    def _forget(self, now: float) -> None:
        counts = self._counts
        while counts:
            oldest = next(iter(counts))
            if counts[oldest][0] > now and len(counts) < MAX_ADDRESSES:
                return
            del counts[oldest]


class ConnectionCounter:
    """The current number of connections, in total and from each address."""

    def __init__(self, most: int, most_each: int | None) -> None:
        """Start at 0. None means no limit for each address."""
        self._most = most
        self._most_each = most_each
        self._at: dict[str, int] = {}
        self.size = 0

    def check(self, address: str) -> None:
        """Raise RequestRefusedError if there is no room for one more."""
        if self._most_each is not None and self._at.get(address, 0) >= self._most_each:
            raise _too_many(Reason.CONNECTIONS_PER_IP, "Too many connections from your address.")
        if self.size >= self._most:
            raise _overload(Reason.CONNECTIONS, "Too many connections.")

    def enter(self, address: str) -> None:
        """Count one more."""
        self.size += 1
        self._at[address] = self._at.get(address, 0) + 1

    def leave(self, address: str) -> None:
        """Count one less."""
        self.size -= 1
        self._at[address] -= 1
        if not self._at[address]:
            del self._at[address]


class Buckets:
    """A bucket of tokens for each address, refilled at a steady rate, up to a burst."""

    def __init__(self, rate: float, burst: int) -> None:
        """Start with full buckets; `rate` is in tokens a second."""
        self._cost = 1 / rate
        self._patience = burst / rate
        #: By address, when its bucket is full again. The most recently used comes last.
        self._full_at: dict[str, float] = {}

    def __len__(self) -> int:
        """The number of remembered addresses: those whose buckets are not full, and a few."""
        return len(self._full_at)

    def spend(self, address: str, now: float) -> float:
        """Take a token, and return 0. If there is none, return the seconds until there is one."""
        full_at = max(self._full_at.pop(address, now), now)
        wait = full_at + self._cost - self._patience - now
        self._full_at[address] = full_at if wait > 0 else full_at + self._cost
        self._forget(now)
        return max(0.0, wait)

    def charge(self, address: str, tokens: float, now: float) -> None:
        """Take tokens for work already done. The debt is at most another burst."""
        full_at = max(self._full_at.pop(address, now), now) + tokens * self._cost
        self._full_at[address] = min(full_at, now + 2 * self._patience)
        self._forget(now)

    def _forget(self, now: float) -> None:
        full_at = self._full_at
        while full_at:
            oldest = next(iter(full_at))
            if full_at[oldest] > now and len(full_at) <= MAX_ADDRESSES:
                return
            del full_at[oldest]


def _too_many(reason: Reason, text: str, wait: float = _SOME_SECONDS) -> RequestRefusedError:
    return RequestRefusedError(HTTPStatus.TOO_MANY_REQUESTS, reason, text, wait)


def _overload(reason: Reason, text: str) -> RequestRefusedError:
    return RequestRefusedError(HTTPStatus.SERVICE_UNAVAILABLE, reason, text, _SOME_SECONDS)


class ConnectionLease:
    """One WebSocket's place among the allowed ones; leaving the `with` gives it back.

    It counts as unauthenticated until the client has authenticated.
    """

    __slots__ = ("_known", "_left", "_limits", "address", "payer")

    def __init__(self, limits: "Limits", address: str, now: float) -> None:
        """Take the place."""
        self._limits = limits
        #: The client's address.
        self.address = address
        #: Who pays for its messages.
        self.payer = limits.pacing.enter(address, now)
        self._known = self._left = False
        limits.websockets.enter(address)
        limits.unauthenticated += 1

    def __enter__(self) -> Self:
        """Return the lease; the place has already been taken."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the place back, if that has not been done."""
        self.leave()

    def authenticated(self) -> None:
        """Note that the client has authenticated."""
        if not self._known:
            self._known = True
            self._limits.unauthenticated -= 1

    def failed(self, now: float) -> None:
        """Count a failed authentication of the client."""
        self._limits.count_failure(self.address, now)

    def may_resume(self, now: float) -> bool:
        """Whether the client may try to resume: not if its address has guessed ids too often."""
        return not self._limits.resumes.wait(self.address, now)

    def failed_to_resume(self, now: float) -> None:
        """Count an attempt to resume a session that does not exist, or is another client's."""
        self._limits.resumes.count(self.address, now)

    def leave(self) -> None:
        """Give the place back. Calling it again does nothing."""
        if not self._left:
            self._left = True
            self.authenticated()
            self.payer.leave()
            self._limits.websockets.leave(self.address)
            self._limits.pacing.leave(self.address)


class NoLease(ConnectionLease):
    """The lease of a session that has had no connection on this replica yet."""

    __slots__ = ()

    def __init__(self) -> None:
        """Take no place."""
        self.address = ""
        self.payer = Payer(1.0, 1, Address(1.0, 1))
        self._known = self._left = True


class HttpLease:
    """The place of a connection that is not a WebSocket, or not yet, as a context manager."""

    def __init__(self, counter: ConnectionCounter, address: str) -> None:
        """Prepare the lease. Entering it counts the connection."""
        self._counter = counter
        self._address = address

    def __enter__(self) -> None:
        """Count the connection; raises RequestRefusedError if there is no room."""
        self._counter.check(self._address)
        self._counter.enter(self._address)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop counting the connection."""
        self._counter.leave(self._address)


class Limits:
    """The limits of this replica. Nothing here blocks."""

    def __init__(self, settings: Settings) -> None:
        """Start with all counts at 0."""
        most, most_each = settings.max_connections, settings.max_connections_per_ip
        self.websockets = ConnectionCounter(most, most_each)
        #: Connections that are no WebSockets. Behind a proxy, all of them come from its address.
        self.others = ConnectionCounter(most, None if settings.trusted_proxies else most_each)
        self.unauthenticated = 0
        self.pacing = Pacing(settings)
        self._max_unauthenticated = settings.max_unauthenticated
        self._connects = RateCounter(settings.connects_per_ip_per_minute, MINUTE)
        self._requests = Buckets(settings.http_requests_per_second, settings.http_burst)
        self.resumes = RateCounter(RESUMES, MINUTE, penalty=True)
        self._failures = RateCounter(settings.auth_failures_per_ip, PENALTY, penalty=True)

    def visit(self, peer: str) -> HttpLease:
        """The lease of a connection from `peer`, from its start until it becomes a WebSocket."""
        return HttpLease(self.others, network_of(peer))

    def admit(self, address: str, now: float) -> ConnectionLease:
        """Take a place for another WebSocket of the client at `address`.

        Raises RequestRefusedError if there is none. Does not check whether the address failed to
        authenticate too often: see `check_failures`.
        """
        self.check(address, now)
        network = network_of(address)
        self._connects.count(network, now)
        return ConnectionLease(self, network, now)

    def check(self, address: str, now: float) -> None:
        """Raise RequestRefusedError if there is no place, as `admit` does; nothing is counted."""
        network = network_of(address)
        wait = self._connects.wait(network, now)
        if wait:
            raise _too_many(Reason.CONNECTS_PER_IP, "Your address connects too often.", wait)
        self.websockets.check(network)
        if self.unauthenticated >= self._max_unauthenticated:
            raise _overload(
                Reason.UNAUTHENTICATED, "Too many connections are not authenticated yet."
            )

    def count_request(self, address: str, now: float) -> None:
        """Count an HTTP request; raises RequestRefusedError if there are too many."""
        wait = self._requests.spend(network_of(address), now)
        if wait:
            text = "Your address sends too many requests."
            raise _too_many(Reason.HTTP_RATE, text, wait)

    def charge_request(self, address: str, tokens: float, now: float) -> None:
        """Charge this address for the work that its request causes."""
        self._requests.charge(network_of(address), tokens, now)

    def check_failures(self, address: str, now: float) -> None:
        """Raise RequestRefusedError if this address failed to authenticate too often.

        Do not call it for a client with a valid token: others at its address may have failed.
        """
        wait = self._failures.wait(network_of(address), now)
        if wait:
            text = "Your address failed to authenticate too often."
            raise _too_many(Reason.AUTH_FAILURES_PER_IP, text, wait)

    def count_failure(self, address: str, now: float) -> None:
        """Count a failed authentication from this address."""
        self._failures.count(network_of(address), now)
