/**
 * The browser client in React: hooks for a room that lasts as long as a component, and for its peers.
 *
 *     const { room, state } = useRoom('https://signal.example.com', { room: 'lobby' });
 *     const peers = usePeers(room);
 *
 * It needs React 18 or later. For everything else, use the {@link Room}: `room.publish`, `room.send`, `room.on`.
 */

import { useEffect, useMemo, useRef, useState, useSyncExternalStore } from 'react';

import { join } from './trio-signal.js';

const CONNECTING = { room: null, state: 'connecting', reason: '', error: null };
const CLOSED = { room: null, state: 'closed', reason: '', error: null };
const OF_PEERS = ['peer', 'left', 'live', 'stopped', 'stream', 'removed', 'connection', 'state'];
const NOBODY = [];

/**
 * A room, and the state of its connection.
 *
 * @typedef {object} RoomView
 * @property {Room | null} room - The room; null until it is joined, or if joining failed.
 * @property {RoomState} state - As `room.state`; also `closed` if there is nothing to join.
 * @property {string} reason - The server's reason for `waiting` or `closed`, or empty.
 * @property {Error | null} error - Why joining failed: a `RoomError` or another exception.
 */

/**
 * One of the other peers, at one moment. A new object is made only when something changes, so objects can
 * be compared.
 *
 * @typedef {object} PeerView
 * @property {string} id - Its client id.
 * @property {string} name - The name it chose.
 * @property {Live | null} live - Whether it is live, and since when.
 * @property {LinkState} state - The state of the peer connection.
 * @property {boolean} away - Whether it lost its connection to the server, and may resume.
 * @property {MediaStream | null} stream - The stream to show if you show only one.
 * @property {ReadonlyMap<string, MediaStream>} streams - All its streams, by name.
 * @property {Peer} peer - The peer itself, for `peer.stats()` and `peer.channel(name)`.
 */

/**
 * Joins a room when the component mounts, and leaves it when the component unmounts. It rejoins if the
 * server, the room, the username, the client id or a string token changes. Changes of other options apply
 * to the next join.
 *
 * @param {string | URL} url - The server's URL.
 * @param {JoinOptions | null} options - As for `join`; null to join nothing yet.
 * @returns {RoomView} The room and its state.
 */
export function useRoom(url, options) {
  const [view, setView] = useState(options ? CONNECTING : CLOSED);
  const latest = useRef(options);
  useEffect(() => {
    latest.current = options;
  });
  const { room, username, clientId, token } = options ?? {};
  const secret = typeof token === 'function' ? undefined : token;
  useEffect(() => {
    setView(room === undefined ? CLOSED : CONNECTING);
    return room === undefined ? undefined : stay(url, latest.current, setView);
  }, [String(url), room, username, clientId, secret]);
  return view;
}

/** Joins; returns a function that leaves, even while joining. */
function stay(url, options, setView) {
  let room = null;
  let isOver = false;
  const entered = (joined) => {
    if (isOver) return joined.leave();
    room = joined;
    room.on('state', (state, reason) => {
      if (!isOver) setView((view) => ({ ...view, state, reason }));
    });
    setView({ room, state: room.state, reason: '', error: null });
  };
  const failed = (error) => {
    if (!isOver) setView({ ...CLOSED, reason: error.message, error });
  };
  // Strict mode unmounts at once. A second attempt with the same client id could be overtaken by the first.
  queueMicrotask(() => isOver || join(url, options).then(entered, failed));
  return () => {
    isOver = true;
    room?.leave();
  };
}

/**
 * Returns the other peers in the room. The component renders again whenever a peer joins, leaves or
 * changes.
 *
 * @param {Room | null} room - As returned by {@link useRoom}.
 * @returns {readonly PeerView[]} The peers in the order in which they joined; the same array until
 *   something changes.
 */
export function usePeers(room) {
  const { subscribe, read } = useMemo(() => peersOf(room), [room]);
  return useSyncExternalStore(subscribe, read, () => NOBODY);
}

function peersOf(room) {
  let views = room ? viewsOf(room, []) : NOBODY;
  const subscribe = (changed) => {
    const look = () => {
      const next = viewsOf(room, views);
      if (next === views) return;
      views = next;
      changed();
    };
    const stops = room ? OF_PEERS.map((event) => room.on(event, look)) : [];
    if (room) look(); // for changes since the last render
    return () => {
      for (const stop of stops) stop();
    };
  };
  return { subscribe, read: () => views };
}

function viewsOf(room, before) {
  const old = new Map(before.map((view) => [view.peer, view]));
  const views = [...room.peers.values()].map((peer) => viewOf(peer, old.get(peer)));
  const isSame = views.length === before.length && views.every((view, i) => view === before[i]);
  return isSame ? before : views;
}

function viewOf(peer, before) {
  const { id, name, live, state, away, stream } = peer;
  const streams = areSame(peer.streams, before?.streams) ? before.streams : new Map(peer.streams);
  const view = { id, name, live, state, away, stream, streams, peer };
  return before && Object.keys(view).every((key) => view[key] === before[key]) ? before : view;
}

function areSame(streams, before) {
  return streams.size === before?.size && [...streams].every(([name, one]) => before.get(name) === one);
}
