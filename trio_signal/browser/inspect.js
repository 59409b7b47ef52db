/** For developers: the messages of a room as they come, and a line to send one. */

import { $, drawPeople, enter, notify, span } from './page.js';

const MOST = 500; // lines

let room = null;

function trace(message, sent) {
  if ($('pause').getAttribute('aria-pressed') === 'true') return;
  const log = $('log');
  log.prepend(line(message, sent));
  while (log.children.length > MOST) log.lastElementChild.remove();
  filter();
}

function line(message, sent) {
  const row = document.createElement('li');
  const details = document.createElement('details');
  const summary = document.createElement('summary');
  const body = document.createElement('pre');
  const direction = span('', sent ? '↑' : '↓');
  direction.title = sent ? 'sent' : 'received';
  summary.append(span('soft', new Date().toLocaleTimeString('en-GB')), direction, words(message));
  body.textContent = JSON.stringify(message, null, 2);
  row.dataset.sent = String(sent);
  details.append(summary, body);
  row.append(details);
  return row;
}

/** The type, and who it is from or about. */
function words({ type, username, from, to }) {
  return [type, username ?? from, to && `to ${to}`].filter(Boolean).join(' · ');
}

function filter() {
  const wanted = $('filter').value.trim().toLowerCase();
  for (const row of $('log').children) row.hidden = !row.textContent.toLowerCase().includes(wanted);
}

function joined(newRoom) {
  room = newRoom;
  for (const event of ['peer', 'left', 'live', 'stopped']) room.on(event, draw);
  draw();
}

function draw() {
  const peers = [...room.peers.values()];
  drawPeople(peers.map(({ name, live, id }) => [name, live ? `live with ${live.media} · ${id}` : id]));
  $('nobody').hidden = peers.length > 0;
}

function send(event) {
  event.preventDefault();
  notify('');
  try {
    const data = JSON.parse($('say').data.value);
    if (!room.send(data)) notify('Not sent: there is no connection now.');
  } catch (error) {
    notify(`That is not JSON. ${error.message}`);
  }
}

enter({ media: false, trace }, joined);
$('filter').oninput = filter;
$('clear').onclick = () => $('log').replaceChildren();
$('pause').onclick = () => {
  const pressed = $('pause').getAttribute('aria-pressed') === 'true';
  $('pause').setAttribute('aria-pressed', String(!pressed));
};
$('say').onsubmit = send;
