// Data channels, directly between browsers.

import { Listeners } from './events.js';
import { isName } from './streams.js';

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
export class Channels {
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
