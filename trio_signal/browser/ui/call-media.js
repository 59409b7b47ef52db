// What one sends in a call: camera, microphone and screen, and what one wants of them.

import { Devices, explainTrouble, watchLevel } from './devices.js';

export class CallMedia {
  devices = new Devices(() => this.#changed());
  isAsking = false;
  isMuted = false;
  /** One wants no camera. */
  isDark = false;
  /** The screen that is shared, or null. */
  screen = null;
  #stream = null;
  #heard = null;
  #level = 0;
  #stopLevel = () => {};
  #changed;
  #news;

  /** `changed()` is called when anything here is another; `news(words)` tells what went wrong. */
  constructor(changed, news) {
    this.#changed = changed;
    this.#news = news;
  }

  // What is asked for counts as there.

  get isSilent() {
    return this.isMuted || !(this.devices.tracks.microphone || this.isAsking);
  }

  get isWithoutCamera() {
    return this.isDark || !(this.devices.tracks.camera || this.isAsking);
  }

  /** Camera and microphone; another stream only if the tracks are others. */
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

  /** A camera or a microphone that is wanted and cannot be had. */
  get trouble() {
    const { camera, microphone } = this.devices.troubles;
    const retry = () => this.look();
    if (camera && !this.isDark) return { ...explainTrouble('camera', camera), retry };
    if (microphone && !this.devices.tracks.camera) return { ...explainTrouble('microphone', microphone), retry };
    return null;
  }

  /** Asks for what is wanted of camera and microphone, and is not there. */
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

  /** A camera that is off is closed: its light goes out. */
  toggleDark() {
    this.isDark = !this.isWithoutCamera;
    if (this.isDark) this.devices.close('camera');
    else this.look();
  }

  /** `isWanted()` says whether it still is, when the browser has it. */
  async toggleScreen(isWanted) {
    if (this.screen) return this.stopSharing();
    let stream;
    try {
      stream = await navigator.mediaDevices.getDisplayMedia({ video: true, audio: true });
    } catch (error) {
      if (error.name !== 'NotAllowedError') this.#news(`The screen cannot be shared. ${error.message}`);
      return; // or one has thought better of it
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

  /** How loud one is now, 0 to 1. The first time it begins to listen. */
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

  /** Nothing films, listens or shares any more. */
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
