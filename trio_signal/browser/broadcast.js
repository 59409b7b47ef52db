/** Go live: one broadcaster, and everybody who comes watches. */

import {
  $, close, connectionWords, drawPeople, drawTile, enter, explain, invite, nextCamera, notify,
  openCamera, openScreen, tileOf,
} from './page.js';

let room = null;
/** What we send: a stream, and whether it is a `camera` or a `screen`. */
let shown = { stream: null, source: '' };

function joined(newRoom) {
  room = newRoom;
  invite('/demo/watch', room);
  for (const event of ['peer', 'left', 'connection']) room.on(event, draw);
  draw();
}

async function show(source, open) {
  notify('');
  const asked = room;
  const wasLive = Boolean(shown.stream);
  const stream = await open().catch(explain);
  if (!stream) return;
  const hasStopped = wasLive && !shown.stream; // while the browser asked
  if (!asked || room !== asked || hasStopped) return close(stream);
  const before = shown.stream;
  shown = { stream, source };
  mute(isMuted());
  room.publish(stream);
  close(before);
  // The browser's own button, or a cable that was pulled.
  stream.getVideoTracks()[0].onended = () => shown.stream === stream && stop();
  draw();
  $('stop').focus();
}

async function switchCamera() {
  const [track] = shown.stream.getVideoTracks();
  const deviceId = await nextCamera(track.getSettings().deviceId);
  if (deviceId) await show('camera', () => openCamera({ exact: deviceId }));
  else notify('There is no other camera.');
}

function mute(muted) {
  for (const track of shown.stream?.getAudioTracks() ?? []) track.enabled = !muted;
  $('mute').setAttribute('aria-pressed', String(muted));
}

function isMuted() {
  return $('mute').getAttribute('aria-pressed') === 'true';
}

function stop() {
  room.unpublish();
  release();
  draw();
  $('camera').focus();
}

function release() {
  close(shown.stream);
  shown = { stream: null, source: '' };
  mute(false);
}

function closed() {
  room = null;
  release();
}

function draw() {
  const { stream, source } = shown;
  const peers = [...room.peers.values()];
  const watching = stream ? peers.filter((peer) => peer.state === 'connected').length : 0;
  const viewers = watching === 1 ? '1 viewer' : `${watching} viewers`;
  $('go').hidden = Boolean(stream);
  $('on-air').hidden = !stream;
  $('switch').hidden = source !== 'camera';
  $('count').textContent = stream ? viewers : '';
  drawTile(tileOf($('stage'), 'me'), {
    name: stream ? 'You are live' : 'You are not live',
    detail: stream ? `${source} · ${viewers}` : '',
    wait: stream ? '' : 'Your picture appears here.',
    stream,
    mine: true,
    mirrored: source === 'camera',
  });
  drawPeople(peers.map((peer) => [peer.name, stream ? connectionWords(peer) : 'Waiting for you']));
  $('nobody').hidden = peers.length > 0;
}

enter({}, joined, closed);
$('camera').onclick = () => show('camera', openCamera);
$('screen').onclick = () => show('screen', openScreen);
$('switch').onclick = switchCamera;
$('mute').onclick = () => mute(!isMuted());
$('stop').onclick = stop;
