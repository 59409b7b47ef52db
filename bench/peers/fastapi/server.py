"""Rooms on FastAPI and Uvicorn as in the tutorials: `send_json` in a loop."""

import os
import socket
from typing import Any

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect

HEARTBEAT = float(os.environ.get("HEARTBEAT", "20"))
SIGNALS = {"offer", "answer", "ice_candidate", "message"}

app = FastAPI()


class ConnectionManager:
    """The connections, by room and client id."""

    def __init__(self) -> None:
        self.rooms: dict[str, dict[str, WebSocket]] = {}
        self.usernames: dict[WebSocket, str] = {}

    async def connect(self, room_id: str, client_id: str, username: str, ws: WebSocket) -> None:
        room = self.rooms.setdefault(room_id, {})
        await ws.send_json(
            {
                "type": "auth_success",
                "username": username,
                "clientId": client_id,
                "room_id": room_id,
            }
        )
        users = [
            {"client_id": other, "username": self.usernames[other_ws]}
            for other, other_ws in room.items()
        ]
        room[client_id] = ws
        self.usernames[ws] = username
        await ws.send_json({"type": "users_in_room", "users": users})
        await self.broadcast(room_id, self.moved("user_joined", room_id, client_id, username), ws)

    async def disconnect(self, room_id: str, client_id: str, ws: WebSocket) -> None:
        room = self.rooms[room_id]
        del room[client_id]
        username = self.usernames.pop(ws)
        await self.broadcast(room_id, self.moved("user_left", room_id, client_id, username), ws)
        if not room:
            self.rooms.pop(room_id, None)

    def moved(self, type_: str, room_id: str, client_id: str, username: str) -> dict[str, Any]:
        return {
            "type": type_,
            "room_id": room_id,
            "from": client_id,
            "client_id": client_id,
            "username": username,
            "connected_users": len(self.rooms[room_id]),
        }

    async def broadcast(self, room_id: str, message: dict[str, Any], sender: WebSocket) -> None:
        for ws in list(self.rooms[room_id].values()):
            if ws is not sender:
                try:
                    await ws.send_json(message)
                except (WebSocketDisconnect, RuntimeError):
                    pass  # it is about to leave

    async def relay(self, room_id: str, client_id: str, ws: WebSocket, message: Any) -> None:
        to = message.pop("to", None)
        message["from"] = client_id
        message["username"] = self.usernames[ws]
        if to is None:
            await self.broadcast(room_id, message, ws)
        elif to in self.rooms[room_id]:
            await self.rooms[room_id][to].send_json(message)
        else:
            await ws.send_json({"type": "error", "message": f"Target client {to} not found"})


manager = ConnectionManager()


@app.websocket("/ws/{room_id}")
async def endpoint(ws: WebSocket, room_id: str) -> None:
    await ws.accept()
    await ws.send_json({"type": "auth_required"})
    try:
        hello = await ws.receive_json()
    except WebSocketDisconnect:
        return
    client_id = hello["clientId"]
    await manager.connect(room_id, client_id, hello["username"], ws)
    try:
        while True:
            message = await ws.receive_json()
            if message["type"] in SIGNALS:
                await manager.relay(room_id, client_id, ws, message)
            elif message["type"] == "ping":
                await ws.send_json({"type": "pong"})
    except WebSocketDisconnect:
        pass
    finally:
        await manager.disconnect(room_id, client_id, ws)


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0), backlog=65535) as sock:
        print(f"listening on http://127.0.0.1:{sock.getsockname()[1]}", flush=True)
        config = uvicorn.Config(app, log_level="warning", ws_ping_interval=HEARTBEAT)
        uvicorn.Server(config).run([sock])
