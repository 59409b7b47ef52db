// Named streams. Each transceiver carries the audio or video of one name, in both directions.

/** The default name of a stream. Clients that do not support names see only this one. */
export const MAIN = 'camera';
export const MOST_NAMES = 8; // of one side; a transceiver, once made, stays in every offer
const LONGEST_NAME = 64;
const LAYERS = [
  { rid: 'h' },
  { rid: 'm', scaleResolutionDownBy: 2 },
  { rid: 'l', scaleResolutionDownBy: 4 },
];
const KINDS = ['audio', 'video'];

/** The stream to show if only one is shown: the camera, or else the oldest. */
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
 * The names of the other side's transceivers, by mid.
 *
 * @param {unknown} streams - As received; undefined from a client that does not support names.
 * @returns {Map<string, string> | null}
 */
export function namesIn(streams) {
  if (typeof streams !== 'object' || streams === null) return null;
  return new Map(Object.entries(streams).filter(([, name]) => isName(name)));
}

/**
 * The streams that the other side wants to send, but has no transceivers for.
 *
 * @param {unknown} wants - As received: `[name, kind]` each.
 */
export function wantsIn(wants) {
  if (!Array.isArray(wants)) return [];
  return wants.filter((want) => isName(want?.[0]) && KINDS.includes(want[1]));
}

/** Sets the bitrate and codec of a slot's sender, if they have changed. */
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
 * The transceivers of one RTCPeerConnection: one for each stream name and kind, used by both sides.
 * The transceivers of a stream that has ended remain, so that it can start again without adding
 * another line to every offer.
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

  /** Adds the first two transceivers of a connection. */
  addPair(name, options) {
    for (const kind of KINDS) this.add(name, kind, options);
  }

  /** Adds a transceiver. `options` are those of `publish`; without them it is for receiving only. */
  add(name, kind, options) {
    if (this.#slots.has(`${kind} ${name}`) || this.#slots.size >= 2 * 2 * MOST_NAMES) return;
    const init = { direction: 'recvonly', streams: [this.#group(name)] };
    // Only the side that makes a transceiver can set layers. A receiving browser gets the first one.
    if (options?.simulcast && kind === 'video') init.sendEncodings = LAYERS.map((layer) => ({ ...layer }));
    this.#keep(name, kind, this.#pc.addTransceiver(kind, init));
  }

  /**
   * Uses the transceivers that the other side's offer has made.
   *
   * @param {Map<string, string> | null} names - By mid; null if there is only the first of each kind.
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

  /** The streams without transceivers, as `[name, kind]` each; `isNamed` as for `send`. */
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
   * Sends the current streams.
   *
   * @param {Map<string, object>} outgoing - By name.
   * @param {boolean} isNamed - If false, the slots carry the main stream, whatever their names.
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

  /** The name of the slot with this mid. */
  nameOf(mid) {
    return this.names()[mid];
  }

  /** Our names, by mid, of the transceivers that were offered. */
  names() {
    const offered = [...this.#slots.values()].filter(({ transceiver }) => transceiver.mid !== null);
    return Object.fromEntries(offered.map(({ name, transceiver }) => [transceiver.mid, name]));
  }
}
