/** The demo page: draws a Room, and turns clicks into its methods. */

import { Room } from './trio-signal.js';

const $ = (id) => document.getElementById(id);
const joinForm = $('join');

/** The room that we are in, or null. */
let room = null;
let roomName = '';
/** One figure for each broadcaster, ours included: id -> element. */
const tiles = new Map();

// Coming and going

function join(event) {
  event.preventDefault();
  roomName = joinForm.room.value.trim();
  const username = joinForm.username.value.trim() || undefined;
  history.replaceState(null, '', inviteLink());
  notify('');
  room = new Room(roomName, { username });
  room.addEventListener('change', draw);
  room.join();
  $('room-name').focus();
}

/** The reason of a refusal stays readable in the status line. */
function left() {
  room = null;
  joinForm.username.focus();
}

function inviteLink() {
  return `${location.origin}${location.pathname}?room=${encodeURIComponent(roomName)}`;
}

// Going live

async function goLive(source) {
  notify('');
  const joined = room;
  const stream = await (source === 'screen' ? openScreen() : openCamera()).catch(explain);
  if (!stream) return;
  if (room !== joined) return stream.getTracks().forEach((track) => track.stop());
  room.goLive(stream, source);
  $('stop').focus();
}

async function openCamera() {
  const video = { width: { ideal: 1280 }, height: { ideal: 720 } };
  try {
    return await navigator.mediaDevices.getUserMedia({ video, audio: true });
  } catch (error) {
    if (error.name !== 'NotFoundError') throw error;
    return navigator.mediaDevices.getUserMedia({ video }); // no microphone: a silent picture
  }
}

async function openScreen() {
  return navigator.mediaDevices.getDisplayMedia({ video: true, audio: true });
}

function explain(error) {
  const words = {
    NotAllowedError: 'The browser was not allowed to use it.',
    NotFoundError: 'No camera was found.',
    NotReadableError: 'Another program is using it.',
    TypeError: 'The browser gives cameras and screens only to pages on https or localhost.',
  };
  notify(`Could not go live. ${words[error.name] ?? error.message}`);
}

function stop() {
  room.stopLive();
  $('camera').focus();
}

// Drawing

function draw({ target }) {
  $('state').textContent = target.words;
  $('state').dataset.state = target.state;
  joinForm.hidden = target.state !== 'closed';
  $('room').hidden = target.state === 'closed';
  $('room-name').textContent = roomName;
  $('camera').hidden = $('screen').hidden = Boolean(target.broadcast);
  $('stop').hidden = !target.broadcast;
  $('invite').link.value = inviteLink();
  drawStage(target);
  drawPeople(target);
  if (target.state === 'closed') left();
}

function drawStage({ broadcast, broadcasters }) {
  const shown = [...broadcasters.values()];
  if (broadcast) shown.unshift({ ...broadcast, id: 'me', name: 'You', state: 'connected' });
  $('nobody').hidden = shown.length > 0;
  for (const id of tiles.keys()) if (!shown.some((b) => b.id === id)) removeTile(id);
  for (const broadcaster of shown) drawTile(broadcaster);
}

function drawTile({ id, name, source, viewers, stream, state }) {
  const tile = tiles.get(id) ?? addTile(id);
  const waiting = { connected: '', disconnected: 'Interrupted…', failed: 'Trying again…' };
  tile.querySelector('.name').textContent = name;
  tile.querySelector('.detail').textContent = detail(source, viewers);
  tile.querySelector('.wait').textContent = waiting[state] ?? 'Waiting for video…';
  const video = tile.querySelector('video');
  video.setAttribute('aria-label', `Video of ${name}`);
  video.classList.toggle('mirrored', id === 'me' && source === 'camera');
  if (video.srcObject !== stream) show(tile, video, stream, id === 'me');
}

function detail(source, viewers) {
  const watched = viewers === 1 ? '1 viewer' : `${viewers} viewers`;
  return [source, viewers === null ? '' : watched].filter(Boolean).join(' · ');
}

function addTile(id) {
  const tile = $('tile').content.firstElementChild.cloneNode(true);
  tile.querySelector('.play').onclick = () => play(tile);
  tiles.set(id, tile);
  $('stage').append(tile);
  return tile;
}

function removeTile(id) {
  const tile = tiles.get(id);
  tile.querySelector('video').srcObject = null;
  tile.remove();
  tiles.delete(id);
}

function show(tile, video, stream, muted) {
  video.muted = muted; // nobody wants to hear himself
  video.srcObject = stream;
  play(tile);
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

function drawPeople({ me, people, broadcast, broadcasters }) {
  const rows = [...people.values()].map(({ id, name }) => person(name, broadcasters.get(id)));
  if (me) rows.unshift(person(`${me.name} (you)`, broadcast));
  $('people').replaceChildren(...rows);
  $('count').textContent = rows.length;
}

function person(name, broadcast) {
  const row = document.createElement('li');
  row.append(text('name', name));
  if (broadcast) row.append(' ', text('badge', 'live'), ' ', text('detail', detail('', broadcast.viewers)));
  return row;
}

/** Names come from strangers: they are text, never HTML. */
function text(className, content) {
  const span = document.createElement('span');
  span.className = className;
  span.textContent = content;
  return span;
}

function notify(words) {
  $('notice').textContent = words;
}

async function copyInvite(event) {
  event.preventDefault();
  const { link } = $('invite');
  link.select();
  try {
    await navigator.clipboard.writeText(link.value);
    notify('The invite link is copied.');
  } catch {
    notify('The invite link is selected. Copy it with the keyboard.');
  }
}

joinForm.room.value = new URLSearchParams(location.search).get('room') ?? '';
joinForm.onsubmit = join;
(joinForm.room.value ? joinForm.username : joinForm.room).focus();
$('camera').onclick = () => goLive('camera');
$('screen').onclick = () => goLive('screen');
$('stop').onclick = stop;
$('leave').onclick = () => room.leave();
$('invite').onsubmit = copyInvite;
