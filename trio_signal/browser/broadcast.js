/** The page *Broadcast*: a preview first, then the broadcast. */

import { isRefused, openAccess } from '/client/access.js';
import { timeSince } from '/client/clock.js';
import { Devices, explainTrouble, watchLevel } from '/client/devices.js';
import { h, set, write } from '/client/dom.js';
import { changeIcon, icon } from '/client/icons.js';
import { gradeOf, measureSent } from '/client/quality.js';
import { join } from '/client/trio-signal.js';
import { $, copy, drawIcons } from './page.js';

const MEASURE_EVERY = 3_000; // ms
const GRADES = { good: 'Good', fair: 'Fair', poor: 'Poor' };

/** `setup`: before the broadcast. `live`: during it. `ended`: after it. */
let phase = 'setup';
let token;
let room = null;
let screen = null;
let isAsking = true;
let isJoining = false;
let isMuted = false;
let began = 0;
let most = 0;
/** The number of viewers that was last sent to all of them; null if a viewer has not received it. */
let told = null;
let awake = null;
/** The last measurement of each viewer, by id. */
let measured = new Map();
let stopLevel = () => {};
let heard = null;

const devices = new Devices(draw);

/** The stream to send: the shared screen's video if there is one, and the microphone's audio. */
function tracks() {
  const picture = screen?.getVideoTracks()[0] ?? devices.tracks.camera;
  const voice = devices.tracks.microphone ?? screen?.getAudioTracks()[0];
  return [picture, voice].filter(Boolean);
}

// Before

async function begin() {
  drawIcons();
  $('setup').room.value = new URLSearchParams(location.search).get('room') ?? '';
  try {
    token = await openAccess($('access'));
  } catch (error) {
    $('access').replaceChildren(h('p', { class: 'problem' }, icon('warning'), error.message));
    return;
  }
  $('studio').hidden = false;
  ($('setup').room.value ? $('setup').username : $('setup').room).focus();
  await look();
}

async function look(...kinds) {
  isAsking = true;
  draw();
  await devices.open(...(kinds.length > 0 ? kinds : ['camera', 'microphone']));
  isAsking = false;
  draw();
}

async function goLive() {
  const form = $('setup');
  isJoining = true;
  $('problem').textContent = '';
  draw();
  try {
    const joined = await join(location.origin, {
      room: form.room.value.trim(), username: form.username.value.trim() || undefined, token,
    });
    entered(joined);
  } catch (error) {
    if (isRefused(error)) await askAgain();
    else $('problem').replaceChildren(icon('warning'), `Could not go live. ${error.message}`);
  } finally {
    isJoining = false;
    draw();
  }
}

async function askAgain() {
  $('studio').hidden = true;
  token = await openAccess($('access'), { problem: 'That token is not valid, or has expired.' });
  $('studio').hidden = false;
  draw();
}

// Live

function entered(joined) {
  room = joined;
  phase = 'live';
  began = Date.now();
  most = 0;
  told = null;
  measured = new Map();
  history.replaceState(null, '', `${location.pathname}?room=${encodeURIComponent(room.name)}`);
  write($('room-name'), room.name);
  $('invite').link.value = `${location.origin}/demo/watch?room=${encodeURIComponent(room.name)}`;
  room.publish(new MediaStream(tracks()));
  for (const event of ['peer', 'left', 'connection']) room.on(event, () => room === joined && draw());
  room.on('connection', () => { told = null; });
  room.on('state', (state, reason) => {
    if (room !== joined) return;
    if (state === 'closed') ended(reason);
    draw();
  });
  keepAwake();
  draw();
  $('stop').focus();
}

function ended(reason = '') {
  phase = 'ended';
  room = null;
  awake?.release();
  awake = null;
  stopSharing();
  devices.close();
  write($('total-time'), timeSince(began));
  write($('total-viewers'), String(most));
  write($('ended-words'), reason ? `The server ended it: ${reason}` : '');
  draw();
  $('ended-title').focus();
}

/** Sends the number of viewers to all: only the broadcaster knows who receives its video. */
function tellViewers() {
  const viewers = countViewers();
  if (viewers !== told && room.send({ viewers })) told = viewers;
}

function countViewers() {
  return [...room.peers.values()].filter((peer) => peer.relayed || peer.state === 'connected').length;
}

async function measure() {
  if (phase !== 'live') return;
  const joined = room;
  const entries = [...joined.peers.values()].map(async (peer) => [peer.id, await measureSent(peer.connection)]);
  const found = new Map(await Promise.all(entries));
  if (room !== joined) return;
  measured = found;
  draw();
}

/** Keeps the screen on, because a phone that goes to sleep would end the broadcast. */
async function keepAwake() {
  try {
    awake = await navigator.wakeLock?.request('screen');
  } catch { /* The page is hidden, or the battery is low. */ }
}

// Sending

function changed() {
  for (const track of tracks()) if (track.kind === 'audio') track.enabled = !isMuted;
  if (room && tracks().length > 0) room.publish(new MediaStream(tracks()));
}

async function shareScreen() {
  if (screen) return stopSharing();
  let stream;
  try {
    stream = await navigator.mediaDevices.getDisplayMedia({ video: true, audio: true });
  } catch (error) {
    if (error.name === 'NotAllowedError') return; // the user has dismissed the dialog
    return say(`The screen cannot be shared. ${error.message}`);
  }
  if (phase === 'ended' || screen) return close(stream);
  screen = stream;
  stream.getVideoTracks()[0].onended = () => screen === stream && stopSharing();
  draw();
}

function stopSharing() {
  close(screen);
  screen = null;
  draw();
}

function close(stream) {
  for (const track of stream?.getTracks() ?? []) track.stop();
}

function toggleMute() {
  isMuted = !isMuted;
  draw();
}

function say(words) {
  write(phase === 'live' ? $('notice') : $('problem'), words);
}

// Display

function draw() {
  drawPicture();
  drawTools();
  drawSetup();
  drawAudience();
  $('studio').classList.toggle('on-air', phase === 'live');
  if (phase === 'ended') $('studio').hidden = true;
  $('ended').hidden = phase !== 'ended';
}

function drawPicture() {
  const sent = tracks();
  const shown = $('video').srcObject?.getTracks() ?? [];
  if (sent.length !== shown.length || sent.some((track) => !shown.includes(track))) {
    $('video').srcObject = sent.length > 0 ? new MediaStream(sent) : null;
    changed();
  } else {
    for (const track of sent) if (track.kind === 'audio') track.enabled = !isMuted;
  }
  $('video').classList.toggle('mirrored', !screen);
  drawVeil(sent);
  $('badges').hidden = phase !== 'live';
  $('again').hidden = room?.state !== 'waiting' && room?.state !== 'connecting';
  listen();
}

/** Shows a problem in place of the video. */
function drawVeil(sent) {
  const hasPicture = sent.some((track) => track.kind === 'video');
  const trouble = devices.troubles.camera ?? devices.troubles.microphone;
  const kind = devices.troubles.camera ? 'camera' : 'microphone';
  $('veil').hidden = hasPicture;
  if (hasPicture) return;
  let told = { title: 'Starting your camera…', words: 'If your browser asks, allow the camera and the microphone.', canRetry: false };
  if (trouble && !(isAsking && !devices.troubles.camera)) told = explainTrouble(kind, trouble);
  const isWaiting = !trouble;
  $('veil-mark').replaceChildren(isWaiting ? h('span', { class: 'spinner' }) : icon(kind === 'camera' ? 'camera-off' : 'mic-off'));
  write($('veil-title'), told.title);
  write($('veil-words'), told.words);
  $('retry').hidden = !told.canRetry;
}

function drawTools() {
  const voice = tracks().some((track) => track.kind === 'audio');
  label($('mute'), isMuted ? 'mic-off' : 'mic', isMuted ? 'Unmute' : 'Mute');
  $('mute').title = `${isMuted ? 'Unmute' : 'Mute'} (M)`;
  $('mute').classList.toggle('off', isMuted);
  $('mute').disabled = !voice;
  $('flip').hidden = devices.lists.camera.length < 2 || Boolean(screen) || !devices.tracks.camera;
  label($('screen'), screen ? 'screen-off' : 'screen', screen ? 'Stop sharing' : 'Share screen');
  $('screen').hidden = !navigator.mediaDevices?.getDisplayMedia; // as on phones
  $('stop').hidden = phase !== 'live';
}

function label(button, sign, words) {
  changeIcon(button, sign);
  write(button.querySelector('span'), words);
}

function drawSetup() {
  $('setup').hidden = phase !== 'setup';
  for (const kind of ['camera', 'microphone']) {
    const list = devices.lists[kind];
    const options = list.map((device) => h('option', { value: device.deviceId }, device.label));
    const select = $(kind);
    if (list.map((device) => device.deviceId).join() !== [...select.options].map((option) => option.value).join()) {
      select.replaceChildren(...options);
    }
    select.value = devices.current(kind);
    if (select.selectedIndex < 0) select.selectedIndex = 0; // not every browser says which device it is
    select.disabled = list.length === 0;
    if (list.length === 0) select.replaceChildren(h('option', { value: '' }, isAsking ? 'Asking…' : 'None'));
  }
  $('go').disabled = isJoining || tracks().length === 0;
}

function drawAudience() {
  $('audience').hidden = phase !== 'live';
  if (!room) return;
  const peers = [...room.peers.values()];
  const viewers = countViewers();
  most = Math.max(most, viewers);
  write($('count'), String(viewers));
  write($('viewers'), String(viewers));
  set($('viewers-badge'), 'aria-label', viewers === 1 ? '1 viewer' : `${viewers} viewers`);
  write($('time'), timeSince(began));
  const height = Math.max(0, ...[...measured.values()].map((found) => found.height ?? 0))
    || $('video').srcObject?.getVideoTracks()[0]?.getSettings().height;
  write($('height'), height ? `${height}p` : 'Audio only');
  $('nobody').hidden = peers.length > 0;
  // Peers that do not watch are listed last.
  const watching = (peer) => peer.relayed || peer.state !== 'none';
  peers.sort((one, other) => watching(other) - watching(one));
  $('people').replaceChildren(...peers.map(drawViewer));
}

function drawViewer(peer) {
  const grade = peer.state === 'connected' ? gradeOf(measured.get(peer.id) ?? {}) : '';
  return h('li', {}, h('span', { class: 'who' }, peer.name), h('span', { class: 'grade', 'data-grade': grade }, wordsFor(peer, grade)));
}

function wordsFor(peer, grade) {
  if (peer.relayed) return 'Through the media server';
  if (peer.state === 'connected') return GRADES[grade] ?? 'Watching';
  return peer.state === 'none' ? 'Not watching' : 'Connecting…';
}

/** Makes the meter show the level of the microphone in use. */
function listen() {
  const track = phase === 'setup' ? devices.tracks.microphone : null;
  if (track === heard) return;
  stopLevel();
  heard = track;
  $('level').style.scale = '0 1';
  stopLevel = track ? watchLevel(track, (level) => { $('level').style.scale = `${level.toFixed(2)} 1`; }) : () => {};
}

$('setup').onsubmit = (event) => {
  event.preventDefault();
  goLive();
};
for (const kind of ['camera', 'microphone']) $(kind).onchange = () => devices.choose(kind, $(kind).value);
$('retry').onclick = () => look();
$('mute').onclick = toggleMute;
$('flip').onclick = () => devices.next();
$('screen').onclick = shareScreen;
$('stop').onclick = () => room.leave();
$('copy').onclick = () => copy($('copy'), $('invite').link.value);
$('once-more').onclick = () => {
  phase = 'setup';
  $('studio').hidden = false;
  $('go').focus();
  look();
};
document.addEventListener('keydown', (event) => {
  const isTyping = event.target.matches('input, select, textarea');
  if (event.key.toLowerCase() !== 'm' || isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
  if (!$('studio').hidden && !$('mute').disabled) toggleMute();
});
document.addEventListener('visibilitychange', () => !document.hidden && phase === 'live' && keepAwake());
setInterval(measure, MEASURE_EVERY);
setInterval(() => {
  if (phase !== 'live') return;
  write($('time'), timeSince(began));
  tellViewers();
}, 1000);
begin();
