// Reads new captions aloud with the browser's own voice. Off by default; the choice is remembered.

const KEY = "read-aloud";
const voice = window.speechSynthesis;

export const canSpeak = Boolean(voice);
let on = canSpeak && remembered() === "on";

function remembered() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null; // no storage for this page: the choice lasts as long as the page
  }
}

export function isAloud() {
  return on;
}

export function setAloud(wanted) {
  on = wanted;
  if (!on) voice.cancel();
  try {
    localStorage.setItem(KEY, on ? "on" : "off");
  } catch {
    // see above
  }
}

/** Say `text` after what is being said now; what else waits to be said is no longer news. */
export function say(text) {
  if (!on) return;
  if (voice.pending) voice.cancel();
  const utterance = new SpeechSynthesisUtterance(text);
  utterance.lang = "en";
  voice.speak(utterance);
}
