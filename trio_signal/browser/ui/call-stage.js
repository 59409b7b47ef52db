// The tiles of a call, and their layout.

import { CallTile } from './call-tile.js';
import { h } from './dom.js';
import { focusOf, gridOf, pairOf } from './layout.js';

/** The key of the user's own tile. The keys of the others are their peer ids. Screens have the suffix ` screen`. */
export const MINE = 'me';

export class Stage {
  element = h('div', { class: 'stage' });
  /** Whether the browser requires a click before it plays sound. */
  isBlocked = false;
  #tiles = new Map(); // by key
  #pinned = '';
  #changed;

  /** `changed()` is called when the user pins a tile, or the browser refuses to play sound. */
  constructor(changed) {
    this.#changed = changed;
    new ResizeObserver(() => this.#place()).observe(this.element);
  }

  /**
   * @param {Map<string, object>} shown - By key, the arguments of `CallTile.show`.
   * @param {{ grades: Map<string, string>, speaker?: string }} more
   */
  draw(shown, { grades, speaker }) {
    for (const key of [...this.#tiles.keys()]) if (!shown.has(key)) this.#drop(key);
    if (!shown.has(this.#pinned)) this.#pinned = '';
    for (const [key, what] of shown) {
      const tile = this.#tile(key, what.isScreen);
      tile.show({ ...what, isPinned: key === this.#pinned });
      tile.grade(grades.get(key) ?? '');
      tile.setSpeaker(speaker);
    }
    this.#place();
  }

  /** Passes on the current volume of a peer. */
  hear(key, level) {
    this.#tiles.get(key)?.hear(level);
  }

  clear() {
    for (const key of [...this.#tiles.keys()]) this.#drop(key);
    this.#pinned = '';
    this.isBlocked = false;
  }

  /** Plays sound, after a click. */
  unblock() {
    this.isBlocked = false;
    for (const [key, tile] of this.#tiles) if (!key.startsWith(MINE)) tile.unmute();
    this.#changed();
  }

  #tile(key, isScreen) {
    if (!this.#tiles.has(key)) {
      const tile = new CallTile({
        isScreen,
        onPin: () => {
          this.#pinned = this.#pinned === key ? '' : key;
          this.#changed();
        },
        onBlocked: () => {
          this.isBlocked = true;
          this.#changed();
        },
      });
      tile.element.dataset.id = key;
      this.#tiles.set(key, tile);
      this.element.append(tile.element);
    }
    return this.#tiles.get(key);
  }

  #drop(key) {
    this.#tiles.get(key).close();
    this.#tiles.delete(key);
  }

  /** Chooses the layout: a grid, two people, or a pinned tile or shared screen with the others beside it. */
  #place() {
    const { clientWidth: width, clientHeight: height } = this.element;
    if (this.#tiles.size === 0 || width === 0) return;
    const keys = [...this.#tiles.keys()].filter((key) => key !== MINE);
    if (this.#tiles.has(MINE)) keys.push(MINE); // the user's own tile comes last
    const screens = keys.filter((key) => key.endsWith(' screen'));
    const focus = this.#pinned || screens.find((key) => !key.startsWith(MINE)) || screens[0];
    const isPair = !focus && keys.length === 2;
    const ordered = focus ? [focus, ...keys.filter((key) => key !== focus)] : keys;
    let boxes = gridOf(keys.length, width, height);
    if (focus) boxes = focusOf(keys.length, width, height);
    else if (isPair) boxes = pairOf(width, height);
    this.element.dataset.layout = focus ? 'focus' : isPair ? 'pair' : 'grid';
    ordered.forEach((key, i) => this.#tiles.get(key).place(boxes[i]));
  }
}
