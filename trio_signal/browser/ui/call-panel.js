// The panel beside a call: chat, people, the link, and the devices.

import { KEYS } from './call-bar.js';
import { DeviceFields } from './device-fields.js';
import { h, set, write } from './dom.js';
import { changeIcon, icon } from './icons.js';
import { qrImage } from './qr.js';

const TITLES = { chat: 'Chat', people: 'People', invite: 'Invite', devices: 'Devices' };
const MOST_LINES = 500;
const MOST_LETTERS = 2_000; // of one message

export class Panel {
  /** The open one of `TITLES`, or ''. */
  open = '';
  unread = 0;
  #title = h('h2', { tabIndex: -1 });
  #lines = h('ol', { class: 'lines' });
  #log = h('div', { 'class': 'log', 'role': 'log', 'aria-label': 'Messages', 'tabIndex': 0 }, this.#lines);
  #nothing = h('p', { class: 'soft' }, 'No messages yet. Everybody in the call can read what you write. Those who join later cannot.');
  #text = h('input', { 'name': 'text', 'aria-label': 'Message', 'placeholder': 'Write to everybody', 'autocomplete': 'off', 'maxLength': MOST_LETTERS, 'required': true });
  #people = h('ul', { class: 'list people' });
  #link = h('input', { name: 'link', readOnly: true });
  #copy = h('button', { type: 'button' }, icon('copy'), h('span', {}, 'Copy'));
  #code = h('div', { class: 'code' });
  #fields;
  #pages;
  #changed;

  /**
   * @param {object} options
   * @param {import('./devices.js').Devices} options.devices
   * @param {() => void} options.onChange - Called when the panel is opened, closed or read.
   * @param {(text: string) => boolean} options.onSay - Sends a message to all; false if there is no connection.
   */
  constructor({ devices, onChange, onSay }) {
    this.#changed = onChange;
    this.#fields = new DeviceFields(devices);
    const form = h('form', { class: 'together' }, this.#text,
      h('button', { 'class': 'primary round', 'aria-label': 'Send', 'title': 'Send' }, icon('send')));
    form.onsubmit = (event) => {
      event.preventDefault();
      const text = this.#text.value.trim();
      if (text && onSay(text)) this.#text.value = '';
    };
    this.#copy.onclick = () => this.#copyLink();
    this.#link.onfocus = () => this.#link.select();
    this.#pages = {
      chat: h('div', { class: 'chat' }, this.#nothing, this.#log, form),
      people: h('div', {}, this.#people),
      invite: h('div', { class: 'stack' }, h('p', { class: 'soft' }, 'Anybody with this link can join the call.'),
        h('label', {}, 'Link to this call', this.#link), this.#copy, this.#code),
      devices: h('div', { class: 'stack' }, this.#fields.element, keys()),
    };
    const close = h('button', { 'class': 'round', 'type': 'button', 'aria-label': 'Close', 'title': 'Close (Escape)', 'onclick': () => this.show('') }, icon('close'));
    this.element = h('aside', { class: 'panel', hidden: true }, h('header', {}, this.#title, close), ...Object.values(this.#pages));
  }

  show(page) {
    this.open = page;
    this.element.hidden = !page;
    write(this.#title, TITLES[page] ?? '');
    set(this.element, 'aria-label', TITLES[page] ?? null);
    for (const [name, element] of Object.entries(this.#pages)) element.hidden = name !== page;
    if (page === 'chat') this.#read();
    if (page === 'devices') this.#fields.draw();
    else this.#fields.close();
    this.#changed();
    if (page === 'chat') this.#text.focus();
    else if (page) this.#title.focus();
  }

  #read() {
    this.unread = 0;
    this.#log.scrollTop = this.#log.scrollHeight;
  }

  /** Adds a message. Names and messages are untrusted: text, never HTML. */
  say(name, text, isMine) {
    this.#nothing.hidden = true;
    const time = new Date().toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });
    const isNear = this.#log.scrollHeight - this.#log.scrollTop - this.#log.clientHeight < 80;
    this.#lines.append(h('li', { class: isMine ? 'mine' : '' },
      h('p', { class: 'from' }, h('strong', {}, name), ' ', h('span', { class: 'soft' }, time)),
      h('p', { class: 'said' }, text.slice(0, MOST_LETTERS))));
    while (this.#lines.children.length > MOST_LINES) this.#lines.firstElementChild.remove();
    if (this.open !== 'chat') this.unread += 1;
    if (isNear || isMine) this.#log.scrollTop = this.#log.scrollHeight;
    this.#changed();
  }

  /** @param {{ name: string, isMuted: boolean, isDark: boolean, words: string, grade: string }[]} people */
  drawPeople(people) {
    if (this.open === 'devices') this.#fields.draw();
    if (this.open !== 'people') return;
    write(this.#title, `People (${people.length})`);
    this.#people.replaceChildren(...people.map(({ name, isMuted, isDark, words }) => h('li', {},
      h('span', { class: 'who' }, name), words && h('span', { class: 'hint' }, words),
      sign(isMuted ? 'mic-off' : 'mic', isMuted ? 'muted' : 'with sound'),
      sign(isDark ? 'camera-off' : 'camera', isDark ? 'without camera' : 'with camera'))));
  }

  drawLink(link) {
    if (this.#link.value === link) return;
    this.#link.value = link;
    const code = qrImage(link, 'The link as a QR code');
    this.#code.replaceChildren(...(code ? [code, h('p', { class: 'hint' }, 'Point a phone’s camera at it.')] : []));
  }

  async #copyLink() {
    try {
      await navigator.clipboard.writeText(this.#link.value);
      changeIcon(this.#copy, 'check');
      write(this.#copy.lastElementChild, 'Copied');
    } catch {
      this.#link.select();
      write(this.#copy.lastElementChild, 'Selected: press Ctrl-C');
    }
  }

  clear() {
    this.unread = 0;
    this.#lines.replaceChildren();
    this.#nothing.hidden = false;
    changeIcon(this.#copy, 'copy');
    write(this.#copy.lastElementChild, 'Copy');
    this.show('');
  }
}

function sign(name, words) {
  const svg = icon(name);
  return h('span', { 'class': name.endsWith('-off') ? 'sign off' : 'sign', 'role': 'img', 'aria-label': words, 'title': words }, svg);
}

function keys() {
  return h('div', {}, h('h3', {}, 'Keyboard shortcuts'), h('dl', { class: 'keys' },
    ...KEYS.map(([key, words]) => h('div', {}, h('dt', {}, h('kbd', {}, key)), h('dd', {}, words)))));
}
