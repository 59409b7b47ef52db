// Statistics of peer connections, in a form that pages can show.

/**
 * Statistics of a peer connection. Values that the browser does not report are null.
 *
 * @typedef {object} PeerStats
 * @property {number | null} roundTripTime - The round-trip time in milliseconds.
 * @property {number | null} bandwidth - The estimated bandwidth to the peer, in bits a second.
 * @property {boolean} relayed - Whether the connection goes through a TURN server.
 * @property {StreamStats[]} sent - An entry for each track that we send, and for each simulcast layer.
 * @property {StreamStats[]} received - An entry for each track that we receive.
 */

/**
 * Statistics of one track.
 *
 * @typedef {object} StreamStats
 * @property {string} name - The name of the stream.
 * @property {'audio' | 'video'} kind - The kind of track.
 * @property {string | null} rid - The simulcast layer.
 * @property {string | null} codec - `VP8`, `opus`, ...
 * @property {number} bytes - Bytes since the track began.
 * @property {number | null} bitrate - Bits a second since the previous call of `stats`; null at the first
 *   call.
 * @property {number | null} lost - Lost packets.
 * @property {number | null} jitter - Jitter in milliseconds.
 * @property {number | null} width - Width of the video.
 * @property {number | null} height - Height of the video.
 * @property {number | null} framesPerSecond - Frame rate of the video.
 * @property {string | null} limitation - What limits the quality of the video that we send: `none`, `cpu`,
 *   `bandwidth` or `other`.
 */

// Codecs that only repair lost packets. Firefox reports the codec of the last packet, even if it is one of these.
const REPAIRS = /^(rtx|red|ulpfec|flexfec.*)$/i;

/** Reads successive reports of one RTCPeerConnection. */
export class StatsReader {
  #before = new Map(); // id -> { bytes, timestamp, bitrate, codec }

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
      bytes: bytesOf(one), timestamp: one.timestamp, bitrate: this.#bitrate(one), codec: this.#codec(one, report),
    }]));
    return stats;
  }

  #row(one, report, nameOf) {
    const isOurs = one.type === 'outbound-rtp';
    const other = isOurs ? report.get(one.remoteId) : one; // only the receiver counts lost packets
    return {
      name: nameOf(one.mid, isOurs),
      kind: one.kind,
      rid: one.rid ?? null,
      codec: this.#codec(one, report),
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

  #codec(one, report) {
    const codec = report.get(one.codecId)?.mimeType.split('/')[1] ?? null;
    return codec && REPAIRS.test(codec) ? this.#before.get(one.id)?.codec ?? null : codec;
  }

  #bitrate(one) {
    const { bytes, timestamp, bitrate = null } = this.#before.get(one.id) ?? {};
    if (timestamp === undefined) return null;
    if (one.timestamp <= timestamp) return bitrate; // the browser has not measured again yet
    return (8000 * (bytesOf(one) - bytes)) / (one.timestamp - timestamp);
  }
}

function bytesOf({ bytesSent, bytesReceived }) {
  return bytesSent ?? bytesReceived;
}

function inMs(seconds) {
  return seconds === undefined ? null : seconds * 1000;
}
