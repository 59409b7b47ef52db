// What a peer connection tells of itself, in a form that fits a page.

/**
 * How a peer connection does. Numbers that the browser does not know are null.
 *
 * @typedef {object} PeerStats
 * @property {number | null} roundTripTime - To the peer and back, in ms.
 * @property {number | null} bandwidth - What the way to the peer is estimated to carry, in bits a second.
 * @property {boolean} relayed - Whether a TURN server passes all of it on.
 * @property {StreamStats[]} sent - A row for each track that we send, and for each layer of simulcast.
 * @property {StreamStats[]} received - A row for each track that we receive.
 */

/**
 * How one track does.
 *
 * @typedef {object} StreamStats
 * @property {string} name - The stream's.
 * @property {'audio' | 'video'} kind - What it is.
 * @property {string | null} rid - The layer of simulcast.
 * @property {string | null} codec - `VP8`, `opus`, ...
 * @property {number} bytes - Since the track began.
 * @property {number | null} bitrate - In bits a second, since `stats` was called before; null the first time.
 * @property {number | null} lost - Packets that did not arrive.
 * @property {number | null} jitter - In ms.
 * @property {number | null} width - Of the picture.
 * @property {number | null} height - Of the picture.
 * @property {number | null} framesPerSecond - Of the picture.
 * @property {string | null} limitation - What keeps the picture that we send from being better: `none`,
 *   `cpu`, `bandwidth` or `other`.
 */

/** Reads the reports of one RTCPeerConnection, one after the other. */
export class StatsReader {
  #before = new Map(); // id -> { bytes, timestamp, bitrate }

  /**
   * @param {Map<string, any>} report - Of `getStats`.
   * @param {(mid: string, isOurs: boolean) => string} nameOf
   * @returns {PeerStats}
   */
  read(report, nameOf) {
    const all = [...report.values()];
    const transport = all.find(({ type }) => type === 'transport');
    const pair = report.get(transport?.selectedCandidatePairId) // Firefox names no transport
      ?? all.find(({ type, nominated, state }) => type === 'candidate-pair' && nominated && state === 'succeeded');
    const ends = [pair?.localCandidateId, pair?.remoteCandidateId].map((id) => report.get(id));
    const rows = (wanted) => all.filter(({ type }) => type === wanted).map((one) => this.#row(one, report, nameOf));
    const stats = {
      roundTripTime: inMs(pair?.currentRoundTripTime),
      bandwidth: pair?.availableOutgoingBitrate ?? null,
      relayed: ends.some((end) => end?.candidateType === 'relay'),
      sent: rows('outbound-rtp'),
      received: rows('inbound-rtp'),
    };
    const counted = all.filter((one) => bytesOf(one) !== undefined);
    this.#before = new Map(counted.map((one) => [one.id, {
      bytes: bytesOf(one), timestamp: one.timestamp, bitrate: this.#bitrate(one),
    }]));
    return stats;
  }

  #row(one, report, nameOf) {
    const isOurs = one.type === 'outbound-rtp';
    const other = isOurs ? report.get(one.remoteId) : one; // who receives counts what is lost
    return {
      name: nameOf(one.mid, isOurs),
      kind: one.kind,
      rid: one.rid ?? null,
      codec: report.get(one.codecId)?.mimeType.split('/')[1] ?? null,
      bytes: bytesOf(one) ?? 0,
      bitrate: this.#bitrate(one),
      lost: other?.packetsLost ?? null,
      jitter: inMs(other?.jitter),
      width: one.frameWidth ?? null,
      height: one.frameHeight ?? null,
      framesPerSecond: one.framesPerSecond ?? null,
      limitation: one.qualityLimitationReason ?? null,
    };
  }

  #bitrate(one) {
    const { bytes, timestamp, bitrate = null } = this.#before.get(one.id) ?? {};
    if (timestamp === undefined) return null;
    if (one.timestamp <= timestamp) return bitrate; // browsers measure only so often
    return (8000 * (bytesOf(one) - bytes)) / (one.timestamp - timestamp);
  }
}

function bytesOf({ bytesSent, bytesReceived }) {
  return bytesSent ?? bytesReceived;
}

function inMs(seconds) {
  return seconds === undefined ? null : seconds * 1000;
}
