// The user's media in a call: camera, microphone and screen.

import { Devices, explainTrouble, watchLevel } from './devices.js';

export class CallMedia {
  devices = new Devices(() => this.#changed());
  isAsking = false;
  isMuted = false;
  /** Whether the user has turned the camera off. */
  isDark = false;
  /** The shared screen, or null. */
  screen = null;
  #stream = null;
  #heard = null;
  #level = 0;
  #stopLevel = () => {};
  #changed;
  #news;

  /** `changed()` is called after each change; `news(words)` reports a problem. */
  constructor(changed, news) {
    this.#changed = changed;
    this.#news = news;
  }

  // Devices that were requested and are not open yet count as present.

  get isSilent() {
    return this.isMuted || !(this.devices.tracks.microphone || this.isAsking);
  }

  get isWithoutCamera() {
    return this.isDark || !(this.devices.tracks.camera || this.isAsking);
  }

  /** Camera and microphone; a new stream only if the tracks have changed. */
  get stream() {
    const { camera, microphone } = this.devices.tracks;
    const tracks = [camera, microphone].filter(Boolean);
    if (microphone) microphone.enabled = !this.isMuted;
    const before = this.#stream?.getTracks() ?? [];
    if (tracks.length !== before.length || tracks.some((track) => !before.includes(track))) {
      this.#stream = tracks.length > 0 ? new MediaStream(tracks) : null;
    }
    return this.#stream;
  }

  /** Why a wanted camera or microphone is not available. */
  get trouble() {
    const { camera, microphone } = this.devices.troubles;
    const retry = () => this.look();
    if (camera && !this.isDark) return { ...explainTrouble('camera', camera), retry };
    if (microphone && !this.devices.tracks.camera) return { ...explainTrouble('microphone', microphone), retry };
    return null;
  }

  /** Opens the wanted devices that are not open yet. */
  async look() {
    const kinds = this.isDark ? ['microphone'] : ['camera', 'microphone'];
    this.isAsking = true;
    this.#changed();
    await this.devices.open(...kinds.filter((kind) => !this.devices.tracks[kind]));
    this.isAsking = false;
    this.#changed();
  }

  toggleMute() {
    if (!this.devices.tracks.microphone && !this.isAsking) return void this.look();
    this.isMuted = !this.isMuted;
    this.#changed();
  }

  /** Turns the camera on, or closes it, so that its light goes out. */
  toggleDark() {
    this.isDark = !this.isWithoutCamera;
    if (this.isDark) this.devices.close('camera');
    else this.look();
  }

  /** Starts or stops sharing; `isWanted()` is checked when the browser delivers the screen. */
  async toggleScreen(isWanted) {
    if (this.screen) return this.stopSharing();
    let stream;
    try {
      stream = await navigator.mediaDevices.getDisplayMedia({ video: true, audio: true });
    } catch (error) {
      if (error.name !== 'NotAllowedError') this.#news(`The screen cannot be shared. ${error.message}`);
      return; // or the user has dismissed the dialog
    }
    if (!isWanted() || this.screen) return stop(stream);
    this.screen = stream;
    stream.getVideoTracks()[0].onended = () => this.screen === stream && this.stopSharing();
    this.#changed();
  }

  stopSharing() {
    stop(this.screen);
    this.screen = null;
    this.#changed();
  }

  /** The current volume of the microphone, 0 to 1. The first call starts the measurement. */
  get level() {
    const track = this.devices.tracks.microphone;
    if (track !== this.#heard) {
      this.#stopListening();
      this.#heard = track;
      if (track) this.#stopLevel = watchLevel(track, (level) => { this.#level = level; });
    }
    return this.isMuted ? 0 : this.#level;
  }

  #stopListening() {
    this.#stopLevel();
    this.#stopLevel = () => {};
    this.#heard = null;
    this.#level = 0;
  }

  /** Closes all devices, and stops sharing. */
  release() {
    this.#stopListening();
    stop(this.screen);
    this.screen = null;
    this.devices.close();
  }
}

function stop(stream) {
  for (const track of stream?.getTracks() ?? []) track.stop();
}
