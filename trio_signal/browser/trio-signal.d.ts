// Printed by python -m tools.print_browser_api.

/** Options of `join`. */
export interface JoinOptions {
  /** The name of the room. */
  room: string;
  /** The name that the others see; by default `Guest-` followed by four characters. */
  username?: string;
  /** Your token, if the server requires one. A function is called for a new token at each connection, and before a token expires. */
  token?: string | (() => string | Promise<string>);
  /** The id by which others address you, `[A-Za-z0-9_-]{1,64}`. Set it to keep the id when the page is reloaded; by default each page gets a new one. */
  clientId?: string;
  /** STUN and TURN servers to use instead of those that the server lists. */
  iceServers?: RTCIceServer[];
  /** `false` makes no peer connections: for chat, presence and tools. */
  media?: boolean;
  /** Called with each message of the protocol. */
  trace?: (message: object, sent: boolean) => void;
}

/** Options of `Room.publish`. */
export interface PublishOptions {
  /** The stream's name, at most 64 characters; by default `camera`. Streams that are sent at the same time need different names. A room allows eight names in its lifetime, so reuse them. */
  name?: string;
  /** The maximum bitrate of its video, in bits a second; the browser may send less. */
  maxBitrate?: number;
  /** The codec of its video, `VP8`, `VP9`, `H264` or `AV1`. Used if both browsers have it, and if this browser lets the sender choose, as Chromium and Safari do. */
  codec?: string;
  /** Sends the video in three sizes, `h`, `m` and `l`, to receivers that accept them, as media servers do; browsers receive only `h`. Applies to later peer connections. */
  simulcast?: boolean;
}

/** A broadcast. */
export interface Live {
  /** The kind of media. */
  media: 'audio' | 'video';
  /** The time when it went live, in RFC 3339. */
  since: string;
}

/** `none`: neither side has anything to send yet, or the peer does not answer. `interrupted`: nothing arrives, but it may recover by itself. `failed`: the client tries to restore it. */
export type LinkState = 'none' | 'connecting' | 'connected' | 'interrupted' | 'failed';

/** `connecting`: an attempt is running. `joined`: in the room. `waiting`: the connection is lost, and the next attempt follows soon. `closed`: ended for good, by you or by the server. */
export type RoomState = 'connecting' | 'joined' | 'waiting' | 'closed';

/** Events of `Room.on`. */
export interface Events {
  /** A peer is in the room. A new listener is first called for each peer that is already there, right after `on`, and then for each peer that joins. */
  peer: (peer: Peer) => void;
  /** A peer left. */
  left: (peer: Peer) => void;
  /** A peer lost its connection to the server, and may resume: `back` or `left` follows. Messages sent to it meanwhile are delivered when it is back. */
  away: (peer: Peer) => void;
  /** A peer that was away is back. */
  back: (peer: Peer) => void;
  /** A peer went live, or changed its kind of media. Peers that were live before you joined are reported right after you join. */
  live: (peer: Peer) => void;
  /** A peer's broadcast ended; its `peer.stream` is null. */
  stopped: (peer: Peer) => void;
  /** A stream of a peer arrived. Emitted again if the stream is replaced by another. */
  stream: (stream: MediaStream, peer: Peer, name: string) => void;
  /** One of a peer's streams ended. After the last one, `stopped` follows. */
  removed: (stream: MediaStream, peer: Peer, name: string) => void;
  /** `room.speaker` changed. It is only updated while there is a listener. */
  speaker: (peer: Peer | null) => void;
  /** A peer opened a channel that you have not opened. To miss nothing, add your listeners to it immediately. */
  channel: (channel: Channel, peer: Peer) => void;
  /** A peer called `room.send`. */
  message: (data: any, peer: Peer) => void;
  /** The state of the connection to the server changed. The reason is the server's text, or empty. */
  state: (state: RoomState, reason: string) => void;
  /** `peer.state`, `peer.connection`, `peer.away`, `peer.silent` or `peer.name` changed. */
  connection: (peer: Peer) => void;
  /** An error that does not end the room: a `RoomError` with the server's code, or an exception of the browser. */
  error: (error: Error) => void;
}

/** An error that the server reported. */
export class RoomError extends Error {
  constructor(message: string, code: number | string);
  /** A close code of docs/close-codes.md, or an error's code of docs/protocols/mesh.md. */
  readonly code: number | string;
}

/** Returns how long to wait before reconnecting. The time is random, so that not all clients of a restarted server come back at once. */
export function retryDelay(code: number, attempt: number, random?: () => number): number | null;

/** Options of `openCamera`. */
export interface CameraOptions {
  /** The id of a device; false for audio only. */
  camera?: string | false;
  /** The id of a device; false for video only. */
  microphone?: string | false;
  /** The preferred width of the video; by default 1280. */
  width?: number;
  /** The preferred height of the video; by default 720. */
  height?: number;
}

/** The devices of this machine. Their labels are empty until the user has granted the page access to a device. */
export interface Devices {
  /** For `openCamera`. */
  cameras: MediaDeviceInfo[];
  /** For `openCamera`. */
  microphones: MediaDeviceInfo[];
  /** For `setSinkId` of a video element. */
  speakers: MediaDeviceInfo[];
}

/** Opens a camera and a microphone, or only one of them if the other does not exist. */
export function openCamera(options?: CameraOptions): Promise<MediaStream>;

/** Lets the user choose a screen, a window or a tab. */
export function openScreen(options?: { audio?: boolean }): Promise<MediaStream>;

/** Lists the devices. */
export function listDevices(): Promise<Devices>;

/** Calls `listener` with the current devices, and again whenever a device is plugged in or removed. */
export function watchDevices(listener: (devices: Devices) => void): () => void;

/** Stops all tracks of a stream, so that the camera's light goes out. */
export function closeStream(stream?: MediaStream | null): void;

/** `connecting`: not connected to the peer yet, or not at the moment. `closed`: closed for good by one of the two sides, or because the peer left. */
export type ChannelState = 'connecting' | 'open' | 'closed';

/** Events of `Channel.on`. */
export interface ChannelEvents {
  /** The peer sent a message. */
  message: (data: string | ArrayBuffer) => void;
  /** `channel.state` changed. */
  state: (state: ChannelState) => void;
}

/** How a channel carries data; by default reliable and in order. */
export interface ChannelOptions {
  /** If false, messages are delivered as they arrive, even if earlier ones are still missing. */
  ordered?: boolean;
  /** How many times a lost packet is sent again. */
  maxRetransmits?: number;
  /** For how many milliseconds a lost packet is sent again. */
  maxPacketLifeTime?: number;
}

/** A data channel to one peer. `peer.channel(name)` returns it. It lasts as long as the peer is in the room, even if the peer connection is replaced. Messages in flight at that moment are lost. Both sides may open it, even at the same moment. Each then sends over its own data channel, and receives from both. */
export class Channel {
  private constructor();
  /** Its name. */
  readonly name: string;
  /** The state of the channel. */
  readonly state: ChannelState;
  /** Adds a listener. */
  on<T extends keyof ChannelEvents>(type: T, listener: ChannelEvents[T]): () => void;
  /** Sends data. If you await it in a loop, at most a megabyte is kept in memory. */
  send(data: string | ArrayBuffer | ArrayBufferView): Promise<void>;
  /** Closes the channel for both sides. */
  close(): void;
}

/** Another peer in the room. Its properties are read-only. */
export class Peer {
  private constructor();
  /** Its client id. */
  readonly id: string;
  /** The name it chose. It is untrusted input: show it as text, not as HTML. */
  readonly name: string;
  /** Whether it is live, and since when. */
  readonly live: Live | null;
  /** The streams that it sends to us, by name: `camera`, `screen`, or others. */
  readonly streams: ReadonlyMap<string, MediaStream>;
  /** The state of the peer connection. */
  readonly state: LinkState;
  /** True while the peer has lost its connection to the server and may still resume as the same peer. Its media may continue to flow. */
  readonly away: boolean;
  /** True if the peer is away and no media or data arrive from it directly either. It may be gone, so hide it until it is back. */
  readonly silent: boolean;
  /** The stream to show if you show only one: the `camera`, or else the oldest. */
  readonly stream: MediaStream | null;
  /** True while a media server delivers our main stream to this peer, so that there is no peer connection for it. */
  readonly relayed: boolean;
  /** The peer connection, for features that this client does not offer; null if there is none. Do not change its tracks or descriptions. It may be replaced; then `connection` is emitted. */
  readonly connection: RTCPeerConnection | null;
  /** The current volume of its audio, from 0 to 1. Poll it for as long as you show it. */
  readonly level: number;
  /** Returns statistics of the peer connection. */
  stats(): Promise<PeerStats | null>;
  /** Opens a data channel to this peer, directly between the browsers. The same name returns the same channel, even if the peer opened it. Makes a peer connection if there is none. */
  channel(name: string, options?: ChannelOptions): Channel;
}

/** Statistics of a peer connection. Values that the browser does not report are null. */
export interface PeerStats {
  /** The round-trip time in milliseconds. */
  roundTripTime: number | null;
  /** The estimated bandwidth to the peer, in bits a second. */
  bandwidth: number | null;
  /** Whether the connection goes through a TURN server. */
  relayed: boolean;
  /** An entry for each track that we send, and for each simulcast layer. */
  sent: StreamStats[];
  /** An entry for each track that we receive. */
  received: StreamStats[];
}

/** Statistics of one track. */
export interface StreamStats {
  /** The name of the stream. */
  name: string;
  /** The kind of track. */
  kind: 'audio' | 'video';
  /** The simulcast layer. */
  rid: string | null;
  /** `VP8`, `opus`, ... */
  codec: string | null;
  /** Bytes since the track began. */
  bytes: number;
  /** Bits a second since the previous call of `stats`; null at the first call. */
  bitrate: number | null;
  /** Lost packets. */
  lost: number | null;
  /** Jitter in milliseconds. */
  jitter: number | null;
  /** Width of the video. */
  width: number | null;
  /** Height of the video. */
  height: number | null;
  /** Frame rate of the video. */
  framesPerSecond: number | null;
  /** What limits the quality of the video that we send: `none`, `cpu`, `bandwidth` or `other`. */
  limitation: string | null;
}

/** Joins a room. After that the client reconnects by itself, keeps its client id, and goes live again if it was live. If another client has taken the id meanwhile, it joins under a new one, as a new peer. */
export function join(url: string | URL, options: JoinOptions): Promise<Room>;

/** A room that you have joined. `join` returns it. */
export class Room {
  private constructor();
  /** The name of the room. */
  readonly name: string;
  /** Your own client id, and the name that the others see. */
  readonly me: { id: string, name: string };
  /** The other peers, by client id. */
  readonly peers: ReadonlyMap<string, Peer>;
  /** The state of the connection to the server. */
  readonly state: RoomState;
  /** The peer that is speaking, or spoke last. It is only updated while there is a listener for `speaker`. */
  readonly speaker: Peer | null;
  /** The streams that you publish, by name. */
  readonly streams: ReadonlyMap<string, MediaStream>;
  /** Adds a listener. To miss nothing, add your listeners right after `join`, before you await anything else. */
  on<T extends keyof Events>(type: T, listener: Events[T]): () => void;
  /** The main stream that you publish: the `camera`, or else the oldest; null if there is none. */
  readonly published: MediaStream | null;
  /** Goes live: sends `stream` to everybody in the room, and to late joiners. A stream with another name is sent in addition, such as a screen beside a camera. A stream with the same name replaces the earlier one without interruption. To mute, set `track.enabled = false`. Clients that do not support named streams see only one: the camera, or else the oldest. */
  publish(stream: MediaStream, options?: PublishOptions): void;
  /** Stops sending a stream. After the last one you are no longer live. Does not stop the tracks. */
  unpublish(name?: string): void;
  /** Sends application data, such as chat or mute state. */
  send(data: any, options?: { to?: string }): boolean;
  /** Leaves the room and closes all connections. The state becomes `closed`. */
  leave(): void;
}
