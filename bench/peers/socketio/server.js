// Rooms on Socket.IO, as its documentation recommends.
import { createServer } from "node:http";
import { Server } from "socket.io";

const HEARTBEAT = Number(process.env.HEARTBEAT ?? 20) * 1000;
const RECOVERY = process.env.RECOVERY ? { connectionStateRecovery: {} } : {};
const SIGNALS = ["offer", "answer", "ice_candidate", "message"];

const http = createServer();
const io = new Server(http, { pingInterval: HEARTBEAT, ...RECOVERY });
const rooms = new Map(); // room id -> Map of client id -> socket

io.on("connection", (socket) => {
  if (socket.recovered) enter(socket);
  socket.on("join", ({ room: roomId, clientId, username }) => {
    socket.data = { id: clientId, username, roomId };
    enter(socket);
  });

  for (const kind of SIGNALS) {
    socket.on(kind, ({ to, ...message }) => {
      const { id, username, roomId } = socket.data;
      const told = { ...message, from: id, username };
      if (!to) return socket.to(roomId).emit(kind, told);
      const target = rooms.get(roomId).get(to);
      if (target) target.emit(kind, told);
      else socket.emit("error", { message: `Target client ${to} not found`, to });
    });
  }

  socket.on("disconnect", () => {
    const { id, roomId } = socket.data;
    const room = rooms.get(roomId);
    if (!room) return;
    room.delete(id);
    io.to(roomId).emit("user_left", moved(socket, room));
    if (room.size === 0) rooms.delete(roomId);
  });
});

function enter(socket) {
  const { id, roomId } = socket.data;
  let room = rooms.get(roomId);
  if (!room) rooms.set(roomId, (room = new Map()));
  if (!socket.recovered) {
    const users = [...room].map(([id, other]) => ({ client_id: id, username: other.data.username }));
    socket.join(roomId);
    socket.emit("users_in_room", { users });
  }
  room.set(id, socket);
  socket.to(roomId).emit("user_joined", moved(socket, room));
}

function moved({ data: { id, username, roomId } }, room) {
  return { room_id: roomId, from: id, client_id: id, username, connected_users: room.size };
}

http.listen({ host: "127.0.0.1", port: 0, backlog: 65535 }, () => {
  console.log(`listening on http://127.0.0.1:${http.address().port}`);
});
