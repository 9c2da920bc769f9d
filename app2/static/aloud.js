// Reads new captions aloud with the browser's own voice. Off at first; the choice is remembered.

import { byId } from "../shared/page.js";

const KEY = "read-aloud";
const voice = window.speechSynthesis; // undefined where a browser has none
let on = Boolean(voice) && remembered() === "on";

function remembered() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null; // without storage, the choice ends with the page
  }
}

function turn(wanted) {
  on = wanted;
  if (!on) voice.cancel();
  try {
    localStorage.setItem(KEY, on ? "on" : "off");
  } catch {
    // the same as in `remembered`
  }
}

/** Read `text` after the caption being read, and drop captions that still wait: they are old. */
export function say(text) {
  if (!on) return;
  if (voice.pending) voice.cancel();
  const utterance = new SpeechSynthesisUtterance(text);
  utterance.lang = "en";
  voice.speak(utterance);
}

/** Show the button that turns reading on and off, where the browser has a voice. */
export function startAloud() {
  const button = byId("aloud");
  const show = () => button.setAttribute("aria-pressed", String(on));
  button.hidden = !voice;
  button.addEventListener("click", () => {
    turn(!on);
    show();
    say("New captions are read aloud.");
  });
  show();
}
