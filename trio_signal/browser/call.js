/** A call of up to six: everybody sends to everybody. */

import {
  $, close, connectionWords, drawTile, enter, explain, invite, notify, openCamera, openScreen,
  removeTile, tileOf,
} from './page.js';

const MOST = 6;

let room = null;
let camera = null;
let screen = null;
/** What the others say of themselves: peer's id -> `{ muted, dark }`. */
const told = new Map();
const mine = { muted: false, dark: false };

async function joined(newRoom) {
  room = newRoom;
  if (room.peers.size >= MOST) {
    room.leave();
    notify(`This call is full: it has ${MOST} people already.`);
    return;
  }
  invite('/demo/call', room);
  room.on('state', (state) => {
    if (state === 'joined') room.send({ ...mine, asks: true }); // who knows what was lost meanwhile
  });
  room.on('peer', (peer) => {
    room.send(mine, { to: peer.id });
    draw(peer);
  });
  room.on('left', (peer) => {
    told.delete(peer.id);
    removeTile($('stage'), peer.id);
    count();
  });
  room.on('message', (data, peer) => {
    if (data?.asks) room.send(mine, { to: peer.id });
    told.set(peer.id, data);
    draw(peer);
  });
  room.on('stream', (stream, peer) => draw(peer));
  room.on('stopped', draw);
  room.on('connection', draw);
  drawMe();
  for (const peer of room.peers.values()) draw(peer);
  await openMine(room);
}

async function openMine(asked) {
  const stream = await openCamera().catch(explain);
  if (!stream) return;
  if (room !== asked) return close(stream);
  camera = stream;
  obey();
  send();
}

/** The picture is the screen's, if it is shared; the voice is always the microphone's. */
function send() {
  const picture = (screen ?? camera)?.getVideoTracks() ?? [];
  const voice = camera?.getAudioTracks() ?? [];
  const stream = new MediaStream([...picture, ...voice]);
  if (stream.getTracks().length > 0) room.publish(stream);
  else room.unpublish();
  drawMe();
}

async function shareScreen() {
  if (screen) return stopSharing();
  const asked = room;
  const stream = await openScreen().catch(explain);
  if (!stream) return;
  if (room !== asked) return close(stream);
  close(screen); // the button was pressed twice
  screen = stream;
  screen.getVideoTracks()[0].onended = () => screen === stream && stopSharing();
  send();
}

function stopSharing() {
  close(screen);
  screen = null;
  send();
}

function toggle(what) {
  mine[what] = !mine[what];
  obey();
  room.send(mine);
  drawMe();
}

/** The buttons count also while the browser still asks for the camera. */
function obey() {
  for (const track of camera?.getAudioTracks() ?? []) track.enabled = !mine.muted;
  for (const track of camera?.getVideoTracks() ?? []) track.enabled = !mine.dark;
}

function closed() {
  close(camera);
  close(screen);
  camera = screen = room = null;
  told.clear();
  mine.muted = mine.dark = false;
  for (const tile of document.querySelectorAll('.tile')) tile.remove();
}

function drawMe() {
  $('mute').setAttribute('aria-pressed', String(mine.muted));
  $('dark').setAttribute('aria-pressed', String(mine.dark));
  $('screen').setAttribute('aria-pressed', String(Boolean(screen)));
  drawTile(tileOf($('stage'), 'me'), {
    name: 'You',
    detail: details(mine),
    wait: room.published ? '' : 'Your picture appears here.',
    stream: room.published,
    mine: true,
    mirrored: !screen,
  });
  count();
}

function draw(peer) {
  const playing = peer.stream && peer.state === 'connected';
  drawTile(tileOf($('stage'), peer.id), {
    name: peer.name,
    detail: [connectionWords(peer), details(told.get(peer.id))].filter(Boolean).join(' · '),
    wait: playing ? '' : peer.stream ? connectionWords(peer) : 'No picture yet',
    stream: peer.stream,
  });
  count();
}

function details(state) {
  return [state?.muted && 'muted', state?.dark && 'camera off'].filter(Boolean).join(' · ');
}

function count() {
  $('count').textContent = `${room.peers.size + 1} of ${MOST}`;
}

enter({}, joined, closed);
$('mute').onclick = () => toggle('muted');
$('dark').onclick = () => toggle('dark');
$('screen').onclick = shareScreen;
