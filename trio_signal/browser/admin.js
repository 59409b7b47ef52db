/** The page for operators: the rooms and peers of all replicas, and actions on them. */

import { h, write } from '/client/dom.js';

const API = '/api/v1/server';
const PAGE = 50; // rows
const AGAIN = 2000; // milliseconds until the next attempt to get changes

const $ = (id) => document.getElementById(id);
let key = '';
let roomId = null;
/** The cursors of the current page of rooms, and of the next one. */
let cursor = '';
let nextCursor = null;
/** The current page of the room's peers, and the number of requests for the room so far. */
let page = 0;
let looks = 0;
let listening = null;

async function ask(method, path, body) {
  const headers = { Authorization: `Bearer ${key}` };
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  const answer = await fetch(`${API}${path}`, { method, headers, body: body && JSON.stringify(body) });
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(said.error?.message ?? `The server answered ${answer.status}`);
  return said;
}

const room = (...more) => ['/rooms', encodeURIComponent(roomId), ...more].join('/');

function state(text, which) {
  write($('state'), text);
  $('state').dataset.state = which;
}

/** Performs an action, and shows its result. */
async function attempt(what, done) {
  try {
    await what();
    if (done) state(done, 'open');
  } catch (error) {
    state(error.message, 'closed');
  }
}

// Display

async function look() {
  if (roomId === null) await lookAtRooms();
  else await lookAtRoom();
}

async function lookAtRooms() {
  const query = new URLSearchParams({ limit: PAGE, cursor, prefix: $('prefix').value });
  const { rooms, next } = await ask('GET', `/rooms?${query}`);
  nextCursor = next;
  $('rooms-next').disabled = next === null;
  $('rooms-first').disabled = cursor === '';
  $('room-list').replaceChildren(...rooms.map(({ id, peers, users, live }) => h('tr', {},
    h('th', { scope: 'row' }, h('button', { type: 'button', onclick: () => show(id) }, id)),
    h('td', {}, peers), h('td', {}, users), h('td', {}, live))));
  const { replicas } = await ask('GET', '/replicas');
  $('replica-list').replaceChildren(...replicas.map(replicaRow));
  write($('quality'), qualityOf(replicas.map(({ quality }) => quality)));
}

/** A description of the call quality that the clients of all replicas reported. */
function qualityOf(all) {
  const total = (name) => all.reduce((sum, one) => sum + one[name], 0);
  if (total('reports') === 0) return 'No reports of call quality.';
  const trips = all.filter(({ round_trip }) => round_trip !== null);
  const weight = trips.reduce((sum, { reports }) => sum + reports, 0);
  const trip = trips.reduce((sum, { round_trip, reports }) => sum + round_trip * reports, 0) / weight;
  return [
    `Calls without media after 10 seconds: ${share(total('silent'), total('checked'))}`,
    `ICE failures: ${total('failed')}`,
    `through TURN: ${share(total('relayed'), total('connected'))}`,
    `round trip: ${weight ? `${Math.round(trip * 1000)} ms` : 'unknown'}`,
  ].join(' · ');
}

function share(some, all) {
  return all === 0 ? 'none yet' : `${some} of ${all} (${Math.round((100 * some) / all)} %)`;
}

function replicaRow({ replica, host, status, reason, version, started_at, ...counts }) {
  const { connections, away, rooms, peers, live } = counts;
  return h('tr', {},
    h('th', { scope: 'row', title: replica }, replica.slice(0, 8)),
    h('td', {}, host), h('td', {}, reason ? `${status}: ${reason}` : status), h('td', {}, version),
    h('td', {}, started_at && since(started_at)),
    ...[connections, away, rooms, peers, live].map((count) => h('td', {}, count)));
}

/** The time since a moment in its two largest units, as a `time` element. */
function since(at) {
  let seconds = Math.max(Math.round((Date.now() - Date.parse(at)) / 1000), 0);
  const parts = [];
  for (const [unit, length] of [['d', 86400], ['h', 3600], ['min', 60], ['s', 1]]) {
    if (seconds >= length || parts.length || unit === 's') parts.push(`${Math.floor(seconds / length)} ${unit}`);
    seconds %= length;
  }
  return h('time', { dateTime: at, title: new Date(at).toLocaleString() }, parts.slice(0, 2).join(' '));
}

async function lookAtRoom() {
  const mine = (looks += 1);
  const query = new URLSearchParams({ limit: PAGE, offset: page * PAGE, search: $('search').value });
  const { peers, locked, total, found } = await ask('GET', `${room()}?${query}`);
  if (mine !== looks) return; // a later request replaces this one
  const last = Math.max(Math.ceil(found / PAGE) - 1, 0);
  if (page > last) {
    page = last;
    await lookAtRoom();
    return;
  }
  write($('lock'), locked ? 'Unlock' : 'Lock');
  $('lock').setAttribute('aria-pressed', locked);
  $('peers-before').disabled = page === 0;
  $('peers-next').disabled = page === last;
  write($('count'), `${found} of ${total} peers`);
  const focused = document.activeElement?.dataset?.act;
  $('peer-list').replaceChildren(...peers.map(row));
  if (focused) document.querySelector(`[data-act="${CSS.escape(focused)}"]`)?.focus();
}

function row({ peer_id, user_id, username, dialect, live, joined_at, replica, address_class, away }) {
  const button = (word, act) => h('button', {
    type: 'button', 'aria-label': `${word} ${username}`, 'data-act': `${word} ${peer_id}`, onclick: act,
  }, word);
  return h('tr', {},
    h('th', { scope: 'row', title: peer_id }, username),
    h('td', {}, user_id), h('td', {}, dialect), h('td', {}, live ? 'live' : ''),
    h('td', {}, away ? 'away' : 'here'), h('td', {}, since(joined_at)), h('td', {}, address_class),
    h('td', { title: replica }, replica.slice(0, 8)),
    h('td', {}, h('div', { class: 'row' },
      button('Remove', () => takeOut(peer_id)),
      button('Ban', () => takeOut(peer_id, $('minutes').valueAsNumber * 60)))));
}

function takeOut(peer, seconds) {
  const body = { reason: $('reason').value || undefined, ban_seconds: seconds };
  attempt(async () => {
    await ask('DELETE', room('peers', encodeURIComponent(peer)), body);
    await look();
  }, seconds ? 'Banned' : 'Removed');
}

// Navigation

function show(id) {
  roomId = id;
  page = 0;
  $('rooms').hidden = id !== null;
  $('room').hidden = id === null;
  write($('room-title'), id ?? '');
  $(id === null ? 'rooms-title' : 'room-title').focus();
  listen();
}

/** Shows changes as they happen, until another room is shown. */
async function listen() {
  listening?.abort();
  const mine = (listening = new AbortController());
  while (!mine.signal.aborted) {
    try {
      await attempt(look);
      const query = roomId === null ? '' : `?${new URLSearchParams({ room: roomId })}`;
      const headers = { Authorization: `Bearer ${key}` };
      const answer = await fetch(`${API}/events${query}`, { headers, signal: mine.signal });
      const reader = answer.body.getReader();
      state('Connected', 'open');
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        if (new TextDecoder().decode(value).includes('event: change')) await attempt(look);
      }
    } catch {
      if (mine.signal.aborted) return;
    }
    state('Reconnecting…', 'closed');
    await new Promise((resolve) => setTimeout(resolve, AGAIN));
  }
}

$('access').addEventListener('submit', async (event) => {
  event.preventDefault();
  key = $('key').value.trim();
  try {
    await ask('GET', '/rooms?limit=1');
  } catch (error) {
    $('problem').hidden = false;
    write($('problem'), error.message);
    return;
  }
  $('access').hidden = true;
  show(null);
});
$('prefix').addEventListener('input', () => {
  cursor = '';
  attempt(look);
});
$('rooms-first').addEventListener('click', () => {
  cursor = '';
  attempt(look);
});
$('rooms-next').addEventListener('click', () => {
  cursor = nextCursor ?? '';
  attempt(look);
});
$('back').addEventListener('click', () => show(null));
$('search').addEventListener('input', () => {
  page = 0;
  attempt(look);
});
$('peers-before').addEventListener('click', () => {
  page -= 1;
  attempt(look);
});
$('peers-next').addEventListener('click', () => {
  page += 1;
  attempt(look);
});
$('lock').addEventListener('click', () => attempt(async () => {
  await ask('PATCH', `${room()}?limit=0`, { locked: $('lock').getAttribute('aria-pressed') !== 'true' });
  await look();
}, 'Done'));
$('close-room').addEventListener('click', () => attempt(async () => {
  await ask('DELETE', room(), { reason: $('reason').value || undefined });
  await look();
}, 'Everybody has been removed'));
$('message').addEventListener('submit', (event) => {
  event.preventDefault();
  attempt(async () => {
    await ask('POST', room('messages'), { data: $('text').value });
    $('text').value = '';
  }, 'Sent');
});
