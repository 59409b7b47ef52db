// What goes into the client and comes out of it.

/**
 * What {@link join} may be told.
 *
 * @typedef {object} JoinOptions
 * @property {string} room - The name of the room.
 * @property {string} [username] - How the others see you; else `Guest-` and four characters.
 * @property {string | (() => string | Promise<string>)} [token] - Says who you are, where the
 *   server wants to know. A function is asked for a fresh one at each connection, and before one expires.
 * @property {string} [clientId] - The id under which others reach you, `[A-Za-z0-9_-]{1,64}`.
 *   Give one to keep it when the page is loaded again; without it each page gets its own.
 * @property {RTCIceServer[]} [iceServers] - STUN and TURN servers, instead of those that the server names.
 * @property {boolean} [media] - `false` makes no peer connections: for chat, presence and tools.
 * @property {(message: object, sent: boolean) => void} [trace] - Sees each message of the protocol.
 */

/**
 * How {@link Room.publish} sends a stream.
 *
 * @typedef {object} PublishOptions
 * @property {string} [name] - What the others know it by: `camera` if not given, `screen`, or others, at
 *   most 64 characters. Each stream that is to be seen at the same time has a name of its own; a
 *   room takes eight in its life, so use them again.
 * @property {number} [maxBitrate] - Of its picture, in bits a second; the browser may send less.
 * @property {string} [codec] - Of its picture, `VP8`, `VP9`, `H264` or `AV1`: used if both browsers have it,
 *   and if this one lets the sender choose (Chromium and Safari do).
 * @property {boolean} [simulcast] - Sends the picture in three sizes, `h`, `m` and `l`, to whoever accepts
 *   that, as media servers do; browsers take `h` alone. It counts for peer connections that begin later.
 */

/**
 * A broadcast.
 *
 * @typedef {object} Live
 * @property {'audio' | 'video'} media - What it shows.
 * @property {string} since - When it went live, RFC 3339.
 */

/**
 * `none`: nobody has anything to send yet, or the peer does not answer. `interrupted`: nothing comes,
 * and it may recover by itself. `failed`: a new way is being looked for.
 *
 * @typedef {'none' | 'connecting' | 'connected' | 'interrupted' | 'failed'} LinkState
 */

/**
 * `connecting`: an attempt runs. `joined`: in the room. `waiting`: lost, and the next attempt is due
 * soon. `closed`: for good, by you or by the server.
 *
 * @typedef {'connecting' | 'joined' | 'waiting' | 'closed'} RoomState
 */

/**
 * What {@link Room.on} can tell you.
 *
 * @typedef {object} Events
 * @property {(peer: Peer) => void} peer - Somebody is here. A listener is told of everybody: first, right after
 *   `on`, of those that are here already, and then of who comes.
 * @property {(peer: Peer) => void} left - Somebody left.
 * @property {(peer: Peer) => void} away - A peer has lost the server, and may come back as the same: `back`
 *   follows, or `left`. What is sent to it meanwhile, it gets when it is back.
 * @property {(peer: Peer) => void} back - A peer that was away is back.
 * @property {(peer: Peer) => void} live - A peer went live, or changed what it shows. Those that were
 *   live before you joined are told right after it.
 * @property {(peer: Peer) => void} stopped - Its broadcast is over, and `peer.stream` is null.
 * @property {(stream: MediaStream, peer: Peer, name: string) => void} stream - Sound and picture of a
 *   peer arrive. Told again if the stream is replaced by another.
 * @property {(stream: MediaStream, peer: Peer, name: string) => void} removed - One of its streams is
 *   over. If it was the last, `stopped` follows.
 * @property {(peer: Peer | null) => void} speaker - `room.speaker` is another. It is looked for while
 *   somebody listens.
 * @property {(channel: Channel, peer: Peer) => void} channel - A peer opened a channel that you have not
 *   opened. Listen to it at once, and you miss nothing.
 * @property {(data: any, peer: Peer) => void} message - What a peer gave to `room.send`.
 * @property {(state: RoomState, reason: string) => void} state - The connection to the server changed.
 *   The reason is the server's, in words, or empty.
 * @property {(peer: Peer) => void} connection - `peer.state`, `peer.connection`, `peer.away`, `peer.silent` or `peer.name`
 *   changed.
 * @property {(error: Error) => void} error - Something went wrong that does not end the room: a
 *   `RoomError` with the server's code, or what the browser threw.
 */

/** What the server refused. */
export class RoomError extends Error {
  /**
   * @param {string} message - The server's words.
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
