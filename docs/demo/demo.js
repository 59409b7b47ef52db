// Ada broadcasts a drawn picture, and the others watch it: real clients and real WebRTC, in one page.

const NAMES = ['Ada', 'Bob', 'Cem', 'Dina'];
const MOST_LINES = 200;
const $ = (id) => document.getElementById(id);
const clients = []; // { name, room, tile }

function log(from, to, { type, to: target }) {
  if (['ping', 'pong', 'ice_candidate'].includes(type)) return; // there are many of them
  const line = document.createElement('li');
  const name = target && clients.find(({ room }) => room?.me.id === target)?.name;
  line.textContent = `${from} → ${to}: ${type}${name ? ` for ${name}` : ''}`;
  $('log').append(line);
  while ($('log').children.length > MOST_LINES) $('log').firstChild.remove();
  $('log').scrollTop = $('log').scrollHeight;
}

const PageSocket = socketsOf(new DemoServer(log));
globalThis.WebSocket = PageSocket;

/** A clock, so that everybody sees that the video is live. */
function drawPicture() {
  const canvas = Object.assign(document.createElement('canvas'), { width: 320, height: 180 });
  const pen = canvas.getContext('2d');
  setInterval(() => {
    const now = performance.now() / 1000;
    pen.fillStyle = `hsl(${now * 20 % 360} 45% 40%)`;
    pen.fillRect(0, 0, 320, 180);
    pen.fillStyle = 'white';
    pen.font = '600 34px system-ui';
    pen.textAlign = 'center';
    pen.fillText(new Date().toLocaleTimeString(), 160, 92);
    pen.beginPath();
    pen.arc(160 + 110 * Math.sin(now * 2), 140, 12, 0, 7);
    pen.fill();
  }, 50);
  return canvas.captureStream(20);
}

function addTile(name, text) {
  const tile = document.createElement('figure');
  const video = Object.assign(document.createElement('video'), { autoplay: true, muted: true, playsInline: true });
  video.setAttribute('aria-label', name === NAMES[0] ? `${name} broadcasts` : `${name} watches`);
  const state = Object.assign(document.createElement('span'), { className: 'state' });
  const caption = document.createElement('figcaption');
  caption.append(text, state);
  tile.append(video, caption);
  $('tiles').append(tile);
  return { video, state };
}

async function add() {
  const name = NAMES[clients.length];
  const client = { name, room: null, tile: addTile(name, clients.length ? `${name} watches ` : `${name} broadcasts `) };
  clients.push(client);
  $('add').disabled = clients.length === NAMES.length;
  const room = client.room = await join('https://demo.invalid', { room: 'demo', username: name });
  const show = () => { client.tile.state.textContent = room.state === 'joined' ? '' : room.state; };
  room.on('state', show);
  room.on('stream', (stream) => { client.tile.video.srcObject = stream; });
  room.on('stopped', () => { client.tile.video.srcObject = null; });
  if (name !== NAMES[0]) return;
  const picture = drawPicture();
  client.tile.video.srcObject = picture;
  room.publish(picture);
}

$('add').onclick = add;
$('break').onclick = () => {
  for (const socket of PageSocket.all) if (socket.name === NAMES[0]) socket.break();
};
$('start').onclick = async () => {
  $('start').hidden = true;
  $('running').hidden = false;
  await add();
  await add();
};
