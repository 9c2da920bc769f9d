// The viewer page: connects to the relay, keeps the entries (entries.js) in step with the relay's
// history, and shows them on cards (card.js).

import { say, startAloud } from "../shared/aloud.js";
import { baseName, readOut } from "../shared/format.js";
import { announce, byId, unreachable, whyRefused } from "../shared/page.js";
import { announceCaption } from "./calm.js";
import { gapWords, makeCard, releaseCard, updateCard } from "./card.js";
import { now, setClock } from "./clock.js";
import { applyDisplay, display, Slides } from "./display.js";
import { Entries } from "./entries.js";
import { keepAwake, startFullScreen } from "./full-screen.js";
import { onReturn, renewTo } from "./renewal.js";

const PAGE = 48; // cards shown at first, and more with each "Show more"
const WORKING_SHOWN = 120_000; // ms until a photo without any news leaves the page
const FAILURE_SHOWN = 30_000; // ms
const TYPING_PAUSE = 250; // ms
const GUEST_LINK_CHECKED = 15_000; // ms
const DAY_CHECKED = 30_000; // ms
const ANSWER_WITHIN = 4_000; // ms, or the connection is taken for broken
const UNREACHABLE = "The relay cannot be reached. Trying again…";
const RELAY = new URL(
  `${
    document.body.dataset.relayUrl ||
    `${location.protocol}//${location.hostname}:${document.body.dataset.relayPort}`
  }/`,
);

const list = byId("cards");
const entries = new Entries();
const slides = new Slides();
const cards = new Map(); // key -> {element, entry} on the page

let shown = PAGE;
let state = "connecting";
let firstSeq = 1; // of the oldest caption that the relay is known to have
let search = { words: "", found: [], more: false }; // found: matches from the relay, oldest first

// --- showing -----------------------------------------------------------------------------------

function captionCount(count, orMore = false) {
  if (orMore) return `${count} or more captions`;
  return `${count} caption${count === 1 ? "" : "s"}`;
}

const wordsOf = (text) => text.toLowerCase().split(/[^\p{L}\p{N}]+/u).filter(Boolean);

/** The entries to show, newest first. A search matches the beginnings of words, as at the relay. */
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

/** The entries on the page, newest first, as the display asks for. */
function chosen(all) {
  if (display.show === "wall") return all.slice(0, shown);
  const pictures = all.filter(({ state }) => state === "done" || state === "working");
  if (display.show === "newest") return pictures.slice(0, 1);
  if (display.show === "grid") return pictures.slice(0, display.photos);
  const done = pictures.filter(({ state }) => state === "done").slice(0, display.photos);
  return [slides.choose(done, performance.now())].filter(Boolean);
}

let renderTimer = null;

/** Update the page, once for all changes of the same moment. */
function render() {
  renderTimer ??= setTimeout(() => {
    renderTimer = null;
    const all = visible();
    const page = chosen(all);
    const wanted = new Set(page.map((entry) => entry.key));
    for (const [key, { element }] of cards) {
      if (wanted.has(key)) continue;
      releaseCard(element);
      element.remove();
      cards.delete(key);
    }
    page.forEach((entry, index) => {
      let card = cards.get(entry.key);
      if (!card) {
        card = { element: makeCard(entry), entry };
        cards.set(entry.key, card);
      } else if (card.entry !== entry) {
        updateCard(card.element, entry);
        card.entry = entry;
      }
      const present = list.children[index] ?? null;
      if (present !== card.element) list.insertBefore(card.element, present);
    });
    showAroundCards(all.length, page.length);
  }, 0);
}

/** Show what goes with `count` entries, of which `onPage` are on the page. */
function showAroundCards(count, onPage) {
  const searching = search.words !== "";
  list.classList.toggle("first-large", display.show === "wall" && !searching);
  const bare = !searching && count === 0;
  byId("empty").hidden = !bare || state !== "live";
  byId("alone").hidden = !bare || state !== "away";
  byId("found").hidden = !searching;
  if (searching) {
    byId("found").textContent =
      count > 0
        ? `${captionCount(count, search.more)} with “${search.words}”`
        : `Nothing with “${search.words}” so far`;
  }
  const oldest = entries.oldestSeq();
  const olderElsewhere = searching ? search.more : oldest > firstSeq && oldest < Infinity;
  byId("more").hidden = display.kiosk || (count <= onPage && !olderElsewhere);
  byId("displays").hidden = display.kiosk || searching || count === 0;
}

function showConnection(newState, words) {
  state = newState;
  const connection = byId("connection");
  connection.dataset.state = newState;
  // a screen reader announces each change
  if (connection.textContent !== words) connection.firstElementChild.textContent = words;
  render();
}

// --- the relay -----------------------------------------------------------------------------------

function connect() {
  const socket = io(RELAY.origin, {
    path: `${RELAY.pathname}socket.io`,
    // called at each reconnection; the relay then sends the captions since
    auth: (answer) => answer(entries.lastSeq > 0 ? { last_seq: entries.lastSeq } : {}),
    transports: ["websocket", "polling"],
    tryAllTransports: true,
    // When the relay is started again, its viewers do not come back all at once: each waits half
    // of this time to one and a half times it, and longer with each failure.
    reconnectionDelay: 1000,
    reconnectionDelayMax: 5000,
    randomizationFactor: 0.5,
  });
  const away = (words) => showConnection("away", words);
  let waiting = null; // the timer of `comeBack`
  const reconnect = () => {
    // at once, whatever it waits for
    clearTimeout(waiting);
    socket.disconnect().connect();
  };
  /** Connect after `seconds`, or up to half as much later: not together with all other viewers. */
  const comeBack = (seconds) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => socket.connect(), 1000 * seconds * (1 + Math.random() / 2));
  };
  let caughtUp = 0;
  let found = false; // whether the relay has answered at this address

  socket.on("hello", greet);
  onReturn(() => {
    showDay();
    if (!socket.connected) reconnect();
    else {
      socket.timeout(ANSWER_WITHIN).emit("hello", (silence, answer) => {
        if (silence) reconnect();
        else greet(answer);
      });
    }
  });
  socket.on("connect", () => {
    found = true;
    caughtUp = 0;
    entries.dropWorking(); // the relay sends again what is still in work
    showConnection("catching-up", "Catching up…");
  });
  socket.on("disconnect", () => {
    away(UNREACHABLE);
    // after a disconnection by the relay, the client library does not reconnect
    if (!socket.active) comeBack(1);
  });
  socket.on("connect_error", async (error) => {
    const silent = found ? UNREACHABLE : unreachable(RELAY);
    away(socket.active ? silent : `The relay refuses this page: ${error.message}`);
    const { words, retryAfter } = await whyRefused(RELAY);
    if (socket.connected) return;
    if (words) away(words);
    if (retryAfter) socket.disconnect(); // it would try again before that
    if (!socket.active) comeBack(retryAfter || 5);
  });

  // oldest first, in several parts; the first part also says what was deleted since
  socket.on("history", ({ captions, more, reset, forgotten = [], corrected = [], error }) => {
    if (reset) {
      entries.clear(); // the history on the page is not the relay's
      firstSeq = 1;
    }
    forgotten.forEach(forget);
    corrected.forEach((correction) => entries.correct(correction));
    const wasHere = entries.lastSeq > 0;
    for (const caption of captions) {
      const entry = entries.add(caption);
      if (!entry) continue;
      caughtUp += 1;
      if (wasHere) slides.arrived(entry.key);
    }
    if (error) away(error);
    else if (!more) showConnection("live", "Live");
    if (!more && caughtUp > 0) announceCaption(`${captionCount(caughtUp)} on the wall.`);
    render();
  });
  socket.on("prediction", (caption) => {
    const entry = entries.add(caption);
    if (!entry) return;
    slides.arrived(entry.key);
    announceCaption(readOut(entry));
    say(readOut(entry));
    render();
  });
  socket.on("captioning", (begun) => {
    const entry = entries.begin(begun);
    if (entry) removeAfter(WORKING_SHOWN, entry);
    render();
  });
  socket.on("captioning_failed", (failure) => {
    const entry = entries.fail(failure);
    if (entry) {
      removeAfter(FAILURE_SHOWN, entry);
      announce(entry.error || "The last photo could not be captioned.");
    }
    render();
  });
  socket.on("corrected", (correction) => {
    const entry = entries.correct(correction);
    if (entry) announceCaption(`Corrected: ${readOut(entry)}`);
    render();
  });
  socket.on("forget", ({ id }) => {
    forget(id);
    render();
  });
}

/** The relay's own state: its version of this page, its history, its time. */
function greet({ version, oldest_seq: oldest, last_seq: last, now: time }) {
  setClock(time);
  renewTo(version);
  const gone = oldest - 1 - entries.lastSeq;
  if (entries.lastSeq > 0 && gone > 0 && last >= entries.lastSeq && !entries.has(`gap ${oldest}`)) {
    entries.addGap(gone, oldest);
    announceCaption(gapWords(gone));
    render();
  }
}

function forget(id) {
  entries.remove(id);
  search.found = search.found.filter((entry) => entry.id !== id);
}

let day = now().toDateString();

/** At midnight the times of the captions get their date. */
function showDay() {
  if (now().toDateString() === day) return;
  day = now().toDateString();
  for (const { element, entry } of cards.values()) updateCard(element, entry);
}

/** Remove an entry that is still in the same state after `time` ms. */
function removeAfter(time, entry) {
  setTimeout(() => {
    const now = entries.newestFirst().find(({ key }) => key === entry.key);
    if (now === entry) entries.remove(entry.key);
    render();
  }, time);
}

/** Captions from the relay's history, oldest first. */
async function ask(parameters, signal) {
  const url = new URL("api/captions", RELAY);
  url.search = new URLSearchParams(parameters);
  const response = await fetch(url, { signal });
  if (!response.ok) throw new Error(`status ${response.status}`);
  return (await response.json()).captions;
}

/** Load captions that are older than all entries. */
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
    announce("The relay cannot be reached just now.");
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
  // the entries on the page at once; the relay only when the typing pauses
  if (search.words) searchTimer = setTimeout(() => searchFurther().catch(() => {}), TYPING_PAUSE);
}

/** Ask the relay for the newest matches, or for those before the last ones that it gave. */
async function searchFurther() {
  const mine = search;
  const oldest = mine.found[0]?.seq;
  const before = oldest === undefined ? {} : { before: oldest };
  const matches = await ask({ q: mine.words, limit: PAGE, ...before }, searching.signal);
  mine.more = matches.length === PAGE;
  mine.found = [...matches.map(Entries.captioned), ...mine.found];
  render();
}

// --- the guests' link ----------------------------------------------------------------------------

/** Show the QR code while the host wants it on the wall. */
function showGuestLink() {
  const code = byId("guest-code");
  code.onload = () => (code.parentElement.hidden = code.naturalWidth <= 1);
  code.onerror = () => (code.parentElement.hidden = true);
  const look = () => {
    if (!document.hidden) code.src = `${code.dataset.src}?${Date.now()}`;
  };
  look();
  setInterval(look, GUEST_LINK_CHECKED);
}

byId("search").addEventListener("submit", (event) => event.preventDefault());
byId("words").addEventListener("input", startSearch);
byId("more").addEventListener("click", showMore);
startAloud(byId("aloud"));
startFullScreen();
applyDisplay();
if (display.kiosk) {
  keepAwake();
  document.addEventListener("visibilitychange", () => document.hidden || keepAwake());
}
setInterval(showDay, DAY_CHECKED);
if (display.show === "slides") setInterval(render, 500);
showGuestLink();
connect();
