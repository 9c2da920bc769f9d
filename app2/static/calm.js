// Captions for a screen reader: each once, and not more than it can say.

import { announce } from "../shared/page.js";

const PAUSE = 4_000; // ms between two announcements
const SINGLY = 2; // captions that are said one by one; of more, the number and the newest

let waiting = [];
let timer = null;

/** Announce a caption: at once, or together with others after the pause. */
export function announceCaption(text) {
  waiting.push(text);
  if (timer === null) announceWaiting();
}

function announceWaiting() {
  timer = null;
  if (waiting.length === 0) return;
  const [count, newest] = [waiting.length, waiting.at(-1)];
  announce(count <= SINGLY ? waiting.join(" ") : `${count} new captions. The newest: ${newest}`);
  waiting = [];
  timer = setTimeout(announceWaiting, PAUSE);
}
