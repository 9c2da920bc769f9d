// The viewer's entries: one for each photo, in the order of the page, without duplicates and
// bounded in number. Touches no element and no network.

export const KEPT = 500; // entries in memory when nobody has asked for more

/** Entries; each is {key, order, state: "working" | "done" | "failed", seq, ...payload}. */
export class Entries {
  #byKey = new Map();
  #arrivals = 0;
  #limit = KEPT;
  lastSeq = 0; // of what the relay sent by itself; what a reconnecting viewer names

  get size() {
    return this.#byKey.size;
  }

  /** All entries, newest first: photos in work in the order of their arrival, then by seq. */
  newestFirst() {
    return [...this.#byKey.values()].sort((a, b) => b.order - a.order);
  }

  /** The lowest seq here; Infinity without any caption. */
  oldestSeq() {
    return Math.min(...[...this.#byKey.values()].map((entry) => entry.seq ?? Infinity));
  }

  /** Work on a photo has begun. Null if its caption is already here. */
  begin(payload) {
    const known = this.#byKey.get(payload.id);
    if (known && known.state !== "failed") return null;
    return this.#put({ ...payload, key: payload.id, state: "working", order: this.#top() });
  }

  /** A caption, live or from the history. Null if it is already here. */
  add(payload) {
    const entry = Entries.captioned(payload);
    this.lastSeq = Math.max(this.lastSeq, entry.seq);
    if (this.#byKey.get(entry.key)?.state === "done") return null;
    const begun = this.#byKey.get(entry.key);
    return this.#put({ ...entry, thumbnail: entry.thumbnail ?? begun?.thumbnail });
  }

  /** Captions older than all others, which somebody asked for: they raise the limit. */
  addOlder(payloads) {
    this.#limit += payloads.length;
    const last = this.lastSeq;
    for (const payload of payloads) this.add(payload);
    this.lastSeq = last;
  }

  /** A photo could not be captioned. Null if this page has not seen it begin. */
  fail({ id, error }) {
    const begun = this.#byKey.get(id);
    if (begun?.state !== "working") return null;
    // no longer at the top: whatever is captioned from now on goes above it
    return this.#put({ ...begun, error, state: "failed", order: this.lastSeq + 0.5 });
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
