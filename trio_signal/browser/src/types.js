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
