"""Rooms on the server of trio-websocket."""

import json
import os
from typing import Any

import trio
from trio_websocket import (
    ConnectionClosed,
    WebSocketConnection,
    WebSocketRequest,
    WebSocketServer,
    serve_websocket,
)

HEARTBEAT = float(os.environ.get("HEARTBEAT", "20"))
SIGNALS = {"offer", "answer", "ice_candidate", "message"}

Room = dict[str, tuple[WebSocketConnection, str]]
rooms: dict[str, Room] = {}


async def send(ws: WebSocketConnection, message: dict[str, Any]) -> None:
    await ws.send_message(json.dumps(message))


async def broadcast(room: Room, sender: WebSocketConnection, message: dict[str, Any]) -> None:
    text = json.dumps(message)
    for ws, _ in list(room.values()):
        if ws is not sender:
            try:
                await ws.send_message(text)
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


async def heartbeat(ws: WebSocketConnection) -> None:
    """As in trio-websocket's documentation."""
    while True:
        await trio.sleep(HEARTBEAT)
        with trio.fail_after(HEARTBEAT):
            await ws.ping()


async def handle(request: WebSocketRequest) -> None:
    room_id = request.path.removeprefix("/ws/")
    ws = await request.accept()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(heartbeat, ws)
        try:
            await serve_client(room_id, ws)
        except ConnectionClosed:
            pass
        nursery.cancel_scope.cancel()


async def serve_client(room_id: str, ws: WebSocketConnection) -> None:
    await send(ws, {"type": "auth_required"})
    hello = json.loads(await ws.get_message())
    client_id, username = hello["clientId"], hello["username"]
    room = rooms.setdefault(room_id, {})
    success = {"username": username, "clientId": client_id, "room_id": room_id}
    await send(ws, {"type": "auth_success", **success})
    users = [{"client_id": other, "username": name} for other, (_, name) in room.items()]
    room[client_id] = ws, username
    try:
        await send(ws, {"type": "users_in_room", "users": users})
        await broadcast(room, ws, moved("user_joined", room_id, client_id, username))
        while True:
            message = json.loads(await ws.get_message())
            if message["type"] in SIGNALS:
                await relay(room, ws, client_id, message)
            elif message["type"] == "ping":
                await send(ws, {"type": "pong"})
    except ConnectionClosed:
        pass
    del room[client_id]
    await broadcast(room, ws, moved("user_left", room_id, client_id, username))
    if not room:
        rooms.pop(room_id, None)


async def relay(
    room: Room, ws: WebSocketConnection, client_id: str, message: dict[str, Any]
) -> None:
    to = message.pop("to", None)
    message["from"] = client_id
    message["username"] = room[client_id][1]
    if to is None:
        await broadcast(room, ws, message)
    elif to in room:
        await send(room[to][0], message)
    else:
        await send(ws, {"type": "error", "message": f"Target client {to} not found"})


async def main() -> None:
    async with trio.open_nursery() as nursery:
        server: WebSocketServer = await nursery.start(serve_websocket, handle, "127.0.0.1", 0, None)
        print(f"listening on http://127.0.0.1:{server.port}", flush=True)


if __name__ == "__main__":
    trio.run(main)
