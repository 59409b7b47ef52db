// Camera, microphone and speakers: the available ones, those in use, and their problems.

const KINDS = { camera: 'videoinput', microphone: 'audioinput', speaker: 'audiooutput' };
const PICTURE = { width: { ideal: 1280 }, height: { ideal: 720 } };
const KEPT = 'trio-signal:devices'; // in localStorage, for the next time

/**
 * Explains to the user why a device is not available: a title, and what to do.
 *
 * @param {'camera' | 'microphone' | 'screen'} kind
 * @param {{ name: string, message?: string }} error - As `getUserMedia` threw it.
 * @returns {{ title: string, words: string, canRetry: boolean }}
 */
export function explainTrouble(kind, error) {
  const Kind = kind[0].toUpperCase() + kind.slice(1);
  switch (error.name) {
    case 'NotAllowedError':
      return {
        title: `${Kind} blocked`,
        words: `Allow the ${kind} for this page with the icon beside its address, then try again.`,
        canRetry: true,
      };
    case 'NotFoundError':
    case 'OverconstrainedError':
      return { title: `No ${kind} found`, words: 'Plug one in and try again, or continue without one.', canRetry: true };
    case 'NotReadableError':
    case 'AbortError':
      return { title: `${Kind} in use`, words: `Another program is using the ${kind}. Close it, then try again.`, canRetry: true };
    case 'InsecureError':
      return { title: `No ${kind} here`, words: 'Browsers allow cameras and microphones only on https and localhost.', canRetry: false };
    default:
      return { title: `No ${kind}`, words: error.message || String(error), canRetry: true };
  }
}

/**
 * The devices in use. `open` asks the browser for them. The user's choice is stored for the next time.
 * If a device is unplugged, another one is used.
 */
export class Devices {
  /** The tracks in use, or null. They are live until `close`. */
  tracks = { camera: null, microphone: null };
  /** The browser's error for each missing track, or null. */
  troubles = { camera: null, microphone: null };
  /** The available devices; labels are empty until the user has granted access to one. */
  lists = { camera: [], microphone: [], speaker: [] };
  /** The ids of the chosen devices. */
  chosen = recall();
  #attempts = { camera: null, microphone: null };
  #changed;
  #listen = () => this.#list();

  /** `changed()` is called after each change. */
  constructor(changed = () => {}) {
    this.#changed = changed;
  }

  /**
   * Opens a camera, a microphone or both, with one request if possible. The earlier device is closed
   * when the new one is open. Never rejects: see `troubles` for errors.
   *
   * @param {...('camera' | 'microphone')} kinds
   */
  async open(...kinds) {
    navigator.mediaDevices?.addEventListener('devicechange', this.#listen);
    const attempt = {};
    for (const kind of kinds) this.#attempts[kind] = attempt;
    await this.#ask(kinds, attempt);
    await this.#list();
  }

  async #ask(kinds, attempt) {
    let stream;
    try {
      stream = await this.#get(kinds);
    } catch (error) {
      if (error.name === 'OverconstrainedError' && kinds.some((kind) => this.chosen[kind])) {
        // The chosen device is not available any more: use any other.
        for (const kind of kinds) delete this.chosen[kind];
        return this.#ask(kinds, attempt);
      }
      if (kinds.length > 1) return this.#askEach(kinds, attempt, error);
      return this.#failed(kinds[0], attempt, error);
    }
    for (const kind of ['camera', 'microphone']) {
      for (const track of kind === 'camera' ? stream.getVideoTracks() : stream.getAudioTracks()) {
        if (this.#attempts[kind] === attempt && kinds.includes(kind)) this.#take(kind, track);
        else track.stop();
      }
    }
  }

  /** Opens each device separately, since one may be available; does not ask again after a refusal. */
  async #askEach(kinds, attempt, error) {
    for (const kind of kinds) {
      const isRefused = error.name === 'NotAllowedError' && !(await isAllowed(kind));
      if (isRefused || error.name === 'InsecureError') this.#failed(kind, attempt, error);
      else await this.#ask([kind], attempt);
    }
  }

  async #get(kinds) {
    if (!navigator.mediaDevices) throw new DOMException('No secure context', 'InsecureError');
    const of = (kind) => (this.chosen[kind] ? { deviceId: { exact: this.chosen[kind] } } : {});
    return navigator.mediaDevices.getUserMedia({
      video: kinds.includes('camera') && { ...PICTURE, ...of('camera') },
      audio: kinds.includes('microphone') && { echoCancellation: true, noiseSuppression: true, ...of('microphone') },
    });
  }

  #failed(kind, attempt, error) {
    if (this.#attempts[kind] !== attempt) return;
    this.troubles[kind] = error;
    this.#changed();
  }

  #take(kind, track) {
    this.tracks[kind]?.stop();
    this.tracks[kind] = track;
    this.troubles[kind] = null;
    track.onended = () => this.tracks[kind] === track && this.#unplugged(kind);
    this.#changed();
  }

  async #unplugged(kind) {
    this.tracks[kind] = null;
    this.#changed();
    await this.open(kind);
  }

  async #list() {
    const devices = await navigator.mediaDevices?.enumerateDevices().catch(() => []) ?? [];
    for (const [kind, name] of Object.entries(KINDS)) {
      this.lists[kind] = devices.filter((device) => device.kind === name && device.label);
    }
    this.#changed();
  }

  /** Uses this device from now on. */
  async choose(kind, id) {
    this.chosen = { ...this.chosen, [kind]: id };
    keep(this.chosen);
    if (kind in this.tracks) await this.open(kind);
    else this.#changed();
  }

  /** The id of the device in use. */
  current(kind) {
    return this.tracks[kind]?.getSettings().deviceId ?? this.chosen[kind] ?? '';
  }

  /** Uses the next device, for example to switch between the front and back camera of a phone. */
  async next(kind = 'camera') {
    const list = this.lists[kind];
    const index = list.findIndex((device) => device.deviceId === this.current(kind));
    if (list.length > 1) await this.choose(kind, list[(index + 1) % list.length].deviceId);
  }

  /**
   * Stops the devices, including those that were requested and would open later. Without kinds, stops
   * all, and does not listen for other devices until the next `open`.
   */
  close(...kinds) {
    if (kinds.length === 0) navigator.mediaDevices?.removeEventListener('devicechange', this.#listen);
    for (const kind of kinds.length > 0 ? kinds : ['camera', 'microphone']) {
      this.#attempts[kind] = null;
      this.tracks[kind]?.stop();
      this.tracks[kind] = this.troubles[kind] = null;
    }
    this.#changed();
  }
}

async function isAllowed(kind) {
  try {
    return (await navigator.permissions.query({ name: kind })).state !== 'denied';
  } catch {
    return false; // this browser does not tell
  }
}

function recall() {
  try {
    return JSON.parse(localStorage.getItem(KEPT)) ?? {};
  } catch {
    return {};
  }
}

function keep(chosen) {
  try {
    localStorage.setItem(KEPT, JSON.stringify(chosen));
  } catch { /* The browser stores nothing for this page. */ }
}

/**
 * Reports the volume of a track, from 0 to 1, about 12 times a second, until it is stopped. If the
 * browser requires a click first, the measurement begins after it.
 *
 * @param {MediaStreamTrack} track
 * @param {(level: number) => void} onLevel
 * @returns {() => void} Stops it.
 */
export function watchLevel(track, onLevel) {
  const context = new AudioContext();
  const analyser = new AnalyserNode(context, { fftSize: 512, smoothingTimeConstant: 0.2 });
  context.createMediaStreamSource(new MediaStream([track])).connect(analyser);
  const samples = new Float32Array(analyser.fftSize);
  const timer = setInterval(() => {
    if (context.state === 'suspended') context.resume().catch(() => {});
    analyser.getFloatTimeDomainData(samples);
    const loudness = Math.sqrt(samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length);
    onLevel(track.enabled && track.readyState === 'live' ? levelOf(loudness) : 0);
  }, 80);
  return () => {
    clearInterval(timer);
    context.close();
  };
}

/** The level on a logarithmic scale, as ears hear it: -60 dB is 0, and -10 dB is 1. */
export function levelOf(loudness) {
  const decibels = 20 * Math.log10(Math.max(loudness, 1e-6));
  return Math.min(1, Math.max(0, (decibels + 60) / 50));
}
