// One peer connection, and how both sides agree on what goes over it.

const ANSWER_WITHIN = 3_000; // ms until an offer is sent again: signals may have been lost
const OFFER_TIMES = 5; // a peer that never answers does not want to
const KEEP_EVERY = 30_000; // ms; the sender of a lost signal is usually not told
const MOST_EARLY = 100; // candidates that wait for a description

/**
 * The negotiation of one link: in each state, what an input leads to, as [next state, action].
 * An input that has no entry changes nothing.
 *
 * States: `idle`; `asking`, an offer was asked for; `making` an offer; `offering`, an offer is out;
 * `applying` an answer; `owing`, the same, and another offer was asked for meanwhile;
 * `taking` their offer; `answering` it.
 *
 * Inputs from this side: `change`, something here must be negotiated, by an offer of ours; `wish`,
 * the same, by an offer of theirs; and the ends of the steps: `made` or `failed`, `applied` or
 * `refused`, `taken`, `answered`.
 * Inputs from the other side: `request`, it asks for an offer; `answer`; and its offers, by
 * {@link inputOf}.
 */
export const NEGOTIATION = {
  idle: {
    change: ['making', 'offer'],
    wish: ['asking', 'ask'],
    request: ['making', 'offer'],
    offer: ['taking', 'take'],
    yield: ['taking', 'take'],
  },
  asking: {
    change: ['making', 'offer'],
    wish: ['asking', 'ask'],
    request: ['making', 'offer'],
    offer: ['taking', 'take'],
    yield: ['taking', 'take'],
  },
  making: {
    made: ['offering', 'sendOffer'],
    failed: ['idle', 'settle'],
    yield: ['taking', 'take'],
  },
  offering: {
    answer: ['applying', 'apply'],
    answerLost: ['offering', 'sendOffer'],
    yield: ['taking', 'take'],
  },
  applying: {
    applied: ['idle', 'settle'],
    refused: ['offering', null],
    request: ['owing', null],
    offer: ['taking', 'take'],
    yield: ['taking', 'take'],
  },
  owing: {
    applied: ['making', 'offer'],
    refused: ['offering', null],
    offer: ['taking', 'take'],
    yield: ['taking', 'take'],
  },
  taking: {
    taken: ['answering', 'answer'],
    yield: ['taking', 'take'],
  },
  answering: {
    answered: ['idle', 'settle'],
    yield: ['taking', 'take'],
  },
};

/**
 * Which input an offer is.
 *
 * - `offer`: one that need not be taken while an offer of ours is under way: ours stands.
 * - `yield`: one before which ours stands back, since we are polite, or since the other side knows
 *   nothing of these rules.
 * - `answerLost`: the other side has taken our first offer, and its answer was lost.
 *
 * @param {{ session?: string, re?: string }} offer
 * @param {{ polite: boolean, isFirst: boolean }} link - `isFirst`: nothing of theirs was applied yet.
 */
export function inputOf({ session, re }, { polite, isFirst }) {
  if (!polite && session !== undefined) return 'offer';
  return isFirst && re !== undefined ? 'answerLost' : 'yield';
}

/**
 * One RTCPeerConnection with one peer. It is the W3C's "perfect negotiation": either side may
 * make an offer at any time, and if both do, the polite one takes its own back.
 * https://www.w3.org/TR/webrtc/#perfect-negotiation-example
 *
 * Signals may be lost while a connection to the server is, and a peer may come back as another
 * page. So, beyond the example, what we send carries three fields:
 *
 * - `session` names this RTCPeerConnection, and `re` the one of the other side, once it is known.
 *   A description for another connection than the present one is not applied.
 * - `n` counts our offers. One is sent again until its answer comes; one that comes twice gets
 *   the same answer twice.
 *
 * Each side has one transceiver for sound and one for picture, from the first offer on and always
 * ready to receive. Browsers are worst at taking an offer back: Chromium leaves received tracks
 * muted, or without a picture (https://github.com/w3c/webrtc-pc/issues/3081). So it is avoided. If
 * the very first offers cross, the polite side begins anew with another RTCPeerConnection; later it
 * does not offer, but asks for an offer, in which its own changes are the answer. The `restart` of
 * such a request is for ICE.
 *
 * A client that does not know these fields is understood as well, and towards it we are polite.
 */
export class Link {
  session;
  stream = null; // what the other side sends
  #iceServers;
  #outgoing; // MediaStream
  #polite;
  #tell;
  #onState;
  #onStream;
  #onSilence;
  #onError;
  #pc = null;
  #state = 'idle'; // of the negotiation
  #transceivers; // kind -> one RTCRtpTransceiver, that always receives
  #theirs; // the other side's session
  #wish = null; // { restart }: what their next offer is for, until it comes
  #offers = 0; // how many we made
  #left = 0; // how often the last offer or request may still be sent
  #again = 0; // timer
  #keeper; // timer
  #lastOffer; // number of the last one of theirs
  #answer = null; // ours to that
  #early = []; // candidates that came before the description
  #restarted = false; // since the connection was last up

  constructor({ iceServers, outgoing, polite, tell, onState, onStream, onSilence, onError }) {
    this.#iceServers = iceServers;
    this.#outgoing = outgoing;
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
    this.#transceivers = new Map();
    const nameless = new MediaStream(); // for tracks that name no stream
    const pc = new RTCPeerConnection({ iceServers: this.#iceServers, bundlePolicy: 'max-bundle' });
    pc.onnegotiationneeded = () => (this.#mustAsk() ? this.#ask(false) : this.#input('change'));
    pc.onconnectionstatechange = () => {
      if (pc.connectionState === 'connected') this.#restarted = false;
      this.#onState();
    };
    pc.onicecandidate = ({ candidate }) => {
      if (candidate) this.#tell('ice_candidate', 'candidate', this.#signed(candidate.toJSON()));
    };
    pc.ontrack = ({ track, streams: [stream = nameless] }) => {
      if (stream === nameless) stream.addTrack(track);
      stream.onremovetrack = () => this.#onSilence();
      this.stream = stream;
      this.#onStream(stream);
    };
    this.#pc = pc;
  }

  // What others see of it

  /** The RTCPeerConnection; another one after a begin anew. */
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

  /** The other side may not want to, or not know how. */
  #isUnanswered() {
    return !this.isPaired && this.#offers > 0 && this.#left === 0;
  }

  /** The other side closed its connection: shown at once here, by `connectionState` after seconds. */
  #hungUp() {
    const [receiver] = this.#pc.getReceivers();
    return ['closed', 'failed'].includes(receiver?.transport?.state);
  }

  /** Whether an offer of `session` is for this connection. */
  isWith(session) {
    return this.#theirs === undefined || this.#theirs === session;
  }

  /** Whether the other side's connection is known. */
  get isPaired() {
    return this.#theirs !== undefined;
  }

  /** How many packets have come, of whatever kind; NaN if the browser does not count them. */
  async packetsReceived() {
    const stats = [...(await this.#pc.getStats()).values()];
    return stats.find((s) => s.type === 'transport')?.packetsReceived ?? NaN;
  }

  // What goes out

  /** Makes an offer: sends what there is to send, and is ready to receive. */
  open() {
    if (this.#state === 'taking') return; // their offer brings the transceivers
    if (this.#pc.signalingState === 'closed') return; // by a listener, that was told of it
    for (const kind of ['audio', 'video']) this.#ensure(kind);
    this.send();
  }

  #ensure(kind) {
    if (this.#transceivers.has(kind)) return;
    const init = { direction: 'recvonly', streams: [this.#outgoing] };
    this.#transceivers.set(kind, this.#pc.addTransceiver(kind, init));
  }

  /** Sends what is in the outgoing stream now; a new offer only if it is needed. */
  send() {
    for (const [kind, { sender }] of this.#transceivers) {
      const track = this.#outgoing.getTracks().find((t) => t.kind === kind) ?? null;
      if (sender.track !== track) sender.replaceTrack(track).catch((error) => this.#onError(error));
      this.#transceivers.get(kind).direction = track ? 'sendrecv' : 'recvonly';
    }
  }

  /** The other side's offer made transceivers: they are for what we send, too. */
  #adopt() {
    for (const transceiver of this.#pc.getTransceivers()) {
      const { kind } = transceiver.receiver.track;
      if (this.#transceivers.has(kind)) continue;
      transceiver.sender.setStreams(this.#outgoing);
      this.#transceivers.set(kind, transceiver);
    }
    for (const { kind } of this.#outgoing.getTracks()) this.#ensure(kind);
    this.send();
  }

  // Negotiation

  /** Goes on by the table; returns what the action returns. */
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
    settle: () => this.#wish && this.#input('wish'),
  };

  /** Once the two know each other, only the impolite side makes offers. */
  #mustAsk() {
    return this.#polite && this.isPaired;
  }

  #ask(restart) {
    this.#wish = { restart: restart || Boolean(this.#wish?.restart) };
    this.#input('wish');
  }

  async #makeOffer() {
    const pc = this.#pc;
    try {
      await pc.setLocalDescription();
      if (pc !== this.#pc) return; // we began anew meanwhile
      this.#offers += 1;
      this.#input('made');
    } catch (error) {
      if (pc !== this.#pc) return;
      this.#input('failed');
      this.#onError(error);
    }
  }

  /** Sends the offer, or the request for one, again and again until its answer comes. */
  #say(times = OFFER_TIMES) {
    this.#left = times;
    this.#repeat();
  }

  #repeat() {
    clearTimeout(this.#again);
    const signal = this.#unanswered();
    if (!signal) return;
    if (this.#left === 0) return this.#onState(); // for now
    this.#left -= 1;
    this.#again = setTimeout(() => this.#repeat(), ANSWER_WITHIN);
    this.#tell('offer', 'offer', this.#signed(signal));
  }

  #unanswered() {
    if (this.#state === 'asking') return { type: 'request', ...this.#wish };
    if (this.#state !== 'offering') return null;
    const { type, sdp } = this.#pc.localDescription;
    return { type, sdp, n: this.#offers };
  }

  /**
   * Takes an offer of theirs, or their request for one of ours.
   *
   * @returns {Promise<void>} Rejects if the offer does not fit this connection.
   */
  async offered(offer) {
    if (offer.type === 'request') {
      // While an offer of ours is on its way, its answer will hold their changes.
      if (offer.restart) this.#pc.restartIce();
      else this.#input('request');
    } else if (offer.n !== undefined && offer.n === this.#lastOffer) {
      this.#sendAnswer();
    } else {
      const isFirst = this.#isFirst();
      await this.#input(inputOf(offer, { polite: this.#polite, isFirst }), offer, isFirst);
    }
  }

  /** Whether there are transceivers of our own, which no offer of theirs can be for. */
  #isFirst() {
    if (['applying', 'owing'].includes(this.#state) || this.#pc.currentRemoteDescription) return false;
    return this.#transceivers.size > 0;
  }

  async #take({ type, sdp, session, n }, isFirst) {
    if (isFirst) this.#begin();
    this.#theirs = session;
    this.#lastOffer = n;
    this.#answer = this.#wish = null;
    clearTimeout(this.#again);
    await this.#describe({ type, sdp });
    if (n === this.#lastOffer) await this.#input('taken');
  }

  async #makeAnswer() {
    const n = this.#lastOffer;
    this.#adopt();
    await this.#pc.setLocalDescription();
    this.#answer = { type: 'answer', sdp: this.#pc.localDescription.sdp, n };
    this.#sendAnswer();
    this.#input('answered');
  }

  #sendAnswer() {
    if (this.#answer) this.#tell('answer', 'answer', this.#signed(this.#answer));
  }

  /** Takes an answer of theirs; one to another offer than the last is not applied. */
  answered(answer) {
    if (answer?.re !== undefined && answer.re !== this.session) return;
    if (answer?.n !== undefined && answer.n !== this.#offers) return;
    this.#input('answer', answer);
  }

  async #apply(answer) {
    this.#theirs = answer?.session;
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

  /** A bad candidate costs one way of several, so nobody need hear of it. */
  #add(candidate) {
    if (this.#theirs === candidate.session) this.#pc.addIceCandidate(candidate).catch(() => {});
  }

  // After an outage

  /** The peer or the server is back: sends again what was lost, candidates by new ones. */
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

  /** Looks for another way. False if that was tried, and did not help. */
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
    this.#pc.onconnectionstatechange = this.#pc.onnegotiationneeded = this.#pc.ontrack = null;
    this.#pc.close();
  }

  #signed(value) {
    return { ...value, session: this.session, re: this.#theirs };
  }
}

/** Not crypto.randomUUID(), which a page without https does not have. */
export function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}
