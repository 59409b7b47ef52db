/** The page *Watch*: the element `<trio-watch>`, or a form if the link has no room. */

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
