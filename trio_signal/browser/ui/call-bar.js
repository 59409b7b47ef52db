// The toolbar of a call: actions with icon, label and key.

import { h, set, write } from './dom.js';
import { changeIcon, icon } from './icons.js';

/** name -> [icon, label, key]. A label says what the button does next, not the current state. */
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
   * @param {string} shown.room - The room's name.
   * @param {number} shown.people - The number of people.
   * @param {boolean} shown.isMuted
   * @param {boolean} shown.isDark
   * @param {boolean} shown.isSharing
   * @param {string} shown.panel - The open panel, or ''.
   * @param {number} shown.unread - The number of unread messages.
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

  /** Shows the duration of the call. */
  tell(time) {
    write(this.#time, time);
  }

  /** Performs the action of a key; returns false if it has none. */
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

  /** Closes the menu `More`. */
  close() {
    this.#open(false);
  }
}

/** Descriptions of the keys. */
export const KEYS = [
  ['M', 'sound'], ['V', 'video'], ['S', 'share the screen'], ['C', 'chat'], ['P', 'people'],
  ['I', 'invite'], ['D', 'devices'], ['F', 'full screen'], ['Shift L', 'leave'],
];
