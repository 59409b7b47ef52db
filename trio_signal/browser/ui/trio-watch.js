/**
 * `<trio-watch room="lobby">`: shows who is live in a room, whenever the viewer joins. It starts
 * automatically, muted until the user turns the sound on, and resumes when the broadcaster returns.
 *
 * Attributes: `room`; `server`, by default the one of this script; `token`; `name`, which the
 * broadcaster sees. Event: `trio-state`, whose `detail.state` is the property `state`.
 * See docs/clients/elements.md.
 */

import { accessForm, askAccess, isRefused, keepToken, takeToken } from './access.js';
import { timeSince } from './clock.js';
import { h, HOME, loadSheets, set, write } from './dom.js';
import { changeIcon, icon } from './icons.js';
import { join, retryDelay } from './trio-signal.js';

const sheets = await loadSheets('tokens.css', 'controls.css', 'trio-watch.css');
const isAtHome = new URL(HOME).origin === location.origin;
const CONTROLS_FOR = 3_000; // ms after the last movement or touch

const SCENES = {
  connecting: ['', 'Connecting…', ''],
  waiting: ['clock', 'The broadcast will begin soon', 'Nobody is live yet. The video will start automatically.'],
  loading: ['', 'Waiting for the video…', ''],
  interrupted: ['', 'The broadcast is interrupted', 'It will resume automatically.'],
  ended: ['check', 'The broadcast has ended', 'If it starts again, you will see it here.'],
  offline: ['', 'No connection to the server', 'Trying again…'],
  closed: ['warning', 'This broadcast cannot be watched', ''],
};

/**
 * The scene to show.
 *
 * @param {object} known
 * @param {string} known.room - The state of the room.
 * @param {boolean} known.hasEnded - Whether a peer was live before.
 * @param {{ state: string, away: boolean, seen: boolean }[]} known.live - The live peers; `seen` if the
 *   video is visible, or there is only audio.
 * @returns {'connecting' | 'waiting' | 'loading' | 'live' | 'interrupted' | 'ended' | 'offline' | 'closed'}
 */
export function sceneOf({ room, hasEnded, live }) {
  if (room === 'closed') return 'closed';
  const flowing = live.some(({ state, seen }) => seen && ['connected', 'none'].includes(state));
  if (flowing) return 'live';
  if (live.some(({ seen }) => seen)) return 'interrupted';
  if (room === 'waiting') return 'offline';
  if (room === 'connecting') return 'connecting';
  if (live.length > 0) return 'loading';
  return hasEnded ? 'ended' : 'waiting';
}

export class TrioWatch extends HTMLElement {
  static observedAttributes = ['room', 'server', 'token', 'name'];

  #parts = this.#build();
  /** The joined room, and the current attempt: results of earlier attempts are ignored. */
  #room = null;
  #attempt = null;
  #hasEnded = false;
  #trouble = '';
  #state = 'connecting';
  #tiles = new Map();
  #viewers = new Map(); // broadcaster's id -> the number of viewers that it reported
  #wantsSound = false;
  #wantsSilence = false;
  #volume = 1;
  #clock = 0;
  #idle = 0;

  /** The current scene. */
  get state() {
    return this.#state;
  }

  /** The client's room; null until it is joined. */
  get joined() {
    return this.#room;
  }

  connectedCallback() {
    this.#restart();
    document.addEventListener('fullscreenchange', this.#drawFull);
  }

  disconnectedCallback() {
    this.#leave();
    clearTimeout(this.#idle);
    document.removeEventListener('fullscreenchange', this.#drawFull);
  }

  attributeChangedCallback(name, before, after) {
    if (this.isConnected && before !== after) this.#restart();
  }

  // Joining and leaving

  #leave() {
    this.#attempt = null;
    clearInterval(this.#clock);
    const room = this.#room;
    this.#room = null;
    room?.leave();
    for (const id of [...this.#tiles.keys()]) this.#drop(id);
    this.#viewers.clear();
  }

  /** Joins again; attributes that are set together cause one attempt. */
  #restart() {
    this.#leave();
    this.#hasEnded = false;
    const attempt = {};
    this.#attempt = attempt;
    this.#show('connecting');
    queueMicrotask(() => this.#attempt === attempt && this.#open(attempt, 0));
  }

  async #open(attempt, failures, problem = '') {
    const base = this.getAttribute('server') || HOME;
    try {
      const token = await this.#findToken(attempt, base, problem);
      if (this.#attempt !== attempt) return;
      const room = await join(base, {
        room: this.getAttribute('room') ?? '', username: this.getAttribute('name') || undefined, token,
      });
      if (this.#attempt === attempt) this.#entered(room);
      else room.leave();
    } catch (error) {
      if (this.#attempt !== attempt) return;
      if (isRefused(error)) return this.#open(attempt, 0, 'That token is not valid, or has expired.');
      const delay = retryDelay(error.code ?? 1006, failures);
      this.#trouble = error.message;
      this.#show(delay === null ? 'closed' : 'offline');
      if (delay !== null) setTimeout(() => this.#attempt === attempt && this.#open(attempt, failures + 1), delay);
    }
  }

  /** The token of the attribute; without one, asks the user if the server requires a token. */
  async #findToken(attempt, base, problem) {
    const given = this.getAttribute('token');
    if (given && !problem) return given;
    const access = await askAccess(base);
    if (problem && isAtHome) keepToken(undefined);
    const kept = isAtHome ? takeToken() : undefined;
    if (!access.token || kept !== undefined || this.#attempt !== attempt) return kept;
    return new Promise((resolve) => {
      const onToken = (token) => {
        if (isAtHome) keepToken(token);
        this.#parts.access.replaceChildren();
        this.#show('connecting');
        resolve(token);
      };
      const form = accessForm(access, { base, problem, onToken });
      this.#parts.access.replaceChildren(form);
      this.#show('access');
      if (problem) form.querySelector('input').focus();
    });
  }

  #entered(room) {
    this.#room = room;
    this.#clock = setInterval(() => this.#drawTime(), 1000);
    const here = (listener) => (...told) => this.#room === room && listener(...told);
    room.on('state', here((state, reason) => {
      this.#trouble = reason;
      this.#draw();
    }));
    room.on('message', here((data, peer) => {
      if (!Number.isInteger(data?.viewers)) return;
      this.#viewers.set(peer.id, data.viewers);
      this.#draw();
    }));
    for (const event of ['peer', 'live', 'connection', 'removed']) room.on(event, here(() => this.#draw()));
    room.on('stream', here((stream, peer) => {
      this.#tile(peer).take(stream);
      this.#draw();
    }));
    for (const event of ['stopped', 'left']) {
      room.on(event, here((peer) => {
        this.#hasEnded ||= this.#tiles.has(peer.id);
        this.#drop(peer.id);
        this.#draw();
      }));
    }
    this.#draw();
  }

  // Display

  #tile(peer) {
    if (!this.#tiles.has(peer.id)) {
      const tile = new Tile(this.#wantsSound, this.#volume, () => this.#draw());
      this.#tiles.set(peer.id, tile);
      this.#parts.stage.append(tile.element);
    }
    const tile = this.#tiles.get(peer.id);
    tile.show(peer);
    return tile;
  }

  #drop(id) {
    this.#tiles.get(id)?.close();
    this.#tiles.delete(id);
    this.#viewers.delete(id);
  }

  #draw() {
    const room = this.#room;
    if (!room) return;
    const live = [...room.peers.values()].filter((peer) => peer.live || peer.stream);
    for (const peer of live) this.#tile(peer);
    const known = live.map(({ id, state, away }) => ({ state, away, seen: this.#tiles.get(id).seen }));
    this.#show(sceneOf({ room: room.state, hasEnded: this.#hasEnded, live: known }));
    const { badges, again, names, viewers, detail } = this.#parts;
    badges.hidden = live.length === 0;
    again.hidden = room.state !== 'waiting';
    this.#parts.stage.dataset.count = Math.min(live.length, 5);
    this.#parts.stage.classList.toggle('several', live.length > 1);
    write(names, live.map((peer) => peer.name).join(', '));
    const count = this.#countViewers(live);
    write(viewers, String(count));
    set(viewers.parentElement, 'aria-label', count === 1 ? 'You are the only viewer' : `${count} viewers`);
    const heights = live.map(({ id }) => this.#tiles.get(id).height).filter(Boolean);
    write(detail, heights.length > 0 ? `${Math.max(...heights)}p` : '');
    this.#drawTime();
    this.#drawSound();
  }

  /** The broadcaster reports the number of viewers; if it does not, all others in the room count. */
  #countViewers(live) {
    const counted = live.map(({ id }) => this.#viewers.get(id) ?? 0);
    return Math.max(...counted) || this.#room.peers.size - live.length + 1;
  }

  #drawTime() {
    const since = [...this.#room?.peers.values() ?? []].map((peer) => peer.live?.since).filter(Boolean).sort()[0];
    write(this.#parts.time, since ? timeSince(since) : '');
  }

  #show(state) {
    const { scene, title, words, mark, retry, access, root } = this.#parts;
    root.dataset.state = state;
    this.toggleAttribute('data-access', state === 'access');
    access.hidden = state !== 'access';
    const [sign = '', heading = '', text = ''] = SCENES[state] ?? [];
    scene.hidden = heading === '';
    write(title, heading);
    const reason = ['closed', 'offline'].includes(state) ? this.#trouble : '';
    write(words, [reason, text].filter(Boolean).join('. '));
    mark.replaceChildren(sign ? icon(sign) : h('span', { class: 'spinner' }));
    retry.hidden = state !== 'closed';
    if (state === this.#state) return;
    this.#state = state;
    this.dispatchEvent(new CustomEvent('trio-state', { detail: { state }, bubbles: true, composed: true }));
  }

  // Sound

  get #isMute() {
    return [...this.#tiles.values()].every((tile) => tile.isMute);
  }

  /** Turns the sound on or off; the browser may refuse it. */
  #setSound(wanted) {
    this.#wantsSound = wanted;
    this.#wantsSilence = !wanted;
    for (const tile of this.#tiles.values()) tile.setSound(wanted, this.#volume);
    this.#drawSound();
  }

  #drawSound() {
    const { tap, sound, volume } = this.#parts;
    const isMute = this.#isMute;
    tap.hidden = this.#state !== 'live' || !isMute || this.#wantsSilence;
    const words = isMute ? 'Turn the sound on' : 'Mute';
    changeIcon(sound, isMute ? 'speaker-off' : 'speaker');
    set(sound, 'aria-label', words);
    sound.title = `${words} (M)`;
    volume.value = isMute ? 0 : this.#volume;
  }

  #toggleSound() {
    const isMute = this.#isMute;
    if (isMute && this.#volume === 0) this.#volume = 1;
    this.#setSound(isMute);
  }

  #turnVolume(volume) {
    this.#volume = Math.min(1, Math.max(0, volume));
    this.#setSound(this.#volume > 0);
  }

  // The frame

  async #toggleFull() {
    if (document.fullscreenElement === this) return document.exitFullscreen();
    if (this.requestFullscreen) return this.requestFullscreen();
    this.#parts.stage.querySelector('video')?.webkitEnterFullscreen?.(); // an iPhone
  }

  #drawFull = () => {
    const isFull = document.fullscreenElement === this;
    const words = isFull ? 'Leave full screen' : 'Full screen';
    changeIcon(this.#parts.full, isFull ? 'full-off' : 'full');
    set(this.#parts.full, 'aria-label', words);
    this.#parts.full.title = `${words} (F)`;
  };

  #wake() {
    this.#parts.root.classList.add('awake');
    clearTimeout(this.#idle);
    this.#idle = setTimeout(() => this.#parts.root.classList.remove('awake'), CONTROLS_FOR);
  }

  #press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.composedPath()[0].matches?.('input:not([type=range])')) return;
    const actions = { m: () => this.#toggleSound(), f: () => this.#toggleFull() };
    const action = actions[event.key.toLowerCase()];
    if (!action) return;
    event.preventDefault();
    action();
  }

  #build() {
    const part = {
      stage: h('div', { class: 'stage' }),
      mark: h('div', { class: 'mark' }),
      title: h('strong'),
      words: h('p'),
      retry: h('button', { type: 'button', hidden: true, onclick: () => this.#restart() }, 'Try again'),
      tap: h('button', { class: 'tap', type: 'button', hidden: true, onclick: () => this.#setSound(true) },
        icon('speaker-off'), 'Tap for sound'),
      sound: h('button', { class: 'round', type: 'button', onclick: () => this.#toggleSound() }),
      volume: h('input', {
        'type': 'range', 'min': 0, 'max': 1, 'step': 0.05, 'aria-label': 'Volume',
        'oninput': (event) => this.#turnVolume(Number(event.target.value)),
      }),
      full: h('button', { class: 'round', type: 'button', onclick: () => this.#toggleFull() }),
      time: h('span', { class: 'time' }),
      viewers: h('span'),
      names: h('span', { class: 'names' }),
      detail: h('span', { class: 'detail' }),
      again: h('span', { class: 'badge', role: 'status', hidden: true }, 'Reconnecting…'),
      access: h('div', { class: 'access-place', hidden: true }),
    };
    part.scene = h('div', { class: 'scene', role: 'status' }, part.mark, part.title, part.words, part.retry);
    part.badges = h('div', { class: 'badges', hidden: true },
      h('span', { class: 'badge live' }, 'Live'),
      h('span', { class: 'badge' }, icon('clock'), part.time),
      h('span', { class: 'badge', role: 'img' }, icon('eye'), part.viewers), part.again);
    part.bar = h('div', { class: 'bar' }, part.sound, part.volume, part.names, part.detail, part.full);
    part.root = h('div', { class: 'player' }, part.stage, part.scene, part.badges, part.bar, part.tap, part.access);
    part.root.onpointermove = part.root.onpointerdown = () => this.#wake();
    part.root.onkeydown = (event) => this.#press(event);
    const root = this.attachShadow({ mode: 'open' });
    root.adoptedStyleSheets = sheets;
    root.append(part.root);
    queueMicrotask(() => {
      this.#drawFull();
      this.#drawSound();
    });
    return part;
  }
}

/** The video of one live peer. */
class Tile {
  seen = false;
  #video = h('video', { playsInline: true, autoplay: true });
  #name = h('span');
  #avatar = h('div', { class: 'avatar', hidden: true });
  #changed;

  constructor(wantsSound, volume, changed) {
    this.#changed = changed;
    this.setSound(wantsSound, volume);
    this.element = h('figure', { class: 'tile' }, this.#video, this.#avatar, h('figcaption', {}, this.#name));
    for (const event of ['playing', 'resize']) this.#video.addEventListener(event, () => this.#look());
  }

  get height() {
    return this.#video.videoHeight;
  }

  get isMute() {
    return this.#video.muted || this.#video.volume === 0;
  }

  show({ name, live, stream }) {
    write(this.#name, name);
    set(this.#video, 'aria-label', `Video of ${name}`);
    this.#avatar.hidden = live?.media !== 'audio';
    write(this.#avatar, [...name][0]?.toUpperCase() ?? '');
    if (stream) this.take(stream);
  }

  take(stream) {
    if (this.#video.srcObject === stream) return;
    this.#video.srcObject = stream;
    this.#play();
  }

  /** Plays, muted if the browser requires a click before it plays sound. */
  async #play() {
    try {
      await this.#video.play();
    } catch (error) {
      if (error.name !== 'NotAllowedError' || this.#video.muted) return; // a newer stream took over
      this.#video.muted = true;
      await this.#play();
    }
    this.#look();
  }

  setSound(wanted, volume) {
    this.#video.volume = volume;
    this.#video.muted = !wanted;
    if (this.#video.srcObject) this.#play();
  }

  #look() {
    this.seen ||= !this.#video.paused && (this.#video.videoHeight > 0 || !this.#avatar.hidden);
    this.#changed();
  }

  close() {
    this.#video.srcObject = null;
    this.element.remove();
  }
}

customElements.define('trio-watch', TrioWatch);
