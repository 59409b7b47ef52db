/**
 * The browser client of trio-signal: joins rooms, and carries audio, video and data between peers.
 *
 *     const room = await join(location.origin, { room: 'lobby', username: 'Ada' });
 *     room.on('stream', (stream, peer) => show(stream, peer.name));
 *     room.on('stopped', (peer) => hide(peer));
 *     room.publish(await navigator.mediaDevices.getUserMedia({ video: true, audio: true }));
 *
 * It speaks the `mesh` dialect. The server only introduces the browsers: audio and video go
 * from browser to browser, over one RTCPeerConnection for each two of them, and go on while the
 * server is away.
 *
 * From top to bottom: what comes in and out (types), Signaling (the WebSocket that comes back), Link
 * (one peer connection), Peer, `join` and Room (who is here, who is live).
 */

export { RoomError } from './types.js';
export { retryDelay } from './signaling.js';
export { closeStream, listDevices, openCamera, openScreen, watchDevices } from './devices.js';
export { Channel } from './channel.js';
export { Peer } from './peer.js';
export { join, Room } from './room.js';
