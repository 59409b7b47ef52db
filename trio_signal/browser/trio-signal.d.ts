// Printed by python -m tools.print_browser_api, from trio-signal.js.

/** What `join` may be told. */
export interface JoinOptions {
  /** The name of the room. */
  room: string;
  /** How the others see you; else `Guest-` and four characters. */
  username?: string;
  /** Says who you are, where the server wants to know. A function is asked for a fresh one at each connection, and before one expires. */
  token?: string | (() => string | Promise<string>);
  /** The id under which others reach you, `[A-Za-z0-9_-]{1,64}`. Give one to keep it when the page is loaded again; without it each page gets its own. */
  clientId?: string;
  /** `false` makes no peer connections: for chat, presence and tools. */
  media?: boolean;
  /** Sees each message of the protocol. */
  trace?: (message: object, sent: boolean) => void;
}

/** How `Room.publish` sends a stream. */
export interface PublishOptions {
  /** What the others know it by: `camera` if not given, `screen`, or others, at most 64 characters. Each stream that is to be seen at the same time has a name of its own; a room takes eight in its life, so use them again. */
  name?: string;
}

/** A broadcast. */
export interface Live {
  /** What it shows. */
  media: 'audio' | 'video';
  /** When it went live, RFC 3339. */
  since: string;
}

/** `none`: nobody has anything to send yet, or the peer does not answer. `interrupted`: nothing comes, and it may recover by itself. `failed`: a new way is being looked for. */
export type LinkState = 'none' | 'connecting' | 'connected' | 'interrupted' | 'failed';

/** `connecting`: an attempt runs. `joined`: in the room. `waiting`: lost, and the next attempt is due soon. `closed`: for good, by you or by the server. */
export type RoomState = 'connecting' | 'joined' | 'waiting' | 'closed';

/** What `Room.on` can tell you. */
export interface Events {
  /** Somebody is here. A listener is told of everybody: first, right after `on`, of those that are here already, and then of who comes. */
  peer: (peer: Peer) => void;
  /** Somebody left. */
  left: (peer: Peer) => void;
  /** A peer went live, or changed what it shows. Those that were live before you joined are told right after it. */
  live: (peer: Peer) => void;
  /** Its broadcast is over, and `peer.stream` is null. */
  stopped: (peer: Peer) => void;
  /** Sound and picture of a peer arrive. Told again if the stream is replaced by another. */
  stream: (stream: MediaStream, peer: Peer, name: string) => void;
  /** One of its streams is over. If it was the last, `stopped` follows. */
  removed: (stream: MediaStream, peer: Peer, name: string) => void;
  /** What a peer gave to `room.send`. */
  message: (data: any, peer: Peer) => void;
  /** The connection to the server changed. The reason is the server's, in words, or empty. */
  state: (state: RoomState, reason: string) => void;
  /** `peer.state`, `peer.connection`, `peer.away` or `peer.name` changed. */
  connection: (peer: Peer) => void;
  /** Something went wrong that does not end the room: a `RoomError` with the server's code, or what the browser threw. */
  error: (error: Error) => void;
}

/** What the server refused. */
export class RoomError extends Error {
  constructor(message: string, code: number | string);
  /** A close code of docs/close-codes.md, or an error's code of docs/protocols/mesh.md. */
  readonly code: number | string;
}

/** How long to wait before connecting again. Random, so that a restarted server is not stormed. */
export function retryDelay(code: number, attempt: number, random?: () => number): number | null;

/** Another one in the room. Read it, never write it. */
export class Peer {
  private constructor();
  /** Its client id. */
  readonly id: string;
  /** How it calls itself. It comes from a stranger: show it as text, not as HTML. */
  readonly name: string;
  /** Whether it is live, and since when. */
  readonly live: Live | null;
  /** What it sends us, by the names that it gave: `camera`, `screen`, or others. */
  readonly streams: ReadonlyMap<string, MediaStream>;
  /** The state of the peer connection. */
  readonly state: LinkState;
  /** The server has lost it, and its media still flow. It has half a minute to come back. */
  readonly away: boolean;
  /** The one to show where there is room for one, for `srcObject` of a video element: the `camera`, or else the oldest of its streams. */
  readonly stream: MediaStream | null;
  /** The peer connection, for what this client does not offer: read it, and leave its tracks and descriptions alone. Another one may take its place; the event `connection` tells so. Null if there is none. */
  readonly connection: RTCPeerConnection | null;
}

/** Joins a room. From then on the connection is kept: when it breaks, it comes back, takes over its client id, and is live again if it was. If somebody else has that id by then, it takes a fresh one, and is a new peer to the others. */
export function join(url: string | URL, options: JoinOptions): Promise<Room>;

/** A room that you have joined; `join` makes it. */
export class Room {
  private constructor();
  /** The name of the room. */
  readonly name: string;
  /** You: the client id and the name that the others see. */
  readonly me: { id: string, name: string };
  /** The others, by client id. */
  readonly peers: ReadonlyMap<string, Peer>;
  /** The state of the connection to the server. */
  readonly state: RoomState;
  /** What you publish, by name. */
  readonly streams: ReadonlyMap<string, MediaStream>;
  /** Calls `listener` whenever something happens. Listen right after `join`, before you wait for anything else, and you miss nothing. */
  on<T extends keyof Events>(type: T, listener: Events[T]): () => void;
  /** The main one of what you publish: the `camera`, or else the oldest; null if there is nothing. */
  readonly published: MediaStream | null;
  /** Goes live: sends `stream` to everybody in the room, and to all who come. Under another name, it is sent besides what is published already: a screen beside a camera. Called again with the same name, it switches to another stream without interruption: the tracks are replaced. The stream stays yours; mute with `track.enabled = false`. Clients that know no names of streams see one of them: the camera, or else the oldest. */
  publish(stream: MediaStream, options?: PublishOptions): void;
  /** Sends a stream no longer. Once nothing is published, you are live no longer. The tracks are not stopped; they are yours. */
  unpublish(name?: string): void;
  /** Sends data of your own: chat, mute state, anything. */
  send(data: any, options?: { to?: string }): boolean;
  /** Leaves: closes all connections. The state is `closed` then. */
  leave(): void;
}
