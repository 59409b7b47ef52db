// A room: its peers, which of them are live, and a link to each.

import { Channels } from './channel.js';
import { call, Listeners } from './events.js';
import { Link, randomId } from './link.js';
import { Peer } from './peer.js';
import { Quality } from './quality.js';
import { Downlink, Uplink } from './relay.js';
import { SpeakerWatch } from './speaker.js';
import { Signaling, socketUrl } from './signaling.js';
import { hasTracks, isName, MAIN, mainOf, MOST_NAMES } from './streams.js';
import { RoomError } from './types.js';

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
