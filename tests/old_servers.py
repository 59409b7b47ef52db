"""Small old servers, one of each family: they answer as the originals did, naive times included.

Written from what their projects documented; each runs in one process and knows no tokens.
"""

import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import uuid4

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from quart import request, websocket
from quart_trio import QuartTrio

Message = dict[str, Any]


def now() -> str:
    """UTC, without a time zone suffix."""
    return datetime.now(UTC).replace(tzinfo=None).isoformat()


class Sockets:
    """Who is connected, and under which name; the old servers' dictionaries."""

    def __init__(self) -> None:
        self.of: dict[str, Any] = {}
        self.names: dict[str, str] = {}

    async def tell(self, message: Message, *targets: str) -> None:
        for target in targets:
            if target in self.of:
                await self.of[target].send(json.dumps(message))

    async def tell_others(self, message: Message, own: str) -> None:
        await self.tell(message, *[one for one in self.of if one != own])

    def enter(self, id_: str, name: str) -> None:
        current: Any = websocket
        self.of[id_], self.names[id_] = current._get_current_object(), name

    @asynccontextmanager
    async def connected(self, id_: str, name: str = "") -> AsyncIterator[None]:
        self.enter(id_, name)
        try:
            yield
        finally:
            del self.of[id_]


async def receive() -> Message:
    """The next message of this type; others are skipped."""
    while True:
        text = await websocket.receive()
        if isinstance(text, str) and text.startswith("{"):
            message: Message = json.loads(text)
            return message


def room() -> QuartTrio:
    """Chat rooms with live broadcast, with the fix for late joiners."""
    app = QuartTrio("room")
    rooms: dict[str, Sockets] = {}
    live: dict[str, str] = {}

    @app.post("/rooms/<room_id>/join")
    async def join(room_id: str) -> Message:
        body = await request.get_json()
        return {"status": "success", "room_id": room_id, "user_id": body["user_id"]}

    @app.get("/api/products")
    async def products() -> list[str]:
        return ["a lamp"]

    @app.websocket("/ws/<room_id>/<user_id>")
    async def endpoint(room_id: str, user_id: str) -> None:
        name = websocket.args.get("username", "Anonymous")
        here = rooms.setdefault(room_id, Sockets())
        about = {"room_id": room_id, "user_id": user_id, "username": name}
        async with here.connected(user_id, name):
            joined = {"type": "user_joined", **about, "avatar_url": None, "timestamp": now()}
            await here.tell_others(joined, user_id)
            users = [
                {"user_id": id_, "username": here.names[id_], "avatar_url": None} for id_ in here.of
            ]
            state = {"type": "room_state", "room_id": room_id, "users": users, "timestamp": now()}
            await here.tell(state, user_id)
            if live:
                listed = [
                    {"user_id": id_, "username": here.names[id_], "started_at": at}
                    for id_, at in live.items()
                ]
                await here.tell(
                    {
                        **{"type": "active-broadcasts", "room_id": room_id},
                        **{"broadcasters": listed, "timestamp": now()},
                    },
                    user_id,
                )
            try:
                while True:
                    message = await receive()
                    await hear(here, user_id, message, about)
            finally:
                live.pop(user_id, None)
                with trio.move_on_after(1, shield=True):
                    await here.tell_others(
                        {"type": "user_left", **about, "timestamp": now()}, user_id
                    )

    async def hear(here: Sockets, user_id: str, message: Message, about: Message) -> None:
        user = {"user_id": user_id, "username": about["username"], "timestamp": now()}
        match message["type"]:
            case "broadcast-started":
                live[user_id] = now()
                await here.tell_others({"type": "broadcast-started", **user}, user_id)
            case "broadcast-stopped":
                live.pop(user_id, None)
                await here.tell({"type": "broadcast-stopped", **user}, *here.of)
            case "webrtc-signal":
                passed = {"from_user_id": user_id, "from_username": about["username"]}
                target = message["target_user_id"]
                kept = {"room_id": about["room_id"], "target_user_id": target}
                signal = {"signal": message["signal"]}
                await here.tell({"type": "webrtc-signal", **kept, **passed, **signal}, target)
            case "message":
                content = {"content": message["content"], "avatar": None, "timestamp": now()}
                await here.tell(
                    {"type": "message", "id": str(uuid4()), **about, **content}, *here.of
                )

    return app


def announce() -> QuartTrio:
    """Announcements of creators; the caller is whoever has a session, here user 7."""
    app = QuartTrio("announce")
    here = Sockets()
    current: Message = {}
    seen: set[tuple[str, str]] = set()

    def active() -> Message | None:
        return current if current and (current["id"], "7") not in seen else None

    @app.post("/api/creator/broadcast")
    async def broadcast() -> Message:
        body = await request.get_json()
        message, type_ = body["message"].strip(), body.get("type", "info")
        current.clear()
        current.update(id=str(uuid4()), message=message, message_type=type_)
        current.update(created_by="7", created_at=f"{now()}+00:00")
        await here.tell({"type": "new_broadcast", "broadcast": current}, *here.of)
        return {
            **{"status": "success", "id": current["id"]},
            "message": f"Broadcast sent successfully to {len(here.of)} connected users.",
            **{"character_count": len(message), "max_characters": 280},
            "sent_to_users": len(here.of),
        }

    @app.post("/api/creator/broadcast/acknowledge")
    async def acknowledge() -> Message:
        body = await request.get_json()
        if not body.get("broadcast_id"):
            return {"status": "error", "message": "Broadcast ID is required"}
        seen.add((body["broadcast_id"], "7"))
        return {"status": "success"}

    @app.get("/api/creator/broadcast/active")
    async def get_active() -> Message:
        found = active()
        if found is None:
            return {"broadcast": None}
        banner = {"id": found["id"], "message": found["message"], "type": found["message_type"]}
        return {"broadcast": banner}

    @app.websocket("/api/creator/broadcast/ws")
    async def endpoint() -> None:
        async with here.connected(websocket.args["user_id"]):
            connected = {"type": "connected", "message": "Connected to broadcast live updates"}
            await websocket.send(json.dumps(connected))
            while True:
                found = active()
                if found is not None:
                    await websocket.send(
                        json.dumps({"type": "active_broadcast", "broadcast": found})
                    )
                while True:
                    message = await receive()
                    if message["type"] == "get_active_broadcast":
                        break
                    seen.add((message["broadcast_id"], "7"))

    return app


def live() -> QuartTrio:
    """Who is live in several rooms; the list includes the one who asks."""
    app = QuartTrio("live")
    rooms: dict[str, Sockets] = {}
    broadcasters: dict[str, dict[str, str]] = {}

    @app.websocket("/api/v1/ws/connect")
    async def endpoint() -> None:
        id_, name = websocket.args["user_id"], websocket.args["username"]
        greeting = {"type": "connected", "user_id": id_, "username": name, "timestamp": now()}
        await websocket.send(json.dumps({**greeting, "message": "WebSocket connected"}))
        while True:
            message = await receive()
            room_id = message["room_id"]
            here, live_here = (
                rooms.setdefault(room_id, Sockets()),
                broadcasters.setdefault(room_id, {}),
            )
            about = {"room_id": room_id, "user_id": id_, "timestamp": now()}
            peers = [
                {"user_id": one, "username": here.names[one], "media_type": media}
                for one, media in live_here.items()
            ]
            match message["type"]:
                case "join_room":
                    here.enter(id_, name)
                    joined = {"room_id": room_id, "room_name": room_id, "members": list(here.of)}
                    await here.tell({"type": "joined_room", **joined, "timestamp": now()}, id_)
                    await here.tell_others({"type": "user_joined", **about}, id_)
                case "live_start":
                    media = live_here[id_] = message.get("media_type", "video")
                    told = {"type": "live_peer_joined", **about, "username": name}
                    await here.tell_others({**told, "media_type": media}, id_)
                    others = [peer for peer in peers if peer["user_id"] != id_]
                    await here.tell(
                        {"type": "live_peers", "room_id": room_id, "peers": others}, id_
                    )
                case "live_status":
                    await here.tell({"type": "live_peers", "room_id": room_id, "peers": peers}, id_)
                case "live_offer" | "live_answer" | "live_ice" as type_:
                    passed = {"room_id": room_id, "from_user_id": id_, "timestamp": now()}
                    signal = {"type": type_, **passed, "payload": message["payload"]}
                    await here.tell(signal, message["target_user_id"])

    return app


def stream() -> QuartTrio:
    """One broadcaster, many viewers; it counts its clients, and announces no departures."""
    app = QuartTrio("stream")
    numbers = itertools.count(1)
    clients = Sockets()
    streams: dict[str, Sockets] = {}
    broadcaster: dict[str, str] = {}

    @app.get("/api/orders/<stream_id>")
    async def order(stream_id: str) -> Message:
        return {"live": stream_id in broadcaster}

    @app.websocket("/ws")
    async def endpoint() -> None:
        id_ = f"client_{next(numbers)}"
        async with clients.connected(id_):
            while True:
                message = await receive()
                about = {"streamId": message["streamId"]}
                here = streams.setdefault(message["streamId"], Sockets())
                here.enter(id_, "")
                source = broadcaster.get(message["streamId"], "")
                match message["type"]:
                    case "broadcaster-ready":
                        broadcaster[message["streamId"]] = id_
                        await here.tell_others({"type": "broadcaster-ready-signal", **about}, id_)
                    case "join-stream":
                        count = {"type": "viewer-count", "count": len(here.of), **about}
                        await here.tell(count, *here.of)
                        await here.tell({"type": "viewer-joined", **about, "viewerId": id_}, source)
                    case type_ if id_ == source:
                        await here.tell({**message, "type": type_}, message["viewerId"])
                    case type_:
                        await here.tell({**message, "type": type_, "viewerId": id_}, source)

    return app


def mesh() -> QuartTrio:
    """Rooms with targeted messages, after a login."""
    app = QuartTrio("mesh")
    rooms: dict[str, Sockets] = {}
    tokens: dict[str, str] = {}

    @app.post("/auth/login")
    async def login() -> Message:
        token = f"{uuid4().hex}.{uuid4().hex}.{uuid4().hex}"
        tokens[token] = (await request.get_json())["username"]
        return {"access_token": token, "token_type": "bearer"}

    @app.websocket("/ws/<room_id>")
    async def endpoint(room_id: str) -> None:
        await websocket.send(json.dumps({"type": "auth_required"}))
        first = await receive()
        name, id_ = tokens[first["token"]], first.get("clientId") or str(uuid4())
        here = rooms.setdefault(room_id, Sockets())
        others = [{"client_id": one, "username": here.names[one]} for one in here.of]
        async with here.connected(id_, name):
            await here.tell({"type": "auth_success", "user": name, "client_id": id_}, id_)
            await here.tell({"type": "users_in_room", "users": others}, id_)
            about = {"client_id": id_, "username": name}
            await here.tell_others({"type": "user_joined", **about}, id_)
            try:
                while True:
                    message = await receive()
                    target = message.pop("to", None)
                    told = {**message, "from": id_, "username": name}
                    if target is None:
                        await here.tell_others(told, id_)
                    elif target in here.of:
                        await here.tell(told, target)
                    else:
                        error = {"type": "error", "message": f"Target client {target} not found"}
                        await here.tell(error, id_)
            finally:
                with trio.move_on_after(1, shield=True):
                    await here.tell_others({"type": "user_left", **about}, id_)

    return app


def backend() -> QuartTrio:
    """Everything else that an old server did: each path has its page."""
    app = QuartTrio("backend")

    @app.get("/")
    @app.get("/<path:_>")
    async def page(_: str = "") -> Message:
        return {"old": request.path}

    return app


@asynccontextmanager
async def open_old_server(make: Callable[[], QuartTrio]) -> AsyncIterator[str]:
    """Serve one of them while the block runs; yields its URL."""
    config = Config()
    config.bind, config.errorlog, config.graceful_timeout = ["127.0.0.1:0"], None, 0.1
    async with trio.open_nursery() as nursery:
        stopped = trio.Event()
        urls: list[str] = await nursery.start(
            partial(serve, make(), config, shutdown_trigger=stopped.wait)
        )
        yield urls[0]
        nursery.cancel_scope.cancel()
