// Reads new captions aloud with the browser's own voice. Off at first; the choice is remembered.

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

/** Let `button` turn reading on and off, and show it where the browser has a voice. */
export function startAloud(button) {
  const show = () => button.setAttribute("aria-pressed", String(on));
  button.hidden = !voice;
  button.addEventListener("click", () => {
    turn(!on);
    show();
    say("New captions are read aloud.");
  });
  show();
}
