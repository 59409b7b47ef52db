/** Watch whoever is live in a room: the element `<trio-watch>`, and a form where no room is said. */

import '/client/trio-watch.js';

import { h } from '/client/dom.js';
import { $, copy, drawIcons } from './page.js';

const room = new URLSearchParams(location.search).get('room')?.trim();

$('join').hidden = Boolean(room);
$('room').hidden = !room;
if (room) {
  document.title = `${room} · ${document.title}`;
  $('room-name').textContent = room;
  $('player').replaceWith(h('trio-watch', { id: 'player', room }));
  drawIcons();
  $('copy').onclick = () => copy($('copy'), location.href);
} else {
  $('join').room.focus();
}
