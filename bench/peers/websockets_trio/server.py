"""Rooms on the Trio server of websockets."""

import json
import os
from functools import partial
from typing import Any

import trio
from websockets.exceptions import ConnectionClosed
from websockets.trio.server import ServerConnection, serve

HEARTBEAT = float(os.environ.get("HEARTBEAT", "20"))
SIGNALS = {"offer", "answer", "ice_candidate", "message"}

Room = dict[str, tuple[ServerConnection, str]]
rooms: dict[str, Room] = {}


async def send(connection: ServerConnection, message: dict[str, Any]) -> None:
    await connection.send(json.dumps(message))


async def broadcast(room: Room, sender: ServerConnection, message: dict[str, Any]) -> None:
    text = json.dumps(message)
    for connection, _ in list(room.values()):
        if connection is not sender:
            try:
                await connection.send(text)
            except ConnectionClosed:
                pass  # it is about to leave


def moved(type_: str, room_id: str, client_id: str, username: str) -> dict[str, Any]:
    return {
        "type": type_,
        "room_id": room_id,
        "from": client_id,
        "client_id": client_id,
        "username": username,
        "connected_users": len(rooms[room_id]),
    }


async def handle(connection: ServerConnection) -> None:
    assert connection.request is not None
    room_id = connection.request.path.removeprefix("/ws/")
    await send(connection, {"type": "auth_required"})
    try:
        hello = json.loads(await connection.recv())
    except ConnectionClosed:
        return
    client_id, username = hello["clientId"], hello["username"]
    room = rooms.setdefault(room_id, {})
    success = {"username": username, "clientId": client_id, "room_id": room_id}
    await send(connection, {"type": "auth_success", **success})
    users = [{"client_id": other, "username": name} for other, (_, name) in room.items()]
    room[client_id] = connection, username
    try:
        await send(connection, {"type": "users_in_room", "users": users})
        await broadcast(room, connection, moved("user_joined", room_id, client_id, username))
        async for text in connection:
            message = json.loads(text)
            if message["type"] in SIGNALS:
                await relay(room, connection, client_id, message)
            elif message["type"] == "ping":
                await send(connection, {"type": "pong"})
    except ConnectionClosed:
        pass
    del room[client_id]
    await broadcast(room, connection, moved("user_left", room_id, client_id, username))
    if not room:
        rooms.pop(room_id, None)


async def relay(
    room: Room, connection: ServerConnection, client_id: str, message: dict[str, Any]
) -> None:
    to = message.pop("to", None)
    message["from"] = client_id
    message["username"] = room[client_id][1]
    if to is None:
        await broadcast(room, connection, message)
    elif to in room:
        await send(room[to][0], message)
    else:
        await send(connection, {"type": "error", "message": f"Target client {to} not found"})


async def main() -> None:
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        await nursery.start(
            partial(serve, handle, listeners=listeners, compression=None, ping_interval=HEARTBEAT)
        )
        port = listeners[0].socket.getsockname()[1]
        print(f"listening on http://127.0.0.1:{port}", flush=True)


if __name__ == "__main__":
    trio.run(main)
