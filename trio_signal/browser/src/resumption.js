// What a client needs to come back as the same peer. Both ends count messages and do not number them, and each
// keeps what the other has not confirmed: docs/protocols/mesh.md.

/** What is kept of what the server has not confirmed; with more, the session cannot be resumed. */
const MOST_MESSAGES = 2048;
const MOST_CHARACTERS = 2 ** 20;
/** The server keeps 512 messages or 256 KiB for us at most. So it is told, and asked, much earlier. */
const ASK_AFTER_MESSAGES = 64;
const ASK_AFTER_CHARACTERS = 2 ** 15;
const UNCOUNTED = /^(ping|pong|auth_|token_|resumed|not_resumed)/;

/** One session: how much of it has come, and what of ours may not have arrived. */
export class Resumption {
  id;
  received = 0; // of the server's messages
  #confirmed = 0; // of ours
  #unconfirmed = []; // ours, encoded, oldest first; null if there were too many
  #size = 0;
  #news = { messages: 0, characters: 0 }; // since we asked

  constructor(id) {
    this.id = id;
  }

  /** Whether more was said than is kept, so that what is lost could not be said again. */
  get overflowed() {
    return this.#unconfirmed === null;
  }

  /** Whether it is time to tell and to ask how much has arrived. */
  get isDue() {
    return this.#news.messages >= ASK_AFTER_MESSAGES || this.#news.characters >= ASK_AFTER_CHARACTERS;
  }

  /** One of the server's messages has come. */
  came(type, size) {
    if (UNCOUNTED.test(type)) return;
    this.received += 1;
    this.#count(size);
  }

  /** One of ours is about to be sent; not one of the handshake or the heartbeat. */
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

  /** We are about to ask: how many to confirm to the server. */
  ask() {
    this.#news = { messages: 0, characters: 0 };
    return this.received;
  }

  /** The server has got so many of ours; more than there were is not believed. */
  confirm(received) {
    const more = received - this.#confirmed;
    if (this.overflowed || !(more > 0 && more <= this.#unconfirmed.length)) return;
    for (const text of this.#unconfirmed.splice(0, more)) this.#size -= text.length;
    this.#confirmed = received;
  }

  /** What to say again to a server that has got so many of ours. */
  lacking(received) {
    this.confirm(received);
    return [...(this.#unconfirmed ?? [])];
  }
}
