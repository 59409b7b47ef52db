// Reports of call quality, for servers that ask for them.

const PATIENCE = 10_000; // ms after which a call should have sound or a picture
const MOST = 50; // round trips in one report
const LIMIT = 200; // of each number; the server takes no more

const none = () => ({ checked: 0, silent: 0, connected: 0, relayed: 0, failed: 0 });

/** Counts which links work, and reports that at an interval. Reports do not say who is connected with whom. */
export class Quality {
  #links;
  #expects;
  #send;
  #counts = none();
  #known = new WeakSet(); // links that were counted as connected
  #timer = 0;

  /**
   * @param {object} room
   * @param {() => Iterable<any>} room.links - The current links.
   * @param {(link: any) => 'received' | 'sent' | null} room.expects - Where a link should have media.
   * @param {(report: object) => boolean} room.send - Sends a report, if there is a connection.
   */
  constructor({ links, expects, send }) {
    this.#links = links;
    this.#expects = expects;
    this.#send = send;
  }

  /** Reports every `seconds` from now on; without `seconds`, stops. */
  start(seconds) {
    clearInterval(this.#timer);
    this.#timer = seconds > 0 ? setInterval(() => this.report(), seconds * 1000) : 0;
  }

  /** Checks a new link after a while. */
  watch(link) {
    if (this.#timer) setTimeout(() => this.check(link), PATIENCE);
  }

  /** Counts a failure of ICE. */
  failed() {
    if (this.#timer) this.#count('failed');
  }

  /** Counts whether a link has media by now; closed links do not count. */
  async check(link) {
    const wanted = [...this.#links()].includes(link) ? this.#expects(link) : null;
    if (wanted === null) return;
    const stats = link.state === 'connected' ? await this.#look(link) : null;
    this.#count('checked');
    if (!stats?.[wanted].some(({ bytes }) => bytes > 0)) this.#count('silent');
  }

  async report() {
    const connected = [...this.#links()].filter(({ state }) => state === 'connected');
    const stats = await Promise.all(connected.map((link) => this.#look(link)));
    const trips = stats.map((one) => one?.roundTripTime ?? null).filter((time) => time !== null);
    const report = { type: 'quality', ...this.#counts, round_trips: trips.slice(0, MOST) };
    const isEmpty = trips.length === 0 && Object.values(this.#counts).every((count) => count === 0);
    if (!isEmpty && this.#send(report)) this.#counts = none();
  }

  /** Statistics of a link; it may be closed meanwhile. The first time it counts as connected. */
  async #look(link) {
    const stats = await link.glance().catch(() => null);
    if (stats && !this.#known.has(link)) {
      this.#known.add(link);
      this.#count('connected');
      if (stats.relayed) this.#count('relayed');
    }
    return stats;
  }

  #count(what) {
    this.#counts[what] = Math.min(this.#counts[what] + 1, LIMIT);
  }
}
