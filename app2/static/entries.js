// The entries of the viewer page, one for each photo: in order, without duplicates, at most a given
// number. Uses neither the page nor the network.

const KEPT = 500; // entries in memory, and more with each "Show more"

/** Each entry is {key, order, state: "working" | "done" | "failed" | "gap", seq, ...payload}. */
export class Entries {
  #byKey = new Map();
  #arrivals = 0;
  #limit = KEPT;
  lastSeq = 0; // the last that the relay sent without being asked; a reconnecting viewer sends it

  get size() {
    return this.#byKey.size;
  }

  /** All entries: first the photos in work, newest first, then the captions by falling seq. */
  newestFirst() {
    return [...this.#byKey.values()].sort((a, b) => b.order - a.order);
  }

  /** The lowest seq of all entries; Infinity without any caption. */
  oldestSeq() {
    return Math.min(...[...this.#byKey.values()].map((entry) => entry.seq ?? Infinity));
  }

  /** Work on a photo has begun. Returns its entry, or null if its caption is already here. */
  begin(payload) {
    const known = this.#byKey.get(payload.id);
    if (known && known.state !== "failed") return null;
    return this.#put({ ...payload, key: payload.id, state: "working", order: this.#top() });
  }

  /** Add a caption, live or from the history. Returns its entry, or null if it is already here. */
  add(payload) {
    const entry = Entries.captioned(payload);
    this.lastSeq = Math.max(this.lastSeq, entry.seq);
    if (this.#byKey.get(entry.key)?.state === "done") return null;
    const begun = this.#byKey.get(entry.key);
    return this.#put({ ...entry, thumbnail: entry.thumbnail ?? begun?.thumbnail });
  }

  /** Add captions older than all entries. Raises the limit, because a person asked for them. */
  addOlder(payloads) {
    this.#limit += payloads.length;
    const last = this.lastSeq;
    for (const payload of payloads) this.add(payload);
    this.lastSeq = last;
  }

  /** Work on a photo has failed. Returns its entry, or null if there is no work on it here. */
  fail({ id, error }) {
    const begun = this.#byKey.get(id);
    if (begun?.state !== "working") return null;
    // no longer at the top: the next caption goes above it
    return this.#put({ ...begun, error, state: "failed", order: this.lastSeq + 0.5 });
  }

  /** A person's words take the place of a caption. Returns its entry, or null if it is not here. */
  correct({ id, caption, by }) {
    const entry = this.#byKey.get(id);
    if (entry?.state !== "done" || !caption) return null;
    return this.#put({ ...entry, caption, by });
  }

  /**
   * Captions that came while this page was away, and have left the history: `count` of them, before
   * the caption number `seq`.
   */
  addGap(count, seq) {
    return this.#put({ key: `gap ${seq}`, state: "gap", count, order: seq - 0.5 });
  }

  has(key) {
    return this.#byKey.has(key);
  }

  dropWorking() {
    for (const entry of this.newestFirst()) {
      if (entry.state === "working") this.remove(entry.key);
    }
  }

  remove(key) {
    return this.#byKey.delete(key);
  }

  clear() {
    this.#byKey.clear();
    this.#limit = KEPT;
    this.lastSeq = 0;
  }

  /** An entry for a caption as the relay sends it. */
  static captioned(payload) {
    const key = payload.id ?? `seq ${payload.seq}`;
    return { ...payload, key, state: "done", order: payload.seq };
  }

  #top() {
    this.#arrivals += 1;
    return Number.MAX_SAFE_INTEGER / 2 + this.#arrivals;
  }

  #put(entry) {
    this.#byKey.set(entry.key, entry);
    if (this.#byKey.size > this.#limit) {
      const oldest = this.newestFirst().at(-1);
      this.#byKey.delete(oldest.key);
    }
    return entry;
  }
}
