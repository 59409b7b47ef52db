// Fields to choose camera, microphone and speakers, with a level meter.

import { h } from './dom.js';
import { watchLevel } from './devices.js';

const LABELS = { camera: 'Camera', microphone: 'Microphone', speaker: 'Speakers' };

export class DeviceFields {
  #devices;
  #selects = {};
  #level = h('div');
  #heard = null;
  #stop = () => {};

  /** @param {import('./devices.js').Devices} devices */
  constructor(devices) {
    this.#devices = devices;
    const meter = h('div', { 'class': 'meter', 'role': 'img', 'aria-label': 'Microphone level' }, this.#level);
    const fields = Object.entries(LABELS).map(([kind, label]) => {
      const select = h('select', { onchange: () => devices.choose(kind, select.value) });
      this.#selects[kind] = select;
      return h('div', { 'data-kind': kind }, h('label', {}, label, select), kind === 'microphone' && meter);
    });
    this.element = h('div', { class: 'device-fields' }, ...fields);
  }

  draw() {
    for (const [kind, select] of Object.entries(this.#selects)) this.#fill(kind, select);
    const track = this.element.isConnected ? this.#devices.tracks.microphone : null;
    if (track === this.#heard) return;
    this.close();
    this.#heard = track;
    if (track) {
      this.#stop = watchLevel(track, (level) => { this.#level.style.scale = `${level.toFixed(2)} 1`; });
    }
  }

  #fill(kind, select) {
    const list = this.#devices.lists[kind];
    const ids = list.map((device) => device.deviceId).join();
    if (select.dataset.ids !== ids) {
      select.dataset.ids = ids;
      const options = list.map((device) => h('option', { value: device.deviceId }, device.label));
      select.replaceChildren(...(list.length > 0 ? options : [h('option', { value: '' }, kind === 'speaker' ? 'Default' : 'None')]));
    }
    select.value = list.length > 0 ? this.#devices.current(kind) : '';
    if (select.selectedIndex < 0) select.selectedIndex = 0; // not every browser says which device it is
    select.disabled = list.length === 0;
    // Hidden if pages cannot choose speakers in this browser.
    if (kind === 'speaker') select.closest('div').hidden = !('setSinkId' in HTMLMediaElement.prototype);
  }

  /** Stops the level meter. */
  close() {
    this.#stop();
    this.#stop = () => {};
    this.#heard = null;
    this.#level.style.scale = '0 1';
  }
}
