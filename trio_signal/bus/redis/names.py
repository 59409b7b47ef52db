"""Names in Redis: one key per name stores its holder.

The keys expire. Each replica rewrites its own names long before that, and whenever Redis may have
forgotten them. Those that it releases while Redis is away are released when Redis is back. A
replica without a lease holds no names.
"""

from collections.abc import Callable
from functools import partial
from hashlib import sha1
from typing import Any, NoReturn

import trio

from trio_signal.bus import Delivery
from trio_signal.bus.announcements import read_script
from trio_signal.bus.names import (
    MOST_HELD,
    NAME_SECONDS,
    TOLD_SECONDS,
    Holder,
    NameClaimed,
    Names,
)
from trio_signal.bus.redis.wire import encode
from trio_signal.errors import JoinRefusedError
from trio_signal.messages.events import Refusal
from trio_signal.redis import Argument, NotConnectedError, Redis, RedisError, read_text

#: Seconds for which Redis keeps the names of a replica, and after which they are rewritten.
KEPT, AGAIN = 120.0, 30.0
#: Seconds to wait for Redis before a name is claimed without it.
_CLAIMING = 3.0
#: How many names one script writes: it blocks all of Redis.
_AT_ONCE = 200
#: Seconds before Redis is asked again after a failure.
_PAUSE = 0.5


class RedisNames:
    """The names of one replica; see `trio_signal.bus.NameBus`."""

    def __init__(
        self,
        redis: Redis,
        replica: str,
        key: Callable[..., str],
        deliver: Callable[[Delivery], None],
    ) -> None:
        """Use an open connection; `key` makes key names, `deliver` receives lost names."""
        self._redis = redis
        self._replica = replica
        self._key = key
        self._deliver = deliver
        #: The names of this replica.
        self._own = Names()
        #: Names whose release Redis may have missed, and the claims; whether to hold each name.
        self._unreleased: dict[tuple[str, str], bool] = {}
        self._again = trio.Event()

        def register(name: str) -> Any:
            return redis.register_script(read_script("reading") + read_script(name))

        self._claim, self._release, self._find, self._keep = map(
            register, ("claim", "release", "find", "keep")
        )

    async def claim(self, name: str, claim: str, subject: str) -> None:
        """Claim a name for this replica; raises JoinRefusedError if another subject has it."""
        holder = Holder(self._replica, claim)
        try:
            with trio.fail_after(_CLAIMING):
                await self._ask_to_claim(name, holder, subject)
        except (RedisError, trio.TooSlowError):
            self._own.check(name, subject, trio.current_time())
            self._again.set()  # write the name when Redis is back
        self._own.put(name, holder, subject, trio.current_time())

    async def _ask_to_claim(self, name: str, holder: Holder, subject: str) -> None:
        key = self._key
        if not self._redis.connected:
            raise NotConnectedError("Redis cannot be reached")
        status = await self._claim(
            [key("name", name), key("awaited", name), key("replicas"), self._names],
            [
                *(self._replica, holder.claim, _digest(subject), int(KEPT * 1000), name),
                *(key("replica", ""), key("names", "")),
                encode(NameClaimed(name, holder.replica, holder.claim)),
            ],
        )
        if status == b"in_use":
            raise JoinRefusedError(Refusal.PEER_ID_IN_USE)
        if status != b"ok":
            raise NotConnectedError("the lease of this replica ran out")

    @property
    def _names(self) -> str:
        return self._key("names", self._replica)

    def release(self, name: str, claim: str, *, hold: bool) -> None:
        """Release a name, if this claim still holds it; without Redis, when Redis is back."""
        self._own.release(name, claim, trio.current_time(), hold=hold)
        self._write_release(name, claim, hold=hold)

    def _write_release(self, name: str, claim: str, *, hold: bool) -> None:
        note = partial(self._note_release, name, claim, hold)
        keys = [self._key("name", name), self._names]
        args: list[Argument] = [claim, int(NAME_SECONDS * 1000) if hold else 0, name]
        if not self._release.send_nowait(keys, args, on_reply=note):
            note(NotConnectedError("not sent"))

    def _note_release(self, name: str, claim: str, hold: bool, reply: object) -> None:
        """Remember a release that Redis may have missed: others would still see the name."""
        self._redis.note_refusal(reply)
        if isinstance(reply, Exception) and len(self._unreleased) < MOST_HELD:
            self._unreleased[name, claim] = hold

    def find(self, name: str, stale: str, found: Callable[[Holder | None, bool], None]) -> bool:
        """Find the holder of a name, by another claim than `stale`."""

        def answer(reply: object) -> None:
            match reply:
                case [bytes() as replica, bytes() as claim]:
                    found(self._read(name, replica, claim), True)
                case _:
                    found(None, not isinstance(reply, Exception))

        key = self._key
        keys = [key("name", name), key("awaited", name), key("replicas")]
        args: list[Argument] = [self._replica, stale, int(TOLD_SECONDS * 1000)]
        asked: bool = self._find.send_nowait(keys, args, on_reply=answer)
        return asked

    def _read(self, name: str, replica: bytes, claim: bytes) -> Holder | None:
        read, where = self._redis.reader.read, self._key("name", name)
        holder, by = read("name", read_text, replica, where), read("name", read_text, claim, where)
        return Holder(holder, by) if holder is not None and by is not None else None

    async def list(self, namespace: str) -> list[str]:
        """The names in a namespace, without its prefix; sorted. Without Redis, our own."""
        begin, found = f"{namespace}:", set[str]()
        try:
            replicas: Any = await self._redis.zrange(self._key("replicas"), 0, -1)
            for replica in replicas:
                key = self._key("names", replica.decode(errors="replace"))
                names: Any = await self._redis.smembers(key)
                read = (self._redis.reader.read("name", read_text, name, key) for name in names)
                found.update(name for name in read if name is not None and name.startswith(begin))
        except RedisError:
            return self._own.list(namespace)
        return sorted(name.removeprefix(begin) for name in found)

    def write_again(self) -> None:
        """Rewrite all names: Redis may have forgotten them. Does not block."""
        self._again.set()

    async def keep(self) -> NoReturn:
        """Rewrite the names long before they expire; until cancelled."""
        while True:
            with trio.move_on_after(AGAIN):
                await self._again.wait()
            self._again = trio.Event()
            await self._redis.wait_connected()
            try:
                await self._write_all()
            except RedisError:
                self._again.set()
                await trio.sleep(_PAUSE)

    async def _write_all(self) -> None:
        unreleased, self._unreleased = self._unreleased, {}
        for (name, claim), hold in unreleased.items():
            self._write_release(name, claim, hold=hold)
        own = list(self._own.own().items())
        for first in range(0, len(own), _AT_ONCE):
            some = own[first : first + _AT_ONCE]
            # Skip names that were released meanwhile.
            some = [(n, said) for n, said in some if self._has(n, said[0])]
            keys = [self._key("replicas"), self._names]
            args: list[Argument] = [self._replica, int(KEPT * 1000)]
            for name, (claim, subject) in some:
                keys.append(self._key("name", name))
                args += (name, claim, _digest(subject))
            for (name, (claim, _)), held in zip(some, await self._keep(keys, args), strict=True):
                if held:
                    self._lose(name, claim, *held)

    def _has(self, name: str, claim: str) -> bool:
        holder = self._own.get(name)
        return holder is not None and holder.claim == claim

    def _lose(self, name: str, claim: str, replica: bytes, by: bytes) -> None:
        """Another replica has claimed the name while this one was away."""
        holder = self._read(name, replica, by)
        if holder is not None:
            self._own.release(name, claim, trio.current_time(), hold=False)
            self._deliver(NameClaimed(name, holder.replica, holder.claim))


def _digest(subject: str) -> str:
    """A subject may be as long as its token; its digest has a fixed length."""
    return sha1(subject.encode(errors="replace"), usedforsecurity=False).hexdigest()
