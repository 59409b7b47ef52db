// Printed by python -m tools.print_browser_api.

import type { JoinOptions, LinkState, Live, Peer, Room, RoomError, RoomState } from './trio-signal.js';

/** A room, and the state of its connection. */
export interface RoomView {
  /** The room; null until it is joined, or if joining failed. */
  room: Room | null;
  /** As `room.state`; also `closed` if there is nothing to join. */
  state: RoomState;
  /** The server's reason for `waiting` or `closed`, or empty. */
  reason: string;
  /** Why joining failed: a `RoomError` or another exception. */
  error: Error | null;
}

/** One of the other peers, at one moment. A new object is made only when something changes, so objects can be compared. */
export interface PeerView {
  /** Its client id. */
  id: string;
  /** The name it chose. */
  name: string;
  /** Whether it is live, and since when. */
  live: Live | null;
  /** The state of the peer connection. */
  state: LinkState;
  /** Whether it lost its connection to the server, and may resume. */
  away: boolean;
  /** The stream to show if you show only one. */
  stream: MediaStream | null;
  /** All its streams, by name. */
  streams: ReadonlyMap<string, MediaStream>;
  /** The peer itself, for `peer.stats()` and `peer.channel(name)`. */
  peer: Peer;
}

/** Joins a room when the component mounts, and leaves it when the component unmounts. It rejoins if the server, the room, the username, the client id or a string token changes. Changes of other options apply to the next join. */
export function useRoom(url: string | URL, options: JoinOptions | null): RoomView;

/** Returns the other peers in the room. The component renders again whenever a peer joins, leaves or changes. */
export function usePeers(room: Room | null): readonly PeerView[];
