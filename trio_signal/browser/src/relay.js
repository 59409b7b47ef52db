// Broadcasts through a media server: the broadcaster uploads once, for many viewers.

import { MAIN, mainOf } from './streams.js';
import { StatsReader } from './stats.js';

/** The peer connection that carries our broadcast to the media server. */
export class Uplink {
  id;
  #pc;
  #senders;
  #tell;

  /** `id` is the media server's address; `streams` are those that we publish. */
  constructor(id, { iceServers, streams, tell }) {
    this.id = id;
    this.#tell = tell;
    this.#pc = new RTCPeerConnection({ iceServers, bundlePolicy: 'max-bundle' });
    this.#pc.onicecandidate = ({ candidate }) => {
      if (candidate) tell('ice_candidate', 'candidate', candidate.toJSON());
    };
    const main = mainOf(streams);
    this.#senders = ['audio', 'video'].map((kind) => {
      const { sender } = this.#pc.addTransceiver(kind, { direction: 'sendonly', streams: [main] });
      return { kind, sender };
    });
    this.send(streams);
    this.#offer();
  }

  get connection() {
    return this.#pc;
  }

  /** Sends the current main stream; needs no new offer. */
  send(streams) {
    const tracks = mainOf(streams)?.getTracks() ?? [];
    for (const { kind, sender } of this.#senders) {
      sender.replaceTrack(tracks.find((track) => track.kind === kind) ?? null).catch(() => {});
    }
  }

  async #offer() {
    await this.#pc.setLocalDescription();
    this.again();
  }

  /** Repeats an unanswered offer, which may have been lost: the media server has asked again. */
  again() {
    if (this.#pc.signalingState !== 'have-local-offer') return;
    const { type, sdp } = this.#pc.localDescription;
    this.#tell('offer', 'offer', { type, sdp });
  }

  answered({ type, sdp }) {
    if (this.#pc.signalingState === 'have-local-offer') {
      this.#pc.setRemoteDescription({ type, sdp }).catch(() => {});
    }
  }

  close() {
    this.#pc.onicecandidate = null;
    this.#pc.close();
  }
}

/** The peer connection over which a media server delivers a peer's broadcast. */
export class Downlink {
  streams = new Map();
  #origin;
  #pc;
  #tell;
  #stats = new StatsReader();

  constructor(offer, { iceServers, tell, onState, onStream }) {
    this.#origin = originOf(offer);
    this.#tell = tell;
    this.#pc = new RTCPeerConnection({ iceServers, bundlePolicy: 'max-bundle' });
    this.#pc.onicecandidate = ({ candidate }) => {
      if (candidate) tell('ice_candidate', 'candidate', candidate.toJSON());
    };
    this.#pc.onconnectionstatechange = onState;
    const stream = new MediaStream(); // the media server's own streams are not used
    this.#pc.ontrack = ({ track }) => {
      for (const old of stream.getTracks()) if (old.kind === track.kind) stream.removeTrack(old);
      stream.addTrack(track);
      this.streams.set(MAIN, stream);
      onStream(stream, MAIN);
    };
  }

  /** Whether an offer is for this connection; any other offer needs a new one. */
  isFor(offer) {
    return originOf(offer) === this.#origin && this.#pc.connectionState !== 'failed';
  }

  /** Answers an offer. A repeated offer gets the same answer again. */
  async offered({ type, sdp }) {
    const pc = this.#pc;
    if (pc.currentRemoteDescription?.sdp !== sdp) {
      await pc.setRemoteDescription({ type, sdp });
      await pc.setLocalDescription();
    }
    this.#tell('answer', 'answer', { type: 'answer', sdp: pc.localDescription.sdp });
  }

  get connection() {
    return this.#pc;
  }

  /** @returns {LinkState} */
  get state() {
    const state = this.#pc.connectionState;
    if (state === 'new') return 'connecting';
    return state === 'disconnected' ? 'interrupted' : state;
  }

  get level() {
    const sources = this.#pc.getReceivers().flatMap((receiver) => receiver.getSynchronizationSources());
    return Math.max(0, ...sources.map(({ audioLevel }) => audioLevel ?? 0));
  }

  /** @returns {Promise<PeerStats>} */
  async stats() {
    return this.#stats.read(await this.#pc.getStats(), () => MAIN);
  }

  /** Statistics without bitrates; does not affect those of `stats`. */
  async glance() {
    return new StatsReader().read(await this.#pc.getStats(), () => MAIN);
  }

  /** The number of received packets of any kind; NaN if the browser does not count them. */
  async packetsReceived() {
    const stats = [...(await this.#pc.getStats()).values()];
    return stats.find((s) => s.type === 'transport')?.packetsReceived ?? NaN;
  }

  close() {
    this.#pc.onicecandidate = this.#pc.ontrack = this.#pc.onconnectionstatechange = null;
    this.#pc.close();
  }
}

/** The id of the connection that made a description: the session id in its line `o=`. */
function originOf({ sdp }) {
  return /^o=\S+ (\S+)/m.exec(sdp)?.[1];
}
