/** The page for developers: shows the messages of a room, and sends some. */

import { h, write } from '/client/dom.js';
import { changeIcon } from '/client/icons.js';
import { $, drawIcons, enter, notify } from './page.js';

const MOST = 500; // lines
const PREVIEW = 160; // characters
/** Fields that are shown in a message's line, and are left out of its preview. */
const SAID = new Set(['type', 'from', 'to', 'username', 'client_id', 'user', 'room_id']);

let room = null;
let isPaused = false;
/** The names of all known peers, by id. */
const names = new Map();

function trace(message, sent) {
  learn(message);
  if (isPaused) return;
  const log = $('log');
  const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  const row = line(message, sent);
  filter(row);
  log.append(row);
  while (log.children.length > MOST) log.firstElementChild.remove();
  if (isAtEnd) log.scrollTop = log.scrollHeight; // do not scroll while the user looks at older lines
}

function learn({ client_id, username, user, users = [], broadcasters = [] }) {
  if (client_id) names.set(client_id, username ?? user ?? names.get(client_id));
  for (const other of [...users, ...broadcasters]) if (other.client_id) names.set(other.client_id, other.username);
}

function line(message, sent) {
  const whole = JSON.stringify(message, null, 2);
  const details = h('details', {},
    h('summary', {},
      h('time', {}, new Date().toLocaleTimeString('en-GB')),
      h('span', { class: 'way', title: sent ? 'sent' : 'received' }, sent ? '↑' : '↓'),
      h('span', { class: 'type' }, message.type),
      h('span', { class: 'whom' }, ...people(message)),
      h('span', { class: 'preview' }, preview(message))));
  // Formatted only when the user opens it.
  details.ontoggle = () => details.children.length === 1 && details.append(h('pre', {}, whole));
  const row = h('li', { 'data-sent': String(sent) }, details);
  row.words = `${details.textContent} ${whole}`.toLowerCase();
  return row;
}

/** The sender or subject of a message, and its receiver: names, and the beginning of the ids. */
function people({ type, from, client_id, username, to }) {
  const about = from ?? client_id;
  const words = about || username ? [named(about, username)] : [];
  return type && to ? [...words, ' → ', named(to)] : words;
}

function named(id = '', username = names.get(id)) {
  return h('span', { title: id }, username ?? '', username && id ? ' ' : '', id && h('code', {}, short(id)));
}

function short(id) {
  return id.length > 10 ? `${id.slice(0, 8)}…` : id;
}

function preview(message) {
  const rest = Object.fromEntries(Object.entries(message).filter(([key]) => !SAID.has(key)));
  if (Object.keys(rest).length === 0) return '';
  return JSON.stringify(rest, (key, value) => (typeof value === 'string' && value.length > 60 ? `${value.slice(0, 60)}…` : value))
    .slice(0, PREVIEW);
}

function filter(...rows) {
  const wanted = $('filter').value.trim().toLowerCase();
  for (const row of rows) row.hidden = !row.words.includes(wanted);
}

function joined(newRoom) {
  room = newRoom;
  for (const event of ['peer', 'left', 'live', 'stopped']) room.on(event, draw);
  draw();
}

function draw() {
  const peers = [...room.peers.values()];
  $('people').replaceChildren(...peers.map(({ name, live, id }) => h('li', {},
    h('span', { class: 'who' }, name),
    live && h('span', { class: 'badge live' }, live.media === 'video' ? 'Live' : 'Live, audio only'),
    h('code', { class: 'hint', title: id }, short(id)))));
  $('nobody').hidden = peers.length > 0;
}

function send(event) {
  event.preventDefault();
  notify('');
  try {
    const data = JSON.parse($('say').data.value);
    if (!room.send(data)) notify('Not sent: there is no connection at the moment.');
  } catch (error) {
    notify(`That is not JSON. ${error.message}`);
  }
}

function pause(paused) {
  isPaused = paused;
  changeIcon($('pause'), paused ? 'play' : 'pause');
  write($('pause').querySelector('span'), paused ? 'Resume' : 'Pause');
}

drawIcons();
enter({ media: false, trace }, joined, () => {
  names.clear();
  $('log').replaceChildren();
  pause(false);
});
$('filter').oninput = () => filter(...$('log').children);
$('clear').onclick = () => $('log').replaceChildren();
$('pause').onclick = () => pause(!isPaused);
$('say').onsubmit = send;
