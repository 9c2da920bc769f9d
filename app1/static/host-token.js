// The host's token in this tab's own storage: the host's page puts it there, and uploads of the same
// tab show it.

const KEY = "host-token";

/** The host's token; "" without one. */
export function hostToken() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return ""; // the browser gives this page no storage
  }
}

/** Keep the token for this tab, in place of another; "" for none. */
export function keepHostToken(token) {
  try {
    sessionStorage.setItem(KEY, token);
  } catch {
    // without storage, the token is lost when the page is left
  }
}
