/**
 * Parts of the browser client that need no browser: the active speaker, stream names, statistics, resumption, and
 * reports of call quality.
 *
 *     node tables.mjs
 */

import assert from 'node:assert/strict';

import { Quality } from '../../trio_signal/browser/src/quality.js';
import { Resumption } from '../../trio_signal/browser/src/resumption.js';
import { SpeakerFinder } from '../../trio_signal/browser/src/speaker.js';
import { StatsReader } from '../../trio_signal/browser/src/stats.js';
import { mainOf, namesIn, wantsIn } from '../../trio_signal/browser/src/streams.js';

// The active speaker: rows of [levels, speaker], measured one after the other.

for (const rows of [
  [[{}, null]],
  [[{ a: 0, b: 0 }, null], [{ a: 0.01, b: 0.02 }, null]], // noise
  [[{ a: 0.3, b: 0 }, 'a'], [{ a: 0, b: 0 }, 'a'], [{ a: 0, b: 0 }, 'a']], // silence changes nothing
  [[{ a: 0.3, b: 0 }, 'a'], [{ a: 0.3, b: 0.4 }, 'a'], [{ a: 0.3, b: 0.3 }, 'a']], // both at once
  [[{ a: 0.3, b: 0 }, 'a'], [{ a: 0, b: 0.1 }, 'a'], [{ a: 0, b: 0.3 }, 'b']], // the next one
  [[{ a: 0.3, b: 0 }, 'a'], [{ b: 0 }, null], [{ b: 0.3 }, 'b']], // the speaker left
]) {
  const finder = new SpeakerFinder();
  for (const [levels, speaker] of rows) {
    assert.equal(finder.next(new Map(Object.entries(levels))), speaker, JSON.stringify(rows));
  }
}

// Stream names are untrusted input.

for (const [streams, names] of [
  [undefined, null],
  [null, null],
  ['camera', null],
  [{}, {}],
  [{ 0: 'camera', 2: 'screen' }, { 0: 'camera', 2: 'screen' }],
  [{ 0: '', 1: 'x'.repeat(65), 2: 7, 3: null, 4: {} }, {}],
]) {
  const found = namesIn(streams);
  assert.deepEqual(found && Object.fromEntries(found), names, JSON.stringify(streams));
}
for (const [wants, taken] of [
  [undefined, []],
  ['video', []],
  [[['screen', 'video'], ['screen', 'audio']], [['screen', 'video'], ['screen', 'audio']]],
  [[null, 7, [], ['screen'], ['screen', 'smell'], ['', 'video'], [{}, 'video']], []],
]) {
  assert.deepEqual(wantsIn(wants), taken, JSON.stringify(wants));
}
assert.equal(mainOf(new Map()), null);
assert.equal(mainOf(new Map([['screen', 1], ['camera', 2]])), 2);
assert.equal(mainOf(new Map([['screen', 1], ['slides', 2]])), 1);

// Statistics: rows of [bytes sent, time in ms, expected bitrate].

const reader = new StatsReader();
for (const [bytesSent, timestamp, bitrate] of [
  [1000, 0, null],
  [2000, 1000, 8000],
  [2000, 1000, 8000], // the browser has not measured again
  [2000, 2000, 0],
]) {
  const report = new Map([
    ['t', { id: 't', type: 'transport', selectedCandidatePairId: 'p' }],
    ['p', { id: 'p', type: 'candidate-pair', currentRoundTripTime: 0.02, remoteCandidateId: 'r' }],
    ['r', { id: 'r', type: 'remote-candidate', candidateType: 'relay' }],
    ['c', { id: 'c', type: 'codec', mimeType: 'video/VP8' }],
    ['o', { id: 'o', type: 'outbound-rtp', mid: '0', kind: 'video', codecId: 'c', bytesSent, timestamp }],
  ]);
  const { sent: [row], received, roundTripTime, relayed } = reader.read(report, (mid) => `name ${mid}`);
  assert.deepEqual([row.bitrate, row.bytes], [bitrate, bytesSent]);
  assert.deepEqual([row.name, row.codec, row.lost, row.rid], ['name 0', 'VP8', null, null]);
  assert.deepEqual([received, roundTripTime, relayed], [[], 20, true]);
}

// The codec of a received track, in a browser that reports the codec of the last packet.

const receiver = new StatsReader();
for (const [mimeType, codec] of [
  ['video/ulpfec', null], ['video/VP8', 'VP8'], ['video/rtx', 'VP8'], ['video/flexfec-03', 'VP8'], ['video/H264', 'H264'],
]) {
  const { received: [row] } = receiver.read(new Map([
    ['c', { id: 'c', type: 'codec', mimeType }],
    ['i', { id: 'i', type: 'inbound-rtp', mid: '0', kind: 'video', codecId: 'c', bytesReceived: 1, timestamp: 0 }],
  ]), String);
  assert.equal(row.codec, codec, mimeType);
}

// Repeated messages: what we sent, how many were confirmed before, how many the server reports, and what it lacks.

for (const [said, confirmed, received, lacking] of [
  [[], 0, 0, []],
  [['a', 'b'], 0, 0, ['a', 'b']],
  [['a', 'b'], 0, 1, ['b']],
  [['a', 'b', 'c'], 1, 1, ['b', 'c']],
  [['a', 'b', 'c'], 1, 3, []],
  [['a', 'b'], 1, 0, ['b']], // a number lower than before is ignored
  [['a', 'b'], 0, 3, ['a', 'b']], // and one higher than what we sent
  [['a', 'b'], 0, undefined, ['a', 'b']], // and a missing one
  [Array(2048).fill('x'), 0, 2046, ['x', 'x']],
  [Array(2049).fill('x'), 0, 0, []], // too many messages: the session cannot be resumed
  [['x'.repeat(2 ** 20), 'x'], 0, 0, []],
]) {
  const resumption = new Resumption('s');
  for (const text of said) resumption.keep(text);
  resumption.confirm(confirmed);
  const again = `${said.length}, ${confirmed}, ${received}`;
  for (let i = 0; i < 2; i++) assert.deepEqual(resumption.lacking(received), lacking, again);
  assert.equal(resumption.overflowed, said.length > 2048 || said.join('').length > 2 ** 20, again);
}

// When to ask for a confirmation: types of messages, their size, and how many of each until it is due.

for (const [types, size, due] of [
  [['message'], 1, 64],
  [['message', 'ping'], 1, 64],
  [['user_joined'], 8192, 4],
  [['pong', 'auth_success', 'token_expiring', 'resumed', 'not_resumed'], 99_999, Infinity],
]) {
  const resumption = new Resumption('s');
  resumption.came('users_in_room', 1);
  assert.equal(resumption.isDue, true); // the first message lists the members
  assert.equal(resumption.ask(), 1);
  let counted = 0;
  for (let i = 0; i < 200 && !resumption.isDue; i++) {
    for (const type of types) resumption.came(type, size);
    counted += 1;
  }
  assert.equal(resumption.isDue ? counted : Infinity, due, types.join());
  assert.equal(resumption.ask(), 1 + (due === Infinity ? 0 : due));
  assert.equal(resumption.isDue, false);
}

// Call quality: rows of [state, bytes received, relayed], and what is reported about them.

{
  const call = ([state, bytes, relayed]) => ({
    state,
    glance: async () => ({ relayed, roundTripTime: 20, received: [{ bytes }], sent: [] }),
  });
  const none = { checked: 0, silent: 0, connected: 0, relayed: 0, failed: 0 };
  for (const [rows, counts, trips] of [
    [[['connected', 9, false]], { checked: 1, connected: 1 }, 1],
    [[['connected', 9, true], ['connected', 0, false]], { checked: 2, silent: 1, connected: 2, relayed: 1 }, 2],
    [[['connecting', 0, false]], { checked: 1, silent: 1 }, 0],
  ]) {
    const links = rows.map(call);
    const reports = [];
    let isOnline = false;
    const send = (report) => isOnline && Boolean(reports.push(report));
    const quality = new Quality({ links: () => links, expects: () => 'received', send });
    await quality.check({ state: 'closed' }); // a closed link does not count
    for (const link of links) await quality.check(link);
    await quality.report(); // it cannot be sent, so it is reported later
    isOnline = true;
    await quality.report();
    assert.deepEqual(reports, [{ type: 'quality', ...none, ...counts, round_trips: Array(trips).fill(20) }]);
    links.length = 0;
    await quality.report(); // nothing new
    assert.equal(reports.length, 1);
  }
}
