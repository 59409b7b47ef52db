/** What the pages have in common: joining, words for states, cameras, and tiles of video. */

import { isRefused, openAccess } from '/client/access.js';
import { changeIcon, icon } from '/client/icons.js';
import { join } from '/client/trio-signal.js';

export const $ = (id) => document.getElementById(id);

const ROOM_WORDS = {
  connecting: 'Connecting…',
  joined: 'Connected',
  waiting: 'Lost. Trying again…',
  closed: 'Disconnected',
};
const PEER_WORDS = {
  none: 'Not connected',
  connecting: 'Connecting…',
  connected: 'Connected',
  interrupted: 'Interrupted. Waiting…',
  failed: 'No way found. Trying again…',
};
const TROUBLE_WORDS = {
  NotAllowedError: 'The browser was not allowed to use it.',
  NotFoundError: 'No camera was found.',
  NotReadableError: 'Another program is using it.',
  TypeError: 'The browser gives cameras and screens only to pages on https or localhost.',
};

/** The state of a peer connection in words. */
export function connectionWords({ state, away }) {
  return away ? 'Connected, but the server has lost it' : PEER_WORDS[state];
}

export function notify(words) {
  $('notice').textContent = words;
}

/**
 * Makes the form `join` work, and shows the state of the connection. `onJoined(room)` is called
 * each time a room is joined, `onClosed()` when it is over. A link with `?room=` fills the form;
 * with `{ atOnce: true }` it joins by itself.
 */
export function enter(options, onJoined, onClosed = () => {}) {
  const form = $('join');
  const { atOnce, ...joinOptions } = options;
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
    const room = await attempt(form, { ...joinOptions, token }, ask);
    form.querySelector('button').disabled = false;
    if (room) entered(form, room, onJoined, onClosed);
  };
  if ($('access')) ask();
  else if (atOnce && form.room.value) form.requestSubmit();
  else (form.room.value ? form.username ?? form.room : form.room).focus();
}

async function attempt(form, options, ask) {
  const room = form.room.value.trim();
  const username = form.username?.value.trim() || undefined;
  try {
    return await join(location.origin, { ...options, room, username });
  } catch (error) {
    showState('closed');
    if (isRefused(error)) return void ask('That token is not valid, or not any more.');
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

/** Shows the state of the connection to the server, in few words: the head keeps its height. */
export function showState(state, reason = '') {
  $('state').dataset.state = state;
  $('state').textContent = ROOM_WORDS[state];
  if (state === 'closed' && reason) notify(reason);
}

// Cameras

/** Camera and microphone; without a microphone, a silent picture. */
export async function openCamera(deviceId) {
  const video = { width: { ideal: 1280 }, height: { ideal: 720 }, deviceId };
  try {
    return await navigator.mediaDevices.getUserMedia({ video, audio: true });
  } catch (error) {
    if (error.name !== 'NotFoundError') throw error;
    return navigator.mediaDevices.getUserMedia({ video });
  }
}

export async function openScreen() {
  return navigator.mediaDevices.getDisplayMedia({ video: true, audio: true });
}

export function close(stream) {
  for (const track of stream?.getTracks() ?? []) track.stop();
}

export function explain(error) {
  notify(`That did not work. ${TROUBLE_WORDS[error.name] ?? error.message}`);
}

// Tiles

/** A tile in `stage` for `id`; the one that is there, or a new one from the template. */
export function tileOf(stage, id) {
  const tile = [...stage.querySelectorAll('.tile')].find((t) => t.dataset.id === id);
  return tile ?? addTile(stage, id);
}

function addTile(stage, id) {
  const tile = $('tile').content.firstElementChild.cloneNode(true);
  tile.dataset.id = id;
  tile.querySelector('.play').onclick = () => play(tile);
  stage.append(tile);
  return tile;
}

export function removeTile(stage, id) {
  for (const tile of stage.querySelectorAll('.tile')) if (tile.dataset.id === id) tile.remove();
}

/** Names come from strangers: they are text, never HTML. */
export function drawTile(tile, { name, detail = '', wait = '', stream, mine = false, mirrored = false }) {
  tile.querySelector('.name').textContent = name;
  tile.querySelector('.detail').textContent = detail;
  tile.querySelector('.wait').textContent = wait;
  const video = tile.querySelector('video');
  video.setAttribute('aria-label', `Video of ${name}`);
  video.classList.toggle('mirrored', mirrored);
  if (video.srcObject === stream) return;
  video.muted = mine; // nobody wants to hear himself
  video.srcObject = stream;
  if (stream) play(tile);
}

/** A browser may refuse to play sound before the first click: then it asks for that click. */
async function play(tile) {
  const button = tile.querySelector('.play');
  try {
    await tile.querySelector('video').play();
    button.hidden = true;
  } catch (error) {
    // Any other error means that a newer stream took over, and plays.
    if (error.name === 'NotAllowedError') button.hidden = false;
  }
}

/** Draws the icon that each element of the page names in `data-icon`, before its words. */
export function drawIcons() {
  for (const element of document.querySelectorAll('[data-icon]')) element.prepend(icon(element.dataset.icon));
}

/** Copies a link, and says so on the button for a while. */
export async function copy(button, link) {
  try {
    await navigator.clipboard.writeText(link);
    const before = button.dataset.icon;
    changeIcon(button, 'check');
    setTimeout(() => changeIcon(button, before), 2000);
    notify('Copied.');
    setTimeout(() => notify(''), 2000);
  } catch {
    notify(`Not copied: this browser does not allow it here. The link is ${link}`);
  }
}

/** The form `invite` shows a link, and copies it. */
export function invite(path, room) {
  const form = $('invite');
  form.link.value = `${location.origin}${path}?room=${encodeURIComponent(room.name)}`;
  form.onsubmit = async (event) => {
    event.preventDefault();
    form.link.select();
    try {
      await navigator.clipboard.writeText(form.link.value);
      form.querySelector('button').textContent = 'Copied';
    } catch {
      notify('The link is selected. Copy it with the keyboard.');
    }
  };
}
