// The page of announcements: a banner for every user, and the tools of a creator.
// Texts and names are set by textContent only: they are never HTML.

import { keepToken, openAccess } from '/client/access.js';
import { icon } from '/client/icons.js';
import { $, drawIcons, notify, showState } from './page.js';

const PATH = '/api/creator/broadcast';
const MOST = 280; // characters
const OPEN_WITHIN = 15_000; // ms; a network that drops all packets reports no error
const SILENT_AFTER = 75_000; // ms; the server sends `ping` every 30 s

const SIGNS = { info: 'info', warning: 'warning', alert: 'announce' };

let token; // if the server requires one
let socket;
let shown; // the announcement in the banner
let pause = 500;
let reconnecting;
let watchdog;

function credentials() {
  return new URLSearchParams(token ? {} : { user_id: $('user').value.trim() });
}

async function call(method, name, body) {
  const answer = await fetch(`${PATH}${name}?${credentials()}`, {
    method,
    headers: {
      ...(body && { 'Content-Type': 'application/json' }),
      ...(token && { Authorization: `Bearer ${token}` }),
    },
    body: body && JSON.stringify(body),
  });
  const fields = await answer.json().catch(() => ({}));
  if (answer.ok) return fields;
  throw Object.assign(new Error(fields.message ?? fields.detail ?? `Failed (${answer.status})`), { status: answer.status });
}

// The user's side

function connect() {
  drop();
  show(null);
  const url = new URL(`${PATH}/ws?${credentials()}`, location.href);
  url.protocol = url.protocol.replace('http', 'ws');
  socket = token ? new WebSocket(url, ['bearer', token]) : new WebSocket(url);
  showState('connecting');
  socket.onmessage = ({ data }) => hear(data);
  socket.onclose = ({ code, reason }) => {
    if (code !== 1008) return lost();
    drop();
    showState('closed', reason);
    if (token) enter('That token is not valid, or has expired.');
  };
  watchdog = setTimeout(lost, OPEN_WITHIN);
}

function drop() {
  clearTimeout(reconnecting);
  clearTimeout(watchdog);
  if (socket) socket.onclose = socket.onmessage = null;
  socket?.close();
}

function lost() {
  drop();
  showState('waiting');
  reconnecting = setTimeout(connect, pause * (0.5 + Math.random() / 2));
  pause = Math.min(2 * pause, 10_000);
}

function hear(data) {
  clearTimeout(watchdog);
  watchdog = setTimeout(lost, SILENT_AFTER);
  if (data === 'ping') return socket.send('pong');
  if (data === 'pong') return;
  const message = JSON.parse(data);
  switch (message.type) {
    case 'connected':
      pause = 500;
      showState('joined');
      count();
      break;
    case 'new_broadcast':
      $('acknowledged').textContent = '0';
      show(message.broadcast);
      count();
      break;
    case 'active_broadcast':
      show(message.broadcast);
      break;
    case 'broadcast_cleared':
      $('acknowledged').textContent = '–';
      show(null);
      break;
    case 'broadcast_acknowledged':
      $('acknowledged').textContent = message.acknowledged;
      break;
  }
}

function show(broadcast) {
  shown = broadcast;
  $('banner').hidden = !broadcast;
  if (!broadcast) return;
  $('banner').dataset.type = broadcast.message_type;
  $('banner-icon').replaceChildren(icon(SIGNS[broadcast.message_type] ?? 'info'));
  $('banner-text').textContent = broadcast.message;
  $('banner-from').textContent = `${broadcast.created_by}, ${new Date(broadcast.created_at).toLocaleTimeString()}`;
}

$('acknowledge').onclick = () => {
  socket.send(JSON.stringify({ type: 'acknowledge_broadcast', broadcast_id: shown.id }));
  show(null);
};

// The creator's side

async function count() {
  try {
    const { stats } = await call('GET', '/stats');
    $('connected').textContent = stats.connected_users_total;
    $('today').textContent = stats.broadcasts_today;
    $('reader').hidden = true;
  } catch (error) {
    $('reader').hidden = error.status !== 403;
    $('connected').textContent = $('today').textContent = '–'; // not a creator, or no answer
  }
}

async function attempt(button, action) {
  button.disabled = true;
  $('outcome').textContent = '';
  notify('');
  try {
    $('outcome').textContent = await action();
  } catch (error) {
    notify(error.message);
  } finally {
    button.disabled = false;
    count();
  }
}

function measure() {
  const left = MOST - [...$('message').value.trim()].length;
  $('left').textContent = `${left} characters left`;
}

$('message').oninput = measure;
$('write').onsubmit = (event) => {
  event.preventDefault();
  const type = new FormData($('write')).get('type');
  attempt(event.submitter ?? $('write').querySelector('.primary'), async () => {
    const answer = await call('POST', '', { message: $('message').value, type });
    $('message').value = '';
    measure();
    const { sent_to_users: users } = answer;
    return users === 1 ? 'Sent to 1 person.' : `Sent to ${users} people.`;
  });
};
$('clear').onclick = () => attempt($('clear'), async () => (await call('POST', '/clear')).message);
$('who').onsubmit = (event) => {
  event.preventDefault();
  pause = 500;
  connect();
};

/** Identifies the user: by a token if the server requires one, else by the given name. */
async function enter(problem) {
  $('desk').hidden = true;
  try {
    token = await openAccess($('access'), { problem });
  } catch (error) {
    return showState('closed', error.message);
  }
  await count(); // fails unless the user is a creator
  $('desk').hidden = false;
  $('who').hidden = Boolean(token);
  $('known').hidden = !token;
  connect();
  if (token) showMe();
}

async function showMe() {
  const answer = await fetch('/auth/me', { headers: { Authorization: `Bearer ${token}` } });
  if (answer.ok) $('me').textContent = (await answer.json()).username;
}

$('forget').onclick = () => {
  drop();
  keepToken(undefined);
  showState('closed');
  enter();
};
$('user').value = new URLSearchParams(location.search).get('user_id') ?? 'boss';
drawIcons();
measure();
enter();
setInterval(() => document.hidden || socket?.readyState !== WebSocket.OPEN || count(), 2000);
