// What a client needs to resume as the same peer. Both sides count messages instead of numbering them, and
// each keeps the messages that the other has not confirmed: docs/protocols/mesh.md.

/** The maximum of unconfirmed messages that are kept; with more, the session cannot be resumed. */
const MOST_MESSAGES = 2048;
const MOST_CHARACTERS = 2 ** 20;
/** The server keeps at most 512 messages or 256 KiB for us, so we confirm and ask much earlier. */
const ASK_AFTER_MESSAGES = 64;
const ASK_AFTER_CHARACTERS = 2 ** 15;
const UNCOUNTED = /^(ping|pong|auth_|token_|resumed|not_resumed)/;

/** One session: how many messages were received, and the sent ones that may not have arrived. */
export class Resumption {
  id;
  received = 0; // of the server's messages
  #told = 0; // how many of them we have confirmed
  #confirmed = 0; // of ours
  #unconfirmed = []; // ours, encoded, oldest first; null if there were too many
  #size = 0;
  #news = { messages: 0, characters: 0 }; // since we last asked

  constructor(id) {
    this.id = id;
  }

  /** Whether too many messages were unconfirmed, so that lost ones cannot be repeated. */
  get overflowed() {
    return this.#unconfirmed === null;
  }

  /** Whether it is time to confirm, and to ask for a confirmation. */
  get isDue() {
    // The first message lists the room's members. It may be long, and the server keeps it until then.
    const isFirst = this.#told === 0 && this.received > 0;
    return isFirst || this.#news.messages >= ASK_AFTER_MESSAGES || this.#news.characters >= ASK_AFTER_CHARACTERS;
  }

  /** Counts a message of the server. */
  came(type, size) {
    if (UNCOUNTED.test(type)) return;
    this.received += 1;
    this.#count(size);
  }

  /** Keeps a message that is about to be sent. Not for messages of the handshake or the heartbeat. */
  keep(text) {
    if (this.overflowed) return;
    this.#unconfirmed.push(text);
    this.#size += text.length;
    this.#count(text.length);
    if (this.#unconfirmed.length > MOST_MESSAGES || this.#size > MOST_CHARACTERS) this.#unconfirmed = null;
  }

  #count(size) {
    this.#news.messages += 1;
    this.#news.characters += size;
  }

  /** Notes that we ask now; returns the number to confirm to the server. */
  ask() {
    this.#news = { messages: 0, characters: 0 };
    this.#told = this.received;
    return this.received;
  }

  /** Drops the messages that the server has received; an impossible number is ignored. */
  confirm(received) {
    const more = received - this.#confirmed;
    if (this.overflowed || !(more > 0 && more <= this.#unconfirmed.length)) return;
    for (const text of this.#unconfirmed.splice(0, more)) this.#size -= text.length;
    this.#confirmed = received;
  }

  /** The messages to repeat to a server that has received the first `received` ones. */
  lacking(received) {
    this.confirm(received);
    return [...(this.#unconfirmed ?? [])];
  }
}
