// Finds the active speaker.

const EVERY = 200; // ms
const SPEECH = 0.02; // on a scale from 0 to 1; lower levels are noise
const NEW_SHARE = 0.4; // weight of a new level in the average, so that a cough is not enough
const LOUDER = 1.5; // a new speaker must be this many times as loud as the current one

/** Finds the active speaker from repeated measurements of levels. */
export class SpeakerFinder {
  #averages = new Map();
  #current = null;

  /**
   * @param {Map<string, number>} levels - By id, 0 to 1. An id that is missing has left.
   * @returns {string | null} The id of the current or last speaker.
   */
  next(levels) {
    const before = this.#averages;
    this.#averages = new Map([...levels].map(
      ([id, level]) => [id, NEW_SHARE * level + (1 - NEW_SHARE) * (before.get(id) ?? 0)],
    ));
    if (!levels.has(this.#current)) this.#current = null;
    const [loudest, level] = [...this.#averages].reduce((a, b) => (b[1] > a[1] ? b : a), [null, 0]);
    const present = this.#averages.get(this.#current) ?? 0;
    if (level >= SPEECH && level > LOUDER * present) this.#current = loudest;
    return this.#current;
  }
}

/** Watches for the speaker as long as `isWanted`, and reports each change. */
export class SpeakerWatch {
  #levels;
  #isWanted;
  #onSpeaker;
  #timer = 0;

  constructor({ levels, isWanted, onSpeaker }) {
    this.#levels = levels;
    this.#isWanted = isWanted;
    this.#onSpeaker = onSpeaker;
  }

  start() {
    if (this.#timer || !this.#isWanted()) return;
    const finder = new SpeakerFinder();
    let current = null;
    this.#timer = setInterval(() => {
      const next = this.#isWanted() ? finder.next(this.#levels()) : this.#stop();
      if (next !== current) this.#onSpeaker(next);
      current = next;
    }, EVERY);
  }

  #stop() {
    clearInterval(this.#timer);
    this.#timer = 0;
    return null;
  }
}
