/** Shared by the pages: joining, descriptions of states, icons, and copying a link. */

import { isRefused, openAccess } from '/client/access.js';
import { changeIcon, icon } from '/client/icons.js';
import { join } from '/client/trio-signal.js';

export const $ = (id) => document.getElementById(id);

const ROOM_WORDS = {
  connecting: 'Connecting…',
  joined: 'Connected',
  waiting: 'Reconnecting…',
  closed: 'Disconnected',
};

export function notify(words) {
  $('notice').textContent = words;
}

/**
 * Makes the form `join` work, and shows the state of the connection. Calls `onJoined(room)` each
 * time a room is joined, and `onClosed()` when it is closed. A link with `?room=` fills the form.
 */
export function enter(options, onJoined, onClosed = () => {}) {
  const form = $('join');
  let token;
  form.room.value = new URLSearchParams(location.search).get('room') ?? '';
  const ask = async (problem) => {
    form.hidden = true;
    try {
      token = await openAccess($('access'), { problem });
    } catch (error) {
      return notify(error.message);
    }
    form.hidden = false;
    (form.room.value ? form.username ?? form.room : form.room).focus();
  };
  form.onsubmit = async (event) => {
    event.preventDefault();
    notify('');
    showState('connecting');
    form.querySelector('button').disabled = true;
    const room = await attempt(form, { ...options, token }, ask);
    form.querySelector('button').disabled = false;
    if (room) entered(form, room, onJoined, onClosed);
  };
  ask();
}

async function attempt(form, options, ask) {
  const room = form.room.value.trim();
  const username = form.username?.value.trim() || undefined;
  try {
    return await join(location.origin, { ...options, room, username });
  } catch (error) {
    showState('closed');
    if (isRefused(error)) return void ask('That token is not valid, or has expired.');
    notify(`Could not join. ${error.message}`);
  }
}

function entered(form, room, onJoined, onClosed) {
  history.replaceState(null, '', `${location.pathname}?room=${encodeURIComponent(room.name)}`);
  $('room-name').textContent = room.name;
  form.hidden = true;
  $('room').hidden = false;
  showState('joined');
  $('room-name').focus();
  room.on('state', (state, reason) => {
    showState(state, reason);
    if (state !== 'closed') return;
    form.hidden = false;
    $('room').hidden = true;
    onClosed();
    form.room.focus();
  });
  $('leave').onclick = () => room.leave();
  onJoined(room);
}

/** Shows the state of the connection, in one word, so that the header keeps its height. */
export function showState(state, reason = '') {
  $('state').dataset.state = state;
  $('state').textContent = ROOM_WORDS[state];
  if (state === 'closed' && reason) notify(reason);
}

/** Adds icons to all elements with `data-icon`, before their text. */
export function drawIcons() {
  for (const element of document.querySelectorAll('[data-icon]')) element.prepend(icon(element.dataset.icon));
}

/** Copies a link, and shows that on the button for a while. */
export async function copy(button, link) {
  try {
    await navigator.clipboard.writeText(link);
    const before = button.dataset.icon;
    changeIcon(button, 'check');
    setTimeout(() => changeIcon(button, before), 2000);
    notify('Copied.');
    setTimeout(() => notify(''), 2000);
  } catch {
    notify(`Could not copy: this browser does not allow it here. The link is ${link}`);
  }
}
