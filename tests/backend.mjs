// A site's backend in Node. Arguments: the server's URL, the secret, and a webhook that the server signed, as JSON.

import assert from 'node:assert/strict';
import { ServerApi, ServerApiError, SignatureError, verifyWebhook } from 'trio-signal/server';

const [url, secret, webhook] = process.argv.slice(2);
const api = new ServerApi(`${url}/`, secret);

const rooms = [];
for await (const room of api.rooms('a/')) rooms.push([room.id, room.peers]);
assert.deepEqual(rooms, [['a/b', 1]]);
assert.deepEqual((await api.replicas()).map(({ status }) => status), ['ready']);
assert.equal(await api.send('a/b', { from: 'node' }), 1);
assert.equal(await api.send('a/b', 'plain', 'ann'), 1);
await api.lock('a/b');
const room = await api.room('a/b');
assert.deepEqual([room.locked, room.peers.map((peer) => peer.user_id)], [true, ['ann']]);
await api.lock('a/b', false);
await assert.rejects(api.remove('a/b', 'nobody', { banSeconds: 1 }), (error) =>
  error instanceof ServerApiError && error.status === 404 && error.code === 'not_found');
await api.remove('a/b', 'ann', { reason: 'Bye' });
assert.equal(await api.closeRoom('a/b'), 0);
await assert.rejects(new ServerApi(url, 'wrong').room('a/b'), { status: 401 });
assert.match(await api.token('ann', { ttl: 60 }), /^ey/);

const { headers, body } = JSON.parse(webhook);
const lower = Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value]));
assert.equal(verifyWebhook(lower, Buffer.from(body), secret).room, 'é');
assert.equal(verifyWebhook(new Headers(headers), body, secret).seq, 1);
for (const bad of [{}, { ...lower, 'webhook-timestamp': '1' }, { ...lower, 'webhook-signature': 'v1,AAAA' }]) {
  assert.throws(() => verifyWebhook(bad, body, secret), SignatureError);
}
assert.throws(() => verifyWebhook(lower, `${body} `, secret), SignatureError);
assert.throws(() => verifyWebhook(lower, body, 'other'), SignatureError);
console.log('done');
