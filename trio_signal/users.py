"""The built-in login: a file of users with argon2id hashes, for sites without an identity provider.

The file is JSON. It is written completely, then replaced atomically, so readers see one state. It
is read again when it has changed.
"""

import os
import tempfile
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import msgspec
import trio
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from trio_signal.errors import ConfigError, LoginBusyError, LoginError
from trio_signal.messages.identity import Grants
from trio_signal.names import MAX_ID

#: The minimum of OWASP's Password Storage Cheat Sheet. It takes 19 MiB and one core.
_hasher = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1)
#: A hash of the same cost that matches no password: unknown users take as long as known ones.
_NOBODY = f"$argon2id$v=19$m=19456,t=2,p=1${22 * 'A'}${43 * 'A'}"
#: How many passwords are checked at a time, in total, and for one address or name: none of these
#: can take all places.
_AT_A_TIME = 3
_AT_A_TIME_EACH = 2
#: Maximum attempts that wait; each gets its turn within seconds.
MAX_WAITING = 100

#: Failures of a name before it must wait, and seconds of the first wait and of the longest.
FREE_FAILURES = 5
FIRST_WAIT = 1.0
LONGEST_WAIT = 30.0
#: Maximum pairs of name and address that are remembered, as digests; the one that failed longest
#: ago is forgotten first.
MAX_NAMES = 10_000


class User(msgspec.Struct, frozen=True):
    """A user who may log in, and the grants of their tokens."""

    password_hash: str
    name: str | None = None
    grants: Grants = Grants()


class _File(msgspec.Struct):
    users: dict[str, User] = {}


def read_users(path: Path) -> dict[str, User]:
    """Read the users of a file, by user id; none if there is no file. Blocks on the disk.

    Raises ConfigError if it cannot be read.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=_File).users
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ConfigError(f"{path}: it is not a users file") from None


def write_users(path: Path, users: dict[str, User]) -> None:
    """Write a file with these users, readable only by its owner. Blocks on the disk.

    Raises ConfigError if it cannot be written; then the old one is still there.
    """
    text = msgspec.json.format(msgspec.json.encode(_File(users)), indent=2)
    try:
        # mkstemp makes the file with mode 0600.
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with open(handle, "wb") as file:  # noqa: PTH123  it is open already
                file.write(text + b"\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)  # noqa: PTH105  no Path so far
        except OSError:
            os.unlink(name)  # noqa: PTH108
            raise
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


def hash_password(password: str) -> str:
    """The hash of a password. Deliberately slow."""
    return _hasher.hash(password)


def is_password(password_hash: str, password: str) -> bool:
    """Whether the hash is that of this password. Slow, and blocks the thread."""
    try:
        return _hasher.verify(password_hash, password)
    except (VerificationError, InvalidHashError, UnicodeEncodeError):
        return False


class Login:
    """Checks passwords against a file of users."""

    def __init__(self, path: Path) -> None:
        """Take the file's path; the file may be created later."""
        self._path = path
        self._version: object = None
        self._users: dict[str, User] = {}
        self._limiter = trio.CapacityLimiter(_AT_A_TIME)
        self._turns = Turns()
        self._failures = Failures()

    async def check(self, user_id: str, password: str, address: str = "") -> User:
        """Return the user if the password is right. Blocks while a thread checks it.

        `address` is where the attempt comes from: failures there delay nobody elsewhere. Raises
        LoginError if the name or the password is wrong, without telling which, not even by its
        timing, or if it is too early to try again, which counts as another failure. Raises
        LoginBusyError if too many wait, and ConfigError if the file cannot be read.
        """
        name = f"{address}\0{user_id}"
        self._check_wait(name)
        async with self._turns.take(address, user_id):
            self._check_wait(name)  # others may have failed meanwhile
            # Count it before the result is known, so that two concurrent attempts count twice.
            self._failures.count(name, trio.current_time())
            user = await trio.to_thread.run_sync(
                self._verify, user_id, password, limiter=self._limiter
            )
            if user is None:
                raise LoginError(0)
            self._failures.forgive(name)
            return user

    async def find(self, user_id: str) -> User | None:
        """The user with this id, if there still is one. Blocks on the disk, in a thread.

        Raises ConfigError if the file cannot be read.
        """
        users = await trio.to_thread.run_sync(self._read)
        return users.get(user_id)

    def _check_wait(self, name: str) -> None:
        now = trio.current_time()
        wait = self._failures.wait(name, now)
        if wait > 0:
            self._failures.count(name, now)
            raise LoginError(max(wait, self._failures.wait(name, now)))

    def _verify(self, user_id: str, password: str) -> User | None:
        user = self._read().get(user_id)
        matches = is_password(user.password_hash if user is not None else _NOBODY, password)
        return user if matches else None

    def _read(self) -> dict[str, User]:
        """Read the current users. Two threads may do so at once, which does no harm."""
        try:
            stat = self._path.stat()
            version: object = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        except OSError:
            version = None
        if version is None or version != self._version:
            self._users = read_users(self._path)
            self._version = version
        return self._users


class _Waiter:
    """An attempt that waits for its turn."""

    def __init__(self, address: str, name: str) -> None:
        self.address = address
        self.name = name
        self.decided = trio.Event()
        #: Whether it has a turn; None while it waits, False if it was refused.
        self.has_turn: bool | None = None

    def decide(self, *, has_turn: bool) -> None:
        self.has_turn = has_turn
        self.decided.set()


class Turns:
    """A queue that is fair to addresses: they take turns, however many wait at each.

    No single address or name can have all places. If too many attempts wait, the last one of the
    address with the most is refused, so a flood from one address does not affect the others.
    """

    def __init__(self) -> None:
        """Start without attempts."""
        #: By address; the one whose last turn is longest ago comes first. No queue is empty.
        self._queues: OrderedDict[str, deque[_Waiter]] = OrderedDict()
        #: The attempts whose passwords are being checked.
        self._running: list[_Waiter] = []

    @asynccontextmanager
    async def take(self, address: str, name: str) -> AsyncIterator[None]:
        """Wait for a turn, which lasts as long as the block. Raises LoginBusyError."""
        waiter = _Waiter(address, name)
        self._queues.setdefault(address, deque()).append(waiter)
        self._begin()
        if sum(map(len, self._queues.values())) > MAX_WAITING:
            self._send_away(address)
        try:
            await waiter.decided.wait()
            if not waiter.has_turn:
                raise LoginBusyError(FIRST_WAIT)
            yield
        finally:
            self._end(waiter)

    def _begin(self) -> None:
        """Start the attempts whose turn it is."""
        while len(self._running) < _AT_A_TIME and (waiter := self._next()) is not None:
            self._drop(waiter)
            if waiter.address in self._queues:
                self._queues.move_to_end(waiter.address)
            self._running.append(waiter)
            waiter.decide(has_turn=True)

    def _next(self) -> _Waiter | None:
        addresses = Counter(waiter.address for waiter in self._running)
        names = Counter(waiter.name for waiter in self._running)
        for address, queue in self._queues.items():
            if addresses[address] < _AT_A_TIME_EACH:
                for waiter in queue:
                    if names[waiter.name] < _AT_A_TIME_EACH:
                        return waiter
        return None

    def _send_away(self, newest: str) -> None:
        """Refuse the last attempt of the address with the most; of several, of the newest."""
        _, _, most = max((len(q), a == newest, a) for a, q in self._queues.items())
        waiter = self._queues[most][-1]
        self._drop(waiter)
        waiter.decide(has_turn=False)

    def _drop(self, waiter: _Waiter) -> None:
        queue = self._queues[waiter.address]
        queue.remove(waiter)
        if not queue:
            del self._queues[waiter.address]

    def _end(self, waiter: _Waiter) -> None:
        """End an attempt that has had its turn, or stopped waiting."""
        if waiter.has_turn is None:
            self._drop(waiter)
        elif waiter.has_turn:
            self._running.remove(waiter)
            self._begin()


class _Failed(NamedTuple):
    times: int
    until: float


class Failures:
    """Consecutive failed logins for each name, and how long the next attempt must wait.

    The wait doubles up to a limit, so guessing is slowed down, and nobody is locked out for ever.
    Names without a user are treated alike. Times are arguments, in seconds.
    """

    def __init__(self) -> None:
        """Start without failures."""
        self._names: OrderedDict[bytes, _Failed] = OrderedDict()

    def wait(self, name: str, now: float) -> float:
        """Seconds until this name may be tried again; 0 if it may now."""
        failed = self._names.get(_digest(name))
        return max(0.0, failed.until - now) if failed is not None else 0.0

    def count(self, name: str, now: float) -> None:
        """Count a failure."""
        key = _digest(name)
        failed = self._names.pop(key, None)
        times = failed.times + 1 if failed is not None else 1
        excess = times - FREE_FAILURES
        wait = min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(excess, 10)) if excess >= 0 else 0.0
        self._names[key] = _Failed(times, now + wait)
        while len(self._names) > MAX_NAMES:
            self._names.popitem(last=False)

    def forgive(self, name: str) -> None:
        """Forget the failures after a success."""
        self._names.pop(_digest(name), None)


def _digest(name: str) -> bytes:
    """A digest of a name, because attempted names may be long."""
    return sha256(name.encode(errors="surrogatepass")).digest()


def is_user_id(text: str) -> bool:
    """Whether this is a valid user id."""
    return 0 < len(text) <= MAX_ID and text == text.strip() and text.isprintable()
