// Small helpers for both pages: elements by id, waiting, and announcements for screen readers.

export const byId = (id) => document.getElementById(id);

export const wait = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

/** Announce a sentence to screen readers, after what they are reading now. */
export function announce(text) {
  const announcer = byId("announcer");
  // The same sentence twice is a change, too.
  announcer.textContent = announcer.textContent === text ? `${text}\u00a0` : text;
}
