// The lobby before a call: a preview, the devices, and the user's name.

import { DeviceFields } from './device-fields.js';
import { explainTrouble } from './devices.js';
import { h, set, write } from './dom.js';
import { changeIcon, icon } from './icons.js';

const NAME = 'trio-signal:name'; // in localStorage, for the next time

export class Lobby {
  #devices;
  #fields;
  #actions;
  #video = h('video', { 'playsInline': true, 'autoplay': true, 'muted': true, 'class': 'mirrored', 'aria-label': 'Your picture' });
  #veil = h('div', { class: 'veil', role: 'status' });
  #mute = round('mic');
  #dark = round('camera');
  #problem = h('p', { class: 'problem', role: 'alert' });
  #join = h('button', { class: 'primary wide' }, 'Join');
  #without = h('button', { class: 'wide', type: 'button' }, 'Join without camera');
  #title = h('h1', {}, 'Call');

  /**
   * @param {object} options
   * @param {import('./devices.js').Devices} options.devices
   * @param {() => void} options.onMute
   * @param {() => void} options.onDark
   * @param {() => void} options.onRetry
   * @param {(withCamera: boolean) => void} options.onJoin
   */
  constructor({ devices, ...actions }) {
    this.#devices = devices;
    this.#actions = actions;
    this.#fields = new DeviceFields(devices);
    this.room = h('input', {
      name: 'room', required: true, maxLength: 64, pattern: '(?!\\s*\\.{1,2}\\s*$).*\\S.*', title: 'A name for the room',
      autocomplete: 'off', autocapitalize: 'none', spellcheck: false,
    });
    this.name = h('input', { name: 'username', maxLength: 64, autocomplete: 'nickname', placeholder: 'Guest', value: recall() });
    this.roomField = h('label', {}, 'Room', this.room);
    this.#mute.onclick = actions.onMute;
    this.#dark.onclick = actions.onDark;
    const form = h('form', { class: 'stack', id: 'join' }, this.#title, this.roomField,
      h('label', {}, 'Your name', this.name), this.#fields.element, this.#problem,
      h('div', { class: 'joins' }, this.#join, this.#without));
    form.onsubmit = (event) => {
      event.preventDefault();
      this.#enter(true);
    };
    this.#without.onclick = () => form.reportValidity() && this.#enter(false);
    this.element = h('div', { class: 'lobby' },
      h('figure', { class: 'preview' }, this.#video, this.#veil, h('div', { class: 'preview-tools' }, this.#mute, this.#dark)),
      form);
  }

  #enter(withCamera) {
    keep(this.name.value.trim());
    this.#actions.onJoin(withCamera);
  }

  /**
   * @param {object} shown
   * @param {MediaStream | null} shown.stream - The user's own video.
   * @param {boolean} shown.isMuted
   * @param {boolean} shown.isDark - Whether the camera is off.
   * @param {boolean} shown.isAsking - Whether the browser is asking for permission.
   * @param {boolean} shown.isJoining
   * @param {string} shown.room - The room's name, if it is known already.
   */
  draw({ stream, isMuted, isDark, isAsking, isJoining, room }) {
    write(this.#title, room ? `Join ${room}` : 'Call');
    this.roomField.hidden = Boolean(room);
    this.room.disabled = Boolean(room); // a hidden field must not be validated
    const hasPicture = Boolean(stream?.getVideoTracks().length);
    const shown = hasPicture ? stream : null;
    if (this.#video.srcObject !== shown) this.#video.srcObject = shown;
    this.#drawVeil(hasPicture, isDark, isAsking);
    const canHear = Boolean(this.#devices.tracks.microphone);
    label(this.#mute, isMuted ? 'mic-off' : 'mic', isMuted ? 'Unmute' : 'Mute', isMuted || (!canHear && !isAsking));
    this.#mute.disabled = !canHear && !isAsking;
    const isOff = isDark || (!hasPicture && !isAsking);
    label(this.#dark, isOff ? 'camera-off' : 'camera', isOff ? 'Start video' : 'Stop video', isOff);
    this.#join.disabled = this.#without.disabled = isJoining;
    write(this.#join, isJoining ? 'Joining…' : 'Join');
    this.#without.hidden = isDark;
    this.#fields.draw();
  }

  /** Shows a problem in place of the video. */
  #drawVeil(hasPicture, isDark, isAsking) {
    this.#veil.hidden = hasPicture;
    const trouble = this.#devices.troubles.camera;
    let told = { title: 'Your camera is off', words: '' };
    if (trouble && !isDark) told = explainTrouble('camera', trouble);
    else if (isAsking && !isDark) told = { title: 'Starting your camera…', words: 'If your browser asks, allow the camera and the microphone.' };
    const key = told.title + told.words;
    if (this.#veil.dataset.key === key) return;
    this.#veil.dataset.key = key;
    const sign = isAsking && !trouble && !isDark ? h('span', { class: 'spinner' }) : icon('camera-off');
    this.#veil.replaceChildren(sign, h('strong', {}, told.title));
    if (told.words) this.#veil.append(h('p', {}, told.words));
    if (told.canRetry) this.#veil.append(h('button', { type: 'button', onclick: this.#actions.onRetry }, 'Try again'));
  }

  say(problem) {
    this.#problem.replaceChildren(...(problem ? [icon('warning'), problem] : []));
  }

  focus() {
    const first = this.room.disabled || this.room.value ? this.name : this.room;
    (first === this.name && this.name.value ? this.#join : first).focus();
  }

  close() {
    this.#fields.close();
    this.#video.srcObject = null;
  }
}

function round(sign) {
  return h('button', { class: 'round', type: 'button' }, icon(sign));
}

function label(button, sign, words, isOff) {
  changeIcon(button, sign);
  set(button, 'aria-label', words);
  button.title = words;
  button.classList.toggle('is-off', isOff);
}

function recall() {
  try {
    return localStorage.getItem(NAME) ?? '';
  } catch {
    return '';
  }
}

function keep(name) {
  try {
    localStorage.setItem(NAME, name);
  } catch { /* The browser stores nothing for this page. */ }
}
