// Listeners, and how they are called.

/** Keeps listeners by the type of what they listen for. */
export class Listeners {
  #byType = new Map();

  has(type, listener) {
    return Boolean(this.#byType.get(type)?.has(listener));
  }

  /** Whether anybody listens for that. */
  any(type) {
    return Boolean(this.#byType.get(type)?.size);
  }

  /** Returns what removes it again. */
  add(type, listener) {
    if (!this.#byType.has(type)) this.#byType.set(type, new Set());
    const listeners = this.#byType.get(type);
    listeners.add(listener);
    return () => listeners.delete(listener);
  }

  /** Calls those that listen now; one that is added meanwhile hears of the next event. */
  emit(type, ...details) {
    for (const listener of [...(this.#byType.get(type) ?? [])]) call(listener, ...details);
  }
}

/** If a listener throws, that is reported, and the others are called all the same. */
export function call(listener, ...details) {
  try {
    listener(...details);
  } catch (error) {
    reportError(error);
  }
}
