// The WebSocket to the server, and when to reopen it.

import { Resumption } from './resumption.js';

const FIRST_DELAY = 500; // ms, doubled with each attempt
const LONGEST_DELAY = 5_000;
const CONNECT_WITHIN = 10_000; // ms; a network that drops all packets reports no error
const HEARTBEAT = 20_000; // ms, until the server sends its own value

/** After these close codes, another attempt would fail too. docs/close-codes.md lists all codes. */
const FINAL_CODES = new Set([1000, 1002, 1003, 1007, 1008, 1009, 4001, 4004, 4409]);
const GOING_AWAY = 1001;
const LOST = 1006;
const MOST_STALE = 4; // silent sockets that stay open
/** After these close codes the server keeps the session for a while: docs/protocols/mesh.md. */
const RESUMABLE = new Set([GOING_AWAY, LOST, 1011, 1012]);
const GOODBYE = 1000;
const FOR_ANOTHER = 4000; // does not leave the room: another socket is opened soon

/**
 * Returns how long to wait before reconnecting. The time is random, so that not all clients of a restarted
 * server come back at once.
 *
 * @param {number} code - The close code.
 * @param {number} attempt - Number of failed attempts since the last success.
 * @param {() => number} [random] - Returns numbers from 0 to 1.
 * @returns {number | null} The time in milliseconds, or null if the client should not reconnect.
 */
export function retryDelay(code, attempt, random = Math.random) {
  if (FINAL_CODES.has(code)) return null;
  if (code === GOING_AWAY && attempt === 0) return FIRST_DELAY * random();
  return Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** attempt) * (0.5 + random() / 2);
}

/** A WebSocket that authenticates, detects a dead connection, and reconnects. */
export class Signaling {
  #url;
  #hello;
  #onMessage;
  #onState;
  #isOther;
  #trace;
  #socket = null;
  #stale = new Set(); // silent sockets; closing one may leave the room
  #mayHaveSession = false; // we have authenticated on this socket
  #isJoined = false; // the handshake is over
  #resumption = null; // what we need to resume as the same peer; null if we cannot
  #beat = HEARTBEAT;
  #attempt = 0;
  #retry = 0;
  #watchdog = 0;
  #heard = false;
  #isHidden = false; // the user has left the page, and the browser keeps it for a while
  #hurry = () => this.#waiting() && this.open();
  #hide = () => this.#leavePage();
  #show = () => this.#isHidden && this.open();

  /** `isOther` gets the close code and reason, and returns whether the next hello will differ. */
  constructor(url, { hello, onMessage, onState, isOther = () => false, trace = () => {} }) {
    this.#url = url;
    this.#hello = hello;
    this.#onMessage = onMessage;
    this.#onState = onState;
    this.#isOther = isOther;
    this.#trace = trace;
    addEventListener('online', this.#hurry);
    addEventListener('pagehide', this.#hide);
    addEventListener('pageshow', this.#show);
  }

  #listenNoMore() {
    removeEventListener('online', this.#hurry);
    removeEventListener('pagehide', this.#hide);
    removeEventListener('pageshow', this.#show);
  }

  /** Leaves the room at once, so that the others need not wait. The browser may show the page again. */
  #leavePage() {
    if (!this.#socket && !this.#waiting()) return;
    this.#drop(GOODBYE);
    clearTimeout(this.#retry);
    this.#retry = 0;
    this.#isHidden = true;
  }

  open() {
    this.#isHidden = false;
    clearTimeout(this.#retry);
    this.#retry = 0;
    const socket = new WebSocket(this.#url);
    socket.onmessage = ({ data }) => this.#receive(socket, JSON.parse(data), data.length);
    socket.onclose = ({ code, reason }) => this.#lost(code, reason);
    this.#socket = socket;
    this.#mayHaveSession = false;
    this.#watchdog = setTimeout(() => this.#lost(LOST, 'The server does not answer'), CONNECT_WITHIN);
    this.#onState('connecting');
  }

  /**
   * Sends a message now, or not at all: returns false without a connection. Sent messages that a lost
   * connection did not deliver are repeated on resuming.
   */
  send(message) {
    if (!this.#isJoined || !this.#isOpen()) return false;
    const text = JSON.stringify(message);
    this.#resumption?.keep(text);
    if (this.#resumption?.overflowed) this.#resumption = null;
    this.#socket.send(text);
    this.#trace(message, true);
    this.#askIfDue();
    return true;
  }

  /** Sends messages of the handshake and the heartbeat; only these are allowed before `auth_success`. */
  #write(message) {
    if (!this.#isOpen()) return;
    this.#socket.send(JSON.stringify(message));
    this.#trace(message, true);
  }

  #isOpen() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  /** Confirms, and asks for a confirmation, before either side has to keep too much. */
  #askIfDue() {
    if (this.#resumption?.isDue) this.#ping();
  }

  #ping() {
    this.#write({ type: 'ping', received: this.#resumption?.ask() });
  }

  close() {
    this.#listenNoMore();
    const open = this.#socket || this.#waiting() || this.#isHidden;
    this.#isHidden = false;
    this.#drop(GOODBYE);
    clearTimeout(this.#retry);
    this.#retry = 0;
    if (open) this.#onState('closed');
  }

  #waiting() {
    return this.#retry !== 0;
  }

  /** Handles messages of the handshake and the heartbeat; answers go through `#write`. */
  #control = {
    auth_required: (socket) => this.#sayHello(socket, this.#claims()),
    token_expiring: (socket) => this.#sayHello(socket),
    auth_success: (socket, { heartbeat, session }) => this.#entered(heartbeat, session),
    not_resumed: () => { this.#resumption = null; },
    resumed: (socket, { received }) => this.#resumed(received),
    pong: (socket, { received }) => this.#resumption?.confirm(received),
  };

  #claims() {
    const { id: session, received } = this.#resumption ?? {};
    return { resume: true, session, received };
  }

  #receive(socket, message, size) {
    this.#heard = true;
    this.#trace(message, false);
    this.#resumption?.came(message.type, size);
    this.#askIfDue();
    if (Object.hasOwn(this.#control, message.type)) this.#control[message.type](socket, message);
    this.#onMessage(message);
  }

  #entered(heartbeat, session) {
    this.#resumption = session ? new Resumption(session.id) : null;
    this.#beat = heartbeat * 1000 || HEARTBEAT;
    this.#joined();
  }

  /** Repeats the messages that the server has not received. Then the session continues. */
  #resumed(received) {
    for (const text of this.#resumption.lacking(received)) {
      this.#socket.send(text);
      this.#trace(JSON.parse(text), true);
    }
    this.#joined();
  }

  #joined() {
    this.#attempt = 0;
    this.#isJoined = true;
    this.#forgetStale(FOR_ANOTHER);
    this.#beatOn();
  }

  async #sayHello(socket, claims) {
    try {
      const hello = await this.#hello();
      if (socket !== this.#socket) return;
      this.#mayHaveSession = true;
      this.#write({ type: 'auth_token', ...hello, ...claims });
    } catch (error) {
      // The application could not get a token. The network may be the reason, so try again.
      if (socket === this.#socket) this.#lost(LOST, String(error?.message ?? error));
    }
  }

  #lost(code, reason) {
    if (this.#isJoined && !RESUMABLE.has(code)) this.#resumption = null;
    if (this.#resumption && this.#mayHaveSession && this.#isOpen()) this.#leaveStale();
    this.#drop(FOR_ANOTHER);
    if (this.#isOther(code, reason)) return this.open();
    const delay = retryDelay(code, this.#attempt++);
    if (delay === null) {
      this.#listenNoMore();
      this.#forgetStale(GOODBYE);
      return this.#onState('closed', reason, code);
    }
    this.#retry = setTimeout(() => this.open(), delay);
    this.#onState('waiting', reason, code);
  }

  /** A dead network closes no socket. If the server is silent for a whole beat, reconnect. */
  #beatOn() {
    clearTimeout(this.#watchdog);
    this.#heard = false;
    this.#ping();
    this.#watchdog = setTimeout(() => {
      if (this.#heard) this.#beatOn();
      else this.#lost(LOST, 'No sign of life');
    }, this.#beat);
  }

  /**
   * Keeps a silent socket open until another has the session: it may still work, or the server may have resumed
   * the session on it. Any close code that a page may send would leave the room.
   */
  #leaveStale() {
    this.#stale.add(this.#socket);
    if (this.#stale.size > MOST_STALE) {
      const [oldest] = this.#stale;
      oldest.close(FOR_ANOTHER);
      this.#stale.delete(oldest);
    }
    this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket = null;
  }

  #forgetStale(code) {
    for (const socket of this.#stale) socket.close(code);
    this.#stale.clear();
  }

  #drop(code) {
    clearTimeout(this.#watchdog);
    this.#isJoined = false;
    if (code === GOODBYE) {
      this.#resumption = null;
      this.#forgetStale(code);
    }
    if (!this.#socket) return;
    this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close(code);
    this.#socket = null;
  }
}

export function socketUrl(base, room) {
  const url = new URL(base, location.href);
  url.protocol = url.protocol.replace('http', 'ws');
  url.pathname = `${url.pathname.replace(/\/$/, '')}/ws/${encodeURIComponent(room)}`;
  url.search = url.hash = '';
  return url;
}
