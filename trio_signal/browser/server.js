/**
 * For your site's backend in Node: a client of the server API, and a function that checks webhooks.
 *
 *     const api = new ServerApi('https://signal.example.com', SECRET);
 *     for await (const room of api.rooms('lesson-')) console.log(room.id, room.peers);
 *     const event = verifyWebhook(request.headers, rawBody, SECRET);
 *
 * It needs Node 20 or later. Do not use it in a page: anyone who has the secret can do everything.
 */

import { createHmac, timingSafeEqual } from 'node:crypto';

const PREFIX = '/api/v1/server';
const TIMEOUT = 10_000; // milliseconds for an answer
const TOLERANCE = 300; // seconds by which a signature's time may differ from ours

/**
 * A room, with its numbers of peers, users and live users.
 *
 * @typedef {object} RoomSummary
 * @property {string} id - The room id.
 * @property {number} peers - The number of peers.
 * @property {number} users - The number of users.
 * @property {number} live - The number of live users.
 */

/**
 * A peer in a room.
 *
 * @typedef {object} PeerDetail
 * @property {string} peer_id - The peer id.
 * @property {string} user_id - The user id.
 * @property {string} username - The name.
 * @property {string} dialect - The dialect that its client speaks.
 * @property {boolean} live - Whether it is live.
 * @property {string} joined_at - When it joined.
 * @property {string} replica - The replica that it is connected to.
 * @property {string} address_class - `loopback`, `private`, `public` or `unknown`.
 * @property {boolean} away - Whether it lost its connection, and may come back.
 */

/**
 * A room and its peers.
 *
 * @typedef {object} RoomDetail
 * @property {string} id - The room id.
 * @property {PeerDetail[]} peers - The peers.
 * @property {boolean} locked - Whether it is locked, so that nobody new can join.
 * @property {number} seq - The number of the room's last webhook, 0 if there was none.
 * @property {number} total - The number of its peers.
 * @property {number} found - The number of its peers that match a search.
 */

/**
 * One replica and its health.
 *
 * @typedef {object} ReplicaState
 * @property {string} replica - The replica's id.
 * @property {string} status - `ready`, `degraded`, `stopping`, or `silent` if it did not answer.
 * @property {string} reason - Why it is degraded, or empty.
 * @property {string} host - The host name.
 * @property {string} version - The version of the server.
 * @property {string} started_at - When it started.
 * @property {number} connections - Open WebSockets.
 * @property {number} away - Sessions that wait for their clients to come back.
 * @property {number} rooms - Rooms with peers on it.
 * @property {number} peers - Its peers, counted once for every room.
 * @property {number} live - Broadcasts of its peers.
 * @property {Record<string, number | null>} quality - What its clients reported about their calls.
 */

/**
 * A webhook's event. `seq` numbers the events of a room, from its start to its end, from 1 without gaps.
 *
 * @typedef {object} HookEvent
 * @property {string} id - The same for each attempt to deliver it.
 * @property {string} event - `peer.joined`, `peer.left`, `room.started`, ...
 * @property {string | null} room - The room id; null for an announcement.
 * @property {number} seq - Its number in the room.
 * @property {string} at - When it happened.
 * @property {Omit<PeerDetail, 'live' | 'address_class' | 'away'>} [peer] - The peer, as it joined.
 * @property {string} [cause] - Why a peer left.
 * @property {string} replica - The replica on which it happened.
 * @property {object} [announcement] - The announcement that was made.
 */

/** The server refused a call. Rely on `status` and `code`; the message is for people. */
export class ServerApiError extends Error {
  /**
   * @param {number} status
   * @param {string} code
   * @param {string} message
   */
  constructor(status, code, message) {
    super(`${status} ${code}: ${message}`);
    this.name = 'ServerApiError';
    /**
     * The HTTP status.
     *
     * @type {number}
     */
    this.status = status;
    /**
     * `not_found`, `unauthorized`, ...
     *
     * @type {string}
     */
    this.code = code;
  }
}

/** The signature of a webhook is missing, wrong, or too old. */
export class SignatureError extends Error {
  /** @param {string} message */
  constructor(message) {
    super(message);
    this.name = 'SignatureError';
  }
}

/** A client of the server API. Refused calls reject with a {@link ServerApiError}. */
export class ServerApi {
  #url;
  #key;

  /**
   * @param {string} url - The server's URL.
   * @param {string} key - An API key's secret.
   */
  constructor(url, key) {
    this.#url = url.replace(/\/+$/, '') + PREFIX;
    this.#key = key;
  }

  async #ask(method, path, body) {
    const headers = { Authorization: `Bearer ${this.#key}` };
    if (body !== undefined) headers['Content-Type'] = 'application/json';
    const signal = AbortSignal.timeout(TIMEOUT);
    const answer = await fetch(this.#url + path, { method, headers, signal, body: body && JSON.stringify(body) });
    if (answer.ok) return answer.json();
    const { error } = await answer.json().catch(() => ({}));
    throw new ServerApiError(answer.status, error?.code ?? 'error', error?.message ?? answer.statusText);
  }

  /**
   * Lists the rooms that have peers, in the order of their ids, page by page.
   *
   * @param {string} [prefix] - Only rooms whose ids begin with this.
   * @returns {AsyncIterable<RoomSummary>} The rooms, for `for await`.
   */
  rooms(prefix = '') {
    return this.#pages(prefix);
  }

  async* #pages(prefix) {
    let cursor = '';
    while (cursor !== null) {
      const page = await this.#ask('GET', `/rooms?${new URLSearchParams({ prefix, cursor })}`);
      yield* page.rooms;
      cursor = page.next;
    }
  }

  /**
   * Lists the peers of a room.
   *
   * @param {string} roomId - The room.
   * @returns {Promise<RoomDetail>} The room.
   */
  room(roomId) {
    return this.#ask('GET', roomPath(roomId));
  }

  /**
   * Lists the replicas and their health, beginning with the one that answers.
   *
   * @returns {Promise<ReplicaState[]>} The replicas.
   */
  async replicas() {
    return (await this.#ask('GET', '/replicas')).replicas;
  }

  /**
   * Sends any JSON to a room, or to one peer.
   *
   * @param {string} roomId - The room.
   * @param {unknown} data - What to send.
   * @param {string} [to] - The id of the only peer that receives it.
   * @returns {Promise<number>} The number of receivers.
   */
  async send(roomId, data, to) {
    return (await this.#ask('POST', roomPath(roomId, 'messages'), { data, to })).peers;
  }

  /**
   * Removes a peer from a room, and optionally bans its user.
   *
   * @param {string} roomId - The room.
   * @param {string} peerId - The peer.
   * @param {{ reason?: string, banSeconds?: number }} [options] - Why, and for how long its user is refused.
   * @returns {Promise<void>} When it is done.
   */
  async remove(roomId, peerId, { reason, banSeconds } = {}) {
    await this.#ask('DELETE', roomPath(roomId, 'peers', peerId), { reason, ban_seconds: banSeconds });
  }

  /**
   * Locks a room, so that nobody new can join; or unlocks it.
   *
   * @param {string} roomId - The room.
   * @param {boolean} [locked] - True, the default, locks the room; false unlocks it.
   * @returns {Promise<void>} When it is done.
   */
  async lock(roomId, locked = true) {
    await this.#ask('PATCH', roomPath(roomId), { locked });
  }

  /**
   * Removes everybody from a room.
   *
   * @param {string} roomId - The room.
   * @param {{ reason?: string }} [options] - Why.
   * @returns {Promise<number>} The number of removed peers.
   */
  async closeRoom(roomId, { reason } = {}) {
    return (await this.#ask('DELETE', roomPath(roomId), { reason })).removed;
  }

  /**
   * Makes a token for a client.
   *
   * @param {string} sub - The user id.
   * @param {object} [claims] - `name`, `rooms`, `ttl` and the like.
   * @returns {Promise<string>} The token.
   */
  async token(sub, claims = {}) {
    return (await this.#ask('POST', '/tokens', { sub, ...claims })).token;
  }
}

/**
 * Checks a webhook's signature, and returns its event. Throws a {@link SignatureError} if it is not from
 * your server.
 *
 * @param {Headers | Record<string, string | string[] | undefined>} headers - Of the request; names may be in upper or lower case.
 * @param {string | Uint8Array} body - The unchanged body of the request, before any JSON parser.
 * @param {string} secret - The first API key's secret.
 * @returns {HookEvent} The event.
 */
export function verifyWebhook(headers, body, secret) {
  const pairs = headers instanceof Headers ? [...headers] : Object.entries(headers);
  const found = new Map(pairs.map(([name, value]) => [name.toLowerCase(), String(value ?? '')]));
  const id = found.get('webhook-id') ?? '';
  const timestamp = found.get('webhook-timestamp') ?? '';
  if (!id || !/^\d{1,15}$/.test(timestamp)) throw new SignatureError('Webhook-Id or Webhook-Timestamp is missing');
  if (Math.abs(timestamp - Date.now() / 1000) > TOLERANCE) {
    throw new SignatureError('Webhook-Timestamp is too far from the current time');
  }
  const bytes = Buffer.from(body);
  const expected = createHmac('sha256', secret).update(`${id}.${timestamp}.`).update(bytes).digest();
  const isRight = (found.get('webhook-signature') ?? '').split(' ').some((signature) => {
    const [version, given = ''] = signature.split(',');
    const code = Buffer.from(given, 'base64');
    return version === 'v1' && code.length === expected.length && timingSafeEqual(code, expected);
  });
  if (!isRight) throw new SignatureError('Webhook-Signature is wrong');
  try {
    return JSON.parse(bytes.toString());
  } catch {
    throw new SignatureError('The body is not an event');
  }
}

function roomPath(...ids) {
  return ['/rooms', ...ids.map((id) => encodeURIComponent(id))].join('/');
}
