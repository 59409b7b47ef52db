// Printed by python -m tools.print_browser_api.

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
  /** STUN and TURN servers, instead of those that the server names. */
  iceServers?: RTCIceServer[];
  /** `false` makes no peer connections: for chat, presence and tools. */
  media?: boolean;
  /** Sees each message of the protocol. */
  trace?: (message: object, sent: boolean) => void;
}

/** How `Room.publish` sends a stream. */
export interface PublishOptions {
  /** What the others know it by: `camera` if not given, `screen`, or others, at most 64 characters. Each stream that is to be seen at the same time has a name of its own; a room takes eight in its life, so use them again. */
  name?: string;
  /** Of its picture, in bits a second; the browser may send less. */
  maxBitrate?: number;
  /** Of its picture, `VP8`, `VP9`, `H264` or `AV1`: used if both browsers have it, and if this one lets the sender choose (Chromium and Safari do). */
  codec?: string;
  /** Sends the picture in three sizes, `h`, `m` and `l`, to whoever accepts that, as media servers do; browsers take `h` alone. It counts for peer connections that begin later. */
  simulcast?: boolean;
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
  /** A peer has lost the server, and may come back as the same: `back` follows, or `left`. What is sent to it meanwhile, it gets when it is back. */
  away: (peer: Peer) => void;
  /** A peer that was away is back. */
  back: (peer: Peer) => void;
  /** A peer went live, or changed what it shows. Those that were live before you joined are told right after it. */
  live: (peer: Peer) => void;
  /** Its broadcast is over, and `peer.stream` is null. */
  stopped: (peer: Peer) => void;
  /** Sound and picture of a peer arrive. Told again if the stream is replaced by another. */
  stream: (stream: MediaStream, peer: Peer, name: string) => void;
  /** One of its streams is over. If it was the last, `stopped` follows. */
  removed: (stream: MediaStream, peer: Peer, name: string) => void;
  /** `room.speaker` is another. It is looked for while somebody listens. */
  speaker: (peer: Peer | null) => void;
  /** A peer opened a channel that you have not opened. Listen to it at once, and you miss nothing. */
  channel: (channel: Channel, peer: Peer) => void;
  /** What a peer gave to `room.send`. */
  message: (data: any, peer: Peer) => void;
  /** The connection to the server changed. The reason is the server's, in words, or empty. */
  state: (state: RoomState, reason: string) => void;
  /** `peer.state`, `peer.connection`, `peer.away`, `peer.silent` or `peer.name` changed. */
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

/** What `openCamera` opens. */
export interface CameraOptions {
  /** A device's id; false for sound alone. */
  camera?: string | false;
  /** A device's id; false for a silent picture. */
  microphone?: string | false;
  /** Of the picture, if the camera has it: 1280 if not given. */
  width?: number;
  /** 720 if not given. */
  height?: number;
}

/** The devices of this machine. Their labels are empty until the user has allowed the page one of them. */
export interface Devices {
  /** For `openCamera`. */
  cameras: MediaDeviceInfo[];
  /** For `openCamera`. */
  microphones: MediaDeviceInfo[];
  /** For `setSinkId` of a video element. */
  speakers: MediaDeviceInfo[];
}

/** Opens a camera with a microphone; if there is but one of the two, that one. */
export function openCamera(options?: CameraOptions): Promise<MediaStream>;

/** Lets the user choose a screen, a window or a tab. */
export function openScreen(options?: { audio?: boolean }): Promise<MediaStream>;

/** Lists the devices. */
export function listDevices(): Promise<Devices>;

/** Calls `listener` with the devices now, and whenever one is plugged in or out. */
export function watchDevices(listener: (devices: Devices) => void): () => void;

/** Ends all tracks: the camera's light goes out. */
export function closeStream(stream?: MediaStream | null): void;

/** `connecting`: there is no way to the peer yet, or none now. `closed`: for good, by one of the two, or because the peer left. */
export type ChannelState = 'connecting' | 'open' | 'closed';

/** What `Channel.on` can tell you. */
export interface ChannelEvents {
  /** The peer sent this. */
  message: (data: string | ArrayBuffer) => void;
  /** `channel.state` changed. */
  state: (state: ChannelState) => void;
}

/** How a channel carries data. Left out, nothing is lost and everything keeps its order. */
export interface ChannelOptions {
  /** False: what comes is told at once, whatever is still missing. */
  ordered?: boolean;
  /** How often a lost packet is sent again. */
  maxRetransmits?: number;
  /** For how many ms it is. */
  maxPacketLifeTime?: number;
}

/** A channel for data to one peer; `peer.channel(name)` gives it. It lasts as long as the peer is here: if the peer connection is made anew, so is what carries it. What was under way then is lost. Both sides may open it, also at the same moment. Each sends by a data channel of its own then, and hears what comes by either. */
export class Channel {
  private constructor();
  /** Its name. */
  readonly name: string;
  /** Whether it carries anything. */
  readonly state: ChannelState;
  /** Calls `listener` whenever something happens. */
  on<T extends keyof ChannelEvents>(type: T, listener: ChannelEvents[T]): () => void;
  /** Sends data. Wait for it in a loop, and never more than a megabyte is kept in memory. */
  send(data: string | ArrayBuffer | ArrayBufferView): Promise<void>;
  /** Closes it for both. */
  close(): void;
}

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
  /** The server has lost it, and it may come back as the same. Its media may flow all the while. */
  readonly away: boolean;
  /** It is away, and nothing comes from it directly either: it may be gone. Show it no more, until it is back. */
  readonly silent: boolean;
  /** The one to show where there is room for one, for `srcObject` of a video element: the `camera`, or else the oldest of its streams. */
  readonly stream: MediaStream | null;
  /** The peer connection, for what this client does not offer: read it, and leave its tracks and descriptions alone. Another one may take its place; the event `connection` tells so. Null if there is none. */
  readonly connection: RTCPeerConnection | null;
  /** How loud it is at this moment, from 0 to 1: look again and again, as long as you show it. */
  readonly level: number;
  /** How the peer connection does. */
  stats(): Promise<PeerStats | null>;
  /** A channel for data to this peer, from browser to browser. The same name gives the same channel; if the peer has opened it already, that one. It makes a peer connection if there is none. */
  channel(name: string, options?: ChannelOptions): Channel;
}

/** How a peer connection does. Numbers that the browser does not know are null. */
export interface PeerStats {
  /** To the peer and back, in ms. */
  roundTripTime: number | null;
  /** What the way to the peer is estimated to carry, in bits a second. */
  bandwidth: number | null;
  /** Whether a TURN server passes all of it on. */
  relayed: boolean;
  /** A row for each track that we send, and for each layer of simulcast. */
  sent: StreamStats[];
  /** A row for each track that we receive. */
  received: StreamStats[];
}

/** How one track does. */
export interface StreamStats {
  /** The stream's. */
  name: string;
  /** What it is. */
  kind: 'audio' | 'video';
  /** The layer of simulcast. */
  rid: string | null;
  /** `VP8`, `opus`, ... */
  codec: string | null;
  /** Since the track began. */
  bytes: number;
  /** In bits a second, since `stats` was called before; null the first time. */
  bitrate: number | null;
  /** Packets that did not arrive. */
  lost: number | null;
  /** In ms. */
  jitter: number | null;
  /** Of the picture. */
  width: number | null;
  /** Of the picture. */
  height: number | null;
  /** Of the picture. */
  framesPerSecond: number | null;
  /** What keeps the picture that we send from being better: `none`, `cpu`, `bandwidth` or `other`. */
  limitation: string | null;
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
  /** Who of the others speaks, or did so last. Known only while somebody listens to `speaker`. */
  readonly speaker: Peer | null;
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
