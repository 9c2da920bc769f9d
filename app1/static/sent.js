// Remembers what this tab has sent, so that it can still be deleted after the page was loaded again:
// of each caption its id, its delete token and its sentence, never the photo. In the tab's own storage,
// which ends with the tab, so that the next person at this browser does not find it.

const KEY = "sent";
const KEPT = 50;
const DAY = 86_400_000; // ms; for a tab that stays open

/** Oldest first: [{id, delete_token, caption, at}] */
export function allSent() {
  try {
    return JSON.parse(sessionStorage.getItem(KEY) ?? "[]").filter(({ at }) => Date.now() - at < DAY);
  } catch {
    return []; // no storage for this page
  }
}

function store(sent) {
  try {
    sessionStorage.setItem(KEY, JSON.stringify(sent.slice(-KEPT)));
  } catch {
    // see above: then only the cards on the page can be deleted
  }
}

/** Remember the answer to an upload. */
export function keepSent({ id, delete_token, caption }) {
  store([...allSent(), { id, delete_token, caption, at: Date.now() }]);
}

/** It has been deleted. */
export function dropSent(id) {
  store(allSent().filter((one) => one.id !== id));
}
