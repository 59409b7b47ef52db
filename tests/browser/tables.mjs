/**
 * What the browser client decides without a browser: who speaks, what names mean, what stats say.
 *
 *     node tables.mjs
 */

import assert from 'node:assert/strict';

import { SpeakerFinder } from '../../trio_signal/browser/src/speaker.js';
import { StatsReader } from '../../trio_signal/browser/src/stats.js';
import { mainOf, namesIn, wantsIn } from '../../trio_signal/browser/src/streams.js';

// Who speaks: rows of [levels, speaker], measured one after the other.

for (const rows of [
  [[{}, null]],
  [[{ a: 0, b: 0 }, null], [{ a: 0.01, b: 0.02 }, null]], // noise
  [[{ a: 0.3, b: 0 }, 'a'], [{ a: 0, b: 0 }, 'a'], [{ a: 0, b: 0 }, 'a']], // silence changes nothing
  [[{ a: 0.3, b: 0 }, 'a'], [{ a: 0.3, b: 0.4 }, 'a'], [{ a: 0.3, b: 0.3 }, 'a']], // both at once
  [[{ a: 0.3, b: 0 }, 'a'], [{ a: 0, b: 0.1 }, 'a'], [{ a: 0, b: 0.3 }, 'b']], // the next one
  [[{ a: 0.3, b: 0 }, 'a'], [{ b: 0 }, null], [{ b: 0.3 }, 'b']], // who left
]) {
  const finder = new SpeakerFinder();
  for (const [levels, speaker] of rows) {
    assert.equal(finder.next(new Map(Object.entries(levels))), speaker, JSON.stringify(rows));
  }
}

// Names come from strangers.

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

// Stats: reports of which each is [bytes sent, at ms], and the bitrate that follows.

const reader = new StatsReader();
for (const [bytesSent, timestamp, bitrate] of [
  [1000, 0, null],
  [2000, 1000, 8000],
  [2000, 1000, 8000], // the browser measures only so often
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
