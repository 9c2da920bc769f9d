// What the scripts of the pages use: elements by their id, sentences for screen readers, and why the
// relay does not answer.

export const byId = (id) => document.getElementById(id);

/** Say something to a screen reader, after what it is saying now. */
export function announce(text) {
  const announcer = byId("announcer");
  // a screen reader announces a change only, so the same sentence again gets a space
  announcer.textContent = announcer.textContent === text ? `${text}\u00a0` : text;
}

/**
 * Why the relay refuses this page: `words`, "" if it does not, or cannot be reached; and after how
 * many seconds it may take the page, 0 if it does not say.
 */
export async function whyRefused(relay) {
  try {
    const response = await fetch(new URL("api/origin", relay), { cache: "no-store" });
    const { error, detail } = await response.json();
    const retryAfter = Number(response.headers.get("Retry-After")) || 0;
    return { words: error ?? detail ?? "", retryAfter };
  } catch {
    return { words: "", retryAfter: 0 };
  }
}

/** What to say while the relay at this address does not answer. */
export const unreachable = (relay) =>
  `The relay cannot be reached at ${relay.href}. If it has another address, set RELAY_PUBLIC_URL. Trying again…`;
