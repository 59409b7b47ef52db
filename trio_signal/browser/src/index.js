/**
 * The browser client of trio-signal: joins rooms, and carries audio, video and data between peers.
 *
 *     const room = await join(location.origin, { room: 'lobby', username: 'Ada' });
 *     room.on('stream', (stream, peer) => show(stream, peer.name));
 *     room.on('stopped', (peer) => hide(peer));
 *     room.publish(await navigator.mediaDevices.getUserMedia({ video: true, audio: true }));
 *
 * It speaks the `mesh` dialect. The server only forwards signals: audio and video flow directly
 * between the browsers, over one RTCPeerConnection for each pair, and continue while the server is
 * unavailable.
 *
 * The main parts are the public types, Signaling (the WebSocket, which reconnects), Link (one peer
 * connection), Channel, Peer, and `join` and Room (the peers and their broadcasts).
 */

export { RoomError } from './types.js';
export { retryDelay } from './signaling.js';
export { closeStream, listDevices, openCamera, openScreen, watchDevices } from './devices.js';
export { Channel } from './channel.js';
export { Peer } from './peer.js';
export { join, Room } from './room.js';
