// Keeps a page that is left alone up to date: it checks its connection when somebody may look at it
// again, and reloads itself when the servers have another version of it.

const UNUSED = 60_000; // ms without a touch, a key or a click
const LOOK_EVERY = 5_000; // ms

let usedAt = -Infinity;
let looking = null;

/** Call `check` when the page is shown again, after sleep for example, or has a network again. */
export function onReturn(check) {
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) check();
  });
  addEventListener("pageshow", (event) => {
    if (event.persisted) check();
  });
  addEventListener("online", check);
}

function isInUse() {
  return (
    performance.now() - usedAt < UNUSED ||
    document.fullscreenElement !== null || // a reload would leave it
    document.querySelector("#words").value !== ""
  );
}

/** Whether app2 serves this version already; it may start later than the relay. */
async function isServed(version) {
  try {
    const html = await (await fetch(location.href, { cache: "no-store" })).text();
    return html.includes(`data-version="${version}"`);
  } catch {
    return false;
  }
}

/** Reload the page if it is of another version, as soon as nobody uses it. */
export function renewTo(version) {
  clearInterval(looking);
  if (!version || version === document.body.dataset.version) return;
  const look = async () => {
    if (!isInUse() && (await isServed(version))) location.reload();
  };
  looking = setInterval(look, LOOK_EVERY);
  look();
}

for (const kind of ["pointerdown", "pointermove", "keydown", "wheel", "touchstart"]) {
  addEventListener(kind, () => (usedAt = performance.now()), { capture: true, passive: true });
}
