// The viewer page: connects to the relay, keeps the entries in step with it, and shows them.
// entries.js holds the entries; card.js shows one photo.

import { canSpeak, isAloud, say, setAloud } from "./aloud.js";
import { announce, byId } from "../shared/dom.js";
import { baseName, readOut } from "../shared/format.js";
import { makeCard, releaseCard, updateCard } from "./card.js";
import { Entries } from "./entries.js";

const PAGE = 48; // cards at first, and as many more at each request
const PATIENCE = 120_000; // ms until a photo in work without any news leaves the page
const FAILURE_SHOWN = 30_000; // ms
const RELAY =
  document.body.dataset.relayUrl ||
  `${location.protocol}//${location.hostname}:${document.body.dataset.relayPort}`;

const list = byId("captions");
const entries = new Entries();
const elements = new Map(); // key -> {element, entry} on the page

let shown = PAGE;
let state = "connecting";
let firstSeq = 1; // of the oldest caption at the relay, as far as is known
let search = { words: "", found: [], more: false }; // found: at the relay, oldest first

// --- showing -----------------------------------------------------------------------------------

const wordsOf = (text) => text.toLowerCase().split(/[^\p{L}\p{N}]+/u).filter(Boolean);

/** What is to be seen now, newest first; a search is for how words begin, as the relay's is. */
function visible() {
  if (!search.words) return entries.newestFirst();
  const wanted = wordsOf(search.words);
  const here = entries.newestFirst().filter((entry) => {
    const words = wordsOf(`${entry.caption ?? ""} ${baseName(entry.image_path)}`);
    return wanted.every((start) => words.some((word) => word.startsWith(start)));
  });
  const keys = new Set(here.map((entry) => entry.key));
  const elsewhere = search.found.filter((entry) => !keys.has(entry.key));
  return [...here, ...elsewhere].sort((a, b) => b.order - a.order);
}

let renderTimer = null;

/** Bring the page in step, once for all that comes in the same moment. */
function render() {
  renderTimer ??= setTimeout(() => {
    renderTimer = null;
    const all = visible();
    const page = all.slice(0, shown);
    const wanted = new Set(page.map((entry) => entry.key));
    for (const [key, { element }] of elements) {
      if (wanted.has(key)) continue;
      releaseCard(element);
      element.remove();
      elements.delete(key);
    }
    page.forEach((entry, index) => {
      let card = elements.get(entry.key);
      if (!card) {
        card = { element: makeCard(entry), entry };
        elements.set(entry.key, card);
      } else if (card.entry !== entry) {
        updateCard(card.element, entry);
        card.entry = entry;
      }
      if (list.children[index] !== card.element) list.insertBefore(card.element, list.children[index]);
    });
    showSurroundings(all.length, page.length);
  }, 0);
}

function showSurroundings(count, onPage) {
  const searching = search.words !== "";
  list.classList.toggle("searching", searching);
  const bare = !searching && count === 0;
  byId("empty").hidden = !bare || state !== "live";
  byId("alone").hidden = !bare || state !== "away";
  byId("found").hidden = !searching;
  if (searching) {
    const many = `${count}${search.more ? " or more" : ""} caption${count === 1 ? "" : "s"}`;
    byId("found").textContent =
      count > 0 ? `${many} with “${search.words}”` : `Nothing with “${search.words}” so far`;
  }
  const oldest = entries.oldestSeq();
  const olderElsewhere = searching ? search.more : oldest > firstSeq && oldest < Infinity;
  byId("more").hidden = count <= onPage && !olderElsewhere;
}

function showConnection(newState, words) {
  state = newState;
  const connection = byId("connection");
  connection.dataset.state = newState;
  if (connection.textContent !== words) connection.firstElementChild.textContent = words;
  render();
}

// --- the relay -----------------------------------------------------------------------------------

function connect() {
  const socket = io(RELAY, {
    // asked for again at each reconnection, so that the relay sends what was missed
    auth: (answer) => answer(entries.lastSeq > 0 ? { last_seq: entries.lastSeq } : {}),
    transports: ["websocket", "polling"],
    tryAllTransports: true,
    reconnectionDelayMax: 5000,
  });
  const away = (words) => showConnection("away", words);
  let caughtUp = 0;

  socket.on("connect", () => {
    caughtUp = 0;
    entries.dropWorking(); // the relay announces again what is in work
    showConnection("catching-up", "Catching up…");
  });
  socket.on("disconnect", () => {
    away("The relay is away. Trying again…");
    // The client library does not reconnect after the relay has closed the connection properly.
    if (!socket.active) setTimeout(() => socket.connect(), 1000);
  });
  socket.on("connect_error", (error) => {
    away(socket.active ? "The relay is away. Trying again…" : `The relay refuses this page: ${error.message}`);
    if (!socket.active) setTimeout(() => socket.connect(), 5000);
  });

  // Oldest first, in parts; the first part also has what changed while this page was away.
  socket.on("history", ({ captions, more, reset, forgotten = [], error }) => {
    if (reset) {
      entries.clear(); // the relay has another history than the one on this page
      firstSeq = 1;
    }
    forgotten.forEach(forget);
    for (const caption of captions) {
      if (entries.add(caption)) caughtUp += 1;
    }
    if (error) away(error);
    else if (!more) showConnection("live", "Live");
    if (!more && caughtUp > 0) announce(`${caughtUp} caption${caughtUp === 1 ? "" : "s"} on the wall.`);
    render();
  });
  socket.on("prediction", (caption) => {
    const entry = entries.add(caption);
    if (!entry) return;
    announce(readOut(entry));
    say(readOut(entry));
    render();
  });
  socket.on("captioning", (begun) => {
    const entry = entries.begin(begun);
    if (entry) takeAwayAfter(PATIENCE, entry);
    render();
  });
  socket.on("captioning_failed", (failure) => {
    const entry = entries.fail(failure);
    if (entry) takeAwayAfter(FAILURE_SHOWN, entry);
    if (entry) announce(entry.error || "The last photo could not be captioned.");
    render();
  });
  socket.on("forget", ({ id }) => {
    forget(id);
    render();
  });
}

function forget(id) {
  entries.remove(id);
  search.found = search.found.filter((entry) => entry.id !== id);
}

/** An entry that is still in this state after `time` ms leaves the page. */
function takeAwayAfter(time, entry) {
  setTimeout(() => {
    const now = entries.newestFirst().find(({ key }) => key === entry.key);
    if (now === entry) entries.remove(entry.key);
    render();
  }, time);
}

/** Captions from the relay's history: [payloads oldest first]. */
async function ask(parameters, signal) {
  const url = new URL("/api/captions", RELAY);
  url.search = new URLSearchParams(parameters);
  const response = await fetch(url, { signal });
  if (!response.ok) throw new Error(`status ${response.status}`);
  return (await response.json()).captions;
}

/** Older captions than all on the page. */
async function loadOlder() {
  const oldest = entries.oldestSeq();
  const older = (await ask({ before: oldest, limit: PAGE })).filter(({ seq }) => seq < oldest);
  entries.addOlder(older);
  if (older.length === 0) firstSeq = oldest;
}

async function showMore() {
  try {
    if (search.words) await searchFurther();
    else if (entries.size < shown + PAGE) await loadOlder();
    shown += PAGE;
  } catch {
    announce("The relay cannot be asked just now.");
  }
  render();
}

// --- search --------------------------------------------------------------------------------------

let searchTimer = null;
let searching = new AbortController();

function startSearch() {
  searching.abort();
  searching = new AbortController();
  search = { words: byId("words").value.trim(), found: [], more: false };
  shown = PAGE;
  render();
  clearTimeout(searchTimer);
  // what is on the page at once; the relay only when the typing pauses
  if (search.words) searchTimer = setTimeout(() => searchFurther().catch(() => {}), 250);
}

/** Ask the relay for the newest matches, or for those before the ones that it gave last time. */
async function searchFurther() {
  const mine = search;
  const oldest = mine.found[0]?.seq;
  const before = oldest === undefined ? {} : { before: oldest };
  const matches = await ask({ q: mine.words, limit: PAGE, ...before }, searching.signal);
  mine.more = matches.length === PAGE;
  mine.found = [...matches.map(Entries.captioned), ...mine.found];
  render();
}

// --- controls ------------------------------------------------------------------------------------

function showAloud() {
  byId("aloud").setAttribute("aria-pressed", String(isAloud()));
}

async function keepAwake() {
  try {
    await navigator.wakeLock?.request("screen");
  } catch {
    // the screen may then sleep as it always does
  }
}

function startControls() {
  byId("search").addEventListener("submit", (event) => event.preventDefault());
  byId("words").addEventListener("input", startSearch);
  byId("more").addEventListener("click", showMore);

  byId("aloud").hidden = !canSpeak;
  byId("aloud").addEventListener("click", () => {
    setAloud(!isAloud());
    showAloud();
    say("New captions are read aloud.");
  });
  showAloud();

  const fullScreen = byId("full-screen");
  fullScreen.hidden = !document.fullscreenEnabled;
  fullScreen.addEventListener("click", () => {
    if (document.fullscreenElement) document.exitFullscreen();
    else document.documentElement.requestFullscreen().then(keepAwake);
  });
  document.addEventListener("visibilitychange", () => {
    if (document.fullscreenElement && !document.hidden) keepAwake(); // hiding the page ended it
  });
  document.addEventListener("fullscreenchange", () => {
    fullScreen.lastElementChild.textContent = document.fullscreenElement ? "Leave full screen" : "Full screen";
  });
}

startControls();
connect();
