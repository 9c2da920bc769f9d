// The full-screen button, and a screen that stays awake while it is on.

import { byId } from "../shared/page.js";

/** Keep the screen awake while the page is visible. */
export async function keepAwake() {
  try {
    await navigator.wakeLock?.request("screen");
  } catch {
    // then the screen sleeps as usual
  }
}

/** Show the button, where the browser allows full screen. */
export function startFullScreen() {
  const button = byId("full-screen");
  button.hidden = !document.fullscreenEnabled;
  button.addEventListener("click", () => {
    if (document.fullscreenElement) document.exitFullscreen();
    else document.documentElement.requestFullscreen().then(keepAwake);
  });
  document.addEventListener("visibilitychange", () => {
    // a hidden page loses its wake lock
    if (document.fullscreenElement && !document.hidden) keepAwake();
  });
  document.addEventListener("fullscreenchange", () => {
    const words = document.fullscreenElement ? "Leave full screen" : "Full screen";
    button.lastElementChild.textContent = words;
  });
}
