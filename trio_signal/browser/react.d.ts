// Printed by python -m tools.print_browser_api.

import type { JoinOptions, LinkState, Live, Peer, Room, RoomError, RoomState } from './trio-signal.js';

/** A room, and how the connection to it does. */
export interface RoomView {
  /** Null until it is joined, and if it could not be. */
  room: Room | null;
  /** As `room.state`. `closed` also if there is nothing to join. */
  state: RoomState;
  /** Why it is `waiting` or `closed`, in the server's words; or empty. */
  reason: string;
  /** Why it could not be joined: a `RoomError`, or what was thrown. */
  error: Error | null;
}

/** One of the others, as it is at this moment. A new object is made when something of it changes, and only then, so it can be compared. */
export interface PeerView {
  /** Its client id. */
  id: string;
  /** How it calls itself. */
  name: string;
  /** Whether it is live, and since when. */
  live: Live | null;
  /** The state of the peer connection. */
  state: LinkState;
  /** The server has lost it, and its media still flow. */
  away: boolean;
  /** The one to show where there is room for one. */
  stream: MediaStream | null;
  /** All of them, by name. */
  streams: ReadonlyMap<string, MediaStream>;
  /** For `peer.stats()` and `peer.channel(name)`. */
  peer: Peer;
}

/** Joins a room when the component appears, and leaves it when the component goes. It is joined anew if the server, the room, the user's name, the client id or a token that is a text becomes another. Other options count when it is joined next. */
export function useRoom(url: string | URL, options: JoinOptions | null): RoomView;

/** Who else is in the room. The component is drawn again whenever somebody comes, goes or changes. */
export function usePeers(room: Room | null): readonly PeerView[];
