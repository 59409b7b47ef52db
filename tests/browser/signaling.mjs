/**
 * The client's WebSockets without a browser: which ones it closes when, and with which code.
 *
 *     node signaling.mjs
 */

import assert from 'node:assert/strict';

let steps = []; // [id, ms, step] of timers
let lastId = 0;
const sockets = [];

class Socket {
  static OPEN = 1;
  readyState = 0;
  sent = [];
  code = null; // with which the client closed it

  constructor() {
    sockets.push(this);
  }

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  close(code) {
    this.readyState = 3;
    this.code ??= code;
  }

  /** The server says something. */
  async hear(...messages) {
    this.readyState = Socket.OPEN;
    for (const message of messages) this.onmessage?.({ data: JSON.stringify(message) });
    await new Promise((resolve) => { setImmediate(resolve); });
  }

  /** The server closes the connection. */
  end(code, reason = '') {
    this.readyState = 3;
    this.onclose?.({ code, reason });
  }
}

Object.assign(globalThis, {
  setTimeout: (step, ms) => {
    steps.push([++lastId, ms, step]);
    return lastId;
  },
  clearTimeout: (id) => { steps = steps.filter(([one]) => one !== id); },
  WebSocket: Socket,
  addEventListener() {},
  removeEventListener() {},
});

/** All timers expire. */
function wait() {
  const due = steps;
  steps = [];
  for (const [, , step] of due) step();
}

const { Signaling } = await import('../../trio_signal/browser/src/signaling.js');

/** A client that has joined with a session, over its first socket. */
async function enter() {
  sockets.length = steps.length = 0;
  const states = [];
  const signaling = new Signaling('ws://server/', {
    hello: async () => ({ token: 't' }),
    onMessage: () => {},
    onState: (...state) => states.push(state),
  });
  signaling.open();
  await sockets[0].hear({ type: 'auth_required' }, { type: 'auth_success', heartbeat: 5, session: { id: 's' } });
  return { signaling, states };
}

/** The server stays silent for a heartbeat, so that the client opens another socket. */
function fallSilent() {
  wait();
  wait(); // the pause before the next attempt
}

const codes = () => sockets.map(({ code }) => code);

// The socket of a handshake that was cut may have the session by now, so it must not say goodbye before the
// next one has it.
{
  await enter();
  fallSilent();
  assert.equal(sockets.length, 2);
  await sockets[1].hear({ type: 'auth_required' });
  assert.equal(sockets[1].sent[0].session, 's');
  wait(); // no answer
  wait();
  assert.deepEqual(codes(), [null, null, null]);
  await sockets[2].hear({ type: 'auth_required' });
  assert.deepEqual(codes(), [null, null, null]);
  await sockets[2].hear({ type: 'resumed', received: 0 });
  assert.deepEqual(codes(), [4000, 4000, null]);
}

// A server that never answers does not get more and more sockets.
{
  await enter();
  fallSilent();
  for (let attempt = 1; attempt <= 6; attempt++) {
    await sockets.at(-1).hear({ type: 'auth_required' });
    wait(); // no answer
    wait();
  }
  assert.deepEqual(codes(), [4000, 4000, 4000, null, null, null, null, null]);
}

// A socket that is not open yet is closed: a browser connects only one at a time to one server.
{
  await enter();
  fallSilent();
  wait();
  wait();
  assert.deepEqual(codes(), [null, 4000, null]);
}

// So is a socket on which nobody has authenticated.
{
  await enter();
  fallSilent();
  sockets[1].readyState = Socket.OPEN;
  wait();
  wait();
  assert.deepEqual(codes(), [null, 4000, null]);
}

// If the server refuses the client for good, no socket stays open.
{
  const { states } = await enter();
  fallSilent();
  await sockets[1].hear({ type: 'auth_required' });
  sockets[1].end(1008, 'Invalid token');
  assert.equal(states.at(-1)[0], 'closed');
  assert.equal(sockets[0].code, 1000);
}

// And none when the application leaves.
{
  const { signaling } = await enter();
  fallSilent();
  await sockets[1].hear({ type: 'auth_required' });
  wait();
  wait();
  signaling.close();
  assert.deepEqual(codes(), [1000, 1000, 1000]);
}
