// One tile of a call: a camera or a screen of a peer, or the user's own.

import { h, set, write } from './dom.js';
import { drawLetters, icon } from './icons.js';

const BARS = { good: 3, fair: 2, poor: 1 };
const CONNECTIONS = {
  connecting: 'Connecting…',
  interrupted: 'Interrupted…',
  failed: 'Can’t reach them. Trying again…',
};
const SPEECH = 0.03;
const SPEAKING_FOR = 600; // ms after the last sound, so that the ring does not flicker

/** A tile with its video, or the reason why there is none. */
export class CallTile {
  #video = h('video', { playsInline: true, autoplay: true });
  #avatar = h('div', { class: 'avatar', hidden: true });
  #name = h('span', { class: 'name' });
  #mute = h('span', { class: 'mute', role: 'img', hidden: true }, icon('mic-off'));
  #bars = h('span', { class: 'bars', role: 'img', hidden: true }, h('i'), h('i'), h('i'));
  #words = h('p', { class: 'words' });
  #trouble = h('div', { class: 'trouble', hidden: true });
  #pin;
  #heardAt = 0;
  #isScreen;
  #onBlocked;

  /**
   * @param {object} options
   * @param {boolean} [options.isScreen]
   * @param {() => void} [options.onPin]
   * @param {() => void} [options.onBlocked] - Called if the browser requires a click before it plays sound.
   */
  constructor({ isScreen = false, onPin = () => {}, onBlocked = () => {} } = {}) {
    this.#isScreen = isScreen;
    this.#onBlocked = onBlocked;
    this.#pin = h('button', { class: 'round pin', type: 'button', onclick: onPin }, icon('pin'));
    this.element = h('figure', { class: isScreen ? 'tile screen' : 'tile' },
      this.#video, this.#avatar, this.#words, this.#trouble,
      h('figcaption', {}, this.#name, this.#bars, this.#mute), this.#pin);
    this.#video.addEventListener('resize', () => this.#frame());
  }

  /**
   * @param {object} shown
   * @param {string} shown.name
   * @param {MediaStream | null} shown.stream
   * @param {boolean} [shown.hasPicture] - Whether the stream has video to show.
   * @param {boolean} [shown.isMine] - Whether it is the user's own tile, which plays no sound.
   * @param {boolean} [shown.isMirrored]
   * @param {boolean} [shown.isMuted]
   * @param {boolean} [shown.isPinned]
   * @param {string} [shown.state] - The state of the connection.
   * @param {string} [shown.words] - A text in place of the connection's state.
   * @param {{ title: string, words: string, retry?: () => void } | null} [shown.trouble]
   */
  show({
    name, stream, hasPicture = true, isMine = false, isMirrored = false, isMuted = false, isPinned = false,
    state = 'connected', words = '', trouble = null,
  }) {
    const title = this.#isScreen ? `${isMine ? 'Your' : `${name}’s`} screen` : name;
    write(this.#name, title);
    set(this.#video, 'aria-label', this.#isScreen ? title : `Video of ${name}`);
    this.#video.classList.toggle('mirrored', isMirrored);
    this.#mute.hidden = !isMuted;
    set(this.#mute, 'aria-label', `${name} is muted`);
    const isAbsent = !hasPicture || !stream;
    this.#avatar.hidden = !isAbsent || Boolean(trouble);
    this.#video.classList.toggle('absent', isAbsent);
    const letters = initials(name);
    if (this.#avatar.textContent !== letters) this.#avatar.replaceChildren(drawLetters(letters));
    this.element.style.setProperty('--hue', String(hueOf(name)));
    write(this.#words, words || CONNECTIONS[state] || '');
    this.#showTrouble(trouble);
    const pin = isPinned ? `Unpin ${title}` : `Pin ${title}`;
    set(this.#pin, 'aria-label', pin);
    this.#pin.title = pin;
    this.#pin.classList.toggle('is-pinned', isPinned);
    this.#take(stream, isMine);
  }

  #showTrouble(trouble) {
    this.#trouble.hidden = !trouble;
    if (!trouble || this.#trouble.dataset.title === trouble.title) return;
    this.#trouble.dataset.title = trouble.title;
    this.#trouble.replaceChildren(
      h('strong', {}, trouble.title), h('p', {}, trouble.words),
      trouble.retry && h('button', { type: 'button', onclick: trouble.retry }, 'Try again'));
    if (!trouble.retry) this.#trouble.lastElementChild.remove();
  }

  #take(stream, isMine) {
    if (this.#video.srcObject === stream) return;
    this.#video.muted = isMine || this.#video.muted;
    this.#video.srcObject = stream;
    if (stream) this.play();
  }

  /** Plays, with sound if the browser allows it. */
  async play() {
    try {
      await this.#video.play();
    } catch (error) {
      if (error.name !== 'NotAllowedError' || this.#video.muted) return; // a newer stream took over
      this.#video.muted = true;
      this.#onBlocked();
      await this.play();
    }
  }

  /** Plays sound, after a click. */
  unmute() {
    this.#video.muted = false;
    this.play();
  }

  setSpeaker(id) {
    if (id && this.#video.setSinkId && this.#video.sinkId !== id) this.#video.setSinkId(id).catch(() => {});
  }

  /** Updates the current volume: a ring shows who is speaking. */
  hear(level, now = performance.now()) {
    if (level > SPEECH) this.#heardAt = now;
    this.element.classList.toggle('speaking', this.#heardAt > 0 && now - this.#heardAt < SPEAKING_FOR);
  }

  grade(grade) {
    this.#bars.hidden = !grade;
    this.#bars.dataset.bars = BARS[grade] ?? '';
    set(this.#bars, 'aria-label', grade ? `Connection: ${grade}` : null);
    this.#bars.title = grade ? `Connection: ${grade}` : '';
  }

  place({ x, y, width, height }) {
    Object.assign(this.element.style, { translate: `${x}px ${y}px`, width: `${width}px`, height: `${height}px` });
    this.element.classList.toggle('small', width < 280 || height < 160);
    this.#frame();
  }

  /** Lets the video fill the tile, unless too much of it would be cut off. */
  #frame() {
    const { videoWidth, videoHeight } = this.#video;
    const { offsetWidth, offsetHeight } = this.element;
    if (!videoWidth || !offsetHeight) return;
    const isSmall = this.element.classList.contains('small');
    const forms = videoWidth / videoHeight / (offsetWidth / offsetHeight);
    this.#video.classList.toggle('letterbox', this.#isScreen || (!isSmall && (forms < 0.55 || forms > 2)));
  }

  close() {
    this.#video.srcObject = null;
    this.element.remove();
  }
}

/** One or two letters for a name. */
export function initials(name) {
  const words = name.trim().split(/[\s_-]+/).filter(Boolean);
  const letters = words.length > 1 ? [words[0], words.at(-1)] : words;
  return letters.map((word) => [...word][0].toUpperCase()).join('');
}

/** A colour for a name, the same for all users. */
export function hueOf(name) {
  let sum = 7;
  for (const letter of name) sum = (sum * 31 + letter.codePointAt(0)) % 3600;
  return (sum * 37) % 360;
}
