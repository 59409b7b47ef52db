/**
 * A simulated world for the browser client, without a browser: time that jumps, peer connections that
 * negotiate as the W3C specifies but send nothing, and a server that forwards `mesh`, over a network
 * that can fail. All randomness comes from a seed, so that failures are reproducible.
 */

// Time and randomness

let now = 0; // ms
let lastId = 0;
let dice = 0;
/** Uncaught errors, and other problems. */
export const trouble = [];
const steps = new Map(); // id -> { at, step }

export function begin(seed, settings) {
  now = 0;
  dice = seed * 7919;
  steps.clear();
  connections.clear();
  server.clear();
  sessions.clear();
  entries.clear();
  away.clear();
  trouble.length = 0;
  Object.assign(network, { latency: 40, slowness: 10, loses: () => false }, settings);
}

export function random() {
  dice = (dice + 0x6d2b79f5) | 0; // mulberry32
  let x = Math.imul(dice ^ (dice >>> 15), 1 | dice);
  x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x;
  return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
}

export function after(ms, step, id = ++lastId) {
  steps.set(id, { at: now + Math.max(0, ms ?? 0), step });
  return id;
}

function every(ms, step, id = ++lastId) {
  return after(ms, () => {
    every(ms, step, id);
    step();
  }, id);
}

/** Runs all steps until `end`. Between any two steps, promises are settled. */
export async function runUntil(end) {
  const settle = globalThis.setImmediate;
  for (;;) {
    await new Promise((resolve) => { settle(resolve); });
    const [id, next] = [...steps].reduce((a, b) => (b[1].at < a[1].at ? b : a), [0, { at: end }]);
    if (id === 0) break;
    steps.delete(id);
    now = next.at;
    try {
      next.step();
    } catch (error) {
      trouble.push(error.stack);
    }
  }
  now = end;
}

// Peer connections

export const connections = new Map(); // id -> PeerConnection

/** A transceiver; `agreed` is the state at the last answer. */
class Transceiver {
  #pc;
  #direction;
  mid = null;
  agreed = null;
  heard = null; // { stream, track } that the other side sends

  constructor(pc, kind, direction) {
    this.#pc = pc;
    this.#direction = direction;
    this.receiver = { track: { kind } };
    this.sender = {
      track: null,
      stream: null,
      replaceTrack: async (track) => { this.sender.track = track; },
      setStreams: ({ id }) => { this.sender.stream = id; },
    };
  }

  get direction() {
    return this.#direction;
  }

  set direction(direction) {
    this.#pc.mustBeOpen();
    this.#direction = direction;
    after(0, () => this.#pc.negotiate());
  }

  get desired() {
    return `${this.direction} ${this.sender.stream}`;
  }
}

class PeerConnection {
  signalingState = 'stable';
  connectionState = 'new';
  #id = ++lastId;
  #transceivers = [];
  #transport = { state: 'new' };
  #operations = Promise.resolve();
  #queued = 0;
  #announced = false; // negotiationneeded
  #restart = false;
  #generation = 0; // of ICE; 0 before the first description
  #candidates = []; // ours
  #known = new Set(); // the sender and generation of the candidates that we know
  #ours = null; // { now, next }: descriptions
  #theirs = null;
  #pending = null; // an offer, ours or theirs
  #streams = new Map(); // their id -> MediaStream
  #failing = 0; // timer

  constructor() {
    connections.set(this.#id, this);
  }

  mustBeOpen() {
    if (this.signalingState === 'closed') throw new Error('The connection is closed');
  }

  get localDescription() {
    const ours = this.signalingState === 'have-local-offer' ? this.#pending : this.#ours;
    if (!ours) return null;
    const candidates = this.#candidates.filter(({ generation }) => generation === ours.generation);
    return { type: ours.type, sdp: JSON.stringify({ ...ours, candidates }) };
  }

  get currentRemoteDescription() {
    return this.#theirs;
  }

  getTransceivers() {
    return this.#transceivers;
  }

  getReceivers() {
    return this.#transceivers.map(() => ({ transport: this.#theirs && this.#transport }));
  }

  async getStats() {
    const flows = this.connectionState === 'connected' && this.#other()?.signalingState !== 'closed';
    return new Map([['', { type: 'transport', packetsReceived: flows ? now : 0 }]]);
  }

  addTransceiver(kind, { direction, streams: [stream] }) {
    this.mustBeOpen();
    const transceiver = this.#add(kind, direction);
    transceiver.sender.setStreams(stream);
    after(0, () => this.negotiate());
    return transceiver;
  }

  #add(kind, direction) {
    const transceiver = new Transceiver(this, kind, direction);
    this.#transceivers.push(transceiver);
    return transceiver;
  }

  /** Runs operations one after the other; closing the connection cancels those that are left. */
  #queue(operation) {
    this.#queued += 1;
    const done = this.#operations.then(() => new Promise((resolve, reject) => {
      after(5 + random() * network.slowness, () => {
        if (this.signalingState === 'closed') return;
        this.#queued -= 1;
        try {
          resolve(operation());
        } catch (error) {
          reject(error);
        }
        this.negotiate();
      });
    }));
    this.#operations = done.catch(() => {});
    return done;
  }

  negotiate() {
    if (this.#announced || !this.#isNegotiationNeeded()) return;
    this.#announced = true;
    after(1, () => {
      this.#announced = false;
      if (this.#isNegotiationNeeded()) this.onnegotiationneeded?.();
    });
  }

  #isNegotiationNeeded() {
    if (this.signalingState !== 'stable' || this.#queued > 0) return false;
    return this.#restart || this.#transceivers.some(({ desired, agreed }) => desired !== agreed);
  }

  restartIce() {
    this.#restart = this.#generation > 0;
    after(0, () => this.negotiate());
  }

  async setLocalDescription() {
    this.mustBeOpen();
    return this.#queue(() => {
      if (this.signalingState === 'have-remote-offer') this.#answer();
      else this.#offer();
      this.#gather();
      this.#connect();
    });
  }

  #offer() {
    if (this.#restart || this.#generation === 0) this.#generation += 1;
    this.#restart = false;
    this.#transceivers.forEach((one, i) => { one.mid ??= `m${i}`; });
    this.#pending = this.#describe('offer', (one) => one.direction);
    this.#pending.desired = this.#transceivers.map((one) => one.desired);
    this.signalingState = 'have-local-offer';
  }

  #answer() {
    const offer = this.#pending;
    const isNewWay = this.#theirs?.generation !== offer.generation;
    if (isNewWay) this.#generation += 1;
    this.#ours = this.#describe('answer', ({ mid, direction }) => {
      const theirs = offer.media.find((one) => one.mid === mid)?.direction ?? 'inactive';
      const sends = direction === 'sendrecv' && theirs !== 'inactive';
      return sends ? 'sendrecv' : 'recvonly';
    });
    for (const one of this.#transceivers) {
      if (offer.media.some(({ mid }) => mid === one.mid)) one.agreed = one.desired;
    }
    this.#theirs = offer;
    this.signalingState = 'stable';
  }

  #describe(type, directionOf) {
    const media = this.#transceivers.filter(({ mid }) => mid !== null).map((one) => ({
      mid: one.mid,
      kind: one.receiver.track.kind,
      direction: directionOf(one),
      stream: one.sender.stream,
    }));
    return { type, from: this.#id, generation: this.#generation, media };
  }

  async setRemoteDescription({ type, sdp }) {
    this.mustBeOpen();
    return this.#queue(() => {
      const description = { ...JSON.parse(sdp), type };
      if (this.#theirs && this.#theirs.from !== description.from) throw new Error('The description is from another connection');
      if (type === 'offer') this.#takeOffer(description);
      else this.#takeAnswer(description);
      for (const candidate of description.candidates) this.#learn(candidate);
      this.#hear(description.media);
      this.#connect();
    });
  }

  #takeOffer(offer) {
    if (this.signalingState === 'have-remote-offer') throw new Error('Not answered yet');
    for (const { mid, kind } of offer.media) {
      if (!this.#transceivers.some((one) => one.mid === mid)) this.#add(kind, 'recvonly').mid = mid;
    }
    this.#pending = offer;
    this.signalingState = 'have-remote-offer';
  }

  #takeAnswer(answer) {
    if (this.signalingState !== 'have-local-offer') throw new Error('No offer');
    this.#pending.desired.forEach((desired, i) => { this.#transceivers[i].agreed = desired; });
    this.#ours = this.#pending;
    this.#theirs = answer;
    this.signalingState = 'stable';
  }

  #hear(media) {
    for (const { mid, kind, direction, stream } of media) {
      const one = this.#transceivers.find((transceiver) => transceiver.mid === mid);
      if (direction === 'sendrecv' && !one.heard) {
        if (!this.#streams.has(stream)) this.#streams.set(stream, new MediaStream());
        one.heard = { stream: this.#streams.get(stream), track: { kind } };
        one.heard.stream.addTrack(one.heard.track);
        this.ontrack?.({ track: one.heard.track, transceiver: one, streams: [one.heard.stream] });
      } else if (direction === 'recvonly' && one.heard) {
        const silent = one.heard.stream;
        silent.removeTrack(one.heard.track);
        one.heard = null;
        after(1, () => silent.onremovetrack?.());
      }
    }
  }

  #gather() {
    const generation = this.#generation;
    if (this.#candidates.some((one) => one.generation === generation)) return;
    for (let i = 0; i < 2; i++) {
      after(5 + random() * 60, () => {
        if (this.signalingState === 'closed') return;
        const candidate = { from: this.#id, generation };
        this.#candidates.push(candidate);
        this.onicecandidate?.({ candidate: { toJSON: () => ({ ...candidate }) } });
      });
    }
  }

  async addIceCandidate(candidate) {
    this.mustBeOpen();
    return this.#queue(() => {
      this.#learn(candidate);
      this.#connect();
    });
  }

  #learn({ from, generation }) {
    this.#known.add(`${from} ${generation}`);
  }

  #other() {
    return connections.get(this.#theirs?.from);
  }

  /** Whether both sides have agreed with each other, and at least one knows the other's candidates. */
  #meets(other) {
    const fits = (one, two) => two.#theirs?.from === one.#id
      && two.#theirs.generation === one.#ours?.generation;
    const knows = (one, two) => one.#known.has(`${two.#id} ${two.#ours.generation}`);
    return fits(this, other) && fits(other, this) && (knows(this, other) || knows(other, this));
  }

  #connect() {
    const other = this.#other();
    if (other && other.signalingState !== 'closed' && this.#meets(other)) {
      for (const one of [this, other]) one.#connected();
    } else if (this.#known.size > 0) {
      if (this.connectionState === 'new') this.#become('connecting');
      if (this.connectionState === 'connecting' && !this.#failing) {
        this.#failing = after(15_000, () => this.#become('failed'));
      }
    }
  }

  #connected() {
    after(20 + random() * 3 * network.slowness, () => {
      if (this.#other()?.signalingState === 'closed') return;
      this.#transport.state = 'connected';
      this.#become('connected');
    });
  }

  #become(state) {
    steps.delete(this.#failing);
    this.#failing = 0;
    if (this.signalingState === 'closed' || this.connectionState === state) return;
    this.connectionState = state;
    this.onconnectionstatechange?.();
  }

  close() {
    if (this.signalingState === 'closed') return;
    this.signalingState = this.connectionState = 'closed';
    const other = this.#other();
    if (other?.connectionState !== 'connected' || other.#other() !== this) return;
    const isTold = random() < 0.9; // the packet by which DTLS reports it may be lost
    if (isTold) after(10 + random() * 500, () => other.#hungUp());
    for (const [ms, state] of [[5000, 'disconnected'], [18_000, 'failed']]) {
      after(ms, () => other.#other() === this && other.#become(state));
    }
  }

  #hungUp() {
    if (this.signalingState === 'closed') return;
    this.#transport.state = 'closed';
    this.#transport.onstatechange?.();
  }
}

class Stream {
  #tracks;

  constructor(tracks = []) {
    this.id = ++lastId;
    this.#tracks = new Set(tracks);
  }

  getTracks() {
    return [...this.#tracks];
  }

  getVideoTracks() {
    return this.getTracks().filter(({ kind }) => kind === 'video');
  }

  addTrack(track) {
    this.#tracks.add(track);
  }

  removeTrack(track) {
    this.#tracks.delete(track);
  }
}

// The server, and the network to it

/**
 * `latency` and `slowness` (of browsers) are maxima in ms. `loses(message, from)` decides which messages
 * are lost. `grace` is the time in ms for which a session can be resumed (0: no sessions, as with an old
 * server).
 */
export const network = {};
/** Pages whose network drops all packets. */
export const away = new Set();
const server = new Map(); // client id -> Visit
const sessions = new Map(); // id -> Visit
/** How often each page entered as a new peer. */
export const entries = new Map();
const isCounted = (type) => !/^(ping|pong|auth_|token_|resumed|not_resumed)/.test(type);

/** One direction of a connection: each step is delayed, and the order is kept. */
function line() {
  let last = 0;
  return (step) => {
    last = Math.max(now + 1 + random() * network.latency, last + 0.01);
    after(last - now, step);
  };
}

/** The server's end of a socket or, with a session, of successive sockets. */
class Visit {
  id = null;
  live = null;
  isOver = false;
  #socket; // null while the page is away
  #line = line();
  #session = null; // { id, received, confirmed, kept }
  #waiting = 0; // timer

  constructor(socket) {
    this.#socket = socket;
    this.tell({ type: 'auth_required' });
  }

  tell(message) {
    if (this.isOver) return;
    const text = JSON.stringify(message);
    if (this.#session && isCounted(message.type)) this.#session.kept.push(text);
    this.#send(text);
  }

  #send(text) {
    const socket = this.#socket;
    if (socket) this.#line(() => socket.hear(text));
  }

  tellOthers(message) {
    for (const other of server.values()) if (other !== this) other.tell(message);
  }

  hear(message) {
    if (this.isOver) return;
    if (this.#session && isCounted(message.type)) this.#session.received += 1;
    if (message.type === 'auth_token') this.#enter(message);
    else if (this.id === null) trouble.push(`${message.type} before auth_token`); // final: 1008
    else if (message.type === 'ping') this.#pong(message);
    else if (message.type === 'message') this.tellOthers({ ...message, from: this.id });
    else if (message.type === 'broadcast_start') this.#goLive();
    else if (message.type === 'broadcast_stop') this.#goOff();
    else if (!network.loses(message, this.id)) server.get(message.to)?.tell({ ...message, from: this.id });
  }

  #enter(hello) {
    const session = sessions.get(hello.session);
    if (session && !session.isOver && session.#resume(this, hello)) return;
    if (hello.session) this.tell({ type: 'not_resumed', reason: 'unknown' });
    this.#join(hello);
  }

  /** Takes over a newcomer's socket; what still arrives on the old one is ignored. */
  #resume(newcomer, { received }) {
    const lacks = received - this.#session.confirmed;
    if (lacks < 0 || lacks > this.#session.kept.length) {
      trouble.push(`${this.id} claims to have received ${received} messages`);
      return false;
    }
    const wasAway = this.#socket === null;
    steps.delete(this.#waiting);
    this.#socket?.lead(GONE);
    this.#socket = newcomer.#socket;
    this.#line = newcomer.#line;
    newcomer.isOver = true;
    this.#socket.lead(this);
    this.#confirm(received);
    this.tell({ type: 'resumed', received: this.#session.received, replayed: this.#session.kept.length });
    for (const text of this.#session.kept) this.#send(text);
    if (wasAway) this.tellOthers({ type: 'user_back', client_id: this.id });
    return true;
  }

  #pong({ received }) {
    if (this.#session && received !== undefined) this.#confirm(received);
    this.tell({ type: 'pong', received: this.#session?.received });
  }

  #confirm(received) {
    this.#session.kept.splice(0, received - this.#session.confirmed);
    this.#session.confirmed = received;
  }

  /** Called when the socket was lost without a close frame. */
  lose() {
    if (!this.#session || this.isOver) return this.leave();
    if (!this.#socket) return;
    this.#socket.lead(GONE);
    this.#socket = null;
    this.tellOthers({ type: 'user_away', client_id: this.id });
    this.#waiting = after(network.grace, () => this.leave());
  }

  #join({ clientId, resume }) {
    const before = server.get(clientId);
    this.id = clientId;
    entries.set(clientId, (entries.get(clientId) ?? 0) + 1);
    if (before) {
      steps.delete(before.#waiting);
      before.isOver = true;
      if (before.live) before.tellOthers({ type: 'broadcast_stopped', client_id: clientId });
      server.delete(clientId);
    }
    const named = (visit) => ({ client_id: visit.id, username: visit.id });
    const others = [...server.values()];
    const welcome = { client_id: clientId, user: clientId, heartbeat: network.heartbeat ?? 3 };
    if (resume && network.grace) {
      this.#session = { id: ++lastId, received: 0, confirmed: 0, kept: [] };
      sessions.set(this.#session.id, this);
      welcome.session = { id: this.#session.id, grace: network.grace / 1000 };
    }
    this.tell({ type: 'auth_success', ...welcome });
    this.tell({ type: 'users_in_room', users: others.map(named) });
    const broadcasters = others.filter(({ live }) => live).map((one) => ({ ...named(one), ...one.live }));
    this.tell({ type: 'active_broadcasts', broadcasters });
    server.set(clientId, this);
    if (!before) this.tellOthers({ type: 'user_joined', ...named(this) });
  }

  #goLive() {
    if (this.live) return;
    this.live = { media_type: 'video', started_at: String(now) };
    this.tellOthers({ type: 'broadcast_started', client_id: this.id, ...this.live });
  }

  #goOff() {
    if (this.live) this.tellOthers({ type: 'broadcast_stopped', client_id: this.id });
    this.live = null;
  }

  leave() {
    if (this.isOver) return;
    this.isOver = true;
    if (server.get(this.id) !== this) return;
    server.delete(this.id);
    if (this.live) this.tellOthers({ type: 'broadcast_stopped', client_id: this.id });
    this.tellOthers({ type: 'user_left', client_id: this.id });
  }

  /** Closes the connection from the server's side, as after a missed heartbeat. */
  drop() {
    const socket = this.#socket;
    this.lose();
    socket?.closed(1011);
  }
}

const GONE = { hear() {}, leave() {} };

/** Ends the connection of a page, if it has one. */
export function drop(id) {
  server.get(id)?.drop();
}

/** Cuts the network of a page for `length` ms. The server notices that after `noticed` ms, if it is still cut. */
export function cut(id, { length, noticed }) {
  const visit = server.get(id);
  away.add(id);
  after(length, () => away.delete(id));
  if (visit && noticed < length) after(noticed, () => visit.lose());
}

class Socket {
  static OPEN = 1;
  readyState = 0;
  #page;
  #visit;
  #line = line();

  constructor(url) {
    this.#page = url.pathname.split('/')[1];
    this.#open();
  }

  #open() {
    after(2 + random() * network.latency, () => {
      if (this.readyState !== 0) return;
      if (away.has(this.#page)) return this.#open();
      this.readyState = Socket.OPEN;
      this.#visit = new Visit(this);
    });
  }

  /** Sets the visit that gets the messages from this socket. */
  lead(visit) {
    this.#visit = visit;
  }

  hear(data) {
    if (this.readyState === Socket.OPEN && !away.has(this.#page)) this.onmessage?.({ data });
  }

  send(text) {
    if (!away.has(this.#page)) this.#line(() => this.#visit.hear(JSON.parse(text)));
  }

  close() {
    if (this.readyState === Socket.OPEN && !away.has(this.#page)) this.#line(() => this.#visit.leave());
    this.readyState = 3;
  }

  closed(code) {
    if (this.readyState !== Socket.OPEN) return;
    this.readyState = 3;
    this.onclose?.({ code, reason: '' });
  }
}

process.on('unhandledRejection', (error) => trouble.push(error.stack));

Math.random = random;
Object.assign(globalThis, {
  setTimeout: (step, ms) => after(ms, step),
  setInterval: (step, ms) => every(ms, step),
  clearTimeout: (id) => steps.delete(id),
  clearInterval: (id) => steps.delete(id),
  MediaStream: Stream,
  RTCPeerConnection: PeerConnection,
  WebSocket: Socket,
  location: { href: 'http://server/' },
  addEventListener() {},
  removeEventListener() {},
  reportError: (error) => trouble.push(error.stack),
});
