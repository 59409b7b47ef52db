// Another one in the room, as the application sees it.

import { mainOf } from './streams.js';

/** Another one in the room. Read it, never write it. */
export class Peer {
  /**
   * Its client id.
   *
   * @type {string}
   */
  id;
  /**
   * How it calls itself. It comes from a stranger: show it as text, not as HTML.
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
   * What it sends us, by the names that it gave: `camera`, `screen`, or others.
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
   * The server has lost it, and it may come back as the same. Its media may flow all the while.
   *
   * @type {boolean}
   */
  away = false;
  /**
   * It is away, and nothing comes from it directly either: it may be gone. Show it no more, until it
   * is back.
   *
   * @type {boolean}
   */
  silent = false;
  #linkOf;
  #channelOf;

  /** @private */
  constructor(id, name, { linkOf, channelOf }) {
    this.id = id;
    this.name = name;
    this.#linkOf = linkOf;
    this.#channelOf = channelOf;
  }

  /**
   * The one to show where there is room for one, for `srcObject` of a video element: the `camera`, or
   * else the oldest of its streams.
   *
   * @type {MediaStream | null}
   */
  get stream() {
    return mainOf(this.streams);
  }

  /**
   * The peer connection, for what this client does not offer: read it, and leave its tracks and
   * descriptions alone. Another one may take its place; the event `connection` tells so. Null if there
   * is none.
   *
   * @type {RTCPeerConnection | null}
   */
  get connection() {
    return this.#linkOf(this.id)?.connection ?? null;
  }

  /**
   * How loud it is at this moment, from 0 to 1: look again and again, as long as you show it.
   *
   * @type {number}
   */
  get level() {
    return this.#linkOf(this.id)?.level ?? 0;
  }

  /**
   * How the peer connection does.
   *
   * @returns {Promise<PeerStats | null>} Null if there is none.
   */
  async stats() {
    return (await this.#linkOf(this.id)?.stats()) ?? null;
  }

  /**
   * A channel for data to this peer, from browser to browser. The same name gives the same channel; if
   * the peer has opened it already, that one. It makes a peer connection if there is none.
   *
   * @param {string} name - What the peer knows it by, at most 64 characters.
   * @param {ChannelOptions} [options] - How it carries data; those of who opens it count.
   * @returns {Channel} It is `connecting` at first; what you send waits.
   */
  channel(name, options) {
    return this.#channelOf(this.id, name, options);
  }
}
