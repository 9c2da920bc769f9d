// The host's page: approve, correct and reject captions, and decide who may upload.

import { announce, byId, unreachable, whyRefused } from "../shared/page.js";
import { request } from "./api.js";
import { acceptKeys } from "./edit.js";
import { hostToken, keepHostToken } from "./host-token.js";

const ASK_AGAIN = 2_000; // ms between two looks at what waits
const UNDO = 5_000; // ms in which a rejection can be taken back
const SHOWN = 30; // captions of the wall that are listed
const RELAY = new URL(
  `${
    document.body.dataset.relayUrl ||
    `${location.protocol}//${location.hostname}:${document.body.dataset.relayPort}`
  }/`,
);

let token = ""; // of the host who is inside
let wallProblem = ""; // why the relay does not show the wall
const cards = new Map(); // id -> card, of both lists
const rejected = new Set(); // cards whose deletion is not sent yet, in the order of the rejections

// --- the token -----------------------------------------------------------------------------------

/** The token from the link that `captioner up` prints, taken out of the address; "" without one. */
function linkedToken() {
  const linked = location.hash.slice(1);
  if (!linked || byId(linked)) return ""; // a link to a part of this page
  history.replaceState(null, "", location.pathname + location.search);
  try {
    return decodeURIComponent(linked);
  } catch {
    return linked; // such as "%": a wrong token like others
  }
}

const ask = (path, options = {}) => request(path, { token, ...options });

function showMessage(sentence) {
  byId("message").textContent = sentence;
  byId("message").hidden = !sentence;
}

async function enter(given) {
  try {
    showGuests(await ask("api/guests", { token: given }));
  } catch (refusal) {
    if ([401, 403].includes(refusal.status)) keepHostToken(token); // this one is wrong
    else if (!token) keepHostToken(given); // to be tried again after a reload
    if (given) showMessage(refusal.message);
    if (!token) {
      byId("enter").hidden = false;
      byId("token").focus();
    }
    return;
  }
  const isInside = token !== "";
  token = given;
  keepHostToken(token);
  showMessage("");
  if (isInside) return;
  byId("enter").hidden = true;
  byId("inside").hidden = false;
  byId("leave").hidden = false;
  lookAtWaiting();
  watchWall();
}

byId("enter").addEventListener("submit", (event) => {
  event.preventDefault();
  enter(byId("token").value.trim());
});
byId("leave").addEventListener("click", () => {
  keepHostToken("");
  location.reload();
});
// The link can be opened in a tab that has this page already.
addEventListener("hashchange", () => {
  const linked = linkedToken();
  if (linked) enter(linked);
});

// --- cards ---------------------------------------------------------------------------------------

class Card {
  constructor(list, entry, isWaiting) {
    this.list = list;
    this.isWaiting = isWaiting;
    this.root = byId("card").content.firstElementChild.cloneNode(true);
    this.root.card = this;
    this.part("approve").hidden = !isWaiting;
    this.part("reject").textContent = isWaiting ? "Reject" : "Delete from every screen";
    this.part("approve").addEventListener("click", () => this.approve());
    this.part("change").addEventListener("click", () => this.startEdit());
    this.part("reject").addEventListener("click", () => this.reject());
    this.part("undo").addEventListener("click", () => this.undo());
    this.part("cancel").addEventListener("click", () => this.endEdit());
    this.part("edit").addEventListener("submit", (event) => {
      event.preventDefault();
      this.save();
    });
    acceptKeys(
      this.text,
      () => this.save(),
      () => this.endEdit(),
    );
    this.show(entry);
  }

  part(name) {
    return this.root.querySelector(`.${name}`);
  }

  get text() {
    return this.root.querySelector("textarea");
  }

  show(entry) {
    this.entry = entry;
    this.part("caption").textContent = entry.caption;
    this.part("name").textContent = entry.image_path ?? "";
    this.root.setAttribute("aria-label", entry.caption);
    this.part("by").hidden = entry.by === undefined && entry.photo !== false;
    this.part("by").textContent =
      entry.by === undefined
        ? "Not a photo that the model can describe; the sentence is a guess."
        : "A person's words.";
    const image = this.root.querySelector("img");
    if (entry.thumbnail) image.src = entry.thumbnail;
    else if (this.isWaiting && !image.src) this.loadPhoto(image);
  }

  async loadPhoto(image) {
    try {
      const path = `api/review/${encodeURIComponent(this.entry.id)}/thumbnail`;
      image.src = URL.createObjectURL(await ask(path, { as: "blob" }));
    } catch {
      image.alt = "No picture";
    }
  }

  showProblem(sentence = "") {
    this.part("problem").textContent = sentence;
    this.part("problem").hidden = !sentence;
  }

  /** Send a change; whether it was taken. */
  async send(options, said) {
    this.showProblem();
    try {
      await ask(`api/captions/${encodeURIComponent(this.entry.id)}`, options);
    } catch (refusal) {
      this.showProblem(refusal.message);
      announce(refusal.message);
      return false;
    }
    announce(said);
    return true;
  }

  /** The next card in the list, or the one before, about which nothing is decided yet. */
  get following() {
    const all = [...this.root.parentElement.children];
    const at = all.indexOf(this.root);
    return [...all.slice(at + 1), ...all.slice(0, at).reverse()].find(({ card }) => card.isOpen);
  }

  /** Whether nothing is decided yet. */
  get isOpen() {
    return !this.root.dataset.state;
  }

  /**
   * Set what is decided: "approving", "leaving" (rejected), or "" for nothing. The keyboard goes on
   * with the next card at once, so that no key meant for that one acts on this one.
   */
  setState(state) {
    const hadFocus = this.root.contains(document.activeElement);
    this.root.dataset.state = state;
    for (const name of ["approve", "change", "reject"]) this.part(name).disabled = state !== "";
    this.part("undo").hidden = state !== "leaving";
    if (!hadFocus) return;
    const own = state === "leaving" ? this.part("undo") : this.root;
    ((state && this.following) || own).focus();
  }

  async approve() {
    if (!this.isOpen) return;
    this.endEdit();
    this.setState("approving");
    const body = { approved: true, seen: this.entry.caption };
    if (await this.send({ method: "PATCH", body }, "Approved.")) this.leave();
    else this.setState("");
  }

  startEdit() {
    if (!this.isOpen) return;
    this.part("edit").hidden = false;
    this.text.value = this.entry.caption;
    this.text.focus();
    this.text.select();
  }

  endEdit() {
    if (this.part("edit").hidden) return;
    this.part("edit").hidden = true;
    this.root.focus();
  }

  async save() {
    const caption = this.text.value.trim();
    if (!caption) {
      this.showProblem("Write a caption, or reject the photo.");
      return;
    }
    if (await this.send({ method: "PATCH", body: { caption } }, "Saved.")) {
      this.show({ ...this.entry, caption, by: "host" });
      this.endEdit();
    }
  }

  /** Delete after a while in which it can be taken back. */
  reject() {
    if (!this.isOpen) return;
    this.endEdit();
    this.setState("leaving");
    rejected.add(this);
    announce("Rejected. The key U takes it back within five seconds.");
    this.timer = setTimeout(() => this.sendRejection(), UNDO);
  }

  undo() {
    clearTimeout(this.timer);
    rejected.delete(this);
    this.setState("");
    this.root.focus();
  }

  /** Delete now what was rejected; from here on it cannot be taken back. */
  async sendRejection() {
    if (!rejected.delete(this)) return; // nothing was rejected, or it is sent
    clearTimeout(this.timer);
    if (this.root.contains(document.activeElement)) this.root.focus();
    this.part("undo").hidden = true;
    if (await this.send({ method: "DELETE" }, "Deleted.")) this.leave();
    else this.setState("");
  }

  /** Remove the card; the keyboard goes on with the next one. */
  leave() {
    if (!this.root.isConnected) return;
    this.sendRejection(); // if another host has approved it meanwhile, or the list is full
    const next = this.following;
    const hadFocus = this.root.contains(document.activeElement);
    cards.delete(this.entry.id);
    this.root.remove();
    if (hadFocus) (next ?? byId("leave")).focus();
    showCounts();
  }
}

// A rejection holds although the page is closed before its time is over.
addEventListener("pagehide", () => {
  for (const card of rejected) card.sendRejection();
});

function showCounts() {
  const waiting = byId("waiting").childElementCount;
  byId("waiting-count").textContent = waiting || "";
  byId("nothing").hidden = waiting > 0;
  byId("none-shown").hidden = byId("shown").childElementCount > 0;
  document.title = document.title.replace(/^(\(\d+\) )?/, waiting ? `(${waiting}) ` : "");
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("textarea, input")) return;
  const root = document.activeElement.closest?.(".card");
  const card = root?.card;
  const key = event.key.toLowerCase();
  if (key === "arrowdown" || key === "arrowup") {
    const all = [...document.querySelectorAll(".card")];
    const at = all.indexOf(root) + (key === "arrowdown" ? 1 : -1);
    all[Math.max(0, Math.min(at, all.length - 1))]?.focus();
  } else if (event.repeat) return; // a key that is held decides about one card only
  else if (key === "u") (rejected.has(card) ? card : [...rejected].at(-1))?.undo();
  else if (card && key === "a" && card.isWaiting) card.approve();
  else if (card && key === "e") card.startEdit();
  else if (card && key === "r") card.reject();
  else return;
  event.preventDefault();
});

// --- what waits ----------------------------------------------------------------------------------

async function lookAtWaiting() {
  if (document.body.dataset.approve === "on" && !document.hidden) {
    try {
      const { waiting } = await ask("api/review");
      const ids = new Set(waiting.map(({ id }) => id));
      for (const [id, card] of cards) if (card.isWaiting && !ids.has(id)) card.leave();
      for (const entry of waiting) {
        const card = cards.get(entry.id);
        if (card) {
          if (card.entry.caption !== entry.caption) card.show(entry);
        } else {
          add(byId("waiting"), entry, true);
          announce(`Waiting: ${entry.caption}`);
        }
      }
      showMessage("");
    } catch (refusal) {
      showMessage(refusal.message);
    }
    showCounts();
  }
  setTimeout(lookAtWaiting, ASK_AGAIN);
}

function add(list, entry, isWaiting) {
  const card = new Card(list, entry, isWaiting);
  cards.set(entry.id, card);
  if (isWaiting) list.append(card.root);
  else list.prepend(card.root);
}

// --- what is on the wall -------------------------------------------------------------------------

function showCaption(entry) {
  if (!entry.id) return; // of a publisher that gives no ids; it cannot be corrected
  const known = cards.get(entry.id);
  if (known && !known.isWaiting) known.show(entry);
  else {
    if (known) known.leave();
    add(byId("shown"), entry, false);
    const oldest = byId("shown").children[SHOWN];
    if (oldest) oldest.card.leave();
  }
  showCounts();
}

/** Say why the wall cannot be shown, once; "" when it can. */
function showWallProblem(sentence) {
  if (sentence !== wallProblem) showMessage(sentence);
  wallProblem = sentence;
}

async function watchWall() {
  showCounts();
  let last = 0;
  try {
    const answer = await fetch(new URL(`api/captions?limit=${SHOWN}`, RELAY));
    const { captions, last_seq: seq } = await answer.json();
    captions.forEach(showCaption);
    last = Math.max(0, seq);
  } catch {
    showWallProblem((await whyRefused(RELAY)).words || unreachable(RELAY));
    setTimeout(watchWall, ASK_AGAIN);
    return;
  }
  showWallProblem("");
  const stream = new EventSource(new URL(`api/captions/stream?after=${last}`, RELAY));
  stream.addEventListener("message", ({ data }) => showCaption(JSON.parse(data)));
  stream.addEventListener("forget", ({ data }) => {
    const card = cards.get(JSON.parse(data).id);
    if (card && !card.isWaiting) card.leave();
  });
  stream.addEventListener("corrected", ({ data }) => {
    const { id, caption, by } = JSON.parse(data);
    const card = cards.get(id);
    if (card && caption) card.show({ ...card.entry, caption, by });
  });
}

// --- who may upload ------------------------------------------------------------------------------

function showGuests({ uploads, on_wall: onWall, url, qr_code: code }) {
  for (const choice of byId("guests").elements) choice.checked = choice.value === uploads;
  byId("link").hidden = !url;
  byId("on-wall").checked = onWall;
  byId("guest-url").textContent = url;
  byId("guest-url").href = url || "#";
  if (code) byId("qr-code").src = URL.createObjectURL(new Blob([code], { type: "image/svg+xml" }));
}

async function decide(more = {}) {
  const uploads = new FormData(byId("guests")).get("uploads");
  const body = { uploads, on_wall: byId("on-wall").checked, ...more };
  try {
    showGuests(await ask("api/guests", { method: "PUT", body }));
    announce("Saved.");
  } catch (refusal) {
    showMessage(refusal.message);
  }
}

byId("guests").addEventListener("change", () => decide());
byId("on-wall").addEventListener("change", () => decide());
byId("renew").addEventListener("click", () => decide({ renew: true }));

enter(linkedToken() || hostToken());
