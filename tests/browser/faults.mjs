/**
 * Four pages meet while faults occur. At the end every page must see all publishers, and when the
 * pages have left, no connection may remain open.
 *
 *     node faults.mjs trio-signal.js 50            # seeds 1 to 50 of each fault
 *     node faults.mjs trio-signal.js 1 17 replicas # seed 17 of the faults with this word in their names
 */

import { pathToFileURL } from 'node:url';

import { after, begin, connections, cut, drop, entries, network, random, runUntil, trouble } from './simulated.mjs';

const [client, count, first = '1', wanted = ''] = process.argv.slice(2);
const { join } = await import(pathToFileURL(client));

const END = 200_000; // ms
const PAGES = ['a', 'b', 'c', 'd'];

const anyone = () => PAGES[Math.floor(random() * PAGES.length)];
const isApart = (x, y) => PAGES.indexOf(x) % 2 !== PAGES.indexOf(y) % 2; // on two replicas

/** From time `from` on, for `length` ms, signals are lost for which `loses` is true. */
function lose(from, length, loses) {
  after(from, () => { network.loses = loses; });
  after(from + length, () => { network.loses = () => false; });
}

const FAULTS = {
  'nothing goes wrong': () => {},
  'a page is cut off, and the server notices': () => {
    after(5000 + random() * 20_000, () => cut('d', { length: 20_000, noticed: 6000 }));
  },
  'a page is cut off, and resumes its session': () => {
    network.heartbeat = 8;
    after(5000 + random() * 6000, () => cut('d', { length: 20_000, noticed: Infinity }));
  },
  'the server drops the connections of slow browsers': () => {
    after(5000, () => Object.assign(network, { latency: 3000, slowness: 2500 }));
    for (let i = 0; i < 20; i++) after(10_000 + random() * 50_000, () => drop(anyone()));
    after(70_000, () => Object.assign(network, { latency: 40, slowness: 10 }));
  },
  'two replicas lose each other': () => {
    lose(random() * 5000, 20_000, ({ to }, from) => isApart(to, from));
  },
  'candidates are lost': () => {
    lose(0, 10_000, ({ type }) => type === 'ice_candidate');
  },
  '30 % of the signals are lost': () => {
    lose(0, 20_000, () => random() < 0.3);
  },
  'a listener leaves the room': (rooms) => {
    const event = ['peer', 'left', 'live', 'stopped', 'stream', 'connection'][Math.floor(random() * 6)];
    after(4000, () => rooms.get('d').on(event, () => rooms.get('d').leave()));
    for (let i = 0; i < 5; i++) after(5000 + random() * 20_000, () => drop(anyone()));
  },
};

/** Shows and hides a screen several times. At the end it is shown. */
function toggle(room) {
  const show = () => room.publish(new MediaStream([{ kind: 'video' }]), { name: 'screen' });
  for (let i = 0; i < 3; i++) {
    after(random() * 30_000, show);
    after(random() * 30_000, () => room.unpublish('screen'));
  }
  after(30_000, show);
}

/**
 * Sends numbers, and checks those of the others. None may arrive twice or out of order. None may be lost if
 * sender and receiver are still the same peers as at the beginning.
 */
function converse(room, id, heard) {
  let next = 0;
  for (let ms = 500; ms < 90_000; ms += 500) after(ms, () => room.send(next) && next++);
  room.on('message', (number, { id: from }) => {
    const last = heard.get(`${from} ${id}`) ?? -1;
    heard.set(`${from} ${id}`, number);
    const isLost = number > last + 1 && last !== -1 && [from, id].every((one) => entries.get(one) === 1);
    if (number <= last || isLost) trouble.push(`${id} received ${number} from ${from} after ${last}`);
  });
}

/** All pages publish; with an odd seed, only one of them does. Half of the servers let pages resume. */
async function meet(seed, fault) {
  begin(seed, { heartbeat: 3, grace: seed % 4 < 2 ? 15_000 : 0 });
  const publishers = seed % 2 ? [anyone()] : PAGES;
  const rooms = new Map();
  const heard = new Map(); // `${from} ${to}` -> the last number
  for (const id of PAGES) {
    after(random() * 3000, async () => {
      const room = await join(`http://server/${id}`, { room: 'r', username: id, clientId: id });
      rooms.set(id, room);
      converse(room, id, heard);
      room.on('error', (error) => trouble.push(error.stack));
      if (publishers.includes(id)) {
        after(random() * 15_000, () => room.publish(new MediaStream([{ kind: 'video' }])));
        toggle(room);
      }
    });
  }
  fault(rooms);
  await runUntil(END);
  const stuck = [...unseen(rooms, publishers)];
  for (const room of rooms.values()) room.leave();
  const open = [...connections.values()].filter((one) => one.connectionState !== 'closed').length;
  return [...stuck, ...trouble, ...(open ? [`${open} connections are left open`] : [])];
}

function* unseen(rooms, publishers) {
  const isHere = (id) => rooms.get(id)?.state !== 'closed';
  for (const from of PAGES.filter(isHere)) {
    for (const to of publishers.filter((id) => id !== from && isHere(id))) {
      const peer = rooms.get(from)?.peers.get(to);
      const seesBoth = ['camera', 'screen'].every((name) => peer?.streams.get(name)?.getTracks().length);
      if (!seesBoth || peer.state !== 'connected' || peer.away) yield `${from} does not see ${to}: ${peer?.state}`;
    }
  }
}

let failures = 0;
for (const [name, fault] of Object.entries(FAULTS)) {
  if (!name.includes(wanted)) continue;
  for (let seed = Number(first); seed < Number(first) + Number(count); seed++) {
    const found = await meet(seed, fault);
    if (found.length > 0) console.log(`${name}, seed ${seed}: ${found.join('; ')}`);
    failures += found.length > 0;
  }
}
process.exit(failures > 0 ? 1 : 0);
