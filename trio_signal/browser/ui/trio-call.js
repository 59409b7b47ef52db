/**
 * `<trio-call room="lobby">`: a call of up to twelve people. The user first checks the devices in a
 * lobby; in the call, everybody sees and hears everybody else.
 *
 * Attributes: `room`; `server`, by default the one of this script; `token`; `name`; `link`, the
 * invitation link. Event: `trio-state`, whose `detail.state` is the property `state`.
 * See docs/clients/elements.md.
 */

import { isRefused, openAccess } from './access.js';
import { Bar } from './call-bar.js';
import { Lobby } from './call-lobby.js';
import { CallMedia } from './call-media.js';
import { Panel } from './call-panel.js';
import { MINE, Stage } from './call-stage.js';
import { timeSince } from './clock.js';
import { h, HOME, loadSheets, set, write } from './dom.js';
import { icon } from './icons.js';
import { gradeOf, measureSent } from './quality.js';
import { join } from './trio-signal.js';

const sheets = await loadSheets('tokens.css', 'controls.css', 'trio-call.css');
const isAtHome = new URL(HOME).origin === location.origin;
const MOST = 12; // people
const LISTEN_EVERY = 150; // ms
const MEASURE_EVERY = 3_000;
const NEWS_FOR = 4_000;
const LOUD = 0.45; // on the meter's scale: speech is above, breathing is below

/** The peers in the call. A silent peer may be gone, and has no tile. */
const presentIn = (room) => [...room.peers.values()].filter((peer) => !peer.silent);

/** The scenes: `access` asks for a login or a token, `lobby` is before the call, `goodbye` after it. */
export class TrioCall extends HTMLElement {
  static observedAttributes = ['room', 'server', 'token', 'name', 'link'];

  #media = new CallMedia(() => this.#mediaChanged(), (words) => this.#news(words));
  #lobby = new Lobby({
    devices: this.#media.devices,
    onMute: () => this.#media.toggleMute(),
    onDark: () => this.#media.toggleDark(),
    onRetry: () => this.#media.look(),
    onJoin: (withCamera) => this.#join(withCamera),
  });
  #panel = new Panel({
    devices: this.#media.devices,
    onChange: () => this.#panelChanged(),
    onSay: (text) => this.#say(text),
  });
  #stage = new Stage(() => this.#draw());
  #bar = new Bar({
    mute: () => this.#media.toggleMute(),
    dark: () => this.#media.toggleDark(),
    screen: () => this.#toggleScreen(),
    invite: () => this.#togglePanel('invite'),
    devices: () => this.#togglePanel('devices'),
    full: () => this.#toggleFull(),
    chat: () => this.#togglePanel('chat'),
    people: () => this.#togglePanel('people'),
    leave: () => this.leave(),
  });
  #parts = this.#build();
  #state = 'lobby';
  #room = null;
  #attempt = null; // the results of earlier attempts are ignored
  #token;
  #said = ''; // the last state that we sent to the others
  #told = new Map(); // the states of the others, by id
  #grades = new Map();
  #began = 0;
  #timers = [];
  #awake = null;

  /** `access`, `lobby`, `joining`, `joined`, `reconnecting` or `goodbye`. */
  get state() {
    return this.#state;
  }

  /** The client's room; null outside of a call. */
  get joined() {
    return this.#room;
  }

  connectedCallback() {
    document.addEventListener('keydown', this.#press);
    document.addEventListener('fullscreenchange', this.#drawBar);
    document.addEventListener('visibilitychange', this.#wake);
    this.#restart();
  }

  disconnectedCallback() {
    document.removeEventListener('keydown', this.#press);
    document.removeEventListener('fullscreenchange', this.#drawBar);
    document.removeEventListener('visibilitychange', this.#wake);
    this.#attempt = null;
    this.#ended();
    this.#release();
  }

  attributeChangedCallback(name, before, after) {
    if (!this.isConnected || before === after) return;
    if (name === 'link') this.#draw();
    else if (name === 'name') this.#lobby.name.value = after ?? '';
    else this.#restart();
  }

  /** Leaves the call. */
  leave() {
    this.#room?.leave();
  }

  // Before the call

  async #restart() {
    this.#room?.leave();
    const attempt = {};
    this.#attempt = attempt;
    if (this.getAttribute('name')) this.#lobby.name.value = this.getAttribute('name');
    await null; // attributes that are set together cause one attempt
    if (this.#attempt === attempt) await this.#open(attempt);
  }

  /** Gets a token if needed, then shows the lobby. */
  async #open(attempt, problem = '') {
    try {
      const token = await this.#findToken(problem);
      if (this.#attempt !== attempt) return;
      this.#token = token;
    } catch (error) {
      if (this.#attempt !== attempt) return;
      this.#show('lobby');
      this.#lobby.say(`The server cannot be reached. ${error.message}`);
      return;
    }
    this.#show('lobby');
    if (isAtHome) this.#lobby.focus(); // not in other sites' pages
    await this.#media.look();
  }

  /** The token of the attribute; without one, asks the user if the server requires a token. */
  async #findToken(problem) {
    const given = this.getAttribute('token');
    if (given && !problem) return given;
    return openAccess(this.#parts.access, {
      base: this.#base,
      problem,
      keeps: isAtHome,
      onAsk: () => this.#show('access'),
      onName: (name) => { this.#lobby.name.value ||= name; },
    });
  }

  get #base() {
    return this.getAttribute('server') || HOME;
  }

  async #join(withCamera) {
    if (this.#state !== 'lobby') return;
    const attempt = {};
    this.#attempt = attempt;
    this.#lobby.say('');
    if (!withCamera) {
      this.#media.isDark = true;
      this.#media.devices.close('camera');
    }
    this.#show('joining');
    try {
      const room = await join(this.#base, {
        room: this.getAttribute('room') || this.#lobby.room.value.trim(),
        username: this.#lobby.name.value.trim() || undefined,
        token: this.#token,
      });
      if (this.#attempt !== attempt) return room.leave();
      if (room.peers.size >= MOST) {
        room.leave();
        throw new Error(`This call is full: ${MOST} people are in it.`);
      }
      this.#entered(room);
    } catch (error) {
      if (this.#attempt !== attempt) return;
      if (isRefused(error)) return this.#open(attempt, 'That token is not valid, or has expired.');
      this.#show('lobby');
      this.#lobby.say(`Could not join. ${error.message}`);
    }
  }

  // The call

  #entered(room) {
    this.#room = room;
    this.#began = Date.now();
    this.#bar.tell(timeSince(this.#began));
    this.#told.clear();
    this.#grades.clear();
    this.#panel.clear();
    const here = (listener) => (...told) => this.#room === room && listener(...told);
    const isNews = { is: false }; // peers that are already here are not news
    room.on('state', here((state, reason) => this.#stateChanged(state, reason)));
    room.on('peer', here((peer) => {
      room.send(this.#sayings(), { to: peer.id });
      if (isNews.is) this.#news(`${peer.name} joined`);
      this.#draw();
    }));
    isNews.is = true;
    room.on('left', here((peer) => {
      this.#told.delete(peer.id);
      this.#grades.delete(peer.id);
      this.#news(`${peer.name} left`);
      this.#draw();
    }));
    room.on('message', here((data, peer) => this.#heard(data, peer)));
    for (const event of ['stream', 'removed', 'stopped', 'connection', 'live']) room.on(event, here(() => this.#draw()));
    this.#timers = [
      setInterval(() => this.#listen(), LISTEN_EVERY),
      setInterval(() => this.#measure(), MEASURE_EVERY),
      setInterval(() => this.#bar.tell(timeSince(this.#began)), 1000),
    ];
    this.#said = '';
    this.#publish();
    this.#show('joined');
    this.#wake();
    room.send({ ...this.#sayings(), asks: true });
    this.#bar.focus('mute');
  }

  #stateChanged(state, reason) {
    if (state === 'closed') return this.#ended(reason);
    if (state === 'joined') this.#room.send({ ...this.#sayings(), asks: true }); // messages may have been lost meanwhile
    this.#show(state === 'joined' ? 'joined' : 'reconnecting');
  }

  #ended(reason = '') {
    const room = this.#room;
    if (!room) return;
    this.#room = null;
    if (room.state !== 'closed') room.leave();
    for (const timer of this.#timers) clearInterval(timer);
    this.#awake?.release();
    this.#awake = null;
    this.#stage.clear();
    this.#release();
    if (document.fullscreenElement === this) document.exitFullscreen();
    const { goodbyeTitle, goodbyeWords } = this.#parts;
    write(goodbyeTitle, reason ? 'The call has ended for you' : 'You have left the call');
    write(goodbyeWords, reason || `You were in the call for ${timeSince(this.#began)}.`);
    this.#show('goodbye');
    if (this.isConnected) this.#parts.rejoin.focus();
  }

  #release() {
    this.#lobby.close();
    this.#media.release();
  }

  #rejoin() {
    this.#show('lobby');
    this.#lobby.focus();
    this.#media.look();
  }

  /** The state that we send to the others. */
  #sayings() {
    return { muted: this.#media.isSilent, dark: this.#media.isWithoutCamera };
  }

  #heard(data, peer) {
    if (typeof data?.chat === 'string') {
      this.#panel.say(peer.name, data.chat, false);
      if (this.#panel.open !== 'chat') this.#news(`${peer.name}: ${data.chat.slice(0, 80)}`);
    } else if (data && typeof data === 'object' && 'muted' in data) {
      if (data.asks) this.#room.send(this.#sayings(), { to: peer.id });
      this.#told.set(peer.id, { muted: Boolean(data.muted), dark: Boolean(data.dark) });
      this.#draw();
    }
  }

  #say(text) {
    if (!this.#room?.send({ chat: text })) {
      this.#news('Not sent: there is no connection at the moment.');
      return false;
    }
    this.#panel.say('You', text, true);
    return true;
  }

  // Sending

  #mediaChanged() {
    if (!this.isConnected || ['access', 'goodbye'].includes(this.#state)) {
      if (this.#media.stream) this.#release(); // the browser opened it too late
      return;
    }
    this.#publish();
    this.#draw();
  }

  #publish() {
    const room = this.#room;
    if (!room) return;
    for (const [name, stream] of [['camera', this.#media.stream], ['screen', this.#media.screen]]) {
      if (stream === (room.streams.get(name) ?? null)) continue;
      if (stream) room.publish(stream, { name });
      else room.unpublish(name);
    }
    const sayings = this.#sayings();
    if (this.#said !== JSON.stringify(sayings)) room.send(sayings);
    this.#said = JSON.stringify(sayings);
  }

  #toggleScreen() {
    const room = this.#room;
    this.#media.toggleScreen(() => room !== null && this.#room === room);
  }

  /** Keeps the screen on, because a phone that goes to sleep would end the call. */
  #wake = async () => {
    if (!this.#room || document.hidden) return;
    try {
      this.#awake = await navigator.wakeLock?.request('screen');
    } catch { /* The battery is low. */ }
  };

  // Display

  #listen() {
    this.#stage.hear(MINE, this.#media.level > LOUD ? 1 : 0);
    for (const peer of this.#room.peers.values()) this.#stage.hear(peer.id, peer.level);
  }

  async #measure() {
    const room = this.#room;
    for (const peer of room.peers.values()) {
      const measured = await measureSent(peer.connection).catch(() => ({}));
      if (this.#room !== room) return;
      this.#grades.set(peer.id, peer.state === 'connected' ? gradeOf(measured) : '');
    }
    this.#draw();
  }

  #show(state) {
    const before = this.#state;
    this.#state = state;
    const { root, access, lobby, call, goodbye, overlay } = this.#parts;
    root.dataset.state = state;
    const isCall = ['joined', 'reconnecting'].includes(state);
    access.hidden = state !== 'access';
    if (state !== 'access') access.replaceChildren();
    lobby.hidden = !['lobby', 'joining'].includes(state);
    call.hidden = !isCall;
    goodbye.hidden = state !== 'goodbye';
    overlay.hidden = state !== 'reconnecting';
    this.#draw();
    if (state === before) return;
    this.dispatchEvent(new CustomEvent('trio-state', { detail: { state }, bubbles: true, composed: true }));
  }

  #draw() {
    if (!this.#parts) return;
    if (this.#room) this.#drawCall(this.#room);
    else if (!this.#parts.lobby.hidden) this.#drawLobby();
  }

  #drawLobby() {
    this.#lobby.draw({
      stream: this.#media.stream, isMuted: this.#media.isMuted, isDark: this.#media.isDark, isAsking: this.#media.isAsking,
      isJoining: this.#state === 'joining', room: this.getAttribute('room') ?? '',
    });
  }

  #drawCall(room) {
    const shown = this.#shown(room);
    this.#stage.draw(shown, { grades: this.#grades, speaker: this.#media.devices.chosen.speaker });
    const people = [this.#me(room), ...presentIn(room).map((peer) => this.#person(peer))];
    this.#panel.drawPeople(people);
    this.#panel.drawLink(this.#link(room));
    write(this.#parts.title, room.name);
    this.#parts.alone.hidden = people.length > 1 || shown.size > 1 || this.#panel.open === 'invite';
    this.#parts.sound.hidden = !this.#stage.isBlocked;
    this.#drawBar();
  }

  #link(room) {
    const given = this.getAttribute('link');
    if (given) return new URL(given, location.href).href;
    if (isAtHome) return `${HOME}/demo/call?room=${encodeURIComponent(room.name)}`;
    return location.href;
  }

  /** The tiles: key -> the arguments of `CallTile.show`. */
  #shown(room) {
    const shown = new Map();
    for (const peer of presentIn(room)) {
      const told = this.#told.get(peer.id) ?? {};
      const camera = peer.streams.get('camera') ?? (peer.streams.has('screen') ? null : peer.stream);
      const hasPicture = Boolean(camera?.getVideoTracks().length) && !told.dark;
      const words = peer.away ? 'Lost the connection to the server. Waiting…' : '';
      shown.set(peer.id, { name: peer.name, stream: camera, hasPicture, isMuted: told.muted, state: peer.state, words });
      const screen = peer.streams.get('screen');
      if (screen) shown.set(`${peer.id} screen`, { name: peer.name, stream: screen, state: peer.state, isScreen: true });
    }
    const mine = { name: 'You', stream: this.#media.stream, isMine: true, isMirrored: true, isMuted: this.#sayings().muted };
    shown.set(MINE, { ...mine, hasPicture: Boolean(this.#media.devices.tracks.camera), trouble: this.#media.trouble });
    if (this.#media.screen) shown.set(`${MINE} screen`, { name: 'You', stream: this.#media.screen, isMine: true, isScreen: true });
    return shown;
  }

  #me(room) {
    const { muted, dark } = this.#sayings();
    return { name: `${room.me.name || 'You'} (you)`, isMuted: muted, isDark: dark, words: '' };
  }

  #person(peer) {
    const { muted = false, dark = false } = this.#told.get(peer.id) ?? {};
    const grade = this.#grades.get(peer.id);
    const words = peer.away ? 'reconnecting' : peer.state !== 'connected' ? 'connecting' : grade ? `${grade} connection` : '';
    return { name: peer.name, isMuted: muted, isDark: dark, words };
  }

  #news(words) {
    const line = h('p', {}, words);
    this.#parts.news.append(line);
    while (this.#parts.news.children.length > 3) this.#parts.news.firstElementChild.remove();
    setTimeout(() => line.remove(), NEWS_FOR);
  }

  // The bar and the panel

  #drawBar = () => {
    this.#bar.draw({
      room: this.#room?.name ?? '', people: (this.#room ? presentIn(this.#room).length : 0) + 1,
      isMuted: this.#media.isSilent, isDark: this.#media.isWithoutCamera, isSharing: Boolean(this.#media.screen),
      panel: this.#panel.open, unread: this.#panel.unread, isFull: document.fullscreenElement === this,
    });
  };

  #panelChanged() {
    if (!this.#parts) return;
    this.#parts.root.classList.toggle('with-panel', Boolean(this.#panel.open));
    this.#bar.close();
    this.#draw();
  }

  #togglePanel(page) {
    this.#panel.show(this.#panel.open === page ? '' : page);
    if (!this.#panel.open) this.#bar.focus(page);
  }

  async #toggleFull() {
    if (document.fullscreenElement === this) return document.exitFullscreen();
    await this.requestFullscreen?.();
  }

  #press = (event) => {
    const target = event.composedPath()[0];
    if (event.key === 'Escape' && this.#panel.open) {
      const page = this.#panel.open;
      this.#panel.show('');
      this.#bar.focus(page);
      return;
    }
    const isTyping = target.matches?.('input, textarea, select, [contenteditable]');
    const isElsewhere = target !== document.body && !event.composedPath().includes(this);
    if (!this.#room || isTyping || isElsewhere || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (this.#bar.press(event.key.toLowerCase(), event.shiftKey)) event.preventDefault();
  };

  #build() {
    const part = {
      access: h('div', { class: 'access-place', hidden: true }),
      lobby: h('div', { class: 'lobby-place', hidden: true }, this.#lobby.element),
      news: h('div', { class: 'news', role: 'status' }),
      overlay: h('div', { class: 'overlay', role: 'status', hidden: true }, h('span', { class: 'spinner' }),
        h('div', {}, h('strong', {}, 'Reconnecting…'), h('p', {}, 'The connection to the server is lost. Your call continues meanwhile.'))),
      alone: h('div', { class: 'alone', hidden: true }, h('strong', {}, 'You are the only one here'), h('p', {}, 'Share the link so that others can join.'),
        h('button', { class: 'primary', type: 'button', onclick: () => this.#togglePanel('invite') }, icon('link'), 'Invite people')),
      sound: h('button', { class: 'primary tap', type: 'button', hidden: true, onclick: () => this.#stage.unblock() }, icon('speaker'), 'Turn the sound on'),
      title: h('h1', { class: 'hidden-text' }),
      goodbyeTitle: h('h1'),
      goodbyeWords: h('p', { class: 'soft' }),
      rejoin: h('button', { class: 'primary', type: 'button', onclick: () => this.#rejoin() }, 'Rejoin'),
    };
    part.call = h('div', { class: 'call', hidden: true }, part.title,
      h('div', { class: 'scene' }, this.#stage.element, part.alone, part.overlay, part.news, part.sound), this.#panel.element, this.#bar.element);
    part.goodbye = h('div', { class: 'goodbye', hidden: true }, icon('leave'), part.goodbyeTitle, part.goodbyeWords,
      h('div', { class: 'row' }, part.rejoin, h('slot', { name: 'after' })));
    part.root = h('div', { class: 'trio-call' }, part.access, part.lobby, part.call, part.goodbye);
    const root = this.attachShadow({ mode: 'open' });
    root.adoptedStyleSheets = sheets;
    root.append(part.root);
    return part;
  }
}

customElements.define('trio-call', TrioCall);
