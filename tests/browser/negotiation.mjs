/**
 * Checks the table by which two peers negotiate.
 *
 *     node negotiation.mjs
 */

import assert from 'node:assert/strict';

import { inputOf, NEGOTIATION } from '../../trio_signal/browser/src/negotiation.js';

const STATES = Object.keys(NEGOTIATION);
const LOCAL = ['change', 'need', 'made', 'failed', 'applied', 'refused', 'taken', 'answered'];
const REMOTE = ['request', 'answer', 'answerLost', 'offer', 'yield'];

// The table is complete: it names only known states and inputs, and each state leads back to `idle`.

for (const [state, row] of Object.entries(NEGOTIATION)) {
  for (const [input, [next]] of Object.entries(row)) {
    assert(LOCAL.includes(input) || REMOTE.includes(input), `${state}: ${input}`);
    assert(STATES.includes(next), `${state}: ${next}`);
  }
}

function reachable(from) {
  const found = new Set([from]);
  for (const state of found) for (const [next] of Object.values(NEGOTIATION[state])) found.add(next);
  return found;
}

assert.deepEqual([...reachable('idle')].sort(), [...STATES].sort());
for (const state of STATES) assert(reachable(state).has('idle'), `${state} never ends`);

// When offers cross, the impolite side's offer counts, and the polite side drops its own.

for (const state of ['making', 'offering']) {
  assert.equal(NEGOTIATION[state].offer, undefined);
  assert.equal(NEGOTIATION[state].yield[0], 'taking');
}

// The input as which an offer counts: [offer, link, input]

for (const [offer, link, input] of [
  [{ session: 'a' }, { polite: false, isFirst: true }, 'offer'],
  [{ session: 'a', re: 'b' }, { polite: false, isFirst: true }, 'offer'],
  [{ session: 'a' }, { polite: true, isFirst: true }, 'yield'],
  [{ session: 'a', re: 'b' }, { polite: true, isFirst: false }, 'yield'],
  [{ session: 'a', re: 'b' }, { polite: true, isFirst: true }, 'answerLost'],
  [{}, { polite: false, isFirst: false }, 'yield'],
  [{}, { polite: true, isFirst: true }, 'yield'],
]) {
  assert.equal(inputOf(offer, link), input, JSON.stringify([offer, link]));
}

// Two sides whose signals may be lost never get stuck: from every reachable world, both can still become
// idle with all changes negotiated. A world is [polite side, impolite side, signals to each].

const CHANGES = 2; // of each side; for the polite one, one of them is a stream without a transceiver
const MOST = 2; // signals on their way to one side

const newSide = (polite) => ({
  polite, state: 'idle', changes: polite ? CHANGES - 1 : CHANGES, unsaid: false, need: false, isFirst: true,
  isPaired: false, offers: 0, taken: 0,
  // The polite side's stream is to come, wanted, or had. On the impolite side, `slot` means that its
  // transceiver exists, and `offered` that it was in the last offer.
  ...(polite ? { stream: 'to come' } : { slot: false, offered: false }),
});

/** The signal that a side repeats until it is answered, if any. */
function unanswered({ state, offers, isPaired, stream, offered }) {
  if (state === 'asking') return { type: 'request', wants: stream === 'wanted' };
  return state === 'offering' ? { type: 'offer', n: offers, knows: isPaired, slot: offered } : null;
}

/** Applies an input to a side by the table; returns the signals that it sends. */
function go(side, input, signal) {
  const entry = NEGOTIATION[side.state][input];
  if (!entry) return [];
  const [next, action] = entry;
  side.state = next;
  if (action === 'offer') Object.assign(side, { unsaid: false, ...(side.polite ? {} : { offered: side.slot }) });
  if (action === 'take' && signal.slot) side.stream = 'had';
  if (action === 'take') Object.assign(side, { taken: signal.n, need: false, isPaired: true, isFirst: false });
  if (action === 'answer') side.unsaid = false;
  if (action === 'apply') Object.assign(side, { isPaired: true, isFirst: false });
  if (action === 'settle' && side.stream === 'wanted') side.need = true;
  if (action === 'settle' && side.need) return go(side, 'need');
  if (action === 'ask' || action === 'sendOffer') return [unanswered(side)];
  return [];
}

function* steps(world) {
  for (const me of [0, 1]) {
    const fork = () => structuredClone(world);
    const act = (change) => {
      const next = fork();
      const sent = change(next.sides[me], next) ?? [];
      const room = MOST - next.signals[1 - me].length;
      next.signals[1 - me].push(...sent.slice(0, Math.max(0, room))); // else they are lost
      return next;
    };
    const side = world.sides[me];
    if (side.changes > 0) {
      yield act((mine) => { Object.assign(mine, { changes: mine.changes - 1, unsaid: true }); });
    }
    if (side.stream === 'to come' && side.isPaired) {
      yield act((mine) => {
        Object.assign(mine, { stream: 'wanted', need: true });
        return go(mine, 'need');
      });
    }
    if (side.polite && side.isPaired && side.changes > 0) { // ICE has to be restarted
      yield act((mine) => {
        Object.assign(mine, { changes: mine.changes - 1, need: true });
        return go(mine, 'need');
      });
    }
    if (side.unsaid && ['idle', 'asking'].includes(side.state) && !side.need) {
      yield act((mine) => {
        mine.need = mine.polite && mine.isPaired;
        return go(mine, mine.need ? 'need' : 'change');
      });
    }
    if (side.state === 'making') yield act((mine) => { mine.offers += 1; return go(mine, 'made'); });
    if (['applying', 'owing'].includes(side.state)) yield act((mine) => go(mine, 'applied'));
    if (side.state === 'taking') yield act((mine) => go(mine, 'taken'));
    if (side.state === 'answering') {
      yield act((mine) => { const sent = { type: 'answer', n: mine.taken }; return [sent, ...go(mine, 'answered')]; });
    }
    if (unanswered(side)) yield act((mine) => [unanswered(mine)]);
    if (world.signals[me].length > 0) {
      yield act((_, next) => { next.signals[me].shift(); }); // lost
      yield act((mine, next) => {
        const signal = next.signals[me].shift();
        if (signal.type === 'request') {
          if (signal.wants && !mine.slot) Object.assign(mine, { slot: true, unsaid: true });
          return go(mine, 'request');
        }
        if (signal.type === 'answer') return signal.n === mine.offers ? go(mine, 'answer') : [];
        if (signal.n === mine.taken) return mine.state === 'taking' ? [] : [{ type: 'answer', n: mine.taken }];
        const offer = { session: 'x', re: signal.knows ? 'y' : undefined };
        return go(mine, inputOf(offer, { polite: mine.polite, isFirst: mine.isFirst && mine.offers > 0 }), signal);
      });
    }
  }
}

const start = { sides: [newSide(true), newSide(false)], signals: [[], []] };
const worlds = new Map([[JSON.stringify(start), start]]);
const before = new Map(); // a world's key -> keys of the worlds that lead to it
for (const [key, world] of worlds) {
  for (const next of steps(world)) {
    const name = JSON.stringify(next);
    if (!worlds.has(name)) worlds.set(name, next);
    if (!before.has(name)) before.set(name, []);
    before.get(name).push(key);
  }
}

const isAtRest = ({ sides, signals }) => signals.every((to) => to.length === 0)
  && sides.every(({ state, unsaid, changes, need }) => state === 'idle' && !unsaid && !need && changes === 0)
  && sides[0].stream === 'had';
const safe = new Set([...worlds].filter(([, world]) => isAtRest(world)).map(([key]) => key));
assert(safe.size > 0);
for (const key of safe) for (const earlier of before.get(key) ?? []) safe.add(earlier);
const stuck = [...worlds.keys()].find((key) => !safe.has(key));
assert.equal(stuck, undefined, `${worlds.size} worlds; stuck: ${stuck}`);
