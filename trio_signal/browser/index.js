/** The home page: proposes a room, and invites a phone if the server can be reached from it. */

import { qrImage } from '/client/qr.js';
import { $, drawIcons } from './page.js';

const FIRST = 'amber brave calm clever fair gentle golden happy jolly kind lucky merry quiet silver sunny swift'.split(' ');
const SECOND = 'badger falcon garden harbour heron island lynx maple meadow otter panda river robin tulip walnut willow'.split(' ');

function pick(words) {
  return words[crypto.getRandomValues(new Uint32Array(1))[0] % words.length];
}

/** Words for room names: easy to say on the phone, and unlikely to be in use. */
function propose() {
  return `${pick(FIRST)}-${pick(SECOND)}-${100 + crypto.getRandomValues(new Uint32Array(1))[0] % 900}`;
}

/** The link has the machine's address in its network, even if this page was opened at another address. */
function invite() {
  if (!$('phone')) return;
  const link = new URL(`https://${$('phone').dataset.host.replace(/^(.*:.*)$/, '[$1]')}:${location.port || 443}/demo/call`);
  link.searchParams.set('room', $('room').value.trim());
  const code = qrImage(link.href, `QR code of ${link.href}`);
  $('code').replaceChildren(...(code ? [code] : []));
  $('phone-link').textContent = $('phone-link').href = link.href;
}

drawIcons();
for (const element of document.querySelectorAll('[data-origin]')) element.textContent = location.origin;
$('room').value ||= propose();
$('room').oninput = invite;
$('another').onclick = () => {
  $('room').value = propose();
  invite();
};
invite();
