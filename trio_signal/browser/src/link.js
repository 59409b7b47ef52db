// One peer connection, and its negotiation.

import { inputOf, NEGOTIATION } from './negotiation.js';
import { StatsReader } from './stats.js';
import { hasTracks, MAIN, namesIn, Slots, wantsIn } from './streams.js';

const ANSWER_WITHIN = 3_000; // ms until an offer is sent again: signals may have been lost
const OFFER_TIMES = 5; // after that, the peer counts as unwilling to answer
const KEEP_EVERY = 30_000; // ms between repetitions: a sender may not notice that a signal was lost
const UNUSED_ID = 1022; // of data channels; browsers count from 0
const MOST_EARLY = 100; // candidates that wait for a description

/**
 * One RTCPeerConnection with one peer. It uses the W3C's "perfect negotiation": either side may
 * make an offer at any time, and if both do, the polite one withdraws its own.
 * https://www.w3.org/TR/webrtc/#perfect-negotiation-example
 *
 * Signals may be lost with a connection to the server, and a peer may return as a reloaded page. So,
 * unlike in the example, signals have three more fields:
 *
 * - `session` names this RTCPeerConnection, and `re` that of the other side, once it is known.
 *   A description for a connection other than the current one is not applied.
 * - `n` counts our offers. An offer is repeated until its answer arrives; a repeated offer gets the
 *   same answer again.
 *
 * Each side has one transceiver for audio and one for video from the first offer on, always ready to
 * receive. {@link Slots} adds more for more streams, once both sides are known to use names. The
 * names are in `streams` of offers and answers, by mid.
 *
 * Browsers handle the withdrawal of an offer (rollback) badly: Chromium leaves received tracks muted,
 * or without a picture (https://github.com/w3c/webrtc-pc/issues/3081). So it is avoided. If the very
 * first offers cross, the polite side starts again with another RTCPeerConnection. After that it makes
 * no offers. It requests them, and puts its own changes into its answers. In such a request, `restart`
 * asks for an ICE restart, `wants` lists the streams that need transceivers, and `data` asks for the
 * line of data channels.
 *
 * Clients that do not know these fields are supported; with them, we are the polite side.
 */
export class Link {
  session;
  streams; // what the other side sends: name -> MediaStream
  #iceServers;
  #outgoing; // name -> { tracks, ...PublishOptions }
  #channels;
  #polite;
  #tell;
  #onState;
  #onStream;
  #onSilence;
  #onError;
  #pc = null;
  #state = 'idle'; // of the negotiation
  #slots;
  #stats;
  #hasDataLine; // made because the other side asked for it
  #theirs; // the other side's session
  #names; // of its transceivers, by mid; null if it does not use names, undefined until we know
  #needed = null; // { restart }: why we need an offer of theirs, until it arrives
  #offers = 0; // how many offers we made
  #left = 0; // how many more times the last offer or request may be sent
  #again = 0; // timer
  #keeper; // timer
  #lastOffer; // the number of their last offer
  #answer = null; // our answer to it
  #early = []; // candidates that came before the description
  #restarted = false; // whether ICE was restarted since the connection was last up

  constructor({
    iceServers, outgoing, channels, polite, tell, onState, onStream, onSilence, onError,
  }) {
    this.#iceServers = iceServers;
    this.#outgoing = outgoing;
    this.#channels = channels;
    this.#polite = polite;
    this.#tell = tell;
    this.#onState = onState;
    this.#onStream = onStream;
    this.#onSilence = onSilence;
    this.#onError = onError;
    this.#begin();
    this.#keeper = setInterval(() => this.#isSettled() || this.resume(1), KEEP_EVERY);
  }

  #begin() {
    this.#stop();
    this.session = randomId();
    this.streams = new Map();
    this.#names = undefined;
    const nameless = new MediaStream(); // for tracks without a stream
    const pc = new RTCPeerConnection({ iceServers: this.#iceServers, bundlePolicy: 'max-bundle' });
    pc.onnegotiationneeded = () => (this.#mustAsk() ? this.#ask(false) : this.#input('change'));
    pc.onconnectionstatechange = () => {
      if (pc.connectionState === 'connected') this.#restarted = false;
      this.#onState();
    };
    pc.onicecandidate = ({ candidate }) => {
      if (candidate) this.#tell('ice_candidate', 'candidate', this.#signed(candidate.toJSON()));
    };
    pc.ontrack = ({ track, transceiver, streams: [stream = nameless] }) => {
      if (stream === nameless) stream.addTrack(track);
      const name = this.#nameOf(transceiver, stream);
      stream.onremovetrack = () => this.#onSilence(name);
      this.streams.set(name, stream);
      this.#onStream(stream, name);
    };
    pc.ondatachannel = ({ channel }) => this.#channels.opened(channel, () => isCarried(pc));
    this.#pc = pc;
    this.#slots = new Slots(pc);
    this.#stats = new StatsReader();
    this.#hasDataLine = false;
  }

  // State

  /** The current RTCPeerConnection. */
  get connection() {
    return this.#pc;
  }

  /** @returns {LinkState} */
  get state() {
    const state = this.#pc.connectionState;
    if (state === 'new') return this.#isUnanswered() ? 'none' : 'connecting';
    if (state === 'disconnected' || (state === 'connected' && this.#hungUp())) return 'interrupted';
    return state;
  }

  /** The other side may be unwilling or unable to answer. */
  #isUnanswered() {
    return !this.isPaired && this.#offers > 0 && this.#left === 0;
  }

  /** Whether the other side has closed its connection; `connectionState` shows that seconds later. */
  #hungUp() {
    const [receiver] = this.#pc.getReceivers();
    return ['closed', 'failed'].includes(receiver?.transport?.state);
  }

  /** The volume of the other side, 0 to 1. */
  get level() {
    const sources = this.#pc.getReceivers().flatMap((receiver) => receiver.getSynchronizationSources());
    return Math.max(0, ...sources.map(({ audioLevel }) => audioLevel ?? 0));
  }

  /** @returns {Promise<PeerStats>} */
  async stats() {
    const [reader, pc] = [this.#stats, this.#pc];
    return reader.read(await pc.getStats(), (mid, isOurs) => {
      const theirs = isOurs ? undefined : this.#names?.get(mid);
      return theirs ?? this.#slots.nameOf(mid) ?? MAIN;
    });
  }

  /** Statistics without bitrates; does not affect those of `stats`. */
  async glance() {
    return new StatsReader().read(await this.#pc.getStats(), () => MAIN);
  }

  /** Whether an offer of `session` is for this connection. */
  isWith(session) {
    return this.#theirs === undefined || this.#theirs === session;
  }

  /** Whether the other side's connection is known. */
  get isPaired() {
    return this.#theirs !== undefined;
  }

  /** The number of received packets of any kind; NaN if the browser does not count them. */
  async packetsReceived() {
    const stats = [...(await this.#pc.getStats()).values()];
    return stats.find((s) => s.type === 'transport')?.packetsReceived ?? NaN;
  }

  // Sending

  /** Makes an offer: sends our streams, and is ready to receive. */
  open() {
    if (this.#state === 'taking') return; // their offer brings the transceivers
    if (this.#pc.signalingState === 'closed') return; // a listener closed it
    const [first = MAIN] = this.#outgoing.keys();
    const main = this.#outgoing.has(MAIN) ? MAIN : first;
    if (this.#slots.isEmpty) this.#slots.addPair(main, this.#outgoing.get(main));
    this.send();
  }

  /**
   * Sends the current streams; makes a new offer only if needed. The first offer has only two
   * transceivers: a client that does not support names would show whichever stream came last.
   */
  send() {
    if (this.#state === 'taking') return; // the answer will have them
    if (this.#missing().length > 0) this.#makeRoom();
    this.#openChannels();
    this.#slots.send(this.#outgoing, this.#names !== null, (error) => this.#onError(error));
  }

  /** Adds or requests transceivers; only one side adds them, so that none is added twice. */
  #makeRoom() {
    if (this.#mustAsk()) this.#ask(false);
    else for (const [name, kind] of this.#missing()) {
      this.#slots.add(name, kind, this.#outgoing.get(name));
    }
  }

  /** The streams without transceivers; none until we know whether the other side uses names. */
  #missing() {
    if (this.#names === undefined) return [];
    return this.#slots.missing(this.#outgoing, this.#names !== null);
  }

  /** The first channel needs a line in the offer; once paired, only the impolite side adds it. */
  #openChannels() {
    const pc = this.#pc;
    const beginsWithIt = !this.isPaired && this.#state === 'idle';
    for (const channel of this.#channels.unopened()) {
      if (!this.#polite || beginsWithIt || pc.sctp) {
        this.#openChannel(channel);
      } else if (this.#names) {
        this.#ask(false); // clients without names would not understand the request
      }
    }
  }

  /** A channel that the browser refuses, because of its options, is closed: it must not be tried again. */
  #openChannel(channel) {
    const pc = this.#pc;
    try {
      channel.attach(pc.createDataChannel(channel.name, channel.init), () => isCarried(pc));
    } catch (error) {
      if (pc.signalingState !== 'closed') channel.close();
      throw error;
    }
  }

  /** Makes a data channel that nobody uses: there is no other way to get the line into an offer. */
  #addDataLine() {
    if (this.#hasDataLine || this.#pc.sctp) return;
    this.#hasDataLine = true;
    this.#pc.createDataChannel('', { negotiated: true, id: UNUSED_ID });
  }

  /** The name of a track's stream. */
  #nameOf({ mid }, stream) {
    if (this.#names) return this.#names.get(mid) ?? this.#slots.nameOf(mid) ?? stream.id;
    const main = this.streams.get(MAIN);
    return main === stream || !hasTracks(main) ? MAIN : stream.id;
  }

  // Negotiation

  /** Applies an input to the table; returns the result of its action. */
  #input(input, ...details) {
    const [state, action] = NEGOTIATION[this.#state][input] ?? [this.#state, null];
    this.#state = state;
    return action && this.#actions[action](...details);
  }

  #actions = {
    offer: () => this.#makeOffer(),
    ask: () => this.#say(),
    sendOffer: () => this.#say(),
    apply: (answer) => this.#apply(answer),
    take: (offer, isFirst) => this.#take(offer, isFirst),
    answer: () => this.#makeAnswer(),
    settle: () => this.#settle(),
  };

  /** When a negotiation is complete, sends what had to wait for it. */
  #settle() {
    this.send();
    if (this.#needed && this.#state === 'idle') this.#input('need');
  }

  /** Whether we must request offers: once paired, only the impolite side makes them. */
  #mustAsk() {
    return this.#polite && this.isPaired;
  }

  #ask(restart) {
    this.#needed = { restart: restart || Boolean(this.#needed?.restart) };
    this.#input('need');
  }

  async #makeOffer() {
    const pc = this.#pc;
    try {
      await pc.setLocalDescription();
      if (pc !== this.#pc) return; // it was replaced meanwhile
      this.#offers += 1;
      this.#input('made');
    } catch (error) {
      if (pc !== this.#pc) return;
      this.#input('failed');
      this.#onError(error);
    }
  }

  /** Sends the offer, or the request for one, repeatedly until it is answered. */
  #say(times = OFFER_TIMES) {
    this.#left = times;
    this.#repeat();
  }

  #repeat() {
    clearTimeout(this.#again);
    const signal = this.#unanswered();
    if (!signal) return;
    if (this.#left === 0) return this.#onState(); // gives up for now
    this.#left -= 1;
    this.#again = setTimeout(() => this.#repeat(), ANSWER_WITHIN);
    this.#tell('offer', 'offer', this.#signed(signal));
  }

  #unanswered() {
    if (this.#state === 'asking') {
      const data = this.#channels.unopened().length > 0;
      return { type: 'request', ...this.#needed, wants: this.#missing(), data };
    }
    if (this.#state !== 'offering') return null;
    const { type, sdp } = this.#pc.localDescription;
    return { type, sdp, n: this.#offers, streams: this.#slots.names() };
  }

  /**
   * Processes an offer of theirs, or their request for one of ours.
   *
   * @returns {Promise<void>} Rejects if the offer does not fit this connection.
   */
  async offered(offer) {
    if (offer.type === 'request') {
      // If our offer is unanswered, its answer will have their changes. Streams without transceivers
      // follow in the next offer.
      for (const [name, kind] of wantsIn(offer.wants)) this.#slots.add(name, kind);
      if (offer.data) this.#addDataLine();
      if (offer.restart) this.#pc.restartIce();
      else this.#input('request');
    } else if (offer.n !== undefined && offer.n === this.#lastOffer) {
      this.#sendAnswer();
    } else {
      const isFirst = this.#isFirst();
      await this.#input(inputOf(offer, { polite: this.#polite, isFirst }), offer, isFirst);
    }
  }

  /** Whether we have transceivers of our own, but have not applied a description of theirs yet. */
  #isFirst() {
    if (['applying', 'owing'].includes(this.#state) || this.#pc.currentRemoteDescription) return false;
    return !this.#slots.isEmpty;
  }

  async #take({ type, sdp, session, n, streams }, isFirst) {
    if (isFirst) this.#begin();
    this.#theirs = session;
    this.#names = namesIn(streams);
    this.#lastOffer = n;
    this.#answer = this.#needed = null;
    clearTimeout(this.#again);
    await this.#describe({ type, sdp });
    if (n === this.#lastOffer) await this.#input('taken');
  }

  async #makeAnswer() {
    const n = this.#lastOffer;
    this.#slots.adopt(this.#names);
    this.send();
    await this.#pc.setLocalDescription();
    this.#answer = { type: 'answer', sdp: this.#pc.localDescription.sdp, n, streams: this.#slots.names() };
    this.#sendAnswer();
    this.#input('answered');
  }

  #sendAnswer() {
    if (this.#answer) this.#tell('answer', 'answer', this.#signed(this.#answer));
  }

  /** Processes an answer of theirs; only an answer to our last offer is applied. */
  answered(answer) {
    if (answer?.re !== undefined && answer.re !== this.session) return;
    if (answer?.n !== undefined && answer.n !== this.#offers) return;
    this.#input('answer', answer);
  }

  async #apply(answer) {
    this.#theirs = answer?.session;
    this.#names = namesIn(answer?.streams);
    clearTimeout(this.#again);
    try {
      await this.#describe({ type: 'answer', sdp: answer?.sdp });
      this.#input('applied');
    } catch (error) {
      this.#input('refused');
      this.#onError(error);
    }
  }

  async #describe(description) {
    const described = this.#pc.setRemoteDescription(description);
    const early = this.#early ?? [];
    this.#early = null; // from now on the browser keeps the order
    for (const candidate of early) this.#add(candidate);
    await described;
    const [receiver] = this.#pc.getReceivers(); // all are in one bundle
    if (receiver?.transport) receiver.transport.onstatechange = () => this.#onState();
  }

  candidate(candidate) {
    if (!this.#early) this.#add(candidate);
    else if (this.#early.length < MOST_EARLY) this.#early.push(candidate);
  }

  /** Adds a candidate; errors are ignored, because there are other candidates. */
  #add(candidate) {
    if (this.#theirs === candidate.session) this.#pc.addIceCandidate(candidate).catch(() => {});
  }

  // After an outage

  /** The peer or the server is back: repeats lost signals, and replaces candidates by an ICE restart. */
  resume(times = OFFER_TIMES) {
    this.#say(times);
    if (this.state !== 'connected') this.#restartIce();
  }

  #isSettled() {
    return this.#state === 'idle' && this.state === 'connected';
  }

  #restartIce() {
    if (this.#mustAsk()) this.#ask(true);
    else this.#pc.restartIce();
  }

  /** Restarts ICE; returns false if that was already tried and did not help. */
  restart() {
    if (this.#restarted || this.#hungUp()) return false;
    this.#restarted = true;
    this.#restartIce();
    return true;
  }

  close() {
    this.#onState = this.#onError = () => {};
    clearInterval(this.#keeper);
    this.#stop();
  }

  #stop() {
    clearTimeout(this.#again);
    if (!this.#pc) return;
    const pc = this.#pc;
    pc.onconnectionstatechange = pc.onnegotiationneeded = pc.ontrack = pc.ondatachannel = null;
    this.#channels.detach();
    pc.close();
  }

  #signed(value) {
    return { ...value, session: this.session, re: this.#theirs };
  }
}

/** Whether the connection of the data channels is up. If so, the other side closed a channel that ends. */
function isCarried(pc) {
  // Not `sctp.state`: Chromium may leave that at `connecting`.
  return pc.connectionState === 'connected' && pc.sctp?.transport.state === 'connected';
}

/** A random id; crypto.randomUUID() is missing on pages without https. */
export function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}
