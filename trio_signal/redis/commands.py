"""Commands of many tasks over one connection."""

import hashlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import redis
import trio
from redis.client import EMPTY_RESPONSE, NEVER_DECODE
from redis.commands import AsyncCoreCommands
from redis.exceptions import DataError, NoScriptError, ResponseError

from trio_signal.redis.connection import (
    Argument,
    Connection,
    NotConnectedError,
    OutcomeUnknownError,
    Request,
    Timing,
)
from trio_signal.redis.link import Link, LinkStatistics
from trio_signal.redis.locating import Locator
from trio_signal.redis.pubsub import Lost, PubSub, Resumed
from trio_signal.redis.reading import Reader

logger = logging.getLogger(__name__)

#: Commands that change the shared connection, or delay all other replies.
REFUSED = frozenset(
    {
        *("AUTH", "DISCARD", "EXEC", "HELLO", "MONITOR", "MULTI", "QUIT"),
        *("READONLY", "READWRITE", "RESET", "SELECT", "UNWATCH", "WATCH"),
        *("PSUBSCRIBE", "PUNSUBSCRIBE", "SSUBSCRIBE", "SUBSCRIBE", "SUNSUBSCRIBE", "UNSUBSCRIBE"),
        *("BLMOVE", "BLMPOP", "BLPOP", "BRPOP", "BRPOPLPUSH", "BZMPOP", "BZPOPMAX"),
        *("BZPOPMIN", "WAIT", "WAITAOF"),
    }
)

#: redis-py's callbacks, which convert replies to its documented return types. This client never
#: connects.
_CALLBACKS: dict[str, Callable[..., Any]] = dict(redis.Redis(protocol=3).response_callbacks)

#: Exceptions passed to a callback when no reply came.
_LOST = (NotConnectedError, OutcomeUnknownError)

#: Receives a reply, or the exception in its place.
OnReply = Callable[[Any], None]


class _Call(Request):
    """A command with a task that waits for its reply."""

    __slots__ = ("_reply", "_task")

    def __init__(self, *args: Argument) -> None:
        super().__init__(*args)
        self._task: trio.lowlevel.Task | None = None
        self._reply: object = None

    async def wait(self) -> Any:
        """Wait for the reply; raises it if it is an exception.

        If this is cancelled, the call keeps its place in the queue and consumes its reply, so that
        later replies reach their own tasks.
        """

        def abort(_: object) -> trio.lowlevel.Abort:
            self._task = None
            self.cancelled = True
            return trio.lowlevel.Abort.SUCCEEDED

        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)
        if isinstance(self._reply, Exception):
            raise self._reply
        return self._reply

    def answer(self, reply: object) -> None:
        if self._task is not None:
            task, self._task = self._task, None
            self._reply = reply
            trio.lowlevel.reschedule(task)


class _Notice(Request):
    """A command for which no task waits."""

    __slots__ = ("_on_reply",)

    def __init__(self, on_reply: OnReply, *args: Argument) -> None:
        super().__init__(*args)
        self._on_reply = on_reply

    def answer(self, reply: object) -> None:
        self._on_reply(reply)


@dataclass(frozen=True, slots=True)
class Statistics:
    """What `Redis.statistics` returns; counted since `open_redis`."""

    commands: LinkStatistics
    pubsub: LinkStatistics
    #: Bytes of commands not yet written to the socket, and approximate bytes of messages not yet
    #: received by the application.
    waiting_bytes: int
    inbox_bytes: int
    #: Commands that `send_nowait` rejected.
    dropped: int
    #: Accepted commands that the server refused.
    refused: int
    channels: int
    messages: int
    overflows: int


class Redis(AsyncCoreCommands):
    """A client, as `open_redis` yields it: redis-py's commands, and `pubsub`.

    Each command waits for its reply. It raises

    - NotConnectedError if it was not sent: it did not run;
    - OutcomeUnknownError if the connection was lost after it was sent. Nothing
      is ever sent twice, so it ran once or not at all;
    - the server's ResponseError.

    Replies are bytes. Commands that would block the shared connection or change
    it (BLPOP, MULTI, SELECT) raise DataError.
    """

    #: Tells redis-py's annotations that the methods return awaitables.
    _is_async_client: Literal[True] = True
    #: redis-py requires this attribute; no command uses it.
    _event_dispatcher: Any = None

    def __init__(
        self, locator: Locator, name: str, timing: Timing, *, send_limit: int, receive_limit: int
    ) -> None:
        """Make a client without a connection; `open_redis` connects it."""
        self.link = Link(
            locator,
            f"{name}-commands",
            timing,
            opened=self._load_scripts,
            changed=self._update,
            pushed=_ignore,
            misled=self.reconnect,
        )
        self.pubsub = PubSub(
            locator, f"{name}-pubsub", timing, limit=receive_limit, changed=self._update
        )
        #: Decodes values that other programs wrote.
        self.reader = Reader()
        self._send_limit = send_limit
        self._scripts: dict[str, Script] = {}
        self._dropped = 0
        self._refused = 0
        self._refusal: str | None = None
        self._outage = False
        self._connected = trio.Event()
        self._disconnected = trio.Event()
        self._disconnected.set()

    @property
    def connected(self) -> bool:
        """Whether commands work and all channels are subscribed."""
        return self._connected.is_set()

    @property
    def can_send(self) -> bool:
        """Whether there is a connection for commands."""
        return self.link.connection is not None

    @property
    def unanswered(self) -> float:
        """Seconds since the oldest unanswered command was sent; 0 if all are answered."""
        connection = self.link.connection
        return connection.unanswered if connection is not None else 0.0

    @property
    def can_hear(self) -> bool:
        """Whether all channels are subscribed."""
        return self.pubsub.ready

    async def wait_connected(self) -> None:
        """Wait until `connected`."""
        await self._connected.wait()

    async def wait_disconnected(self) -> None:
        """Wait until not `connected`."""
        await self._disconnected.wait()

    async def execute_command(self, *args: Argument, **options: Any) -> Any:
        """Run one command and return its reply, as redis-py's methods expect it."""
        name = _command_name(args)
        call = _Call(*args)
        connection = self.link.connection
        if connection is None:
            # Without this, a task that retries in a loop would starve all others.
            await trio.lowlevel.checkpoint()
            raise NotConnectedError(self.link.reason)
        connection.send(call)
        try:
            reply = await call.wait()
        except ResponseError:
            if EMPTY_RESPONSE in options:
                return options[EMPTY_RESPONSE]
            raise
        callback = _CALLBACKS.get(name)
        if callback is None:
            return reply
        for option in ("keys", EMPTY_RESPONSE, NEVER_DECODE):
            options.pop(option, None)
        return callback(reply, **options)

    def send_nowait(self, *args: Argument, on_reply: OnReply | None = None) -> bool:
        """Queue a command without waiting for its reply. Does not block.

        Commands reach the server in the order in which this and the others were
        called. Returns False if there is no connection, or if too much is queued: then the command
        will not run. To wait until everything queued has been answered, await any command: `await
        redis.ping()`.

        `on_reply` gets the reply, or the exception that a waiting task would get. It is called from
        the connection's task, and must neither block nor raise. Without it, refusals of the server
        are counted and logged.
        """
        _command_name(args)
        connection = self.link.connection
        if connection is None or connection.waiting_bytes >= self._send_limit:
            self._dropped += 1
            return False
        connection.send(_Notice(on_reply or self.note_refusal, *args))
        return True

    def register_script(  # type: ignore[override]
        self, script: str | bytes | memoryview
    ) -> "Script":
        """Make a Script from Lua source; each new connection loads it."""
        made = Script(self, script)
        self._scripts[made.sha] = made
        if self.link.connection is not None:
            made.load(self.link.connection)
        return made

    def statistics(self) -> Statistics:
        """The current numbers, for metrics or people."""
        connection = self.link.connection
        return Statistics(
            commands=self.link.statistics(),
            pubsub=self.pubsub.link.statistics(),
            waiting_bytes=connection.waiting_bytes if connection else 0,
            inbox_bytes=self.pubsub.inbox.size,
            dropped=self._dropped,
            refused=self._refused,
            channels=len(self.pubsub.channels),
            messages=self.pubsub.messages,
            overflows=self.pubsub.inbox.overflows,
        )

    def _load_scripts(self, connection: Connection) -> None:
        for script in self._scripts.values():
            script.load(connection)

    def note_refusal(self, reply: object) -> None:
        """Count and log a refusal that nobody else looks at."""
        if not isinstance(reply, Exception) or isinstance(reply, _LOST):
            return
        self._refused += 1
        if self._refusal != str(reply):
            self._refusal = str(reply)
            logger.error("Redis refused a command whose caller no longer waits: %s", reply)

    def reconnect(self) -> None:
        """Replace all connections, perhaps by ones to another server. Does not block."""
        for link in (self.link, self.pubsub.link):
            link.move("another server is the primary now")

    def _update(self) -> None:
        """Notify waiting tasks and the inbox of a change of `connected`."""
        connected = self.link.connection is not None and self.pubsub.ready
        if connected and not self.connected:
            self._connected.set()
            self._disconnected = trio.Event()
            if self._outage:
                self._outage = False
                self.pubsub.inbox.put_state(Resumed())
        elif self.connected and not connected:
            self._connected = trio.Event()
            self._disconnected.set()
            self.note_outage()

    def note_outage(self) -> None:
        """Put the reason for an outage into the inbox."""
        self._outage = True
        lost = self.link if self.link.connection is None else self.pubsub.link
        self.pubsub.inbox.put_state(Lost(lost.reason))


class Script:
    """A Lua script that runs by its hash. Made by `Redis.register_script`."""

    def __init__(self, client: Redis, source: str | bytes | memoryview) -> None:
        """Compute the hash."""
        self.source = source.encode() if isinstance(source, str) else bytes(source)
        self.sha = hashlib.sha1(self.source, usedforsecurity=False).hexdigest()
        self._client = client

    async def __call__(self, keys: Iterable[Argument] = (), args: Iterable[Argument] = ()) -> Any:
        """Run the script and return its reply; raises what a command raises."""
        rest = _script_arguments(keys, args)
        try:
            return await self._client.execute_command("EVALSHA", self.sha, *rest)
        except NoScriptError:
            # The script did not run, so this does not run it twice. EVAL loads it as well.
            return await self._client.execute_command("EVAL", self.source, *rest)

    def send_nowait(
        self,
        keys: Iterable[Argument] = (),
        args: Iterable[Argument] = (),
        on_reply: OnReply | None = None,
    ) -> bool:
        """Queue the script as `Redis.send_nowait` does.

        Its order with other commands holds, unless somebody empties the server's script cache
        (SCRIPT FLUSH) while it is in flight.
        """
        rest = _script_arguments(keys, args)
        tell = on_reply or self._client.note_refusal

        def run_by_source(reply: object) -> None:
            if not isinstance(reply, NoScriptError):
                tell(reply)
            elif not self._client.send_nowait("EVAL", self.source, *rest, on_reply=tell):
                tell(NotConnectedError("the script could not be queued again after NOSCRIPT"))

        return self._client.send_nowait("EVALSHA", self.sha, *rest, on_reply=run_by_source)

    def load(self, connection: Connection) -> None:
        """Queue the source on a new connection, before any command that may run it."""
        connection.send(_Notice(self._client.note_refusal, "SCRIPT", "LOAD", self.source))


def _script_arguments(keys: Iterable[Argument], args: Iterable[Argument]) -> tuple[Argument, ...]:
    keys = tuple(keys)
    return (len(keys), *keys, *args)


def _command_name(args: tuple[Argument, ...]) -> str:
    """The command's name in upper case; raises DataError if the command is refused."""
    name = args[0].upper() if isinstance(args[0], str) else ""
    if not name:
        raise DataError(f"the name of a command must be a str, not {args[0]!r}")
    if name in REFUSED:
        raise DataError(f"{name} would change or block the shared connection")
    return name


def _ignore(_: object) -> None:
    """Discard pushes: the connection subscribes to nothing."""
