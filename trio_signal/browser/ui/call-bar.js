// The bar of a call: what one can do, each with an icon, a label and a key.

import { h, set, write } from './dom.js';
import { changeIcon, icon } from './icons.js';

/** name -> [icon, label, key]. Labels say what a button does next, not how things are. */
const TOOLS = {
  mute: ['mic', 'Mute', 'M'],
  dark: ['camera', 'Stop video', 'V'],
  screen: ['screen', 'Share screen', 'S'],
  invite: ['link', 'Invite', 'I'],
  devices: ['settings', 'Devices', 'D'],
  full: ['full', 'Full screen', 'F'],
  chat: ['chat', 'Chat', 'C'],
  people: ['people', 'People', 'P'],
  leave: ['leave', 'Leave', 'Shift+L'],
};
const PANELS = ['invite', 'devices', 'chat', 'people'];
const EXTRAS = ['screen', 'invite', 'devices', 'full']; // on a phone they are behind `More`

export class Bar {
  #tools = {};
  #extras = h('div', { class: 'extras' });
  #more = h('button', { class: 'tool narrow', type: 'button' }, icon('more'), h('span', { class: 'label' }, 'More'));
  #unread = h('span', { 'class': 'count', 'aria-hidden': 'true' });
  #room = h('strong');
  #time = h('span');
  #people = h('span');

  /** @param {Record<keyof typeof TOOLS, () => void>} actions */
  constructor(actions) {
    for (const [name, [sign, words]] of Object.entries(TOOLS)) {
      this.#tools[name] = h('button', { class: 'tool', type: 'button', onclick: actions[name] }, icon(sign), h('span', { class: 'label' }, words));
    }
    const { leave, chat, mute, dark, people } = this.#tools;
    leave.classList.add('end');
    chat.append(this.#unread);
    this.#extras.append(...EXTRAS.map((name) => this.#tools[name]));
    this.#more.onclick = () => this.#open(!this.#extras.classList.contains('is-open'));
    this.#extras.addEventListener('click', () => this.close());
    this.element = h('div', { class: 'bar' },
      h('div', { class: 'facts' }, this.#room, h('span', { class: 'badge' }, icon('clock'), this.#time),
        h('span', { class: 'badge', role: 'img' }, icon('people'), this.#people)),
      h('div', { 'class': 'tools', 'role': 'toolbar', 'aria-label': 'Call' }, mute, dark, this.#extras, chat, people, this.#more, leave));
    this.#open(false);
  }

  /**
   * @param {object} shown
   * @param {string} shown.room - Its name.
   * @param {number} shown.people - How many there are.
   * @param {boolean} shown.isMuted
   * @param {boolean} shown.isDark
   * @param {boolean} shown.isSharing
   * @param {string} shown.panel - Which is open, or ''.
   * @param {number} shown.unread - Messages.
   * @param {boolean} shown.isFull
   */
  draw({ room, people, isMuted, isDark, isSharing, panel, unread, isFull }) {
    write(this.#room, room);
    write(this.#people, String(people));
    set(this.#people.parentElement, 'aria-label', people === 1 ? 'You are alone' : `${people} people`);
    this.#label('mute', isMuted && ['mic-off', 'Unmute'], isMuted ? 'off' : '');
    this.#label('dark', isDark && ['camera-off', 'Start video'], isDark ? 'off' : '');
    this.#label('screen', isSharing && ['screen-off', 'Stop sharing'], isSharing ? 'on' : '');
    this.#label('full', isFull && ['full-off', 'Exit full screen'], '');
    for (const name of PANELS) {
      const [sign, words] = TOOLS[name];
      this.#label(name, panel === name && [sign, `Close ${words.toLowerCase()}`], panel === name ? 'on' : '');
    }
    write(this.#unread, unread > 99 ? '99+' : unread ? String(unread) : '');
    set(this.#tools.chat, 'aria-label', unread ? `Chat, ${unread} unread` : null);
    this.#tools.screen.hidden = !navigator.mediaDevices?.getDisplayMedia; // as on phones
    this.#tools.full.hidden = !document.fullscreenEnabled;
  }

  #label(name, other, state) {
    const [usualSign, usualWords, key] = TOOLS[name];
    const [sign, words] = other || [usualSign, usualWords];
    const tool = this.#tools[name];
    changeIcon(tool, sign);
    write(tool.querySelector('.label'), words);
    tool.title = `${words} (${key})`;
    set(tool, 'aria-keyshortcuts', key);
    tool.classList.toggle('on', state === 'on');
    tool.classList.toggle('off', state === 'off');
  }

  /** How long the call goes on. */
  tell(time) {
    write(this.#time, time);
  }

  /** Does what a key is for; false if it is for nothing. */
  press(key, isShifted) {
    const wanted = isShifted ? `shift+${key}` : key;
    const [name] = Object.entries(TOOLS).find(([, [, , of]]) => of.toLowerCase() === wanted) ?? [];
    if (!name || this.#tools[name].hidden) return false;
    this.#tools[name].click();
    return true;
  }

  focus(name) {
    const tool = this.#tools[name];
    (tool.checkVisibility?.() === false ? this.#more : tool).focus();
  }

  #open(isOpen) {
    this.#extras.classList.toggle('is-open', isOpen);
    set(this.#more, 'aria-expanded', String(isOpen));
  }

  /** Closes what `More` opened. */
  close() {
    this.#open(false);
  }
}

/** What the keys do, for people. */
export const KEYS = [
  ['M', 'sound'], ['V', 'video'], ['S', 'share the screen'], ['C', 'chat'], ['P', 'people'],
  ['I', 'invite'], ['D', 'devices'], ['F', 'full screen'], ['Shift L', 'leave'],
];
