/**
 * A typical client of the `live` dialect. A live client makes an offer to each peer that
 * `live_peer_joined` names. A listener asks who is live, waits for offers, and never makes one.
 * When the connection is lost, the client reconnects without joining the room again; its peer
 * connections continue.
 * Query: room, user.
 */

const query = new URLSearchParams(location.search);
const room = query.get('room');
const me = query.get('user');

/** All messages from the server, for the test to read. */
window.messages = [];

const url = `ws://${location.host}/api/v1/ws/connect?user_id=${me}&username=${me}&token=t`;
const COME_BACK_AFTER = 200; // ms

let socket;
let isBack = false;
const calls = new Map(); // the other's user id -> {pc, early, isUnanswered}
let camera = null;
let isUntold = false; // whether the server does not know yet that we are live

function setState(words) {
  document.getElementById('state').textContent = words;
}

function connect() {
  socket = new WebSocket(url);
  socket.onmessage = ({ data }) => receive(JSON.parse(data));
  socket.onclose = () => {
    isBack = true;
    setTimeout(connect, COME_BACK_AFTER);
  };
}

function send(type, fields = {}) {
  socket.send(JSON.stringify({ type, room_id: room, ...fields }));
}

async function receive(message) {
  window.messages.push(message);
  const { type, payload, from_user_id: from } = message;
  if (type === 'connected') connected();
  if (type === 'joined_room') joined();
  if (type === 'live_peer_joined') await peerJoined(message.user_id);
  if (type === 'live_peer_left') ended(message.user_id);
  if (type === 'live_offer') await answer(from, payload);
  if (type === 'live_answer') await answered(calls.get(from), payload);
  if (type === 'live_ice') await candidate(calls.get(from), payload);
}

/** If we went live while the server was away, announces that now. Earlier offers may have been lost. */
function connected() {
  for (const call of calls.values()) call.isUnanswered = false;
  if (!isBack) send('join_room');
  else if (isUntold) tellLive();
}

function joined() {
  setState('joined');
  send('live_status');
}

/** If we are live, makes an offer. If not, asks who is live. */
async function peerJoined(user) {
  if (camera) await offer(user);
  else send('live_status');
}

function open(user) {
  calls.get(user)?.pc.close();
  const pc = new RTCPeerConnection();
  pc.onicecandidate = (event) => {
    if (event.candidate) send('live_ice', { target_user_id: user, payload: event.candidate });
  };
  pc.ontrack = ({ streams }) => { document.getElementById('video').srcObject = streams[0]; };
  calls.set(user, { pc, early: [], isUnanswered: false });
  return pc;
}

/** Makes one offer until it is answered, since a listener that goes live is announced twice. */
async function offer(user) {
  if (calls.get(user)?.isUnanswered) return;
  const pc = open(user);
  calls.get(user).isUnanswered = true;
  for (const track of camera.getTracks()) pc.addTrack(track, camera);
  await pc.setLocalDescription();
  send('live_offer', { target_user_id: user, payload: pc.localDescription });
}

/** If two clients go live at the same moment, their offers cross; that of the smaller id counts. */
async function answer(user, description) {
  if (calls.get(user)?.isUnanswered && me < user) return;
  const pc = open(user);
  await describe(calls.get(user), description);
  await pc.setLocalDescription();
  send('live_answer', { target_user_id: user, payload: pc.localDescription });
  setState(`watching ${user}`);
}

async function answered(call, description) {
  if (!call?.isUnanswered) return; // our offer was dropped in favour of theirs
  call.isUnanswered = false;
  await describe(call, description);
}

async function describe({ pc, early }, description) {
  await pc.setRemoteDescription(description);
  for (const value of early.splice(0)) await add(pc, value);
}

async function candidate(call, value) {
  if (call?.pc.remoteDescription) await add(call.pc, value);
  else call?.early.push(value);
}

/** Adds a candidate, unless it belongs to an offer or answer that was dropped. */
async function add(pc, value) {
  const { usernameFragment } = new RTCIceCandidate(value);
  if (pc.remoteDescription.sdp.includes(usernameFragment)) await pc.addIceCandidate(value);
}

function ended(user) {
  calls.get(user)?.pc.close();
  calls.delete(user);
  setState(`${user} stopped`);
}

async function goLive() {
  camera = await navigator.mediaDevices.getUserMedia({ video: true, audio: true });
  isUntold = true;
  if (socket.readyState === WebSocket.OPEN) tellLive();
}

function tellLive() {
  isUntold = false;
  send('live_start');
  setState('live');
}

document.getElementById('live').onclick = goLive;
connect();
