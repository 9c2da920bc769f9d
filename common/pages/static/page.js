// What the scripts of both pages use: elements by their id, and sentences for screen readers.

export const byId = (id) => document.getElementById(id);

/** Say something to a screen reader, after what it is saying now. */
export function announce(text) {
  const announcer = byId("announcer");
  // a screen reader announces a change only, so the same sentence again gets a space
  announcer.textContent = announcer.textContent === text ? `${text}\u00a0` : text;
}
