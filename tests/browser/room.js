/**
 * A typical client of the `room` dialect. It joins by REST, then opens the socket. The viewer makes
 * the offer, with its own camera if it is live as well. If an offer arrives instead of the answer,
 * it replaces the viewer's offer. When the connection is lost, the client only reopens the socket:
 * it sends neither its name again, nor that it is live, and its peer connections continue.
 * Query: room, user, username, and host if it is not this page's.
 */

const query = new URLSearchParams(location.search);
const host = query.get('host') ?? location.host;
const room = query.get('room');
const me = query.get('user');
const username = query.get('username') ?? me;
const COME_BACK_AFTER = 200; // ms

/** All messages from the server, for the test to read. */
window.messages = [];

let socket;
let camera = null;
const calls = new Map(); // the other's user id -> {pc, early}

function setState(words) {
  document.getElementById('state').textContent = words;
}

function send(message) {
  socket.send(JSON.stringify(message));
}

function signal(target, value) {
  send({ type: 'webrtc-signal', target_user_id: target, signal: value });
}

async function join() {
  const response = await fetch(`http://${host}/rooms/${room}/join`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ user_id: me, username }),
  });
  if (!response.ok) throw new Error(`join: ${response.status}`);
  connect(`?username=${encodeURIComponent(username)}`);
}

function connect(name = '') {
  socket = new WebSocket(`ws://${host}/ws/${room}/${me}${name}`);
  socket.onmessage = ({ data }) => receive(JSON.parse(data));
  socket.onclose = () => setTimeout(connect, COME_BACK_AFTER);
}

function keepAlive() {
  if (socket.readyState !== WebSocket.OPEN) return;
  send({ type: 'keep_alive', timestamp: new Date().toISOString() });
}

async function receive(message) {
  window.messages.push(message);
  if (message.type === 'room_state') setState('joined');
  if (message.type === 'ping') send({ type: 'pong' });
  if (message.type === 'active-broadcasts') message.broadcasters.forEach((b) => watch(b.user_id));
  if (message.type === 'broadcast-started') watch(message.user_id);
  if (message.type === 'broadcast-stopped' && message.user_id !== me) ended(message.user_id);
  if (message.type === 'webrtc-signal') await signalled(message.from_user_id, message.signal);
}

function open(other) {
  calls.get(other)?.pc.close();
  const pc = new RTCPeerConnection();
  pc.onicecandidate = ({ candidate }) => signal(other, { type: 'ice-candidate', candidate });
  calls.set(other, { pc, early: [] });
  return pc;
}

function show({ streams }) {
  document.getElementById('video').srcObject = streams[0];
}

async function watch(broadcaster) {
  if (calls.get(broadcaster)?.pc.connectionState === 'connected') return;
  const pc = open(broadcaster);
  pc.ontrack = show;
  if (!camera) for (const kind of ['video', 'audio']) pc.addTransceiver(kind, { direction: 'recvonly' });
  for (const track of camera?.getTracks() ?? []) pc.addTrack(track, camera);
  await pc.setLocalDescription();
  signal(broadcaster, { type: 'offer', sdp: pc.localDescription.sdp });
  setState(`watching ${broadcaster}`);
}

async function signalled(from, value) {
  if (value.type === 'offer') await answer(from, value);
  if (value.type === 'answer') await describe(calls.get(from), value);
  if (value.type === 'ice-candidate') await candidate(calls.get(from), value.candidate);
}

async function answer(other, offer) {
  const known = calls.get(other)?.pc;
  const pc = known?.signalingState === 'have-local-offer' ? known : open(other);
  pc.ontrack ??= show;
  await describe(calls.get(other), offer);
  for (const track of camera?.getTracks() ?? []) pc.addTrack(track, camera);
  await pc.setLocalDescription();
  signal(other, { type: 'answer', sdp: pc.localDescription.sdp });
}

async function describe({ pc, early }, description) {
  await pc.setRemoteDescription(description);
  for (const value of early.splice(0)) await pc.addIceCandidate(value);
}

/** A candidate of `null` means that there are no more. */
async function candidate({ pc, early }, value) {
  if (pc.remoteDescription) await pc.addIceCandidate(value);
  else early.push(value);
}

function ended(broadcaster) {
  calls.get(broadcaster)?.pc.close();
  calls.delete(broadcaster);
  setState(`${broadcaster} stopped`);
}

async function goLive() {
  camera = await navigator.mediaDevices.getUserMedia({ video: true, audio: true });
  send({ type: 'broadcast-started', username });
  setState('live');
}

document.getElementById('live').onclick = goLive;
document.getElementById('stop').onclick = () => send({ type: 'broadcast-stopped', username });
setInterval(keepAlive, 10_000);
await join();
