"""Junk in Redis, while clients are at work on two replicas: `make fuzz-redis`.

    python -m fuzz.redis [SECONDS [SEED]]

Values of every type are written into every key of ours, and JSON that can be decoded and is
wrong; the same is published on every channel. No replica may end. When it stops, what each
client knows of the room is the truth within `RECOVERY` seconds, and so is what a newcomer is
told at each replica.
"""

import json
import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hiredis
import trio

from tests.raw import CLOSE, PING, PONG, TEXT, RawClient, client_frame, client_text, split_frames
from tests.replicas.processes import Cluster, Replica, open_cluster

#: Ten minutes.
SECONDS = 600.0
RECOVERY = 5.0
#: Clients at each replica.
CLIENTS = 6
ROOM = "room"
PREFIX = "trio_signal:"

#: Values that belong nowhere.
JUNK: list[Any] = [
    *(None, True, [], {}, [[]], 0, -1, 1.5, 2**53, 2**63, 10**400, -(2**63), 1e308),
    *("", "x", "\0", "x" * 5000, "\ud7ff", "2026-02-31T00:00:00.000Z", "99999-01-01", "null"),
]
#: Bytes that are no JSON.
NOISE = [b"", b"\xff\xfe", b"\0", b"{", b"[" * 5000, b'{"a":' * 2000, b"nan", b"1e999", b'"\xff"']


class Visitor:
    """A client that believes what it is told, and comes back when it is thrown out."""

    def __init__(self, name: str, replica: Replica, chance: random.Random) -> None:
        self.name = name
        self.replica = replica
        self._chance = chance
        self.here: set[str] | None = None
        self.live: set[str] = set()
        self.is_live = False
        self.number = 0

    @property
    def peer_id(self) -> str:
        return f"{self.name}-{self.number}"

    async def run(self, work: trio.Event) -> None:
        """Be in the room, now and then do something; until cancelled."""
        while True:
            self.number += 1  # the id that it had may be somebody else's now
            self.here, self.live, self.is_live = None, set(), False
            try:
                await self._visit(work)
            except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError, AssertionError):
                pass  # thrown out, or refused
            await trio.sleep(0.05)

    async def _visit(self, work: trio.Event) -> None:
        host, _, port = self.replica.base.rpartition(":")
        stream = await trio.open_tcp_stream(host, int(port))
        with closing_socket(stream):
            client = RawClient(stream)
            await client.upgrade(f"/ws/{ROOM}")
            await client.say({"type": "auth_token", "clientId": self.peer_id, "username": "Ann"})
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._act, client, work)
                await self._hear(client)
                nursery.cancel_scope.cancel()

    async def _hear(self, client: RawClient) -> None:
        rest = client.buffer
        while True:
            frames, rest = split_frames(rest)
            for frame in frames:
                if frame.opcode == CLOSE:
                    return
                if frame.opcode == PING:
                    client.send_nowait(client_frame(PONG, frame.payload))
                elif frame.opcode == TEXT:
                    self._take(frame.message)
            data = await client.stream.receive_some()
            if not data:
                return
            rest += data

    def _take(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "users_in_room":
                self.here = {user["client_id"] for user in message["users"]}
            case "active_broadcasts":
                self.live |= {user["client_id"] for user in message["broadcasters"]}
            case "user_joined" if self.here is not None:
                self.here.add(message["client_id"])
            case "user_left" if self.here is not None:
                self.here.discard(message["client_id"])
            case "broadcast_started":
                self.live.add(message["client_id"])
            case "broadcast_stopped":
                self.live.discard(message["client_id"])

    async def _act(self, client: RawClient, work: trio.Event) -> None:
        while not work.is_set():
            await trio.sleep(self._chance.uniform(0, 0.2))
            match self._chance.choice(("live", "stop", "signal", "all", "leave")):
                case "live":
                    self.is_live = True
                    await client.say({"type": "broadcast_start"})
                case "stop":
                    self.is_live = False
                    await client.say({"type": "broadcast_stop"})
                case "signal" if self.here:
                    target = self._chance.choice(sorted(self.here))
                    await client.say({"type": "offer", "offer": "o", "to": target})
                case "all":
                    await client.send(client_text({"type": "message", "data": "d"}))
                case "leave" if self._chance.random() < 0.2:
                    client.reset()
                    return


@contextmanager
def closing_socket(stream: trio.SocketStream) -> Iterator[None]:
    """Without a goodbye."""
    try:
        yield
    finally:
        stream.socket.close()


class Vandal:
    """Writes whatever it likes into Redis, over a connection of its own."""

    def __init__(self, stream: trio.SocketStream, chance: random.Random) -> None:
        self._stream = stream
        self._chance = chance
        self._reader = hiredis.Reader()
        self.written = 0

    async def ask(self, *command: str | bytes | float) -> Any:
        """One command; an error is an answer like any other."""
        await self._stream.send_all(hiredis.pack_command(command))  # type: ignore[arg-type]
        while (reply := self._reader.gets()) is False:
            self._reader.feed(await self._stream.receive_some())
        return reply

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            keys = [key.decode(errors="replace") for key in await self.ask("KEYS", "*")]
            channels = [name.decode() for name in await self.ask("PUBSUB", "CHANNELS")]
            records = await self.ask("HVALS", f"{PREFIX}room:{ROOM}:members")
            seq = await self.ask("GET", f"{PREFIX}room:{ROOM}:seq")
            samples = [s for r in _list(records) if (s := _json(r)) is not None]
            number = int(seq) if isinstance(seq, bytes) and seq.isdigit() else 1
            for _ in range(10):
                if self._chance.random() < 0.5:
                    await self._write(self._chance.choice([*keys, *self._names()]), samples)
                else:
                    payload = self._payload(samples, number)
                    await self.ask("PUBLISH", self._chance.choice(channels or ["x"]), payload)
                self.written += 1
            await trio.sleep(self._chance.uniform(0, 0.05))

    def _names(self) -> list[str]:
        names = (
            "rooms",
            "replicas",
            "owned:x",
            "subscribers:x",
            "profile_order",
            "edition",
            "lost:x",
        )
        parts = ("members", "live", "seq", "reserved", "reserved_until", "banned", "vanished")
        notes = [
            f"notes:{kind}:{part}" for kind in ("chats", "lost") for part in ("order", "sizes")
        ]
        return [
            *(PREFIX + name for name in (*names, *notes, f"chats:{ROOM}", f"profiles:{ROOM}")),
            *(f"{PREFIX}room:{ROOM}:{part}" for part in parts),
            "current_broadcast",
        ]

    async def _write(self, key: str, samples: list[Any]) -> None:
        """A value of any type, in place of what is there or into it."""
        value, field = self._value(samples), self._field(samples)
        if self._chance.random() < 0.5:
            await self.ask("DEL", key)
        commands: list[tuple[str | bytes | float, ...]] = [
            *(("DEL", key), ("SET", key, value), ("APPEND", key, value), ("INCR", key)),
            *(("RPUSH", key, value), ("LPUSH", key, value), ("SADD", key, field)),
            *(("HSET", key, field, value), ("HSET", key, field, value), ("HDEL", key, field)),
            *(("SREM", key, field), ("ZADD", key, "inf", field), ("ZADD", key, "-inf", field)),
            *(("ZADD", key, "1e308", field), ("ZADD", key, 0, field), ("ZREM", key, field)),
            *(("PFADD", key, field), ("XADD", key, "*", "f", value), ("SETBIT", key, 9, 1)),
            *(("EXPIRE", key, 1), ("SET", key, str(2**63 - 1)), ("SET", key, "-5")),
        ]
        await self.ask(*self._chance.choice(commands))

    def _field(self, samples: list[Any]) -> Any:
        known = [s["peer_id"] for s in samples if isinstance(s, dict) and "peer_id" in s]
        texts = [text for text in known if isinstance(text, str)]
        return self._chance.choice([*texts, "x", b"\xff\xfe", "", ROOM])

    def _value(self, samples: list[Any]) -> bytes:
        if samples and self._chance.random() < 0.6:
            return _dump(self._spoilt(self._chance.choice(samples)))
        return self._chance.choice([*NOISE, *map(_dump, JUNK)])

    def _spoilt(self, sample: Any) -> Any:
        """A value with something in it that is wrong, however deep."""
        if not isinstance(sample, dict) or not sample or self._chance.random() < 0.1:
            return self._chance.choice(JUNK)
        spoilt = dict(sample)
        name = self._chance.choice([*spoilt])
        match self._chance.choice(("value", "deeper", "gone", "more")):
            case "value":
                spoilt[name] = self._chance.choice(JUNK)
            case "deeper":
                spoilt[name] = self._spoilt(spoilt[name])
            case "gone":
                del spoilt[name]
            case "more":
                spoilt["unknown"] = self._chance.choice(JUNK)
        return spoilt

    def _payload(self, samples: list[Any], number: int) -> bytes:
        """What a replica might publish, or nearly."""
        if not samples or self._chance.random() < 0.2:
            return self._chance.choice([*NOISE, *map(_dump, JUNK)])
        member, other = self._chance.choice(samples), self._chance.choice(samples)
        event = self._event(member, other)
        origin = member.get("replica") if isinstance(member, dict) else "x"
        seq = number + self._chance.choice((-1, 0, 1, 2, 1000, -number, 2**53))
        change = {"seq": seq, "origin": self._chance.choice((origin, "x")), "event": event}
        payload = self._chance.choice((change, change, event, self._news()))
        return _dump(payload if self._chance.random() < 0.5 else self._spoilt(payload))

    def _event(self, member: Any, other: Any) -> dict[str, Any]:
        room = {"room_id": ROOM, "member": member, "at": "2026-11-20T10:15:30.123Z"}
        live = {"media_type": "video", "started_at": "9999-12-31T23:59:59.999Z"}
        signal = {"type": "Signalled", "room_id": ROOM, "kind": "offer", "payload": 1}
        signal |= {"sender": member, "target": other, "wire_type": "x", "at": ""}
        broadcaster = member | {"live": live} if isinstance(member, dict) else member
        started = {"type": "WentLive", **room, "member": broadcaster, "news": "first"}
        profile = {"wire_type": "x", "previous_username": None, "email": None, "bio": None}
        return self._chance.choice(
            [
                {"type": "Joined", **room, "first": True, "peers": 3},
                {"type": "Left", **room, "last": True, "peers": 3},
                started | {"exclusive": True},
                {"type": "StoppedLive", **room, "last": True, "cause": "stopped"},
                {"type": "ProfileChanged", **room, **profile},
                {"type": "Chatted", **room, "id": "1", "content": "c", "avatar": None},
                {"type": "Typing", **room, "typing": True},
                signal,
                {"type": "Undelivered", "signal": signal},
                {"type": "Kicked", "room_id": ROOM, "target": member, "reason": "r" * 500},
                {"type": "RoomsKept", "user_id": "x", "replica": "x", "heard": 1e10},
                {"type": "Echo", "sent": 1e300},
                {"type": "Listening", "room_id": ROOM, "listener": member, "target": other},
            ]
        )

    def _news(self) -> dict[str, Any]:
        announcement = {"id": "x", "message": "m", "type": "info", "created_by": "b"}
        announcement |= {"created_by_name": "B", "created_at": "2026-11-20T10:15:30.123Z"}
        revision = self._chance.choice((0, 1, 2**53 - 1, 2**63))
        edition = {"revision": revision, "announcement": announcement, "active": True}
        return {"type": "new_broadcast", "edition": edition, "late": False}


def _list(reply: Any) -> list[bytes]:
    return reply if isinstance(reply, list) else []


def _json(record: bytes) -> Any:
    try:
        return json.loads(record)
    except (ValueError, RecursionError):
        return None


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode()


async def fuzz(directory: Path, seconds: float, seed: int, within: float = RECOVERY) -> None:
    """Do it; raises AssertionError if a replica ends, or what somebody knows stays wrong."""
    chance = random.Random(seed)
    environment = {"DATABASE_URL": f"sqlite:///{directory / 'announcements.db'}"}
    async with open_cluster(directory, 2, **environment) as cluster:
        async with trio.open_nursery() as nursery:
            visitors = [
                Visitor(f"visitor-{i}-{j}", replica, chance)
                for i, replica in enumerate(cluster.replicas)
                for j in range(CLIENTS)
            ]
            rest = trio.Event()
            for visitor in visitors:
                nursery.start_soon(visitor.run, rest)
            stream = await trio.open_tcp_stream("127.0.0.1", cluster.redis.port)
            vandal = Vandal(stream, chance)
            with trio.move_on_after(seconds):
                await vandal.run()
            stream.socket.close()
            rest.set()
            took = await wait_right(cluster, visitors, within)
            print(f"{vandal.written} values; right {took:.2f} s after the last", file=sys.stderr)
            await check_newcomers(cluster, visitors, chance, within)
            check_logs(cluster)
            nursery.cancel_scope.cancel()
        # What nobody answers for stays in keys that nobody looks at, and an announcement that the
        # vandal published stays for good: the replicas write it again while they run.
        await cluster.stop_replicas()
        await cluster.redis.ask("FLUSHALL")


async def wait_right(cluster: Cluster, visitors: list[Visitor], within: float) -> float:
    """How many seconds until all is right; AssertionError after too many."""
    began = trio.current_time()
    while wrong := await differences(cluster, visitors):
        if trio.current_time() - began >= within:
            lines = [line for replica in cluster.replicas for line in replica.log]
            told = [line for line in lines if '"info"' not in line]
            raise AssertionError("\n".join([wrong, *told[-200:]]))
        await trio.sleep(0.1)
    return trio.current_time() - began


async def differences(cluster: Cluster, visitors: list[Visitor]) -> str:
    for replica in cluster.replicas:
        assert replica.process.returncode is None, replica.log
    everybody = {visitor.peer_id for visitor in visitors}
    live = {visitor.peer_id for visitor in visitors if visitor.is_live}
    wrong = [
        f"{visitor.peer_id}: {visitor.here}, live {visitor.live}"
        for visitor in visitors
        if visitor.here != everybody - {visitor.peer_id} or visitor.live != live - {visitor.peer_id}
    ]
    for replica in cluster.replicas:
        found = {room["id"]: room["peers"] for room in await replica.get("/rooms")}
        if found != {ROOM: len(visitors)}:
            wrong.append(f"listed: {found}")
        status = (await replica.get("/readyz"))["status"]
        if status != "ready":
            wrong.append(status)
    if wrong:
        wrong.append(f"the truth: {everybody}, live {live}")
    return "; ".join(wrong)


async def check_newcomers(
    cluster: Cluster, visitors: list[Visitor], chance: random.Random, within: float
) -> None:
    rest = trio.Event()
    rest.set()
    async with trio.open_nursery() as nursery:
        for i, replica in enumerate(cluster.replicas):
            visitors.append(Visitor(f"late-{i}", replica, chance))
            nursery.start_soon(visitors[-1].run, rest)
        await wait_right(cluster, visitors, within)
        nursery.cancel_scope.cancel()
    del visitors[-len(cluster.replicas) :]


def check_logs(cluster: Cluster) -> None:
    for replica in cluster.replicas:
        assert not replica.logged("Traceback"), replica.logged("Traceback")[0]


async def main(seconds: float, seed: int) -> None:
    """Fuzz in a directory of its own."""
    print(f"seed {seed}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as directory:
        await fuzz(Path(directory), seconds, seed)


if __name__ == "__main__":
    given = [*sys.argv[1:], *(str(SECONDS), str(random.randrange(2**32)))[len(sys.argv) - 1 :]]
    trio.run(main, float(given[0]), int(given[1]))
