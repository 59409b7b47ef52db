"""The built-in login: a file of users with argon2id hashes, for sites without an identity provider.

The file is JSON, written whole and put in place at once, so whoever reads it sees one state.
It is read again when it has changed.
"""

import os
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import msgspec
import trio
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from trio_signal.errors import ConfigError, LoginError
from trio_signal.messages import Grants
from trio_signal.names import MAX_ID

#: As OWASP's Password Storage Cheat Sheet recommends at least. It costs 19 MiB and one core.
_hasher = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1)
#: A hash of the same cost that no password has: who is unknown takes as long as who is known.
_NOBODY = f"$argon2id$v=19$m=19456,t=2,p=1${22 * 'A'}${43 * 'A'}"
#: How many passwords are checked at a time, and how many may wait for that.
_AT_A_TIME = 2
MAX_WAITING = 50

#: Failures of a name until it has to wait, seconds of the first wait and of the longest.
FREE_FAILURES = 5
FIRST_WAIT = 1.0
LONGEST_WAIT = 30.0
#: Names that are kept in mind; the one that failed longest ago is forgotten first.
MAX_NAMES = 10_000


class User(msgspec.Struct, frozen=True):
    """Who may log in, and what their tokens grant."""

    password_hash: str
    name: str | None = None
    grants: Grants = Grants()


class _File(msgspec.Struct):
    users: dict[str, User] = {}


def read_users(path: Path) -> dict[str, User]:
    """The users of a file by user id; none if it is not there. Blocks on the disk.

    Raises ConfigError if it cannot be read.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=_File).users
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ConfigError(f"{path}: it is no file of users") from None


def write_users(path: Path, users: dict[str, User]) -> None:
    """Put a file with these users in place, for its owner alone. Blocks on the disk.

    Raises ConfigError if it cannot be written; then the old one is still there.
    """
    text = msgspec.json.format(msgspec.json.encode(_File(users)), indent=2)
    try:
        # mkstemp makes it with 0600.
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
    """What is kept of a password. Made to be slow."""
    return _hasher.hash(password)


def is_password(password_hash: str, password: str) -> bool:
    """Whether this is the password of which that is kept. Slow, and blocks the thread."""
    try:
        return _hasher.verify(password_hash, password)
    except (VerificationError, InvalidHashError, UnicodeEncodeError):
        return False


class Login:
    """Checks passwords against a file of users."""

    def __init__(self, path: Path) -> None:
        """Take the file's path; it may come to be later."""
        self._path = path
        self._version: object = None
        self._users: dict[str, User] = {}
        self._limiter = trio.CapacityLimiter(_AT_A_TIME)
        self._failures = Failures()

    async def check(self, user_id: str, password: str) -> User:
        """The user, if that is their password. Blocks while it is checked, in a thread.

        Raises LoginError, without saying which of both is wrong, nor faster for either, or if it
        is too early to try again; and ConfigError if the file cannot be read.
        """
        wait = self._failures.wait(user_id, trio.current_time())
        if self._limiter.statistics().tasks_waiting >= MAX_WAITING:
            wait = max(wait, FIRST_WAIT)
        if wait > 0:
            raise LoginError(wait)
        # Before it is known that it failed: many at once are many attempts.
        self._failures.count(user_id, trio.current_time())
        user = await trio.to_thread.run_sync(self._verify, user_id, password, limiter=self._limiter)
        if user is None:
            raise LoginError(0)
        self._failures.forgive(user_id)
        return user

    def _verify(self, user_id: str, password: str) -> User | None:
        user = self._read().get(user_id)
        matches = is_password(user.password_hash if user is not None else _NOBODY, password)
        return user if matches else None

    def _read(self) -> dict[str, User]:
        """The users as the file has them now. Two threads may do the same work, and no harm."""
        try:
            stat = self._path.stat()
            version: object = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        except OSError:
            version = None
        if version is None or version != self._version:
            self._users = read_users(self._path)
            self._version = version
        return self._users


class _Failed(NamedTuple):
    times: int
    until: float


class Failures:
    """How often a login to each name failed in a row, and how long it has to wait for that.

    The wait doubles up to a bound: guessing is slowed down, and nobody is locked out for ever.
    It makes no difference whether there is such a user. Time is given, in seconds.
    """

    def __init__(self) -> None:
        """Begin with nobody."""
        self._names: OrderedDict[str, _Failed] = OrderedDict()

    def wait(self, name: str, now: float) -> float:
        """Seconds until this name may be tried again; 0 if it may now."""
        failed = self._names.get(name)
        return max(0.0, failed.until - now) if failed is not None else 0.0

    def count(self, name: str, now: float) -> None:
        """It failed once more."""
        failed = self._names.pop(name, None)
        times = failed.times + 1 if failed is not None else 1
        excess = times - FREE_FAILURES
        wait = min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(excess, 10)) if excess >= 0 else 0.0
        self._names[name] = _Failed(times, now + wait)
        while len(self._names) > MAX_NAMES:
            self._names.popitem(last=False)

    def forgive(self, name: str) -> None:
        """It succeeded."""
        self._names.pop(name, None)


def is_user_id(text: str) -> bool:
    """Whether a user can be called so."""
    return 0 < len(text) <= MAX_ID and text == text.strip() and text.isprintable()
