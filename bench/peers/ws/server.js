// Rooms on `ws`, as its documentation recommends.
import { WebSocketServer, WebSocket } from "ws";

const HEARTBEAT = Number(process.env.HEARTBEAT ?? 20) * 1000;
const SIGNALS = new Set(["offer", "answer", "ice_candidate", "message"]);
const rooms = new Map(); // room id -> Map of client id -> socket

const server = new WebSocketServer({ host: "127.0.0.1", port: 0, backlog: 65535 });

function send(socket, message) {
  socket.send(JSON.stringify(message));
}

function broadcast(room, sender, message) {
  const text = JSON.stringify(message);
  for (const socket of room.values()) {
    if (socket !== sender && socket.readyState === WebSocket.OPEN) socket.send(text);
  }
}

function join(socket, roomId, { clientId, username }) {
  let room = rooms.get(roomId);
  if (!room) rooms.set(roomId, (room = new Map()));
  socket.client = { id: clientId, username, roomId };
  send(socket, { type: "auth_success", username, clientId, room_id: roomId });
  const users = [...room].map(([id, other]) => ({ client_id: id, username: other.client.username }));
  send(socket, { type: "users_in_room", users });
  room.set(clientId, socket);
  broadcast(room, socket, moved("user_joined", socket, room));
}

function leave(socket) {
  if (!socket.client) return;
  const room = rooms.get(socket.client.roomId);
  room.delete(socket.client.id);
  broadcast(room, socket, moved("user_left", socket, room));
  if (room.size === 0) rooms.delete(socket.client.roomId);
}

function moved(type, { client }, room) {
  const { id, username, roomId } = client;
  return { type, room_id: roomId, from: id, client_id: id, username, connected_users: room.size };
}

function relay(socket, message) {
  const room = rooms.get(socket.client.roomId);
  const { to, ...rest } = message;
  const told = { ...rest, from: socket.client.id, username: socket.client.username };
  if (!to) return broadcast(room, socket, told);
  const target = room.get(to);
  if (target) send(target, told);
  else send(socket, { type: "error", message: `Target client ${to} not found`, to });
}

server.on("connection", (socket, request) => {
  const roomId = request.url.slice("/ws/".length);
  socket.isAlive = true;
  socket.on("pong", () => (socket.isAlive = true));
  socket.on("error", console.error);
  socket.on("close", () => leave(socket));
  socket.on("message", (data) => {
    const message = JSON.parse(data);
    if (!socket.client) join(socket, roomId, message);
    else if (SIGNALS.has(message.type)) relay(socket, message);
    else if (message.type === "ping") send(socket, { type: "pong" });
  });
  send(socket, { type: "auth_required" });
});

setInterval(() => {
  for (const socket of server.clients) {
    if (!socket.isAlive) {
      socket.terminate();
      continue;
    }
    socket.isAlive = false;
    socket.ping();
  }
}, HEARTBEAT);

server.on("listening", () => {
  console.log(`listening on http://127.0.0.1:${server.address().port}`);
});
