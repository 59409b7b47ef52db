// Streams have names, and each transceiver carries sound or picture of one of them, both ways.

/** What a stream is called that is given no name; to clients that know no names, it is the only one. */
export const MAIN = 'camera';
export const MOST_NAMES = 8; // of one side; a transceiver that was made stays in every offer
const LONGEST_NAME = 64;
const LAYERS = [
  { rid: 'h' },
  { rid: 'm', scaleResolutionDownBy: 2 },
  { rid: 'l', scaleResolutionDownBy: 4 },
];
const KINDS = ['audio', 'video'];

/** The one to show where there is room for one: the camera's, or else the oldest. */
export function mainOf(streams) {
  return streams.get(MAIN) ?? streams.values().next().value ?? null;
}

export function hasTracks(stream) {
  return Boolean(stream?.getTracks().length);
}

export function isName(name) {
  return typeof name === 'string' && name.length > 0 && name.length <= LONGEST_NAME;
}

/**
 * What the other side calls its transceivers, by their mid.
 *
 * @param {unknown} streams - As it was received; undefined from a client that knows no names.
 * @returns {Map<string, string> | null}
 */
export function namesIn(streams) {
  if (typeof streams !== 'object' || streams === null) return null;
  return new Map(Object.entries(streams).filter(([, name]) => isName(name)));
}

/**
 * What the other side wants to send, and lacks transceivers for.
 *
 * @param {unknown} wants - As it was received: `[name, kind]` each.
 */
export function wantsIn(wants) {
  if (!Array.isArray(wants)) return [];
  return wants.filter((want) => isName(want?.[0]) && KINDS.includes(want[1]));
}

/** Tells the sender of a slot what its picture may cost, if that is not what it was told before. */
function encode(slot, { maxBitrate, codec }, onError) {
  const wanted = JSON.stringify({ maxBitrate, codec });
  if (wanted === slot.encoded) return;
  slot.encoded = wanted;
  const { sender } = slot.transceiver;
  const { codecs } = RTCRtpSender.getCapabilities('video');
  const chosen = codec && codecs.find(({ mimeType }) => mimeType.toLowerCase() === `video/${codec}`.toLowerCase());
  const parameters = sender.getParameters();
  for (const encoding of parameters.encodings) {
    const share = (encoding.scaleResolutionDownBy ?? 1) ** 2; // of the pixels
    delete encoding.maxBitrate;
    delete encoding.codec;
    if (maxBitrate) encoding.maxBitrate = Math.round(maxBitrate / share);
    if (chosen) encoding.codec = chosen;
  }
  sender.setParameters(parameters).catch(onError);
}

/**
 * The transceivers of one RTCPeerConnection: one for each stream and kind, for what we send and for
 * what the other side sends under that name. A stream that ends leaves its transceivers behind, so
 * that it can come again without another line in every offer.
 */
export class Slots {
  #pc;
  #slots = new Map(); // `${kind} ${name}` -> { name, kind, transceiver, encoded }
  #groups = new Map(); // name -> MediaStream; its id says which tracks belong together

  constructor(pc) {
    this.#pc = pc;
  }

  get isEmpty() {
    return this.#slots.size === 0;
  }

  /** The two that every connection begins with. */
  addPair(name, options) {
    for (const kind of KINDS) this.add(name, kind, options);
  }

  /** `options` as for `publish`; without any, it is for what the other side sends. */
  add(name, kind, options) {
    if (this.#slots.has(`${kind} ${name}`) || this.#slots.size >= 2 * 2 * MOST_NAMES) return;
    const init = { direction: 'recvonly', streams: [this.#group(name)] };
    // Only who makes a transceiver can give it layers. A browser that takes one takes the first.
    if (options?.simulcast && kind === 'video') init.sendEncodings = LAYERS.map((layer) => ({ ...layer }));
    this.#keep(name, kind, this.#pc.addTransceiver(kind, init));
  }

  /**
   * Makes use of what an offer of theirs brought.
   *
   * @param {Map<string, string> | null} names - By mid; null: the first of each kind is all there is.
   */
  adopt(names) {
    const isOurs = new Set([...this.#slots.values()].map(({ transceiver }) => transceiver));
    for (const transceiver of this.#pc.getTransceivers()) {
      const name = names ? names.get(transceiver.mid) : MAIN;
      const { kind } = transceiver.receiver.track;
      if (!name || isOurs.has(transceiver) || this.#slots.has(`${kind} ${name}`)) continue;
      transceiver.sender.setStreams(this.#group(name));
      this.#keep(name, kind, transceiver);
    }
  }

  #keep(name, kind, transceiver) {
    this.#slots.set(`${kind} ${name}`, { name, kind, transceiver, encoded: '{}' });
  }

  #group(name) {
    if (!this.#groups.has(name)) this.#groups.set(name, new MediaStream());
    return this.#groups.get(name);
  }

  /** What there is to send and no transceiver for, as `[name, kind]` each; `isNamed` as for `send`. */
  missing(outgoing, isNamed) {
    if (!isNamed) {
      const kinds = new Set([...this.#slots.values()].map(({ kind }) => kind));
      const wanted = mainOf(outgoing)?.tracks.map(({ kind }) => kind) ?? [];
      return wanted.filter((kind) => !kinds.has(kind)).map((kind) => [MAIN, kind]);
    }
    const all = [...outgoing].flatMap(([name, { tracks }]) => tracks.map(({ kind }) => [name, kind]));
    return all.filter(([name, kind]) => !this.#slots.has(`${kind} ${name}`));
  }

  /**
   * Sends what there is now.
   *
   * @param {Map<string, object>} outgoing - By name.
   * @param {boolean} isNamed - False: whatever the slots are called, they carry the main stream.
   * @param {(error: Error) => void} onError
   */
  send(outgoing, isNamed, onError) {
    for (const slot of this.#slots.values()) {
      const { name, kind, transceiver } = slot;
      const stream = isNamed ? outgoing.get(name) : mainOf(outgoing);
      const track = stream?.tracks.find((one) => one.kind === kind) ?? null;
      const { sender } = transceiver;
      if (sender.track !== track) sender.replaceTrack(track).catch(onError);
      transceiver.direction = track ? 'sendrecv' : 'recvonly';
      if (track && kind === 'video') encode(slot, stream, onError);
    }
  }

  /** The name of the slot with that mid. */
  nameOf(mid) {
    return this.names()[mid];
  }

  /** What we call them, by mid: only of those that were offered. */
  names() {
    const offered = [...this.#slots.values()].filter(({ transceiver }) => transceiver.mid !== null);
    return Object.fromEntries(offered.map(({ name, transceiver }) => [transceiver.mid, name]));
  }
}
