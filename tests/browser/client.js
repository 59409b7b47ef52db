/** A page with the client only. Tests control it from outside, and read `told`. */

import * as client from '/client/trio-signal.js';

Object.assign(window, client, { client });

/** What happened, as `[event, peer's name or state, ...]`. */
window.told = [];

/** Joins, and keeps the room in `window.room`. */
window.enter = async (room, options = {}) => {
  window.room = await client.join(location.origin, { room, ...options });
  for (const event of ['peer', 'left', 'away', 'back', 'live', 'stopped']) {
    window.room.on(event, (peer) => window.told.push([event, peer.name]));
  }
  window.room.on('connection', (peer) => window.told.push(['connection', peer.name, peer.state]));
  window.room.on('state', (state, reason) => window.told.push(['state', state, reason]));
  window.room.on('message', (data, peer) => window.told.push(['message', peer.name, data]));
  window.room.on('error', (error) => window.told.push(['error', String(error.code), error.message]));
  window.room.on('stream', (stream, peer, name) => {
    window.told.push(['stream', peer.name, name]);
    document.getElementById(name === 'screen' ? 'screen' : 'video').srcObject = stream;
  });
  window.room.on('removed', (stream, peer, name) => window.told.push(['removed', peer.name, name]));
};

window.camera = (audio = true) => navigator.mediaDevices.getUserMedia({ video: true, audio });

window.display = () => navigator.mediaDevices.getDisplayMedia({ video: true });

/** The peer with that name. */
window.peer = (name) => [...window.room.peers.values()].find((peer) => peer.name === name);
