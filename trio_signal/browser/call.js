/** A call: the element `<trio-call>`, as large as the window. */

import '/client/trio-call.js';

import { h } from '/client/dom.js';

const room = new URLSearchParams(location.search).get('room')?.trim() || null;
const call = h('trio-call', { room }, h('a', { slot: 'after', href: '/' }, 'Front page'));

call.addEventListener('trio-state', ({ detail: { state } }) => {
  document.body.classList.toggle('in-call', ['joined', 'reconnecting'].includes(state));
  if (!call.joined) return;
  const { name } = call.joined;
  document.title = `${name} · Call · trio-signal`;
  history.replaceState(null, '', `${location.pathname}?room=${encodeURIComponent(name)}`);
});
document.getElementById('call').append(call);
