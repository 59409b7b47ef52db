/** Watch whoever is live in a room, from whenever you come. */

import { $, connectionWords, drawTile, enter, removeTile, tileOf } from './page.js';

function joined(room) {
  const stage = $('stage');

  function draw(peer) {
    if (peer.live || peer.stream) {
      const playing = peer.stream && ['connected', 'none'].includes(peer.state);
      drawTile(tileOf(stage, peer.id), {
        name: peer.name,
        detail: connectionWords(peer),
        wait: playing ? '' : connectionWords(peer),
        stream: peer.stream,
      });
    }
    count();
  }

  function gone(peer) {
    removeTile(stage, peer.id);
    count();
  }

  function count() {
    $('nobody').hidden = stage.querySelector('.tile') !== null;
    const others = room.peers.size;
    $('count').textContent = others === 1 ? 'You and 1 other' : `You and ${others} others`;
  }

  room.on('live', draw);
  room.on('stream', (stream, peer) => draw(peer));
  room.on('connection', draw);
  room.on('stopped', gone);
  room.on('peer', count);
  room.on('left', gone);
  count();
}

function closed() {
  for (const tile of document.querySelectorAll('.tile')) tile.remove();
}

enter({ atOnce: true }, joined, closed);
