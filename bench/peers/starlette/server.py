"""Rooms on Starlette and Uvicorn, carefully written: texts are encoded once, with a queue for each
client.
"""

import asyncio
import json
import os
import socket
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

HEARTBEAT = float(os.environ.get("HEARTBEAT", "20"))
SIGNALS = {"offer", "answer", "ice_candidate", "message"}
#: Messages that may wait for one client.
QUEUE = 5000


class Client:
    """A connection, and its waiting messages."""

    def __init__(self, ws: WebSocket) -> None:
        self.ws = ws
        self.id = ""
        self.username = ""
        self.queue: asyncio.Queue[str] = asyncio.Queue(QUEUE)

    def send(self, text: str) -> None:
        try:
            self.queue.put_nowait(text)
        except asyncio.QueueFull:
            pass  # too slow

    async def write(self) -> None:
        try:
            while True:
                await self.ws.send_text(await self.queue.get())
        except (WebSocketDisconnect, RuntimeError):
            pass  # the reader notices the end, too


rooms: dict[str, dict[str, Client]] = {}


def encode(message: dict[str, Any]) -> str:
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False)


def broadcast(room: dict[str, Client], sender: Client, message: dict[str, Any]) -> None:
    text = encode(message)
    for client in room.values():
        if client is not sender:
            client.send(text)


def moved(type_: str, room_id: str, client: Client) -> dict[str, Any]:
    return {
        "type": type_,
        "room_id": room_id,
        "from": client.id,
        "client_id": client.id,
        "username": client.username,
        "connected_users": len(rooms[room_id]),
    }


def join(room_id: str, client: Client, hello: dict[str, Any]) -> None:
    room = rooms.setdefault(room_id, {})
    client.id, client.username = hello["clientId"], hello["username"]
    client.send(
        encode(
            {
                "type": "auth_success",
                "username": client.username,
                "clientId": client.id,
                "room_id": room_id,
            }
        )
    )
    users = [{"client_id": other.id, "username": other.username} for other in room.values()]
    client.send(encode({"type": "users_in_room", "users": users}))
    room[client.id] = client
    broadcast(room, client, moved("user_joined", room_id, client))


def leave(room_id: str, client: Client) -> None:
    room = rooms[room_id]
    del room[client.id]
    broadcast(room, client, moved("user_left", room_id, client))
    if not room:
        del rooms[room_id]


def relay(room_id: str, client: Client, message: dict[str, Any]) -> None:
    to = message.pop("to", None)
    message["from"] = client.id
    message["username"] = client.username
    room = rooms[room_id]
    if to is None:
        broadcast(room, client, message)
    elif to in room:
        room[to].send(encode(message))
    else:
        client.send(encode({"type": "error", "message": f"Target client {to} not found"}))


async def endpoint(ws: WebSocket) -> None:
    await ws.accept()
    room_id = ws.path_params["room_id"]
    client = Client(ws)
    client.send(encode({"type": "auth_required"}))
    writer = asyncio.create_task(client.write())
    try:
        join(room_id, client, json.loads(await ws.receive_text()))
        while True:
            message = json.loads(await ws.receive_text())
            if message["type"] in SIGNALS:
                relay(room_id, client, message)
            elif message["type"] == "ping":
                client.send(encode({"type": "pong"}))
    except WebSocketDisconnect:
        pass
    finally:
        if client.id:
            leave(room_id, client)
        writer.cancel()


app = Starlette(routes=[WebSocketRoute("/ws/{room_id}", endpoint)])

if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0), backlog=65535) as sock:
        print(f"listening on http://127.0.0.1:{sock.getsockname()[1]}", flush=True)
        config = uvicorn.Config(app, log_level="warning", ws_ping_interval=HEARTBEAT)
        uvicorn.Server(config).run([sock])
