// What the address of the page asks for: ?show=wall, newest, grid or slides, and how. A screen that
// nobody touches needs no more than an address.

const WAYS = ["wall", "newest", "grid", "slides"];
const asked = new URLSearchParams(location.search);

function numberOf(name, least, most, usual) {
  const value = Number.parseInt(asked.get(name) ?? "", 10);
  return value >= least && value <= most ? value : usual;
}

/**
 * show: the wall; the newest photo alone; the newest photos in a grid; or one after the other.
 * photos: in the grid, or that take turns. seconds: for which one is shown.
 * fit: whole photos ("contain"), or photos that fill their place ("cover").
 * kiosk: without controls.
 */
export const display = {
  show: WAYS.includes(asked.get("show")) ? asked.get("show") : "wall",
  photos: numberOf("photos", 1, 48, asked.get("show") === "slides" ? 24 : 6),
  seconds: numberOf("seconds", 2, 3600, 10),
  fit: asked.get("fit") === "cover" ? "cover" : "contain",
  get kiosk() {
    return this.show !== "wall" || asked.get("kiosk") === "1";
  },
};

/** Let the style sheet see it. */
export function applyDisplay() {
  const { show, photos, fit, kiosk } = display;
  Object.assign(document.body.dataset, { show, fit, kiosk });
  const columns = Math.ceil(Math.sqrt(photos));
  document.body.style.setProperty("--columns", columns);
  document.body.style.setProperty("--rows", Math.ceil(photos / columns));
}

/** Which entry a slide show shows: new ones at once, otherwise the newest ones in turn. */
export class Slides {
  #shown = null; // key
  #since = -Infinity;
  #unseen = [];

  /** A caption has just come. */
  arrived(key) {
    this.#unseen = [...this.#unseen, key].slice(-display.photos);
  }

  /** The entry to show at time `now` (ms), of those that there are, the newest first. */
  choose(entries, now) {
    const index = entries.findIndex((entry) => entry.key === this.#shown);
    this.#unseen = this.#unseen.filter((key) => entries.some((entry) => entry.key === key));
    const patience = 1000 * Math.min(display.seconds, this.#unseen.length > 0 ? 3 : Infinity);
    if (index >= 0 && now - this.#since < patience) return entries[index];
    const key = this.#unseen.shift() ?? entries[(index + 1) % entries.length]?.key ?? null;
    [this.#shown, this.#since] = [key, now];
    return entries.find((entry) => entry.key === key) ?? null;
  }
}
