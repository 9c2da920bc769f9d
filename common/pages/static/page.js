// What the scripts of the pages use: elements by their id, sentences for screen readers, and why the
// relay does not answer.

export const byId = (id) => document.getElementById(id);

/** Say something to a screen reader, after what it is saying now. */
export function announce(text) {
  const announcer = byId("announcer");
  // a screen reader announces a change only, so the same sentence again gets a space
  announcer.textContent = announcer.textContent === text ? `${text}\u00a0` : text;
}

/** Why the relay refuses pages of this address; "" if it does not, or cannot be reached. */
export async function whyRefused(relay) {
  try {
    const answer = await (await fetch(new URL("api/origin", relay))).json();
    return answer.error ?? answer.detail ?? "";
  } catch {
    return "";
  }
}

/** What to say while the relay at this address does not answer. */
export const unreachable = (relay) =>
  `The relay cannot be reached at ${relay.href}. If it has another address, set RELAY_PUBLIC_URL. Trying again…`;
