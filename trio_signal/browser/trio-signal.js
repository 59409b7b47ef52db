// Made of src/ by python -m tools.bundle_browser_client.

/**
 * The browser client of trio-signal: joins rooms, and carries audio, video and data between peers.
 *
 *     const room = await join(location.origin, { room: 'lobby', username: 'Ada' });
 *     room.on('stream', (stream, peer) => show(stream, peer.name));
 *     room.on('stopped', (peer) => hide(peer));
 *     room.publish(await navigator.mediaDevices.getUserMedia({ video: true, audio: true }));
 *
 * It speaks the `mesh` dialect. The server only forwards signals: audio and video flow directly
 * between the browsers, over one RTCPeerConnection for each pair, and continue while the server is
 * unavailable.
 *
 * The main parts are the public types, Signaling (the WebSocket, which reconnects), Link (one peer
 * connection), Channel, Peer, and `join` and Room (the peers and their broadcasts).
 */

// The public types: options, events and errors.

/**
 * Options of {@link join}.
 *
 * @typedef {object} JoinOptions
 * @property {string} room - The name of the room.
 * @property {string} [username] - The name that the others see; by default `Guest-` followed by four characters.
 * @property {string | (() => string | Promise<string>)} [token] - Your token, if the server requires one. A
 *   function is called for a new token at each connection, and before a token expires.
 * @property {string} [clientId] - The id by which others address you, `[A-Za-z0-9_-]{1,64}`. Set it to keep
 *   the id when the page is reloaded; by default each page gets a new one.
 * @property {RTCIceServer[]} [iceServers] - STUN and TURN servers to use instead of those that the server lists.
 * @property {boolean} [media] - `false` makes no peer connections: for chat, presence and tools.
 * @property {(message: object, sent: boolean) => void} [trace] - Called with each message of the protocol.
 */

/**
 * Options of {@link Room.publish}.
 *
 * @typedef {object} PublishOptions
 * @property {string} [name] - The stream's name, at most 64 characters; by default `camera`. Streams that
 *   are sent at the same time need different names. A room allows eight names in its lifetime, so reuse
 *   them.
 * @property {number} [maxBitrate] - The maximum bitrate of its video, in bits a second; the browser may
 *   send less.
 * @property {string} [codec] - The codec of its video, `VP8`, `VP9`, `H264` or `AV1`. Used if both browsers
 *   have it, and if this browser lets the sender choose, as Chromium and Safari do.
 * @property {boolean} [simulcast] - Sends the video in three sizes, `h`, `m` and `l`, to receivers that
 *   accept them, as media servers do; browsers receive only `h`. Applies to later peer connections.
 */

/**
 * A broadcast.
 *
 * @typedef {object} Live
 * @property {'audio' | 'video'} media - The kind of media.
 * @property {string} since - The time when it went live, in RFC 3339.
 */

/**
 * `none`: neither side has anything to send yet, or the peer does not answer. `interrupted`: nothing
 * arrives, but it may recover by itself. `failed`: the client tries to restore it.
 *
 * @typedef {'none' | 'connecting' | 'connected' | 'interrupted' | 'failed'} LinkState
 */

/**
 * `connecting`: an attempt is running. `joined`: in the room. `waiting`: the connection is lost, and the
 * next attempt follows soon. `closed`: ended for good, by you or by the server.
 *
 * @typedef {'connecting' | 'joined' | 'waiting' | 'closed'} RoomState
 */

/**
 * Events of {@link Room.on}.
 *
 * @typedef {object} Events
 * @property {(peer: Peer) => void} peer - A peer is in the room. A new listener is first called for each
 *   peer that is already there, right after `on`, and then for each peer that joins.
 * @property {(peer: Peer) => void} left - A peer left.
 * @property {(peer: Peer) => void} away - A peer lost its connection to the server, and may resume: `back`
 *   or `left` follows. Messages sent to it meanwhile are delivered when it is back.
 * @property {(peer: Peer) => void} back - A peer that was away is back.
 * @property {(peer: Peer) => void} live - A peer went live, or changed its kind of media. Peers that were
 *   live before you joined are reported right after you join.
 * @property {(peer: Peer) => void} stopped - A peer's broadcast ended; its `peer.stream` is null.
 * @property {(stream: MediaStream, peer: Peer, name: string) => void} stream - A stream of a peer arrived.
 *   Emitted again if the stream is replaced by another.
 * @property {(stream: MediaStream, peer: Peer, name: string) => void} removed - One of a peer's streams
 *   ended. After the last one, `stopped` follows.
 * @property {(peer: Peer | null) => void} speaker - `room.speaker` changed. It is only updated while there
 *   is a listener.
 * @property {(channel: Channel, peer: Peer) => void} channel - A peer opened a channel that you have not
 *   opened. To miss nothing, add your listeners to it immediately.
 * @property {(data: any, peer: Peer) => void} message - A peer called `room.send`.
 * @property {(state: RoomState, reason: string) => void} state - The state of the connection to the server
 *   changed. The reason is the server's text, or empty.
 * @property {(peer: Peer) => void} connection - `peer.state`, `peer.connection`, `peer.away`, `peer.silent` or `peer.name`
 *   changed.
 * @property {(error: Error) => void} error - An error that does not end the room: a `RoomError` with the
 *   server's code, or an exception of the browser.
 */

/** An error that the server reported. */
export class RoomError extends Error {
  /**
   * @param {string} message - The server's message.
   * @param {number | string} code - A close code (number), or the code of an error (string).
   */
  constructor(message, code) {
    super(message);
    this.name = 'RoomError';
    /**
     * A close code of docs/close-codes.md, or an error's code of docs/protocols/mesh.md.
     *
     * @type {number | string}
     */
    this.code = code;
  }
}

// What a client needs to resume as the same peer. Both sides count messages instead of numbering them, and
// each keeps the messages that the other has not confirmed: docs/protocols/mesh.md.

/** The maximum of unconfirmed messages that are kept; with more, the session cannot be resumed. */
const MOST_MESSAGES = 2048;
const MOST_CHARACTERS = 2 ** 20;
/** The server keeps at most 512 messages or 256 KiB for us, so we confirm and ask much earlier. */
const ASK_AFTER_MESSAGES = 64;
const ASK_AFTER_CHARACTERS = 2 ** 15;
const UNCOUNTED = /^(ping|pong|auth_|token_|resumed|not_resumed)/;

/** One session: how many messages were received, and the sent ones that may not have arrived. */
class Resumption {
  id;
  received = 0; // of the server's messages
  #told = 0; // how many of them we have confirmed
  #confirmed = 0; // of ours
  #unconfirmed = []; // ours, encoded, oldest first; null if there were too many
  #size = 0;
  #news = { messages: 0, characters: 0 }; // since we last asked

  constructor(id) {
    this.id = id;
  }

  /** Whether too many messages were unconfirmed, so that lost ones cannot be repeated. */
  get overflowed() {
    return this.#unconfirmed === null;
  }

  /** Whether it is time to confirm, and to ask for a confirmation. */
  get isDue() {
    // The first message lists the room's members. It may be long, and the server keeps it until then.
    const isFirst = this.#told === 0 && this.received > 0;
    return isFirst || this.#news.messages >= ASK_AFTER_MESSAGES || this.#news.characters >= ASK_AFTER_CHARACTERS;
  }

  /** Counts a message of the server. */
  came(type, size) {
    if (UNCOUNTED.test(type)) return;
    this.received += 1;
    this.#count(size);
  }

  /** Keeps a message that is about to be sent. Not for messages of the handshake or the heartbeat. */
  keep(text) {
    if (this.overflowed) return;
    this.#unconfirmed.push(text);
    this.#size += text.length;
    this.#count(text.length);
    if (this.#unconfirmed.length > MOST_MESSAGES || this.#size > MOST_CHARACTERS) this.#unconfirmed = null;
  }

  #count(size) {
    this.#news.messages += 1;
    this.#news.characters += size;
  }

  /** Notes that we ask now; returns the number to confirm to the server. */
  ask() {
    this.#news = { messages: 0, characters: 0 };
    this.#told = this.received;
    return this.received;
  }

  /** Drops the messages that the server has received; an impossible number is ignored. */
  confirm(received) {
    const more = received - this.#confirmed;
    if (this.overflowed || !(more > 0 && more <= this.#unconfirmed.length)) return;
    for (const text of this.#unconfirmed.splice(0, more)) this.#size -= text.length;
    this.#confirmed = received;
  }

  /** The messages to repeat to a server that has received the first `received` ones. */
  lacking(received) {
    this.confirm(received);
    return [...(this.#unconfirmed ?? [])];
  }
}

// The WebSocket to the server, and when to reopen it.

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
class Signaling {
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

function socketUrl(base, room) {
  const url = new URL(base, location.href);
  url.protocol = url.protocol.replace('http', 'ws');
  url.pathname = `${url.pathname.replace(/\/$/, '')}/ws/${encodeURIComponent(room)}`;
  url.search = url.hash = '';
  return url;
}

// Cameras, microphones and screens.

/**
 * Options of {@link openCamera}.
 *
 * @typedef {object} CameraOptions
 * @property {string | false} [camera] - The id of a device; false for audio only.
 * @property {string | false} [microphone] - The id of a device; false for video only.
 * @property {number} [width] - The preferred width of the video; by default 1280.
 * @property {number} [height] - The preferred height of the video; by default 720.
 */

/**
 * The devices of this machine. Their labels are empty until the user has granted the page access to a
 * device.
 *
 * @typedef {object} Devices
 * @property {MediaDeviceInfo[]} cameras - For {@link openCamera}.
 * @property {MediaDeviceInfo[]} microphones - For {@link openCamera}.
 * @property {MediaDeviceInfo[]} speakers - For `setSinkId` of a video element.
 */

/**
 * Opens a camera and a microphone, or only one of them if the other does not exist.
 *
 * @param {CameraOptions} [options] - Which devices, and the size of the video.
 * @returns {Promise<MediaStream>} The stream. Rejects like `getUserMedia`: `NotAllowedError`,
 *   `NotFoundError`, ...
 */
export async function openCamera({ camera, microphone, width = 1280, height = 720 } = {}) {
  const exactly = (id) => (id ? { deviceId: { exact: id } } : {});
  const video = camera !== false && { ...exactly(camera), width: { ideal: width }, height: { ideal: height } };
  const audio = microphone !== false && exactly(microphone);
  try {
    return await navigator.mediaDevices.getUserMedia({ video, audio });
  } catch (error) {
    if (error.name !== 'NotFoundError' || !video || !audio) throw error;
    // The error does not say which of the two is missing.
    return navigator.mediaDevices.getUserMedia({ video }).catch((second) => {
      if (second.name !== 'NotFoundError') throw second;
      return navigator.mediaDevices.getUserMedia({ audio });
    });
  }
}

/**
 * Lets the user choose a screen, a window or a tab.
 *
 * @param {{ audio?: boolean }} [options] - Whether to share audio as well; true by default.
 * @returns {Promise<MediaStream>} The stream. Rejects like `getDisplayMedia`: `NotAllowedError` if the user
 *   dismisses the dialog.
 */
export function openScreen({ audio = true } = {}) {
  return navigator.mediaDevices.getDisplayMedia({ video: true, audio });
}

/**
 * Lists the devices.
 *
 * @returns {Promise<Devices>} The current devices.
 */
export async function listDevices() {
  const all = await navigator.mediaDevices.enumerateDevices();
  const of = (kind) => all.filter((device) => device.kind === kind);
  return { cameras: of('videoinput'), microphones: of('audioinput'), speakers: of('audiooutput') };
}

/**
 * Calls `listener` with the current devices, and again whenever a device is plugged in or removed.
 *
 * @param {(devices: Devices) => void} listener - The function to call.
 * @returns {() => void} A function that stops the calls.
 */
export function watchDevices(listener) {
  let latest = 0;
  const look = async () => {
    const mine = ++latest; // an older answer that arrives later is ignored
    const devices = await listDevices();
    if (mine === latest) listener(devices);
  };
  navigator.mediaDevices.addEventListener('devicechange', look);
  look();
  return () => {
    latest = -1;
    navigator.mediaDevices.removeEventListener('devicechange', look);
  };
}

/**
 * Stops all tracks of a stream, so that the camera's light goes out.
 *
 * @param {MediaStream | null} [stream] - The stream; null and undefined are ignored.
 * @returns {void}
 */
export function closeStream(stream) {
  for (const track of stream?.getTracks() ?? []) track.stop();
}

// Event listeners.

/** Listeners by event type. */
class Listeners {
  #byType = new Map();

  has(type, listener) {
    return Boolean(this.#byType.get(type)?.has(listener));
  }

  /** Whether there is any listener for this type. */
  any(type) {
    return Boolean(this.#byType.get(type)?.size);
  }

  /** Adds a listener; returns a function that removes it. */
  add(type, listener) {
    if (!this.#byType.has(type)) this.#byType.set(type, new Set());
    const listeners = this.#byType.get(type);
    listeners.add(listener);
    return () => listeners.delete(listener);
  }

  /** Calls the current listeners; those that are added meanwhile get the next event. */
  emit(type, ...details) {
    for (const listener of [...(this.#byType.get(type) ?? [])]) call(listener, ...details);
  }
}

/** Calls a listener; reports its error, so that the others are still called. */
function call(listener, ...details) {
  try {
    listener(...details);
  } catch (error) {
    reportError(error);
  }
}

// Named streams. Each transceiver carries the audio or video of one name, in both directions.

/** The default name of a stream. Clients that do not support names see only this one. */
const MAIN = 'camera';
const MOST_NAMES = 8; // of one side; a transceiver, once made, stays in every offer
const LONGEST_NAME = 64;
const LAYERS = [
  { rid: 'h' },
  { rid: 'm', scaleResolutionDownBy: 2 },
  { rid: 'l', scaleResolutionDownBy: 4 },
];
const KINDS = ['audio', 'video'];

/** The stream to show if only one is shown: the camera, or else the oldest. */
function mainOf(streams) {
  return streams.get(MAIN) ?? streams.values().next().value ?? null;
}

function hasTracks(stream) {
  return Boolean(stream?.getTracks().length);
}

function isName(name) {
  return typeof name === 'string' && name.length > 0 && name.length <= LONGEST_NAME;
}

/**
 * The names of the other side's transceivers, by mid.
 *
 * @param {unknown} streams - As received; undefined from a client that does not support names.
 * @returns {Map<string, string> | null}
 */
function namesIn(streams) {
  if (typeof streams !== 'object' || streams === null) return null;
  return new Map(Object.entries(streams).filter(([, name]) => isName(name)));
}

/**
 * The streams that the other side wants to send, but has no transceivers for.
 *
 * @param {unknown} wants - As received: `[name, kind]` each.
 */
function wantsIn(wants) {
  if (!Array.isArray(wants)) return [];
  return wants.filter((want) => isName(want?.[0]) && KINDS.includes(want[1]));
}

/** Sets the bitrate and codec of a slot's sender, if they have changed. */
function encode(slot, { maxBitrate, codec }, onError) {
  const wanted = JSON.stringify({ maxBitrate, codec });
  if (wanted === slot.encoded) return;
  slot.encoded = wanted;
  const { sender } = slot.transceiver;
  const { codecs } = RTCRtpSender.getCapabilities('video');
  const chosen = codec && codecs.find(({ mimeType }) => mimeType.toLowerCase() === `video/${codec}`.toLowerCase());
  const parameters = sender.getParameters();
  for (const encoding of parameters.encodings) {
    const share = (encoding.scaleResolutionDownBy ?? 1) ** 2; // of the pixels
    delete encoding.maxBitrate;
    delete encoding.codec;
    if (maxBitrate) encoding.maxBitrate = Math.round(maxBitrate / share);
    if (chosen) encoding.codec = chosen;
  }
  sender.setParameters(parameters).catch(onError);
}

/**
 * The transceivers of one RTCPeerConnection: one for each stream name and kind, used by both sides.
 * The transceivers of a stream that has ended remain, so that it can start again without adding
 * another line to every offer.
 */
class Slots {
  #pc;
  #slots = new Map(); // `${kind} ${name}` -> { name, kind, transceiver, encoded }
  #groups = new Map(); // name -> MediaStream; its id says which tracks belong together

  constructor(pc) {
    this.#pc = pc;
  }

  get isEmpty() {
    return this.#slots.size === 0;
  }

  /** Adds the first two transceivers of a connection. */
  addPair(name, options) {
    for (const kind of KINDS) this.add(name, kind, options);
  }

  /** Adds a transceiver. `options` are those of `publish`; without them it is for receiving only. */
  add(name, kind, options) {
    if (this.#slots.has(`${kind} ${name}`) || this.#slots.size >= 2 * 2 * MOST_NAMES) return;
    const init = { direction: 'recvonly', streams: [this.#group(name)] };
    // Only the side that makes a transceiver can set layers. A receiving browser gets the first one.
    if (options?.simulcast && kind === 'video') init.sendEncodings = LAYERS.map((layer) => ({ ...layer }));
    this.#keep(name, kind, this.#pc.addTransceiver(kind, init));
  }

  /**
   * Uses the transceivers that the other side's offer has made.
   *
   * @param {Map<string, string> | null} names - By mid; null if there is only the first of each kind.
   */
  adopt(names) {
    const isOurs = new Set([...this.#slots.values()].map(({ transceiver }) => transceiver));
    for (const transceiver of this.#pc.getTransceivers()) {
      const name = names ? names.get(transceiver.mid) : MAIN;
      const { kind } = transceiver.receiver.track;
      if (!name || isOurs.has(transceiver) || this.#slots.has(`${kind} ${name}`)) continue;
      transceiver.sender.setStreams(this.#group(name));
      this.#keep(name, kind, transceiver);
    }
  }

  #keep(name, kind, transceiver) {
    this.#slots.set(`${kind} ${name}`, { name, kind, transceiver, encoded: '{}' });
  }

  #group(name) {
    if (!this.#groups.has(name)) this.#groups.set(name, new MediaStream());
    return this.#groups.get(name);
  }

  /** The streams without transceivers, as `[name, kind]` each; `isNamed` as for `send`. */
  missing(outgoing, isNamed) {
    if (!isNamed) {
      const kinds = new Set([...this.#slots.values()].map(({ kind }) => kind));
      const wanted = mainOf(outgoing)?.tracks.map(({ kind }) => kind) ?? [];
      return wanted.filter((kind) => !kinds.has(kind)).map((kind) => [MAIN, kind]);
    }
    const all = [...outgoing].flatMap(([name, { tracks }]) => tracks.map(({ kind }) => [name, kind]));
    return all.filter(([name, kind]) => !this.#slots.has(`${kind} ${name}`));
  }

  /**
   * Sends the current streams.
   *
   * @param {Map<string, object>} outgoing - By name.
   * @param {boolean} isNamed - If false, the slots carry the main stream, whatever their names.
   * @param {(error: Error) => void} onError
   */
  send(outgoing, isNamed, onError) {
    for (const slot of this.#slots.values()) {
      const { name, kind, transceiver } = slot;
      const stream = isNamed ? outgoing.get(name) : mainOf(outgoing);
      const track = stream?.tracks.find((one) => one.kind === kind) ?? null;
      const { sender } = transceiver;
      if (sender.track !== track) sender.replaceTrack(track).catch(onError);
      transceiver.direction = track ? 'sendrecv' : 'recvonly';
      if (track && kind === 'video') encode(slot, stream, onError);
    }
  }

  /** The name of the slot with this mid. */
  nameOf(mid) {
    return this.names()[mid];
  }

  /** Our names, by mid, of the transceivers that were offered. */
  names() {
    const offered = [...this.#slots.values()].filter(({ transceiver }) => transceiver.mid !== null);
    return Object.fromEntries(offered.map(({ name, transceiver }) => [transceiver.mid, name]));
  }
}

// Data channels, directly between browsers.

const FULL = 1 << 20; // bytes that may wait in the browser
const LOW = FULL / 4;
const TOLD_WITHIN = 300; // ms; the end of a connection may be reported this much later than that of its channels
const MOST_CHANNELS = 32; // to one peer

/**
 * `connecting`: not connected to the peer yet, or not at the moment. `closed`: closed for good by one of
 * the two sides, or because the peer left.
 *
 * @typedef {'connecting' | 'open' | 'closed'} ChannelState
 */

/**
 * Events of {@link Channel.on}.
 *
 * @typedef {object} ChannelEvents
 * @property {(data: string | ArrayBuffer) => void} message - The peer sent a message.
 * @property {(state: ChannelState) => void} state - `channel.state` changed.
 */

/**
 * How a channel carries data; by default reliable and in order.
 *
 * @typedef {object} ChannelOptions
 * @property {boolean} [ordered] - If false, messages are delivered as they arrive, even if earlier ones are
 *   still missing.
 * @property {number} [maxRetransmits] - How many times a lost packet is sent again.
 * @property {number} [maxPacketLifeTime] - For how many milliseconds a lost packet is sent again.
 */

/**
 * A data channel to one peer. `peer.channel(name)` returns it. It lasts as long as the peer is in the
 * room, even if the peer connection is replaced. Messages in flight at that moment are lost.
 *
 * Both sides may open it, even at the same moment. Each then sends over its own data channel, and receives
 * from both.
 */
export class Channel {
  /**
   * Its name.
   *
   * @type {string}
   */
  name;
  /**
   * The state of the channel.
   *
   * @type {ChannelState}
   */
  state = 'connecting';
  #options; // null if only the other side opened it, and will open it again
  #pipes = new Set(); // RTCDataChannels
  #current; // the one that we send on
  #listeners = new Listeners();
  #onClosed;
  #sent = Promise.resolve(); // of the last call of `send`
  #wake = () => {};

  /** @private */
  constructor(name, options, onClosed) {
    this.name = name;
    this.#options = options;
    this.#onClosed = onClosed;
  }

  /**
   * Adds a listener.
   *
   * @template {keyof ChannelEvents} T
   * @param {T} type - The event to listen for.
   * @param {ChannelEvents[T]} listener - The function to call.
   * @returns {() => void} A function that removes the listener.
   */
  on(type, listener) {
    return this.#listeners.add(type, listener);
  }

  /**
   * Sends data. If you await it in a loop, at most a megabyte is kept in memory.
   *
   * @param {string | ArrayBuffer | ArrayBufferView} data - At most 256 KiB, since some browsers cannot
   *   receive more.
   * @returns {Promise<void>} Resolves when the browser has accepted the data, in the order of the calls.
   *   Rejects if the browser does not accept them, or if the channel is closed.
   */
  send(data) {
    const before = this.#sent.catch(() => {});
    this.#sent = before.then(() => this.#write(data));
    return this.#sent;
  }

  async #write(data) {
    for (;;) {
      if (this.state === 'closed') throw new Error(`The channel ${this.name} is closed`);
      const pipe = this.#out();
      if (pipe && pipe.bufferedAmount < FULL) return pipe.send(data);
      await new Promise((wake) => { this.#wake = wake; });
    }
  }

  /** The data channel to send on: the same one while it is open, to keep the order. */
  #out() {
    if (this.#current?.readyState !== 'open') {
      this.#current = [...this.#pipes].find((pipe) => pipe.readyState === 'open');
    }
    return this.#current;
  }

  /**
   * Closes the channel for both sides.
   *
   * @returns {void}
   */
  close() {
    for (const pipe of this.#pipes) pipe.close();
    this.#forget('closed');
  }

  /**
   * The options with which this side must open the channel in a new connection; null if it must not.
   *
   * @private
   */
  get init() {
    return this.state !== 'closed' && this.#pipes.size === 0 ? this.#options : null;
  }

  /**
   * Lets this side open the channel as well from now on.
   *
   * @private
   */
  claim(options) {
    this.#options ??= options;
  }

  /**
   * Uses an RTCDataChannel to send and receive.
   *
   * @private
   */
  attach(pipe, isConnected) {
    this.#pipes.add(pipe);
    pipe.binaryType = 'arraybuffer';
    pipe.bufferedAmountLowThreshold = LOW;
    pipe.onbufferedamountlow = () => this.#wake();
    pipe.onmessage = ({ data }) => this.#listeners.emit('message', data);
    pipe.onopen = () => this.#become('open');
    pipe.onclose = () => {
      this.#pipes.delete(pipe);
      if (!this.#out()) this.#become('connecting');
      // Either the peer has closed the channel, or the connection has ended, which is reported a moment later.
      setTimeout(() => this.#pipes.size === 0 && isConnected() && this.close(), TOLD_WITHIN);
    };
    if (pipe.readyState === 'open') this.#become('open');
  }

  /**
   * Drops the data channels of a connection that has ended.
   *
   * @private
   */
  detach() {
    this.#forget('connecting');
  }

  #forget(state) {
    for (const pipe of this.#pipes) pipe.onmessage = pipe.onopen = pipe.onclose = null;
    this.#pipes.clear();
    this.#become(state);
  }

  #become(state) {
    if (this.state === state || this.state === 'closed') return;
    this.state = state;
    this.#wake();
    if (state === 'closed') this.#onClosed(this);
    this.#listeners.emit('state', state);
  }
}

/** The channels to one peer. */
class Channels {
  #all = new Map(); // name -> Channel
  #onOpened;

  /** `onOpened` gets each channel that only the other side has opened. */
  constructor(onOpened) {
    this.#onOpened = onOpened;
  }

  open(name, options = {}) {
    if (!isName(name)) throw new TypeError(`A channel's name must have 1 to 64 characters: ${name}`);
    const channel = this.#all.get(name) ?? this.#add(name, options);
    channel?.claim(options);
    if (!channel) throw new RangeError(`There can be only ${MOST_CHANNELS} channels to a peer`);
    return channel;
  }

  #add(name, options) {
    if (this.#all.size === MOST_CHANNELS) return null;
    const channel = new Channel(name, options, () => this.#all.delete(name));
    this.#all.set(name, channel);
    return channel;
  }

  /** Attaches an RTCDataChannel that the other side has opened. */
  opened(pipe, isConnected) {
    const known = this.#all.get(pipe.label);
    const channel = known ?? (isName(pipe.label) ? this.#add(pipe.label, null) : null);
    if (!channel) return pipe.close();
    channel.attach(pipe, isConnected);
    if (!known) this.#onOpened(channel);
  }

  /** The channels that this side has to open in the current connection. */
  unopened() {
    return [...this.#all.values()].filter((channel) => channel.init);
  }

  detach() {
    for (const channel of this.#all.values()) channel.detach();
  }

  close() {
    for (const channel of [...this.#all.values()]) channel.close();
  }
}

// Another peer in the room, as the application sees it.

/** Another peer in the room. Its properties are read-only. */
export class Peer {
  /**
   * Its client id.
   *
   * @type {string}
   */
  id;
  /**
   * The name it chose. It is untrusted input: show it as text, not as HTML.
   *
   * @type {string}
   */
  name;
  /**
   * Whether it is live, and since when.
   *
   * @type {Live | null}
   */
  live = null;
  /**
   * The streams that it sends to us, by name: `camera`, `screen`, or others.
   *
   * @type {ReadonlyMap<string, MediaStream>}
   */
  streams = new Map();
  /**
   * The state of the peer connection.
   *
   * @type {LinkState}
   */
  state = 'none';
  /**
   * True while the peer has lost its connection to the server and may still resume as the same peer. Its
   * media may continue to flow.
   *
   * @type {boolean}
   */
  away = false;
  /**
   * True if the peer is away and no media or data arrive from it directly either. It may be gone, so hide
   * it until it is back.
   *
   * @type {boolean}
   */
  silent = false;
  #linkOf;
  #channelOf;
  #isRelayed;

  /** @private */
  constructor(id, name, { linkOf, channelOf, isRelayed }) {
    this.id = id;
    this.name = name;
    this.#isRelayed = isRelayed;
    this.#linkOf = linkOf;
    this.#channelOf = channelOf;
  }

  /**
   * The stream to show if you show only one: the `camera`, or else the oldest.
   *
   * @type {MediaStream | null}
   */
  get stream() {
    return mainOf(this.streams);
  }

  /**
   * True while a media server delivers our main stream to this peer, so that there is no peer connection
   * for it.
   *
   * @type {boolean}
   */
  get relayed() {
    return this.#isRelayed(this.id);
  }

  /**
   * The peer connection, for features that this client does not offer; null if there is none. Do not change
   * its tracks or descriptions. It may be replaced; then `connection` is emitted.
   *
   * @type {RTCPeerConnection | null}
   */
  get connection() {
    return this.#linkOf(this.id)?.connection ?? null;
  }

  /**
   * The current volume of its audio, from 0 to 1. Poll it for as long as you show it.
   *
   * @type {number}
   */
  get level() {
    return this.#linkOf(this.id)?.level ?? 0;
  }

  /**
   * Returns statistics of the peer connection.
   *
   * @returns {Promise<PeerStats | null>} The statistics, or null if there is no peer connection.
   */
  async stats() {
    return (await this.#linkOf(this.id)?.stats()) ?? null;
  }

  /**
   * Opens a data channel to this peer, directly between the browsers. The same name returns the same
   * channel, even if the peer opened it. Makes a peer connection if there is none.
   *
   * @param {string} name - The channel's name, at most 64 characters.
   * @param {ChannelOptions} [options] - How it carries data. The options of the side that opens it apply.
   * @returns {Channel} The channel. Its state is `connecting` at first; messages that you send then
   *   wait until it is open.
   */
  channel(name, options) {
    return this.#channelOf(this.id, name, options);
  }
}

// The negotiation of one link, as a table.

/**
 * The negotiation of one link: for each state and input, the [next state, action].
 * An input without an entry changes nothing.
 *
 * States: `idle`; `asking`, we have requested an offer; `making` an offer; `offering`, our offer
 * is unanswered; `applying` an answer; `owing`, the same, and the other side has requested another
 * offer; `taking` their offer; `answering` it.
 *
 * Inputs from this side: `change`, we must make an offer; `need`, the other side must make one; and
 * the ends of steps: `made` or `failed`, `applied` or `refused`, `taken`, `answered`.
 * Inputs from the other side: `request` for an offer; `answer`; and its offers, by
 * {@link inputOf}.
 */
const NEGOTIATION = {
  idle: {
    change: ['making', 'offer'],
    need: ['asking', 'ask'],
    request: ['making', 'offer'],
    offer: ['taking', 'take'],
    yield: ['taking', 'take'],
  },
  asking: {
    change: ['making', 'offer'],
    need: ['asking', 'ask'],
    request: ['making', 'offer'],
    offer: ['taking', 'take'],
    yield: ['taking', 'take'],
  },
  making: {
    made: ['offering', 'sendOffer'],
    failed: ['idle', 'settle'],
    yield: ['taking', 'take'],
  },
  offering: {
    answer: ['applying', 'apply'],
    answerLost: ['offering', 'sendOffer'],
    yield: ['taking', 'take'],
  },
  applying: {
    applied: ['idle', 'settle'],
    refused: ['offering', null],
    request: ['owing', null],
    offer: ['taking', 'take'],
    yield: ['taking', 'take'],
  },
  owing: {
    applied: ['making', 'offer'],
    refused: ['offering', null],
    offer: ['taking', 'take'],
    yield: ['taking', 'take'],
  },
  taking: {
    taken: ['answering', 'answer'],
    yield: ['taking', 'take'],
  },
  answering: {
    answered: ['idle', 'settle'],
    yield: ['taking', 'take'],
  },
};

/**
 * Classifies an offer of the other side.
 *
 * - `offer`: ignored while our own offer is unanswered; ours has priority.
 * - `yield`: has priority over ours, since we are polite, or since the other side does not know
 *   these rules.
 * - `answerLost`: the other side has accepted our first offer, and its answer was lost.
 *
 * @param {{ session?: string, re?: string }} offer
 * @param {{ polite: boolean, isFirst: boolean }} link - `isFirst`: no description of theirs was applied yet.
 */
function inputOf({ session, re }, { polite, isFirst }) {
  if (!polite && session !== undefined) return 'offer';
  return isFirst && re !== undefined ? 'answerLost' : 'yield';
}

// Statistics of peer connections, in a form that pages can show.

/**
 * Statistics of a peer connection. Values that the browser does not report are null.
 *
 * @typedef {object} PeerStats
 * @property {number | null} roundTripTime - The round-trip time in milliseconds.
 * @property {number | null} bandwidth - The estimated bandwidth to the peer, in bits a second.
 * @property {boolean} relayed - Whether the connection goes through a TURN server.
 * @property {StreamStats[]} sent - An entry for each track that we send, and for each simulcast layer.
 * @property {StreamStats[]} received - An entry for each track that we receive.
 */

/**
 * Statistics of one track.
 *
 * @typedef {object} StreamStats
 * @property {string} name - The name of the stream.
 * @property {'audio' | 'video'} kind - The kind of track.
 * @property {string | null} rid - The simulcast layer.
 * @property {string | null} codec - `VP8`, `opus`, ...
 * @property {number} bytes - Bytes since the track began.
 * @property {number | null} bitrate - Bits a second since the previous call of `stats`; null at the first
 *   call.
 * @property {number | null} lost - Lost packets.
 * @property {number | null} jitter - Jitter in milliseconds.
 * @property {number | null} width - Width of the video.
 * @property {number | null} height - Height of the video.
 * @property {number | null} framesPerSecond - Frame rate of the video.
 * @property {string | null} limitation - What limits the quality of the video that we send: `none`, `cpu`,
 *   `bandwidth` or `other`.
 */

// Codecs that only repair lost packets. Firefox reports the codec of the last packet, even if it is one of these.
const REPAIRS = /^(rtx|red|ulpfec|flexfec.*)$/i;

/** Reads successive reports of one RTCPeerConnection. */
class StatsReader {
  #before = new Map(); // id -> { bytes, timestamp, bitrate, codec }

  /**
   * @param {Map<string, any>} report - Of `getStats`.
   * @param {(mid: string, isOurs: boolean) => string} nameOf
   * @returns {PeerStats}
   */
  read(report, nameOf) {
    const all = [...report.values()];
    const transport = all.find(({ type }) => type === 'transport');
    const pair = report.get(transport?.selectedCandidatePairId) // Firefox names no transport
      ?? all.find(({ type, nominated, state }) => type === 'candidate-pair' && nominated && state === 'succeeded');
    const ends = [pair?.localCandidateId, pair?.remoteCandidateId].map((id) => report.get(id));
    const rows = (wanted) => all.filter(({ type }) => type === wanted).map((one) => this.#row(one, report, nameOf));
    const stats = {
      roundTripTime: inMs(pair?.currentRoundTripTime),
      bandwidth: pair?.availableOutgoingBitrate ?? null,
      relayed: ends.some((end) => end?.candidateType === 'relay'),
      sent: rows('outbound-rtp'),
      received: rows('inbound-rtp'),
    };
    const counted = all.filter((one) => bytesOf(one) !== undefined);
    this.#before = new Map(counted.map((one) => [one.id, {
      bytes: bytesOf(one), timestamp: one.timestamp, bitrate: this.#bitrate(one), codec: this.#codec(one, report),
    }]));
    return stats;
  }

  #row(one, report, nameOf) {
    const isOurs = one.type === 'outbound-rtp';
    const other = isOurs ? report.get(one.remoteId) : one; // only the receiver counts lost packets
    return {
      name: nameOf(one.mid, isOurs),
      kind: one.kind,
      rid: one.rid ?? null,
      codec: this.#codec(one, report),
      bytes: bytesOf(one) ?? 0,
      bitrate: this.#bitrate(one),
      lost: other?.packetsLost ?? null,
      jitter: inMs(other?.jitter),
      width: one.frameWidth ?? null,
      height: one.frameHeight ?? null,
      framesPerSecond: one.framesPerSecond ?? null,
      limitation: one.qualityLimitationReason ?? null,
    };
  }

  #codec(one, report) {
    const codec = report.get(one.codecId)?.mimeType.split('/')[1] ?? null;
    return codec && REPAIRS.test(codec) ? this.#before.get(one.id)?.codec ?? null : codec;
  }

  #bitrate(one) {
    const { bytes, timestamp, bitrate = null } = this.#before.get(one.id) ?? {};
    if (timestamp === undefined) return null;
    if (one.timestamp <= timestamp) return bitrate; // the browser has not measured again yet
    return (8000 * (bytesOf(one) - bytes)) / (one.timestamp - timestamp);
  }
}

function bytesOf({ bytesSent, bytesReceived }) {
  return bytesSent ?? bytesReceived;
}

function inMs(seconds) {
  return seconds === undefined ? null : seconds * 1000;
}

// One peer connection, and its negotiation.

const ANSWER_WITHIN = 3_000; // ms until an offer is sent again: signals may have been lost
const OFFER_TIMES = 5; // after that, the peer counts as unwilling to answer
const KEEP_EVERY = 30_000; // ms between repetitions: a sender may not notice that a signal was lost
const UNUSED_ID = 1022; // of data channels; browsers count from 0
const MOST_EARLY = 100; // candidates that wait for a description

/**
 * One RTCPeerConnection with one peer. It uses the W3C's "perfect negotiation": either side may
 * make an offer at any time, and if both do, the polite one withdraws its own.
 * https://www.w3.org/TR/webrtc/#perfect-negotiation-example
 *
 * Signals may be lost with a connection to the server, and a peer may return as a reloaded page. So,
 * unlike in the example, signals have three more fields:
 *
 * - `session` names this RTCPeerConnection, and `re` that of the other side, once it is known.
 *   A description for a connection other than the current one is not applied.
 * - `n` counts our offers. An offer is repeated until its answer arrives; a repeated offer gets the
 *   same answer again.
 *
 * Each side has one transceiver for audio and one for video from the first offer on, always ready to
 * receive. {@link Slots} adds more for more streams, once both sides are known to use names. The
 * names are in `streams` of offers and answers, by mid.
 *
 * Browsers handle the withdrawal of an offer (rollback) badly: Chromium leaves received tracks muted,
 * or without a picture (https://github.com/w3c/webrtc-pc/issues/3081). So it is avoided. If the very
 * first offers cross, the polite side starts again with another RTCPeerConnection. After that it makes
 * no offers. It requests them, and puts its own changes into its answers. In such a request, `restart`
 * asks for an ICE restart, `wants` lists the streams that need transceivers, and `data` asks for the
 * line of data channels.
 *
 * Clients that do not know these fields are supported; with them, we are the polite side.
 */
class Link {
  session;
  streams; // what the other side sends: name -> MediaStream
  #iceServers;
  #outgoing; // name -> { tracks, ...PublishOptions }
  #channels;
  #polite;
  #tell;
  #onState;
  #onStream;
  #onSilence;
  #onError;
  #pc = null;
  #state = 'idle'; // of the negotiation
  #slots;
  #stats;
  #hasDataLine; // made because the other side asked for it
  #theirs; // the other side's session
  #names; // of its transceivers, by mid; null if it does not use names, undefined until we know
  #needed = null; // { restart }: why we need an offer of theirs, until it arrives
  #offers = 0; // how many offers we made
  #left = 0; // how many more times the last offer or request may be sent
  #again = 0; // timer
  #keeper; // timer
  #lastOffer; // the number of their last offer
  #answer = null; // our answer to it
  #early = []; // candidates that came before the description
  #restarted = false; // whether ICE was restarted since the connection was last up

  constructor({
    iceServers, outgoing, channels, polite, tell, onState, onStream, onSilence, onError,
  }) {
    this.#iceServers = iceServers;
    this.#outgoing = outgoing;
    this.#channels = channels;
    this.#polite = polite;
    this.#tell = tell;
    this.#onState = onState;
    this.#onStream = onStream;
    this.#onSilence = onSilence;
    this.#onError = onError;
    this.#begin();
    this.#keeper = setInterval(() => this.#isSettled() || this.resume(1), KEEP_EVERY);
  }

  #begin() {
    this.#stop();
    this.session = randomId();
    this.streams = new Map();
    this.#names = undefined;
    const nameless = new MediaStream(); // for tracks without a stream
    const pc = new RTCPeerConnection({ iceServers: this.#iceServers, bundlePolicy: 'max-bundle' });
    pc.onnegotiationneeded = () => (this.#mustAsk() ? this.#ask(false) : this.#input('change'));
    pc.onconnectionstatechange = () => {
      if (pc.connectionState === 'connected') this.#restarted = false;
      this.#onState();
    };
    pc.onicecandidate = ({ candidate }) => {
      if (candidate) this.#tell('ice_candidate', 'candidate', this.#signed(candidate.toJSON()));
    };
    pc.ontrack = ({ track, transceiver, streams: [stream = nameless] }) => {
      if (stream === nameless) stream.addTrack(track);
      const name = this.#nameOf(transceiver, stream);
      stream.onremovetrack = () => this.#onSilence(name);
      this.streams.set(name, stream);
      this.#onStream(stream, name);
    };
    pc.ondatachannel = ({ channel }) => this.#channels.opened(channel, () => isCarried(pc));
    this.#pc = pc;
    this.#slots = new Slots(pc);
    this.#stats = new StatsReader();
    this.#hasDataLine = false;
  }

  // State

  /** The current RTCPeerConnection. */
  get connection() {
    return this.#pc;
  }

  /** @returns {LinkState} */
  get state() {
    const state = this.#pc.connectionState;
    if (state === 'new') return this.#isUnanswered() ? 'none' : 'connecting';
    if (state === 'disconnected' || (state === 'connected' && this.#hungUp())) return 'interrupted';
    return state;
  }

  /** The other side may be unwilling or unable to answer. */
  #isUnanswered() {
    return !this.isPaired && this.#offers > 0 && this.#left === 0;
  }

  /** Whether the other side has closed its connection; `connectionState` shows that seconds later. */
  #hungUp() {
    const [receiver] = this.#pc.getReceivers();
    return ['closed', 'failed'].includes(receiver?.transport?.state);
  }

  /** The volume of the other side, 0 to 1. */
  get level() {
    const sources = this.#pc.getReceivers().flatMap((receiver) => receiver.getSynchronizationSources());
    return Math.max(0, ...sources.map(({ audioLevel }) => audioLevel ?? 0));
  }

  /** @returns {Promise<PeerStats>} */
  async stats() {
    const [reader, pc] = [this.#stats, this.#pc];
    return reader.read(await pc.getStats(), (mid, isOurs) => {
      const theirs = isOurs ? undefined : this.#names?.get(mid);
      return theirs ?? this.#slots.nameOf(mid) ?? MAIN;
    });
  }

  /** Statistics without bitrates; does not affect those of `stats`. */
  async glance() {
    return new StatsReader().read(await this.#pc.getStats(), () => MAIN);
  }

  /** Whether an offer of `session` is for this connection. */
  isWith(session) {
    return this.#theirs === undefined || this.#theirs === session;
  }

  /** Whether the other side's connection is known. */
  get isPaired() {
    return this.#theirs !== undefined;
  }

  /** The number of received packets of any kind; NaN if the browser does not count them. */
  async packetsReceived() {
    const stats = [...(await this.#pc.getStats()).values()];
    return stats.find((s) => s.type === 'transport')?.packetsReceived ?? NaN;
  }

  // Sending

  /** Makes an offer: sends our streams, and is ready to receive. */
  open() {
    if (this.#state === 'taking') return; // their offer brings the transceivers
    if (this.#pc.signalingState === 'closed') return; // a listener closed it
    const [first = MAIN] = this.#outgoing.keys();
    const main = this.#outgoing.has(MAIN) ? MAIN : first;
    if (this.#slots.isEmpty) this.#slots.addPair(main, this.#outgoing.get(main));
    this.send();
  }

  /**
   * Sends the current streams; makes a new offer only if needed. The first offer has only two
   * transceivers: a client that does not support names would show whichever stream came last.
   */
  send() {
    if (this.#state === 'taking') return; // the answer will have them
    if (this.#missing().length > 0) this.#makeRoom();
    this.#openChannels();
    this.#slots.send(this.#outgoing, this.#names !== null, (error) => this.#onError(error));
  }

  /** Adds or requests transceivers; only one side adds them, so that none is added twice. */
  #makeRoom() {
    if (this.#mustAsk()) this.#ask(false);
    else for (const [name, kind] of this.#missing()) {
      this.#slots.add(name, kind, this.#outgoing.get(name));
    }
  }

  /** The streams without transceivers; none until we know whether the other side uses names. */
  #missing() {
    if (this.#names === undefined) return [];
    return this.#slots.missing(this.#outgoing, this.#names !== null);
  }

  /** The first channel needs a line in the offer; once paired, only the impolite side adds it. */
  #openChannels() {
    const pc = this.#pc;
    const beginsWithIt = !this.isPaired && this.#state === 'idle';
    for (const channel of this.#channels.unopened()) {
      if (!this.#polite || beginsWithIt || pc.sctp) {
        this.#openChannel(channel);
      } else if (this.#names) {
        this.#ask(false); // clients without names would not understand the request
      }
    }
  }

  /** A channel that the browser refuses, because of its options, is closed: it must not be tried again. */
  #openChannel(channel) {
    const pc = this.#pc;
    try {
      channel.attach(pc.createDataChannel(channel.name, channel.init), () => isCarried(pc));
    } catch (error) {
      if (pc.signalingState !== 'closed') channel.close();
      throw error;
    }
  }

  /** Makes a data channel that nobody uses: there is no other way to get the line into an offer. */
  #addDataLine() {
    if (this.#hasDataLine || this.#pc.sctp) return;
    this.#hasDataLine = true;
    this.#pc.createDataChannel('', { negotiated: true, id: UNUSED_ID });
  }

  /** The name of a track's stream. */
  #nameOf({ mid }, stream) {
    if (this.#names) return this.#names.get(mid) ?? this.#slots.nameOf(mid) ?? stream.id;
    const main = this.streams.get(MAIN);
    return main === stream || !hasTracks(main) ? MAIN : stream.id;
  }

  // Negotiation

  /** Applies an input to the table; returns the result of its action. */
  #input(input, ...details) {
    const [state, action] = NEGOTIATION[this.#state][input] ?? [this.#state, null];
    this.#state = state;
    return action && this.#actions[action](...details);
  }

  #actions = {
    offer: () => this.#makeOffer(),
    ask: () => this.#say(),
    sendOffer: () => this.#say(),
    apply: (answer) => this.#apply(answer),
    take: (offer, isFirst) => this.#take(offer, isFirst),
    answer: () => this.#makeAnswer(),
    settle: () => this.#settle(),
  };

  /** When a negotiation is complete, sends what had to wait for it. */
  #settle() {
    this.send();
    if (this.#needed && this.#state === 'idle') this.#input('need');
  }

  /** Whether we must request offers: once paired, only the impolite side makes them. */
  #mustAsk() {
    return this.#polite && this.isPaired;
  }

  #ask(restart) {
    this.#needed = { restart: restart || Boolean(this.#needed?.restart) };
    this.#input('need');
  }

  async #makeOffer() {
    const pc = this.#pc;
    try {
      await pc.setLocalDescription();
      if (pc !== this.#pc) return; // it was replaced meanwhile
      this.#offers += 1;
      this.#input('made');
    } catch (error) {
      if (pc !== this.#pc) return;
      this.#input('failed');
      this.#onError(error);
    }
  }

  /** Sends the offer, or the request for one, repeatedly until it is answered. */
  #say(times = OFFER_TIMES) {
    this.#left = times;
    this.#repeat();
  }

  #repeat() {
    clearTimeout(this.#again);
    const signal = this.#unanswered();
    if (!signal) return;
    if (this.#left === 0) return this.#onState(); // gives up for now
    this.#left -= 1;
    this.#again = setTimeout(() => this.#repeat(), ANSWER_WITHIN);
    this.#tell('offer', 'offer', this.#signed(signal));
  }

  #unanswered() {
    if (this.#state === 'asking') {
      const data = this.#channels.unopened().length > 0;
      return { type: 'request', ...this.#needed, wants: this.#missing(), data };
    }
    if (this.#state !== 'offering') return null;
    const { type, sdp } = this.#pc.localDescription;
    return { type, sdp, n: this.#offers, streams: this.#slots.names() };
  }

  /**
   * Processes an offer of theirs, or their request for one of ours.
   *
   * @returns {Promise<void>} Rejects if the offer does not fit this connection.
   */
  async offered(offer) {
    if (offer.type === 'request') {
      // If our offer is unanswered, its answer will have their changes. Streams without transceivers
      // follow in the next offer.
      for (const [name, kind] of wantsIn(offer.wants)) this.#slots.add(name, kind);
      if (offer.data) this.#addDataLine();
      if (offer.restart) this.#pc.restartIce();
      else this.#input('request');
    } else if (offer.n !== undefined && offer.n === this.#lastOffer) {
      this.#sendAnswer();
    } else {
      const isFirst = this.#isFirst();
      await this.#input(inputOf(offer, { polite: this.#polite, isFirst }), offer, isFirst);
    }
  }

  /** Whether we have transceivers of our own, but have not applied a description of theirs yet. */
  #isFirst() {
    if (['applying', 'owing'].includes(this.#state) || this.#pc.currentRemoteDescription) return false;
    return !this.#slots.isEmpty;
  }

  async #take({ type, sdp, session, n, streams }, isFirst) {
    if (isFirst) this.#begin();
    this.#theirs = session;
    this.#names = namesIn(streams);
    this.#lastOffer = n;
    this.#answer = this.#needed = null;
    clearTimeout(this.#again);
    await this.#describe({ type, sdp });
    if (n === this.#lastOffer) await this.#input('taken');
  }

  async #makeAnswer() {
    const n = this.#lastOffer;
    this.#slots.adopt(this.#names);
    this.send();
    await this.#pc.setLocalDescription();
    this.#answer = { type: 'answer', sdp: this.#pc.localDescription.sdp, n, streams: this.#slots.names() };
    this.#sendAnswer();
    this.#input('answered');
  }

  #sendAnswer() {
    if (this.#answer) this.#tell('answer', 'answer', this.#signed(this.#answer));
  }

  /** Processes an answer of theirs; only an answer to our last offer is applied. */
  answered(answer) {
    if (answer?.re !== undefined && answer.re !== this.session) return;
    if (answer?.n !== undefined && answer.n !== this.#offers) return;
    this.#input('answer', answer);
  }

  async #apply(answer) {
    this.#theirs = answer?.session;
    this.#names = namesIn(answer?.streams);
    clearTimeout(this.#again);
    try {
      await this.#describe({ type: 'answer', sdp: answer?.sdp });
      this.#input('applied');
    } catch (error) {
      this.#input('refused');
      this.#onError(error);
    }
  }

  async #describe(description) {
    const described = this.#pc.setRemoteDescription(description);
    const early = this.#early ?? [];
    this.#early = null; // from now on the browser keeps the order
    for (const candidate of early) this.#add(candidate);
    await described;
    const [receiver] = this.#pc.getReceivers(); // all are in one bundle
    if (receiver?.transport) receiver.transport.onstatechange = () => this.#onState();
  }

  candidate(candidate) {
    if (!this.#early) this.#add(candidate);
    else if (this.#early.length < MOST_EARLY) this.#early.push(candidate);
  }

  /** Adds a candidate; errors are ignored, because there are other candidates. */
  #add(candidate) {
    if (this.#theirs === candidate.session) this.#pc.addIceCandidate(candidate).catch(() => {});
  }

  // After an outage

  /** The peer or the server is back: repeats lost signals, and replaces candidates by an ICE restart. */
  resume(times = OFFER_TIMES) {
    this.#say(times);
    if (this.state !== 'connected') this.#restartIce();
  }

  #isSettled() {
    return this.#state === 'idle' && this.state === 'connected';
  }

  #restartIce() {
    if (this.#mustAsk()) this.#ask(true);
    else this.#pc.restartIce();
  }

  /** Restarts ICE; returns false if that was already tried and did not help. */
  restart() {
    if (this.#restarted || this.#hungUp()) return false;
    this.#restarted = true;
    this.#restartIce();
    return true;
  }

  close() {
    this.#onState = this.#onError = () => {};
    clearInterval(this.#keeper);
    this.#stop();
  }

  #stop() {
    clearTimeout(this.#again);
    if (!this.#pc) return;
    const pc = this.#pc;
    pc.onconnectionstatechange = pc.onnegotiationneeded = pc.ontrack = pc.ondatachannel = null;
    this.#channels.detach();
    pc.close();
  }

  #signed(value) {
    return { ...value, session: this.session, re: this.#theirs };
  }
}

/** Whether the connection of the data channels is up. If so, the other side closed a channel that ends. */
function isCarried(pc) {
  // Not `sctp.state`: Chromium may leave that at `connecting`.
  return pc.connectionState === 'connected' && pc.sctp?.transport.state === 'connected';
}

/** A random id; crypto.randomUUID() is missing on pages without https. */
function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

// Reports of call quality, for servers that ask for them.

const PATIENCE = 10_000; // ms after which a call should have sound or a picture
const MOST = 50; // round trips in one report
const LIMIT = 200; // of each number; the server takes no more

const none = () => ({ checked: 0, silent: 0, connected: 0, relayed: 0, failed: 0 });

/** Counts which links work, and reports that at an interval. Reports do not say who is connected with whom. */
class Quality {
  #links;
  #expects;
  #send;
  #counts = none();
  #known = new WeakSet(); // links that were counted as connected
  #timer = 0;

  /**
   * @param {object} room
   * @param {() => Iterable<any>} room.links - The current links.
   * @param {(link: any) => 'received' | 'sent' | null} room.expects - Where a link should have media.
   * @param {(report: object) => boolean} room.send - Sends a report, if there is a connection.
   */
  constructor({ links, expects, send }) {
    this.#links = links;
    this.#expects = expects;
    this.#send = send;
  }

  /** Reports every `seconds` from now on; without `seconds`, stops. */
  start(seconds) {
    clearInterval(this.#timer);
    this.#timer = seconds > 0 ? setInterval(() => this.report(), seconds * 1000) : 0;
  }

  /** Checks a new link after a while. */
  watch(link) {
    if (this.#timer) setTimeout(() => this.check(link), PATIENCE);
  }

  /** Counts a failure of ICE. */
  failed() {
    if (this.#timer) this.#count('failed');
  }

  /** Counts whether a link has media by now; closed links do not count. */
  async check(link) {
    const wanted = [...this.#links()].includes(link) ? this.#expects(link) : null;
    if (wanted === null) return;
    const stats = link.state === 'connected' ? await this.#look(link) : null;
    this.#count('checked');
    if (!stats?.[wanted].some(({ bytes }) => bytes > 0)) this.#count('silent');
  }

  async report() {
    const connected = [...this.#links()].filter(({ state }) => state === 'connected');
    const stats = await Promise.all(connected.map((link) => this.#look(link)));
    const trips = stats.map((one) => one?.roundTripTime ?? null).filter((time) => time !== null);
    const report = { type: 'quality', ...this.#counts, round_trips: trips.slice(0, MOST) };
    const isEmpty = trips.length === 0 && Object.values(this.#counts).every((count) => count === 0);
    if (!isEmpty && this.#send(report)) this.#counts = none();
  }

  /** Statistics of a link; it may be closed meanwhile. The first time it counts as connected. */
  async #look(link) {
    const stats = await link.glance().catch(() => null);
    if (stats && !this.#known.has(link)) {
      this.#known.add(link);
      this.#count('connected');
      if (stats.relayed) this.#count('relayed');
    }
    return stats;
  }

  #count(what) {
    this.#counts[what] = Math.min(this.#counts[what] + 1, LIMIT);
  }
}

// Broadcasts through a media server: the broadcaster uploads once, for many viewers.

/** The peer connection that carries our broadcast to the media server. */
class Uplink {
  id;
  #pc;
  #senders;
  #tell;

  /** `id` is the media server's address; `streams` are those that we publish. */
  constructor(id, { iceServers, streams, tell }) {
    this.id = id;
    this.#tell = tell;
    this.#pc = new RTCPeerConnection({ iceServers, bundlePolicy: 'max-bundle' });
    this.#pc.onicecandidate = ({ candidate }) => {
      if (candidate) tell('ice_candidate', 'candidate', candidate.toJSON());
    };
    const main = mainOf(streams);
    this.#senders = ['audio', 'video'].map((kind) => {
      const { sender } = this.#pc.addTransceiver(kind, { direction: 'sendonly', streams: [main] });
      return { kind, sender };
    });
    this.send(streams);
    this.#offer();
  }

  get connection() {
    return this.#pc;
  }

  /** Sends the current main stream; needs no new offer. */
  send(streams) {
    const tracks = mainOf(streams)?.getTracks() ?? [];
    for (const { kind, sender } of this.#senders) {
      sender.replaceTrack(tracks.find((track) => track.kind === kind) ?? null).catch(() => {});
    }
  }

  async #offer() {
    await this.#pc.setLocalDescription();
    this.again();
  }

  /** Repeats an unanswered offer, which may have been lost: the media server has asked again. */
  again() {
    if (this.#pc.signalingState !== 'have-local-offer') return;
    const { type, sdp } = this.#pc.localDescription;
    this.#tell('offer', 'offer', { type, sdp });
  }

  answered({ type, sdp }) {
    if (this.#pc.signalingState === 'have-local-offer') {
      this.#pc.setRemoteDescription({ type, sdp }).catch(() => {});
    }
  }

  close() {
    this.#pc.onicecandidate = null;
    this.#pc.close();
  }
}

/** The peer connection over which a media server delivers a peer's broadcast. */
class Downlink {
  streams = new Map();
  #origin;
  #pc;
  #tell;
  #stats = new StatsReader();

  constructor(offer, { iceServers, tell, onState, onStream }) {
    this.#origin = originOf(offer);
    this.#tell = tell;
    this.#pc = new RTCPeerConnection({ iceServers, bundlePolicy: 'max-bundle' });
    this.#pc.onicecandidate = ({ candidate }) => {
      if (candidate) tell('ice_candidate', 'candidate', candidate.toJSON());
    };
    this.#pc.onconnectionstatechange = onState;
    const stream = new MediaStream(); // the media server's own streams are not used
    this.#pc.ontrack = ({ track }) => {
      for (const old of stream.getTracks()) if (old.kind === track.kind) stream.removeTrack(old);
      stream.addTrack(track);
      this.streams.set(MAIN, stream);
      onStream(stream, MAIN);
    };
  }

  /** Whether an offer is for this connection; any other offer needs a new one. */
  isFor(offer) {
    return originOf(offer) === this.#origin && this.#pc.connectionState !== 'failed';
  }

  /** Answers an offer. A repeated offer gets the same answer again. */
  async offered({ type, sdp }) {
    const pc = this.#pc;
    if (pc.currentRemoteDescription?.sdp !== sdp) {
      await pc.setRemoteDescription({ type, sdp });
      await pc.setLocalDescription();
    }
    this.#tell('answer', 'answer', { type: 'answer', sdp: pc.localDescription.sdp });
  }

  get connection() {
    return this.#pc;
  }

  /** @returns {LinkState} */
  get state() {
    const state = this.#pc.connectionState;
    if (state === 'new') return 'connecting';
    return state === 'disconnected' ? 'interrupted' : state;
  }

  get level() {
    const sources = this.#pc.getReceivers().flatMap((receiver) => receiver.getSynchronizationSources());
    return Math.max(0, ...sources.map(({ audioLevel }) => audioLevel ?? 0));
  }

  /** @returns {Promise<PeerStats>} */
  async stats() {
    return this.#stats.read(await this.#pc.getStats(), () => MAIN);
  }

  /** Statistics without bitrates; does not affect those of `stats`. */
  async glance() {
    return new StatsReader().read(await this.#pc.getStats(), () => MAIN);
  }

  /** The number of received packets of any kind; NaN if the browser does not count them. */
  async packetsReceived() {
    const stats = [...(await this.#pc.getStats()).values()];
    return stats.find((s) => s.type === 'transport')?.packetsReceived ?? NaN;
  }

  close() {
    this.#pc.onicecandidate = this.#pc.ontrack = this.#pc.onconnectionstatechange = null;
    this.#pc.close();
  }
}

/** The id of the connection that made a description: the session id in its line `o=`. */
function originOf({ sdp }) {
  return /^o=\S+ (\S+)/m.exec(sdp)?.[1];
}

// Finds the active speaker.

const EVERY = 200; // ms
const SPEECH = 0.02; // on a scale from 0 to 1; lower levels are noise
const NEW_SHARE = 0.4; // weight of a new level in the average, so that a cough is not enough
const LOUDER = 1.5; // a new speaker must be this many times as loud as the current one

/** Finds the active speaker from repeated measurements of levels. */
class SpeakerFinder {
  #averages = new Map();
  #current = null;

  /**
   * @param {Map<string, number>} levels - By id, 0 to 1. An id that is missing has left.
   * @returns {string | null} The id of the current or last speaker.
   */
  next(levels) {
    const before = this.#averages;
    this.#averages = new Map([...levels].map(
      ([id, level]) => [id, NEW_SHARE * level + (1 - NEW_SHARE) * (before.get(id) ?? 0)],
    ));
    if (!levels.has(this.#current)) this.#current = null;
    const [loudest, level] = [...this.#averages].reduce((a, b) => (b[1] > a[1] ? b : a), [null, 0]);
    const present = this.#averages.get(this.#current) ?? 0;
    if (level >= SPEECH && level > LOUDER * present) this.#current = loudest;
    return this.#current;
  }
}

/** Watches for the speaker as long as `isWanted`, and reports each change. */
class SpeakerWatch {
  #levels;
  #isWanted;
  #onSpeaker;
  #timer = 0;

  constructor({ levels, isWanted, onSpeaker }) {
    this.#levels = levels;
    this.#isWanted = isWanted;
    this.#onSpeaker = onSpeaker;
  }

  start() {
    if (this.#timer || !this.#isWanted()) return;
    const finder = new SpeakerFinder();
    let current = null;
    this.#timer = setInterval(() => {
      const next = this.#isWanted() ? finder.next(this.#levels()) : this.#stop();
      if (next !== current) this.#onSpeaker(next);
      current = next;
    }, EVERY);
  }

  #stop() {
    clearInterval(this.#timer);
    this.#timer = 0;
    return null;
  }
}

// A room: its peers, which of them are live, and a link to each.

const ASK_AFTER = 1_000; // ms to wait for a live peer's offer before we make one
const RELAY_WITHIN = 10_000; // ms; the same if a media server may deliver its broadcast
const PLACED_WITHIN = 1_000; // ms for the server to say which peers a media server serves
const STOP_AFTER = 2_000; // ms; if a peer is live again within this time, its stop is not reported
const RETURN_WITHIN = 30_000; // ms for a peer to return if the server has lost it, but its media flow
const LISTEN_EVERY = 400; // ms between counts of such a peer's packets
const SILENCES = 3; // consecutive counts without new packets, after which the peer counts as gone
/** A peer that left for one of these causes does not come back. docs/protocols/mesh.md lists all causes. */
const GONE = new Set(['closed', 'kicked', 'banned', 'token_expired']);
const POLICY = 1008;
const ID_IN_USE = 'Client id in use'; // the server's reason: docs/protocols/mesh.md

/**
 * Joins a room. After that the client reconnects by itself, keeps its client id, and goes live again if it
 * was live. If another client has taken the id meanwhile, it joins under a new one, as a new peer.
 *
 * @param {string | URL} url - The server's URL: `https://signal.example.com`, or `location.origin`.
 * @param {JoinOptions} options - The room, your name, and more.
 * @returns {Promise<Room>} The room. Rejects with a `RoomError` if the first attempt fails.
 */
export function join(url, options) {
  return new Promise((resolve, reject) => {
    new Room(url, options, resolve, reject);
  });
}

/** A room that you have joined. `join` returns it. */
export class Room {
  /**
   * The name of the room.
   *
   * @type {string}
   */
  name;
  /**
   * Your own client id, and the name that the others see.
   *
   * @type {{ id: string, name: string }}
   */
  me;
  /**
   * The other peers, by client id.
   *
   * @type {ReadonlyMap<string, Peer>}
   */
  peers = new Map();
  /**
   * The state of the connection to the server.
   *
   * @type {RoomState}
   */
  state = 'connecting';
  /**
   * The peer that is speaking, or spoke last. It is only updated while there is a listener for `speaker`.
   *
   * @type {Peer | null}
   */
  speaker = null;
  /**
   * The streams that you publish, by name.
   *
   * @type {ReadonlyMap<string, MediaStream>}
   */
  streams = new Map();

  #id; // for the next connection
  #signaling;
  #listeners = new Listeners();
  #links = new Map(); // peer's id -> Link
  #channels = new Map(); // peer's id -> Channels
  #mayRelay = false; // whether the server has media servers
  #uplink = null; // our broadcast to a media server
  #downlinks = new Map(); // peer's id -> Downlink, with its broadcast
  #relayed = new Set(); // ids of the peers that get our broadcast from a media server
  #placing = 0; // timer that runs until we know these peers
  #speakers;
  #quality;
  #timers = new Map(); // peer's id -> its running timers, by name
  #addressees = new Set(); // ids of the peers to which the application has sent messages
  #outgoing = new Map(); // name -> { tracks, ...PublishOptions }: the published streams
  #names = new Set(); // all stream names that were ever used
  #iceServers = [];
  #ownIceServers; // of the application
  #wantsMedia;
  #settle; // { resolve, reject } of the promise that `join` returned; null once it is settled
  #declared = null; // the kind of media that we have announced since we joined

  /** @private */
  constructor(url, { room, username, token, clientId, iceServers, media = true, trace }, resolve, reject) {
    this.name = room;
    this.#wantsMedia = media;
    this.#ownIceServers = iceServers;
    this.#settle = { resolve: () => resolve(this), reject };
    // In open mode a random token keeps others from taking over our id.
    const secret = token ?? (clientId ? undefined : randomId());
    this.#id = clientId ?? randomId();
    this.me = { id: this.#id, name: username ?? '' };
    this.#speakers = new SpeakerWatch({
      levels: () => new Map([...this.#links, ...this.#downlinks].map(([id, link]) => [id, link.level])),
      isWanted: () => this.#listeners.any('speaker') && this.state !== 'closed',
      onSpeaker: (id) => {
        this.speaker = this.peers.get(id) ?? null;
        this.#emit('speaker', this.speaker);
      },
    });
    this.#quality = new Quality({
      links: () => [...this.#links.values(), ...this.#downlinks.values()],
      expects: (link) => this.#expectsMedia(link),
      send: (report) => this.#signaling.send(report),
    });
    this.#signaling = new Signaling(socketUrl(url, room), {
      hello: async () => ({ token: await askFor(secret), clientId: this.#id, username, relay: media }),
      onMessage: (message) => this.#received(message),
      onState: (state, reason, code) => this.#stateChanged(state, reason, code),
      isOther: (code, reason) => code === POLICY && reason === ID_IN_USE && this.#takeFreshId(),
      trace,
    });
    this.#signaling.open();
  }

  /**
   * Adds a listener. To miss nothing, add your listeners right after `join`, before you await anything
   * else.
   *
   * @template {keyof Events} T
   * @param {T} type - The event to listen for.
   * @param {Events[T]} listener - The function to call. If it throws, the other listeners are still called.
   * @returns {() => void} A function that removes the listener.
   */
  on(type, listener) {
    const stop = this.#listeners.add(type, listener);
    if (type === 'peer') queueMicrotask(() => this.#introduce(listener));
    if (type === 'speaker') this.#speakers.start();
    return stop;
  }

  /**
   * The main stream that you publish: the `camera`, or else the oldest; null if there is none.
   *
   * @type {MediaStream | null}
   */
  get published() {
    return mainOf(this.streams);
  }

  /**
   * Goes live: sends `stream` to everybody in the room, and to late joiners. A stream with another name is
   * sent in addition, such as a screen beside a camera. A stream with the same name replaces the earlier
   * one without interruption. To mute, set `track.enabled = false`.
   *
   * Clients that do not support named streams see only one: the camera, or else the oldest.
   *
   * @param {MediaStream} stream - The stream, with at most one audio track and one video track.
   * @param {PublishOptions} [options] - Its name, and how it is encoded.
   * @returns {void}
   */
  publish(stream, { name = MAIN, ...options } = {}) {
    if (!isName(name)) throw new TypeError(`A stream's name must have 1 to 64 characters: ${name}`);
    if (!this.#names.has(name) && this.#names.size === MOST_NAMES) {
      throw new RangeError(`A room allows only ${MOST_NAMES} stream names; reuse one`);
    }
    this.#names.add(name);
    this.streams.set(name, stream);
    this.#outgoing.set(name, { tracks: stream.getTracks(), ...options });
    const wasLive = this.#declared;
    this.#tellLive();
    this.#uplink?.send(this.streams);
    if (this.#mayRelay && !wasLive && this.#declared) this.#soonServe();
    for (const id of this.peers.keys()) this.#serve(id);
  }

  /**
   * Stops sending a stream. After the last one you are no longer live. Does not stop the tracks.
   *
   * @param {string} [name] - The stream's name; by default all streams.
   * @returns {void}
   */
  unpublish(name) {
    const names = [...this.streams.keys()].filter((one) => name === undefined || one === name);
    if (names.length === 0) return;
    for (const one of names) {
      this.streams.delete(one);
      this.#outgoing.delete(one);
    }
    for (const link of this.#links.values()) link.send();
    this.#uplink?.send(this.streams);
    this.#tellLive();
    if (!this.published) this.#forgetRelays();
  }

  /**
   * Sends application data, such as chat or mute state.
   *
   * @param {any} data - Anything that JSON can represent.
   * @param {{ to?: string }} [options] - `to` is the id of one peer; by default all other peers receive it.
   * @returns {boolean} False if there is no connection at the moment. Then the data are discarded.
   */
  send(data, { to } = {}) {
    if (to) this.#addressees.add(to);
    return this.#signaling.send({ type: 'message', data, to });
  }

  /**
   * Leaves the room and closes all connections. The state becomes `closed`.
   *
   * @returns {void}
   */
  leave() {
    this.#signaling.close();
  }

  #emit(type, ...details) {
    this.#listeners.emit(type, ...details);
  }

  /** Calls a new listener for the peers that are in the room already. */
  #introduce(listener) {
    for (const peer of [...this.peers.values()]) {
      if (this.#listeners.has('peer', listener) && this.peers.has(peer.id)) call(listener, peer);
    }
  }

  #stateChanged(state, reason = '', code = undefined) {
    this.state = state;
    if (this.#settle && code !== undefined) {
      // `join` has not returned the room yet, so the application could not stop a second attempt.
      this.#settle.reject(new RoomError(reason || `The connection failed (${code})`, code));
      this.#settle = null;
      this.#signaling.close();
      return;
    }
    if (state === 'closed') this.#quality.start(0);
    if (state === 'closed') this.#closeUplink();
    if (state === 'closed') for (const id of [...this.peers.keys()]) this.#drop(id, false);
    if (state !== 'joined') this.#emit('state', state, reason);
  }

  /** Processes a message; unknown ones are ignored, since newer servers and other clients send more. */
  #received(message) {
    const { type, from, client_id: id } = message;
    if (type === 'auth_success') this.#joined(message);
    else if (type === 'resumed') this.#resumed();
    else if (type === 'user_away') this.#lostTouch(id);
    else if (type === 'user_back') this.#inTouch(id);
    else if (type === 'users_in_room') this.#entered(message.users);
    else if (type === 'active_broadcasts') message.broadcasters.forEach((b) => this.#wentLive(b));
    else if (type === 'user_joined') this.#arrived(message);
    else if (type === 'user_left') this.#departed(id, message.cause);
    else if (type === 'broadcast_started') this.#wentLive(message);
    else if (type === 'broadcast_stopped') this.#stoppedLive(id);
    else if (type === 'offer' && message.relay) this.#relayOffered(from, message.offer);
    else if (type === 'offer') this.#offered(from, message.offer);
    else if (type === 'answer' && from === this.#uplink?.id) this.#uplink.answered(message.answer);
    else if (type === 'answer') this.#answered(from, message.answer);
    else if (type === 'relay') this.#placed(message);
    else if (type === 'relay_over') this.#closeUplink(message.offer_to);
    else if (type === 'ice_candidate') this.#candidate(from, message.candidate);
    else if (type === 'message') this.#told(from, message.data);
    else if (type === 'error') this.#refused(message);
  }

  // Peers

  /** Takes a new id, once, if another client has got ours while we were away. */
  #takeFreshId() {
    if (this.#settle || this.#id !== this.me.id) return false;
    this.#id = randomId();
    return true;
  }

  #joined({ client_id, user, ice_servers, quality, relay = false }) {
    this.#quality.start(quality);
    this.#mayRelay = relay;
    this.#forgetRelays(); // the server announces them again
    if (relay && this.published) this.#soonServe();
    // With another id we are a new peer, and the polite side may have changed.
    if (client_id !== this.me.id) for (const id of [...this.peers.keys()]) this.#drop(id);
    this.me = { id: client_id, name: user };
    this.#declared = null;
    this.#iceServers = this.#ownIceServers ?? ice_servers ?? [];
  }

  /** We have resumed as the same peer. Announces what could not be sent without a connection. */
  #resumed() {
    this.state = 'joined';
    if (this.#declared !== this.#media()) this.#tellLive();
    for (const link of [...this.#links.values()]) link.resume();
    this.#emit('state', 'joined', '');
  }

  /** Processes a snapshot of the room: the first one, or one after a lost connection. */
  #entered(users) {
    const present = new Set(users.map((user) => user.client_id));
    for (const [id, peer] of this.peers) {
      if (!present.has(id)) this.#departed(id);
      else if (peer.live) this.#soon(id, 'stop', STOP_AFTER, () => this.#ended(id));
    }
    const first = this.#settle;
    for (const user of users) this.#arrived(user);
    if (this.state === 'closed') return;
    this.#settle = null;
    this.state = 'joined';
    if (this.published) this.#tellLive();
    first?.resolve();
    this.#emit('state', 'joined', '');
  }

  #arrived({ client_id: id, username: name }) {
    if (this.state === 'closed') return; // a listener left the room
    const known = this.peers.get(id);
    if (known) return this.#returned(known, name);
    const peer = new Peer(id, name, {
      linkOf: (who) => this.#downlinks.get(who) ?? this.#links.get(who),
      channelOf: (...wanted) => this.#channel(...wanted),
      isRelayed: (who) => this.#relayed.has(who),
    });
    this.peers.set(id, peer);
    this.#timers.set(id, {});
    this.#channels.set(id, new Channels((channel) => this.#emit('channel', channel, peer)));
    this.#emit('peer', peer);
    if (this.peers.has(id)) this.#serve(id);
  }

  /** A known peer is back; its media may never have stopped. */
  #returned(peer, name) {
    this.#never(peer.id, 'drop');
    const { away, name: before } = peer;
    peer.name = name;
    if (away) this.#setAway(peer, false);
    if (!this.peers.has(peer.id)) return; // a listener left the room
    if (away && peer.live) this.#soon(peer.id, 'stop', STOP_AFTER, () => this.#ended(peer.id));
    if (this.#links.has(peer.id)) this.#links.get(peer.id).resume();
    else this.#serve(peer.id);
    if (name !== before) this.#emit('connection', peer);
  }

  /**
   * The server has reported that a peer left. Unless it left on purpose, it may only have lost its
   * connection to the server: as long as its media flow, it may come back.
   */
  #departed(id, cause) {
    const peer = this.peers.get(id);
    if (!peer || this.#isLost(id)) return;
    if (peer.state !== 'connected' || GONE.has(cause)) return this.#drop(id);
    if (peer.silent) return this.#drop(id);
    this.#never(id, 'stop');
    this.#soon(id, 'drop', RETURN_WITHIN, () => this.#drop(id));
    if (!peer.away) this.#setAway(peer, true);
  }

  /** Whether the server has reported that the peer left, but its media still flow. */
  #isLost(id) {
    return Boolean(this.#timers.get(id)?.drop);
  }

  /** A peer has lost its connection; the server will report whether it resumes or leaves. */
  #lostTouch(id) {
    const peer = this.peers.get(id);
    if (peer && !peer.away) this.#setAway(peer, true);
  }

  #inTouch(id) {
    const peer = this.peers.get(id);
    if (peer?.away && !this.#isLost(id)) this.#setAway(peer, false);
  }

  #setAway(peer, away) {
    peer.away = away;
    peer.silent = false;
    if (away) {
      this.#emit('away', peer);
      if (peer.away) this.#listenTo(peer, this.#downlinks.get(peer.id) ?? this.#links.get(peer.id));
    } else {
      this.#never(peer.id, 'listen');
      this.#emit('back', peer);
    }
    if (this.peers.get(peer.id) === peer) this.#emit('connection', peer);
  }

  /** While a peer is away, checks whether packets still arrive from it. */
  async #listenTo(peer, link, before = -1, silences = 0) {
    const packets = (await link?.packetsReceived()) ?? before;
    if (!peer.away || this.peers.get(peer.id) !== peer) return;
    if ((this.#downlinks.get(peer.id) ?? this.#links.get(peer.id)) !== link) return;
    const silent = Object.is(packets, before) ? silences + 1 : 0;
    if (silent < SILENCES) {
      this.#soon(peer.id, 'listen', LISTEN_EVERY, () => this.#listenTo(peer, link, packets, silent));
    } else if (this.#isLost(peer.id)) {
      this.#drop(peer.id);
    } else {
      peer.silent = true;
      this.#emit('connection', peer);
    }
  }

  #drop(id, tell = true) {
    const peer = this.peers.get(id);
    if (!peer) return;
    for (const timer of Object.values(this.#timers.get(id))) clearTimeout(timer);
    this.#links.get(id)?.close();
    this.#links.delete(id);
    this.#closeDownlink(id);
    this.#relayed.delete(id);
    this.#addressees.delete(id);
    peer.state = 'none';
    if (tell) this.#ended(id);
    if (!this.peers.delete(id)) return; // a listener left the room
    this.#timers.delete(id);
    this.#channels.get(id).close();
    this.#channels.delete(id);
    if (tell) this.#emit('left', peer);
  }

  // Broadcasts

  #tellLive() {
    const media_type = this.#media();
    const message = media_type ? { type: 'broadcast_start', media_type } : { type: 'broadcast_stop' };
    if (this.#signaling.send(message)) this.#declared = media_type;
  }

  /** The kind of media with which we are live; null if we are not. */
  #media() {
    if (!this.published) return null;
    const tracks = [...this.#outgoing.values()].flatMap((stream) => stream.tracks);
    return tracks.some(({ kind }) => kind === 'video') ? 'video' : 'audio';
  }

  #wentLive({ client_id: id, media_type: media, started_at: since }) {
    const peer = this.peers.get(id);
    if (!peer) return;
    this.#never(id, 'stop');
    const news = peer.live?.media !== media;
    peer.live = { media, since };
    if (news) this.#emit('live', peer);
    if (!this.peers.has(id)) return; // a listener left the room
    for (const [name, stream] of this.#links.get(id)?.streams ?? []) {
      if (hasTracks(stream)) this.#streamed(id, stream, name); // it has never stopped
      if (!this.peers.has(id)) return;
    }
    const patience = this.#mayRelay ? RELAY_WITHIN : ASK_AFTER;
    if (!this.#links.has(id)) this.#soon(id, 'ask', patience, () => this.#ask(id));
  }

  /** Does not report a short stop: a peer that reconnects stops, and goes live again at once. */
  #stoppedLive(id) {
    const peer = this.peers.get(id);
    if (!peer?.live || this.#isLost(id)) return;
    if ([...peer.streams.values()].some(hasTracks)) this.#soon(id, 'stop', STOP_AFTER, () => this.#ended(id));
    else this.#ended(id);
  }

  #ended(id) {
    const peer = this.peers.get(id);
    this.#never(id, 'stop');
    this.#never(id, 'ask');
    this.#closeDownlink(id);
    if (!peer?.live && !peer?.stream) return;
    peer.live = null;
    for (const name of [...peer.streams.keys()]) this.#removed(peer, name);
    this.#emit('stopped', peer);
  }

  #soon(id, what, delay, step) {
    const timers = this.#timers.get(id);
    clearTimeout(timers[what]);
    timers[what] = setTimeout(step, delay);
  }

  #never(id, what) {
    const timers = this.#timers.get(id) ?? {};
    clearTimeout(timers[what]);
    delete timers[what];
  }

  // Media

  /** Offers our streams to a peer: the side that publishes makes the offer. */
  #serve(id) {
    if (!this.published || !this.#wantsMedia || this.#placing || this.#relayed.has(id)) return;
    if (this.#links.has(id)) this.#links.get(id).open();
    else this.#link(id).open();
  }

  /** Makes an offer to a live peer whose own offer was lost, or that waits for ours. */
  #ask(id) {
    if (this.#wantsMedia && !this.#links.has(id) && !this.#downlinks.has(id)) this.#link(id).open();
  }

  #link(id) {
    this.#links.get(id)?.close();
    const link = new Link({
      iceServers: this.#iceServers,
      outgoing: this.#relayed.has(id) ? new Map() : this.#outgoing,
      channels: this.#channels.get(id),
      polite: this.me.id < id,
      tell: (type, field, value) => this.#signaling.send({ type, to: id, [field]: value }),
      onState: () => this.#linkChanged(id, link),
      onStream: (stream, name) => {
        this.#closeDownlink(id); // it is served directly again
        this.#streamed(id, stream, name);
      },
      onSilence: (name) => this.#silenced(id, name),
      onError: (error) => this.#emit('error', error),
    });
    this.#links.set(id, link);
    this.#quality.watch(link);
    this.#linkChanged(id, link);
    return link;
  }

  #linkChanged(id, link) {
    const peer = this.peers.get(id);
    if ((this.#downlinks.get(id) ?? this.#links.get(id)) !== link || !peer) return;
    if (this.#isLost(id) && link.state !== 'connected') return this.#drop(id);
    if (peer.state === link.state) return;
    peer.state = link.state;
    if (peer.state === 'connected') this.#forget(peer, link.streams);
    if (!this.peers.has(id)) return; // a listener left the room
    this.#emit('connection', peer);
    if (link.state === 'failed') this.#quality.failed();
    if (this.#downlinks.get(id) === link) return; // the media server makes a new offer
    if (link.state === 'failed' && !link.restart()) this.#link(id).open();
  }

  /** The direction in which a link should have media by now; null for none. */
  #expectsMedia(link) {
    const [id] = [...this.#links, ...this.#downlinks].find(([, one]) => one === link) ?? [];
    if (this.peers.get(id)?.live) return 'received';
    return this.published && !this.#relayed.has(id) ? 'sent' : null;
  }

  /** Removes the streams of the earlier connection that are missing in the new one. */
  #forget(peer, arriving) {
    for (const name of [...peer.streams.keys()]) if (!arriving.has(name)) this.#removed(peer, name);
  }

  #unlink(id, link, error) {
    if (this.#links.get(id) !== link) return;
    link.close();
    this.#links.delete(id);
    this.peers.get(id).state = 'none';
    this.#emit('connection', this.peers.get(id));
    this.#emit('error', error);
  }

  #streamed(id, stream, name) {
    const peer = this.peers.get(id);
    this.#never(id, 'ask');
    if (!peer || peer.streams.get(name) === stream) return;
    peer.streams.set(name, stream);
    this.#emit('stream', stream, peer, name);
  }

  /** A track has ended. If it was the last, and the peer is not live any more, the broadcast is over. */
  #silenced(id, name) {
    const peer = this.peers.get(id);
    if (!peer?.streams.has(name) || hasTracks(peer.streams.get(name))) return;
    const isOver = peer.streams.size === 1 && (!peer.live || this.#timers.get(id).stop);
    if (isOver) this.#ended(id);
    else this.#removed(peer, name);
  }

  #removed(peer, name) {
    const stream = peer.streams.get(name);
    if (peer.streams.delete(name)) this.#emit('removed', stream, peer, name);
  }

  // Media servers

  /** Waits, before we offer to anybody, for the server to say which peers a media server serves. */
  #soonServe() {
    clearTimeout(this.#placing);
    this.#placing = setTimeout(() => this.#placed({}), PLACED_WITHIN);
  }

  /** The media server `offer_to` serves these peers; without one, we do. */
  #placed({ for: ids = [], offer_to: relay = null }) {
    for (const id of ids) relay ? this.#relayed.add(id) : this.#relayed.delete(id);
    for (const id of ids) if (this.peers.has(id)) this.#emit('connection', this.peers.get(id));
    if (relay) return this.#offerTo(relay);
    clearTimeout(this.#placing);
    this.#placing = 0;
    for (const id of ids) this.#links.get(id)?.close();
    for (const id of ids) this.#links.delete(id); // a link without our streams
    for (const id of this.peers.keys()) if (!this.#links.has(id)) this.#serve(id);
  }

  #offerTo(relay) {
    if (!this.published || !this.#wantsMedia) return;
    if (this.#uplink?.id === relay) return this.#uplink.again();
    this.#closeUplink();
    this.#uplink = new Uplink(relay, {
      iceServers: this.#iceServers,
      streams: this.streams,
      tell: (type, field, value) => this.#signaling.send({ type, to: relay, [field]: value }),
    });
  }

  /** Forgets the media server, and the links without streams to the peers that it served. */
  #forgetRelays() {
    this.#closeUplink();
    for (const id of this.#relayed) this.#links.get(id)?.close();
    for (const id of this.#relayed) this.#links.delete(id);
    this.#relayed.clear();
    clearTimeout(this.#placing);
    this.#placing = 0;
  }

  #closeUplink(id = this.#uplink?.id) {
    if (this.#uplink?.id !== id) return;
    this.#uplink?.close();
    this.#uplink = null;
  }

  /** Processes a media server's offer of a peer's broadcast. */
  async #relayOffered(from, offer) {
    if (!this.peers.has(from) || !this.#wantsMedia || !offer) return;
    this.#never(from, 'ask');
    if (!this.#downlinks.get(from)?.isFor(offer)) this.#openDownlink(from, offer);
    const link = this.#downlinks.get(from);
    try {
      await link.offered(offer);
    } catch (error) {
      if (this.#downlinks.get(from) === link) this.#emit('error', error);
    }
  }

  #openDownlink(id, offer) {
    this.#downlinks.get(id)?.close();
    const link = new Downlink(offer, {
      iceServers: this.#iceServers,
      tell: (type, field, value) => this.#signaling.send({ type, to: id, relay: true, [field]: value }),
      onState: () => this.#linkChanged(id, link),
      onStream: (stream, name) => this.#streamed(id, stream, name),
    });
    this.#downlinks.set(id, link);
    this.#quality.watch(link);
    this.#linkChanged(id, link);
  }

  #closeDownlink(id) {
    this.#downlinks.get(id)?.close();
    if (!this.#downlinks.delete(id)) return;
    if (this.#links.has(id)) this.#linkChanged(id, this.#links.get(id));
    else if (this.peers.has(id)) this.peers.get(id).state = 'none';
  }

  // Data

  #channel(id, name, options) {
    const channels = this.#channels.get(id);
    if (!channels || !this.#wantsMedia) throw new Error('The peer has left, or the room was joined with `media: false`');
    const channel = channels.open(name, options);
    (this.#links.get(id) ?? this.#link(id)).open();
    return channel;
  }

  #offered(from, offer) {
    const peer = this.peers.get(from);
    if (!peer || !this.#wantsMedia || !offer) return;
    const link = this.#links.get(from);
    if (offer.re !== undefined && offer.re !== link?.session) {
      // The offer is for an earlier connection of ours. Our offer for the current one replaces it.
      if (!link || link.isPaired) this.#link(from).open();
    } else if (link?.isWith(offer.session)) {
      this.#take(from, link, offer);
    } else {
      this.#take(from, this.#link(from), offer, true);
    }
  }

  /** Processes an answer. If both sides have replaced their connections, makes a new one. */
  #answered(from, answer) {
    const link = this.#links.get(from);
    const isAstray = answer?.re !== undefined && answer.re !== link?.session;
    if (!isAstray) link?.answered(answer);
    else if (link?.isPaired && !link.isWith(answer.session)) this.#link(from).open();
  }

  /** Takes an offer. If it does not fit the connection, as after a reload, makes a new one. */
  async #take(from, link, offer, isNew = false) {
    try {
      await link.offered(offer);
    } catch (error) {
      if (isNew) this.#unlink(from, link, error);
      else if (this.#links.get(from) === link) this.#take(from, this.#link(from), offer, true);
    }
  }

  /** Processes a candidate, which may arrive before the offer. */
  #candidate(from, candidate) {
    if (!this.peers.has(from) || !this.#wantsMedia || !candidate) return;
    const link = this.#links.get(from);
    if (candidate.re !== undefined && candidate.re !== link?.session) return;
    (link ?? this.#link(from)).candidate(candidate);
  }

  #told(from, data) {
    const peer = this.peers.get(from);
    if (peer) this.#emit('message', data, peer);
  }

  /** Reports an error, unless it is about a signal to a peer that has just left. */
  #refused({ message, code, to }) {
    if (code === 'target_not_found' && !this.#addressees.delete(to)) return;
    this.#emit('error', new RoomError(message, code));
  }
}

async function askFor(token) {
  return typeof token === 'function' ? token() : token;
}
