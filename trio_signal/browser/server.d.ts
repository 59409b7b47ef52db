// Printed by python -m tools.print_browser_api.

/** A room, with its numbers of peers, users and live users. */
export interface RoomSummary {
  /** The room id. */
  id: string;
  /** The number of peers. */
  peers: number;
  /** The number of users. */
  users: number;
  /** The number of live users. */
  live: number;
}

/** A peer in a room. */
export interface PeerDetail {
  /** The peer id. */
  peer_id: string;
  /** The user id. */
  user_id: string;
  /** The name. */
  username: string;
  /** The dialect that its client speaks. */
  dialect: string;
  /** Whether it is live. */
  live: boolean;
  /** When it joined. */
  joined_at: string;
  /** The replica that it is connected to. */
  replica: string;
  /** `loopback`, `private`, `public` or `unknown`. */
  address_class: string;
  /** Whether it lost its connection, and may come back. */
  away: boolean;
}

/** A room and its peers. */
export interface RoomDetail {
  /** The room id. */
  id: string;
  /** The peers. */
  peers: PeerDetail[];
  /** Whether it is locked, so that nobody new can join. */
  locked: boolean;
  /** The number of the room's last webhook, 0 if there was none. */
  seq: number;
  /** The number of its peers. */
  total: number;
  /** The number of its peers that match a search. */
  found: number;
}

/** One replica and its health. */
export interface ReplicaState {
  /** The replica's id. */
  replica: string;
  /** `ready`, `degraded`, `stopping`, or `silent` if it did not answer. */
  status: string;
  /** Why it is degraded, or empty. */
  reason: string;
  /** The host name. */
  host: string;
  /** The version of the server. */
  version: string;
  /** When it started. */
  started_at: string;
  /** Open WebSockets. */
  connections: number;
  /** Sessions that wait for their clients to come back. */
  away: number;
  /** Rooms with peers on it. */
  rooms: number;
  /** Its peers, counted once for every room. */
  peers: number;
  /** Broadcasts of its peers. */
  live: number;
  /** What its clients reported about their calls. */
  quality: Record<string, number | null>;
}

/** A webhook's event. `seq` numbers the events of a room, from its start to its end, from 1 without gaps. */
export interface HookEvent {
  /** The same for each attempt to deliver it. */
  id: string;
  /** `peer.joined`, `peer.left`, `room.started`, ... */
  event: string;
  /** The room id; null for an announcement. */
  room: string | null;
  /** Its number in the room. */
  seq: number;
  /** When it happened. */
  at: string;
  /** The peer, as it joined. */
  peer?: Omit<PeerDetail, 'live' | 'address_class' | 'away'>;
  /** Why a peer left. */
  cause?: string;
  /** The replica on which it happened. */
  replica: string;
  /** The announcement that was made. */
  announcement?: object;
}

/** The server refused a call. Rely on `status` and `code`; the message is for people. */
export class ServerApiError extends Error {
  constructor(status: number, code: string, message: string);
  /** The HTTP status. */
  readonly status: number;
  /** `not_found`, `unauthorized`, ... */
  readonly code: string;
}

/** The signature of a webhook is missing, wrong, or too old. */
export class SignatureError extends Error {
  constructor(message: string);
}

/** A client of the server API. Refused calls reject with a `ServerApiError`. */
export class ServerApi {
  constructor(url: string, key: string);
  /** Lists the rooms that have peers, in the order of their ids, page by page. */
  rooms(prefix?: string): AsyncIterable<RoomSummary>;
  /** Lists the peers of a room. */
  room(roomId: string): Promise<RoomDetail>;
  /** Lists the replicas and their health, beginning with the one that answers. */
  replicas(): Promise<ReplicaState[]>;
  /** Sends any JSON to a room, or to one peer. */
  send(roomId: string, data: unknown, to?: string): Promise<number>;
  /** Removes a peer from a room, and optionally bans its user. */
  remove(roomId: string, peerId: string, options?: { reason?: string, banSeconds?: number }): Promise<void>;
  /** Locks a room, so that nobody new can join; or unlocks it. */
  lock(roomId: string, locked?: boolean): Promise<void>;
  /** Removes everybody from a room. */
  closeRoom(roomId: string, options?: { reason?: string }): Promise<number>;
  /** Makes a token for a client. */
  token(sub: string, claims?: object): Promise<string>;
}

/** Checks a webhook's signature, and returns its event. Throws a `SignatureError` if it is not from your server. */
export function verifyWebhook(headers: Headers | Record<string, string | string[] | undefined>, body: string | Uint8Array, secret: string): HookEvent;
