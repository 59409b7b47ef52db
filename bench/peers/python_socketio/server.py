"""Rooms on python-socketio and Uvicorn, as its documentation recommends."""

import os
import socket
from typing import Any

import socketio
import uvicorn

HEARTBEAT = float(os.environ.get("HEARTBEAT", "20"))

sio = socketio.AsyncServer(async_mode="asgi", ping_interval=HEARTBEAT)
app = socketio.ASGIApp(sio)

Client = dict[str, Any]
clients: dict[str, Client] = {}  # by session id
rooms: dict[str, dict[str, str]] = {}  # session ids by client id, by room


def moved(client: Client) -> dict[str, Any]:
    return {
        "room_id": client["room"],
        "from": client["clientId"],
        "client_id": client["clientId"],
        "username": client["username"],
        "connected_users": len(rooms[client["room"]]),
    }


@sio.event
async def join(sid: str, client: Client) -> None:
    room = rooms.setdefault(client["room"], {})
    users = [
        {"client_id": other, "username": clients[other_sid]["username"]}
        for other, other_sid in room.items()
    ]
    clients[sid] = client
    room[client["clientId"]] = sid
    await sio.enter_room(sid, client["room"])
    await sio.emit("users_in_room", {"users": users}, to=sid)
    await sio.emit("user_joined", moved(client), room=client["room"], skip_sid=sid)


@sio.event
async def disconnect(sid: str, reason: str) -> None:
    client = clients.pop(sid, None)
    if client is None:
        return
    room = rooms[client["room"]]
    del room[client["clientId"]]
    await sio.emit("user_left", moved(client), room=client["room"], skip_sid=sid)
    if not room:
        rooms.pop(client["room"], None)


def on_signal(kind: str) -> None:
    async def relay(sid: str, message: dict[str, Any]) -> None:
        client = clients[sid]
        to = message.pop("to", None)
        told = {**message, "from": client["clientId"], "username": client["username"]}
        if to is None:
            await sio.emit(kind, told, room=client["room"], skip_sid=sid)
        elif to in rooms[client["room"]]:
            await sio.emit(kind, told, to=rooms[client["room"]][to])
        else:
            await sio.emit("error", {"message": f"Target client {to} not found"}, to=sid)

    sio.on(kind, relay)


for signal in ("offer", "answer", "ice_candidate", "message"):
    on_signal(signal)

if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0), backlog=65535) as sock:
        print(f"listening on http://127.0.0.1:{sock.getsockname()[1]}", flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([sock])
