/**
 * A typical client of the `stream` dialect: the broadcaster makes one peer connection for each
 * viewer. Query: stream, role (broadcaster or viewer), and host if it is not this page's.
 * With `old=MS` it behaves like the first clients of this dialect: it takes MS milliseconds to apply
 * a description, loses candidates that arrive before that, and, as a viewer, ignores offers while
 * it has a connection that has not failed.
 */

const query = new URLSearchParams(location.search);
const host = query.get('host') ?? location.host;
const streamId = query.get('stream');
const broadcasting = query.get('role') === 'broadcaster';
const old = query.has('old');
const slowness = Number(query.get('old'));

/** All messages from the server, for the test to read. */
window.messages = [];

/** How many offers were answered. */
window.answered = 0;

const socket = new WebSocket(`ws://${host}/ws`);
const calls = window.calls = new Map(); // viewer's id -> {pc, early}; a viewer has only one, under its own id
let camera = null;

function setState(words) {
  document.getElementById('state').textContent = words;
}

function send(message) {
  socket.send(JSON.stringify({ ...message, streamId }));
}

async function start() {
  if (broadcasting) await goLive();
  else send({ type: 'join-stream' });
}

/** Also called to switch cameras: viewers then get new offers. */
async function goLive() {
  for (const id of [...calls.keys()]) close(id);
  camera = await navigator.mediaDevices.getUserMedia({ video: true, audio: true });
  send({ type: 'broadcaster-ready' });
  setState('live');
}

async function receive(message) {
  window.messages.push(message);
  const { type, viewerId } = message;
  if (type === 'viewer-count') document.getElementById('count').textContent = message.count;
  if (type === 'viewer-joined') await offer(viewerId);
  if (type === 'viewer-left') close(viewerId);
  if (type === 'webrtc-offer') await answer(viewerId, message.offer);
  if (type === 'webrtc-answer') await describe(calls.get(viewerId), message.answer);
  if (type === 'webrtc-ice-candidate') await candidate(viewerId, message.candidate);
  if (type === 'broadcaster-ready-signal') setState('broadcaster is ready');
  if (type === 'broadcaster-disconnected') ended('broadcaster disconnected');
  if (type === 'stream-ended') ended('stream ended');
}

function open(viewerId) {
  close(viewerId);
  const pc = new RTCPeerConnection();
  pc.onicecandidate = (event) => {
    if (event.candidate) {
      send({ type: 'webrtc-ice-candidate', candidate: event.candidate, viewerId });
    }
  };
  calls.set(viewerId, { pc, early: [] });
  return pc;
}

function close(viewerId) {
  calls.get(viewerId)?.pc.close();
  calls.delete(viewerId);
}

async function offer(viewerId) {
  const pc = open(viewerId);
  for (const track of camera.getTracks()) pc.addTrack(track, camera);
  await pc.setLocalDescription();
  send({ type: 'webrtc-offer', offer: pc.localDescription, viewerId });
}

/** Uses the known peer connection if the offer is from the same one as before, and else a new one. */
async function answer(viewerId, description) {
  if (old && calls.has(viewerId)) {
    const state = calls.get(viewerId).pc.connectionState;
    if (state !== 'failed') return;
  }
  const known = calls.get(viewerId)?.pc;
  const pc = originOf(known?.remoteDescription) === originOf(description) ? known : open(viewerId);
  pc.ontrack = ({ streams }) => { document.getElementById('video').srcObject = streams[0]; };
  await describe(calls.get(viewerId), description);
  await pc.setLocalDescription();
  send({ type: 'webrtc-answer', answer: pc.localDescription, viewerId });
  window.answered += 1;
  setState('watching');
}

function originOf(description) {
  return /^o=\S+ (\S+)/m.exec(description?.sdp)?.[1];
}

/** Switches to another camera with a larger picture, by a new offer on each peer connection. */
async function switchCamera() {
  const devices = await navigator.mediaDevices.enumerateDevices();
  const { deviceId } = devices.filter(({ kind }) => kind === 'videoinput').at(-1);
  camera = await navigator.mediaDevices.getUserMedia({ video: { deviceId } });
  for (const [viewerId, { pc }] of calls) {
    for (const sender of pc.getSenders()) pc.removeTrack(sender);
    for (const track of camera.getTracks()) pc.addTrack(track, camera);
    await pc.setLocalDescription();
    send({ type: 'webrtc-offer', offer: pc.localDescription, viewerId });
  }
}

async function describe({ pc, early }, description) {
  if (old) await new Promise((done) => { setTimeout(done, slowness); });
  await pc.setRemoteDescription(description);
  for (const value of early.splice(0)) await pc.addIceCandidate(value);
}

async function candidate(viewerId, value) {
  const { pc, early } = calls.get(viewerId) ?? {};
  if (old) return pc?.remoteDescription && pc.addIceCandidate(value).catch(() => {});
  if (pc.remoteDescription) await pc.addIceCandidate(value);
  else early.push(value);
}

function ended(words) {
  if (!old) for (const id of [...calls.keys()]) close(id);
  setState(words);
}

Object.assign(window, { goLive, switchCamera });
socket.onmessage = ({ data }) => receive(JSON.parse(data));
socket.onopen = start;
