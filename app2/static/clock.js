// The time of day by the relay's clock, since that of a screen may be wrong.

let ahead = 0; // ms that the relay's clock is ahead of this screen's

/** Take the relay's time, an ISO 8601 text. */
export function setClock(iso) {
  const moment = Date.parse(iso);
  if (!Number.isNaN(moment)) ahead = moment - Date.now();
}

export const now = () => new Date(Date.now() + ahead);
