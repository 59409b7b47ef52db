// Another peer in the room, as the application sees it.

import { mainOf } from './streams.js';

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
