// Reads new captions aloud with the browser's own voice. Off by default; the choice is remembered.

const KEY = "read-aloud";
const voice = window.speechSynthesis;
let speaking = false;
let next = null; // the newest caption that waits; older ones are no longer news

export const canSpeak = Boolean(voice);

export function isAloud() {
  return canSpeak && localStorage.getItem(KEY) === "on";
}

export function setAloud(on) {
  localStorage.setItem(KEY, on ? "on" : "off");
  if (!on) {
    next = null;
    voice.cancel();
  }
}

/** Say `text` after what is being said now. */
export function say(text) {
  if (!isAloud()) return;
  if (speaking) {
    next = text;
    return;
  }
  const utterance = new SpeechSynthesisUtterance(text);
  utterance.lang = "en";
  speaking = true;
  utterance.onend = utterance.onerror = () => {
    speaking = false;
    const waiting = next;
    next = null;
    if (waiting !== null) say(waiting);
  };
  voice.speak(utterance);
}
