// Event listeners.

/** Listeners by event type. */
export class Listeners {
  #byType = new Map();

  has(type, listener) {
    return Boolean(this.#byType.get(type)?.has(listener));
  }

  /** Whether there is any listener for this type. */
  any(type) {
    return Boolean(this.#byType.get(type)?.size);
  }

  /** Adds a listener; returns a function that removes it. */
  add(type, listener) {
    if (!this.#byType.has(type)) this.#byType.set(type, new Set());
    const listeners = this.#byType.get(type);
    listeners.add(listener);
    return () => listeners.delete(listener);
  }

  /** Calls the current listeners; those that are added meanwhile get the next event. */
  emit(type, ...details) {
    for (const listener of [...(this.#byType.get(type) ?? [])]) call(listener, ...details);
  }
}

/** Calls a listener; reports its error, so that the others are still called. */
export function call(listener, ...details) {
  try {
    listener(...details);
  } catch (error) {
    reportError(error);
  }
}
