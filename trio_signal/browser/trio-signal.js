/**
 * The browser client of trio-signal: who is in a room, who is live, and their video.
 *
 *     const room = new Room('lobby', { username: 'Ada' });
 *     room.addEventListener('change', () => draw(room));
 *     room.join();
 *     room.goLive(await navigator.mediaDevices.getUserMedia({ video: true }), 'camera');
 *
 * It speaks the `mesh` dialect. The server only introduces the browsers: sound and picture go
 * from browser to browser, over one RTCPeerConnection per broadcaster and viewer. The viewer
 * makes the offer, so whoever does not want to watch costs the broadcaster nothing.
 */

/** After these close codes another try would end the same way: the server has said no. */
const FINAL_CODES = new Set([1000, 1002, 1003, 1007, 1008, 1009, 4001, 4004, 4409]);
const FIRST_DELAY = 500; // ms, doubled with each attempt
const LONGEST_DELAY = 15_000;
const HEARTBEAT = 20_000; // ms, until the server has told its own
const WATCH_AGAIN = 2_000; // ms after a media connection failed
const COUNT_EVERY = 500; // ms; a hundred viewers who come at once are told as one number

/** How long to wait before attempt `n`; random, so that a restarted server is not stormed. */
export function backoff(n, random = Math.random) {
  return Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** n) * (0.5 + random() / 2);
}

/**
 * A WebSocket that authenticates, notices silence, and comes back when it is lost.
 *
 * `onMessage(message)` gets every message of the server. `onState(state, words)` gets
 * `connecting`, `waiting` (for the next attempt) or `closed` (for good).
 */
class Connection {
  #url;
  #hello;
  #onMessage;
  #onState;
  #socket = null;
  #attempt = 0;
  #retry = 0;
  #heartbeat = 0;
  #heard = false;

  constructor(url, hello, { onMessage, onState }) {
    this.#url = url;
    this.#hello = hello;
    this.#onMessage = onMessage;
    this.#onState = onState;
  }

  open() {
    this.#onState('connecting', 'Connecting…');
    const socket = new WebSocket(this.#url);
    socket.onmessage = ({ data }) => this.#receive(JSON.parse(data));
    socket.onclose = ({ code, reason }) => this.#lost(code, reason);
    this.#socket = socket;
    this.#beatEvery(HEARTBEAT);
  }

  /** Sends at once, or not at all: what a lost connection missed, the next join tells anew. */
  send(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  close(words = 'Not in a room') {
    this.#drop();
    clearTimeout(this.#retry);
    this.#onState('closed', words);
  }

  #receive(message) {
    this.#heard = true;
    if (message.type === 'auth_required') this.send({ type: 'auth_token', ...this.#hello });
    if (message.type === 'auth_success') {
      this.#attempt = 0;
      this.#beatEvery(message.heartbeat * 1000 || HEARTBEAT);
    }
    this.#onMessage(message);
  }

  #lost(code, reason) {
    if (FINAL_CODES.has(code)) return this.close(`Disconnected: ${reason || `code ${code}`}`);
    this.#drop();
    const delay = backoff(this.#attempt++);
    this.#retry = setTimeout(() => this.open(), delay);
    this.#onState('waiting', `Connection lost. Trying again in ${Math.ceil(delay / 1000)} s.`);
  }

  /** A dead network closes no socket. Whoever is silent for a whole beat is taken for gone. */
  #beatEvery(interval) {
    clearInterval(this.#heartbeat);
    this.#heartbeat = setInterval(() => {
      if (!this.#heard) return this.#lost(1006, 'silence');
      this.#heard = false;
      this.send({ type: 'ping' });
    }, interval);
  }

  #drop() {
    clearInterval(this.#heartbeat);
    this.#heard = false;
    if (!this.#socket) return;
    this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close(1000);
    this.#socket = null;
  }
}

/**
 * One peer connection between a broadcaster and a viewer.
 *
 * Two peers that watch each other have two calls. The call's id travels inside the offer, the
 * answer and the candidates, so a late candidate never reaches the wrong connection.
 */
class Call {
  /** What arrives from the broadcaster. */
  stream = new MediaStream();
  #pc;
  #send;
  #early = []; // candidates that came before the description

  constructor(id, iceServers, { send, onChange }) {
    this.id = id;
    this.#send = send;
    this.#pc = new RTCPeerConnection({ iceServers, bundlePolicy: 'max-bundle' });
    this.#pc.onconnectionstatechange = onChange;
    this.#pc.ontrack = ({ track }) => this.stream.addTrack(track);
    this.#pc.onicecandidate = ({ candidate }) => {
      if (candidate) this.#tell('ice_candidate', 'candidate', candidate);
    };
  }

  /** new, connecting, connected, disconnected, failed or closed. */
  get state() {
    return this.#pc.connectionState;
  }

  /** The viewer's side: asks for sound and picture. */
  async offer() {
    this.#pc.addTransceiver('audio', { direction: 'recvonly' });
    this.#pc.addTransceiver('video', { direction: 'recvonly' });
    await this.#pc.setLocalDescription();
    this.#tell('offer', 'offer', this.#pc.localDescription);
  }

  /** The broadcaster's side: gives what it has. */
  async answer(offer, stream) {
    await this.describe(offer);
    for (const track of stream.getTracks()) this.#pc.addTrack(track, stream);
    await this.#pc.setLocalDescription();
    this.#tell('answer', 'answer', this.#pc.localDescription);
  }

  async describe(description) {
    await this.#pc.setRemoteDescription(description);
    for (const candidate of this.#early.splice(0)) await this.#pc.addIceCandidate(candidate);
  }

  async addCandidate(candidate) {
    if (this.#pc.remoteDescription) await this.#pc.addIceCandidate(candidate);
    else this.#early.push(candidate);
  }

  close() {
    this.#pc.onconnectionstatechange = null;
    this.#pc.close();
  }

  #tell(type, field, value) {
    this.#send({ type, [field]: { ...value.toJSON(), call: this.id } });
  }
}

/**
 * One room, as this browser sees it. Every change dispatches one `change` event.
 *
 * Read `state`, `words`, `me`, `people`, `broadcasters` and `broadcast`; never write them.
 */
export class Room extends EventTarget {
  /** `closed`, `connecting`, `joined` or `waiting`; `words` says the same to a human. */
  state = 'closed';
  words = 'Not in a room';
  /** `{id, name}` once joined. */
  me = null;
  /** Everybody else: id -> `{id, name}`. */
  people = new Map();
  /** Who of them is live: id -> `{id, name, source, viewers, stream, state}`. */
  broadcasters = new Map();
  /** Our own broadcast: `{source, viewers, stream}`, or null. */
  broadcast = null;

  #connection;
  #iceServers = [];
  #watching = new Map(); // broadcaster's id -> Call
  #serving = new Map(); // viewer's id -> Call
  #countTimer = 0;

  /** `server` is where the room is; by default, where the page came from. */
  constructor(name, { username, token, server = location.origin } = {}) {
    super();
    const url = new URL(`/ws/${encodeURIComponent(name)}`, server);
    url.protocol = url.protocol.replace('http', 'ws');
    this.#connection = new Connection(url, { token, username }, {
      onMessage: (message) => this.#receive(message),
      onState: (state, words) => this.#connectionChanged(state, words),
    });
  }

  join() {
    this.#connection.open();
  }

  leave() {
    this.#connection.close();
  }

  /**
   * Shows `stream` to the room; `source` says in a word what it is. From now on the stream is
   * ours: its end stops the broadcast.
   */
  goLive(stream, source) {
    this.stopLive();
    this.broadcast = { source, viewers: 0, stream };
    for (const track of stream.getVideoTracks()) track.onended = () => this.stopLive();
    this.#tellLive();
    this.#changed();
  }

  /** Ends our broadcast and releases the camera or the screen. */
  stopLive() {
    if (!this.broadcast) return;
    for (const track of this.broadcast.stream.getTracks()) track.stop();
    this.broadcast = null;
    for (const id of [...this.#serving.keys()]) this.#hangUp(this.#serving, id);
    this.#connection.send({ type: 'broadcast_stop' });
    this.#changed();
  }

  #connectionChanged(state, words) {
    this.state = state;
    this.words = words;
    if (state === 'closed') {
      this.stopLive();
      this.#forgetEverybody();
    }
    this.#changed();
  }

  /** What is unknown is ignored: newer servers say more, and other clients say other things. */
  #receive(message) {
    const { type, from, client_id: id, username: name } = message;
    if (type === 'auth_success') this.#joined(message);
    else if (type === 'users_in_room') message.users.forEach((user) => this.#arrived(user));
    else if (type === 'active_broadcasts') message.broadcasters.forEach((b) => this.#wentLive(b));
    else if (type === 'user_joined') this.#arrived({ client_id: id, username: name });
    else if (type === 'user_left') this.#departed(id);
    else if (type === 'broadcast_started') this.#wentLive(message);
    else if (type === 'broadcast_stopped') this.#stoppedLive(id);
    else if (type === 'offer') this.#offered(from, message.offer);
    else if (type === 'answer') this.#answered(from, message.answer);
    else if (type === 'ice_candidate') this.#candidate(from, message.candidate);
    else if (type === 'message') this.#told(from, message.data);
    this.#changed();
  }

  // Who is here, and who is live.

  /** Also after a lost connection: the server knows us under a new id, so all begins anew. */
  #joined({ client_id, user, ice_servers }) {
    this.#forgetEverybody();
    this.state = 'joined';
    this.words = 'Connected';
    this.me = { id: client_id, name: user };
    this.#iceServers = ice_servers ?? [];
    if (this.broadcast) this.#tellLive();
  }

  #tellLive() {
    const seen = this.broadcast.stream.getVideoTracks().length > 0;
    this.#connection.send({ type: 'broadcast_start', media_type: seen ? 'video' : 'audio' });
  }

  #arrived({ client_id: id, username: name }) {
    this.people.set(id, { id, name });
  }

  #departed(id) {
    this.#stoppedLive(id);
    this.#hangUp(this.#serving, id);
    this.people.delete(id);
  }

  #wentLive({ client_id: id, username: name }) {
    this.broadcasters.set(id, { id, name, source: '', viewers: null, stream: null, state: 'new' });
    this.#watch(id);
  }

  #stoppedLive(id) {
    this.broadcasters.delete(id);
    this.#hangUp(this.#watching, id);
  }

  #forgetEverybody() {
    for (const id of [...this.#watching.keys()]) this.#hangUp(this.#watching, id);
    for (const id of [...this.#serving.keys()]) this.#hangUp(this.#serving, id);
    this.people.clear();
    this.broadcasters.clear();
  }

  // Calls: we watch others, others watch us.

  #watch(id) {
    const call = this.#call(this.#watching, id, randomId(), () => this.#watchChanged(id, call));
    this.broadcasters.get(id).stream = call.stream;
    this.#attempt(this.#watching, id, call.offer());
  }

  #watchChanged(id, call) {
    this.broadcasters.get(id).state = call.state;
    if (call.state === 'failed') setTimeout(() => this.#watchAgain(id, call), WATCH_AGAIN);
    this.#changed();
  }

  #watchAgain(id, failed) {
    if (this.#watching.get(id) === failed) this.#watch(id);
  }

  #offered(from, offer) {
    if (!this.broadcast) return;
    const call = this.#call(this.#serving, from, offer?.call, () => this.#serveChanged(from, call));
    this.#attempt(this.#serving, from, call.answer(offer, this.broadcast.stream));
  }

  #serveChanged(id, call) {
    if (call.state === 'failed') this.#hangUp(this.#serving, id);
    this.#countViewers();
  }

  #answered(from, answer) {
    const call = this.#watching.get(from);
    if (!call || call.id !== answer?.call) return;
    this.#attempt(this.#watching, from, call.describe(answer));
  }

  #candidate(from, candidate) {
    for (const calls of [this.#watching, this.#serving]) {
      const call = calls.get(from);
      // A bad candidate costs one path of several, so it does not end the call.
      if (call && call.id === candidate?.call) call.addCandidate(candidate).catch(() => {});
    }
  }

  #call(calls, id, callId, onChange) {
    this.#hangUp(calls, id);
    const send = (message) => this.#connection.send({ ...message, to: id });
    const call = new Call(callId, this.#iceServers, { send, onChange });
    calls.set(id, call);
    return call;
  }

  /** What another client sends may be nonsense: then that call ends, and nothing else. */
  #attempt(calls, id, step) {
    const call = calls.get(id);
    step.catch(() => calls.get(id) === call && this.#hangUp(calls, id));
  }

  #hangUp(calls, id) {
    calls.get(id)?.close();
    if (calls.delete(id) && calls === this.#serving) this.#countViewers();
  }

  // What the server need not know: the broadcaster counts its calls, and tells the room.

  #countViewers() {
    if (!this.#countTimer) this.#countTimer = setTimeout(() => this.#tellViewers(), COUNT_EVERY);
  }

  #tellViewers() {
    this.#countTimer = 0;
    if (!this.broadcast) return;
    const viewers = [...this.#serving.values()].filter((c) => c.state === 'connected').length;
    this.broadcast.viewers = viewers;
    const { source } = this.broadcast;
    this.#connection.send({ type: 'message', data: { source, viewers } });
    this.#changed();
  }

  #told(from, data) {
    const broadcaster = this.broadcasters.get(from);
    if (!broadcaster || !Number.isInteger(data?.viewers)) return;
    broadcaster.viewers = data.viewers;
    broadcaster.source = String(data.source ?? '');
  }

  #changed() {
    this.dispatchEvent(new Event('change'));
  }
}

/** Not crypto.randomUUID(), which a page without https does not have; it guards nothing. */
function randomId() {
  return Math.random().toString(36).slice(2);
}
