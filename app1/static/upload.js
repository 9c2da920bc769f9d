// The upload page: takes photos in (choose, drop, paste, camera), captions them one after the other
// through /api/captions, and shows each on a card of its own. All text goes in as text nodes.

import { percent, readOut, showConfidence } from "../shared/format.js";
import { showAttention, whereItLooked } from "./attention.js";
import { hasCamera, openCamera } from "./camera.js";
import { allSent, dropSent, keepSent } from "./sent.js";
import { shrink } from "./shrink.js";

const API = new URL("../api/captions", import.meta.url);
const MAX_BYTES = Number(document.body.dataset.maxUploadBytes);
const MAX_PIXELS = Number(document.body.dataset.maxPixels);
const TIME_LIMIT = 120_000; // ms for one photo, sending included
const PATIENCE = 5; // times that a busy server is asked again before the person is

const main = document.getElementById("main");
const cards = document.getElementById("cards");
const message = document.getElementById("message");
const input = document.getElementById("image");

const byId = (id) => document.getElementById(id);
const wait = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

/** Say something to a screen reader, after what it is saying now. */
function announce(text) {
  const announcer = byId("announcer");
  // the same sentence twice is a change, too
  announcer.textContent = announcer.textContent === text ? `${text}\u00a0` : text;
}

/** What the API answered instead of a caption; `message` is the sentence for the person. */
class Refusal extends Error {
  constructor(sentence, status = 0, retryAfter = null) {
    super(sentence);
    this.status = status;
    this.retryAfter = retryAfter; // seconds, or null
  }

  static from(status, body, retryAfter) {
    const seconds = Number.parseInt(retryAfter, 10);
    return new Refusal(
      body?.detail || body?.title || `The captioner answered with status ${status}.`,
      status,
      Number.isNaN(seconds) ? null : Math.min(600, Math.max(1, seconds)),
    );
  }
}

/** POST one photo. `onSent(fraction)` follows the sending, which fetch() cannot tell. */
function requestCaption(file, signal, onSent) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", API);
    request.responseType = "json";
    request.timeout = TIME_LIMIT;
    request.upload.onprogress = (event) => onSent(event.total ? event.loaded / event.total : 1);
    request.upload.onload = () => onSent(1);
    request.onload = () => {
      if (request.status === 200 && request.response?.caption !== undefined) {
        resolve(request.response);
      } else {
        reject(Refusal.from(request.status, request.response, request.getResponseHeader("Retry-After")));
      }
    };
    request.ontimeout = () => reject(new Refusal("The captioner took too long over this photo."));
    request.onerror = () =>
      reject(new Refusal("The captioner could not be reached. See that it is running, then try again."));
    request.onabort = () => reject(new Refusal("Removed."));
    signal.addEventListener("abort", () => request.abort());
    const form = new FormData();
    form.append("image", file, file.name);
    form.append("attention", "1");
    request.send(form);
  });
}

/** One photo on the page, from the moment it is chosen to its caption and its deletion. */
class Card {
  constructor(file) {
    this.file = file;
    this.aborter = new AbortController();
    this.root = byId("card").content.firstElementChild.cloneNode(true);
    this.part = (name) => this.root.querySelector(`.${name}`);
    this.part("name").textContent = file.name;
    this.part("problem").hidden = true;
    this.part("copy").addEventListener("click", () => this.copy());
    this.part("again").addEventListener("click", () => enqueue(this));
    this.part("remove").addEventListener("click", () => this.remove());
    this.part("remove").hidden = false;
    this.showPhoto();
  }

  /** The photo at once, straight from the file; the browser turns it as its EXIF says. */
  showPhoto() {
    const photo = document.createElement("img");
    photo.alt = this.file.name;
    photo.onload = () => {
      this.part("frame").style.setProperty("--shape", photo.naturalWidth / photo.naturalHeight);
      this.part("frame").classList.add("shaped");
    };
    photo.onerror = () => {
      photo.remove();
      this.part("unseen").hidden = false;
    };
    this.photoUrl = URL.createObjectURL(this.file);
    photo.src = this.photoUrl;
    this.part("frame").prepend(photo);
  }

  showState(state, text, fraction = null) {
    this.root.dataset.state = state;
    const busy = ["waiting", "sending", "looking", "pausing"].includes(state);
    this.root.setAttribute("aria-busy", String(busy));
    this.part("progress").hidden = !busy;
    this.part("state").textContent = text;
    const bar = this.root.querySelector("progress");
    bar.hidden = fraction === null && state !== "looking";
    if (fraction === null) bar.removeAttribute("value");
    else bar.value = fraction;
    this.part("problem").hidden = true;
    this.part("again").hidden = true;
  }

  /** Send the photo and show what comes back; resolves when this card needs nothing more. */
  async caption() {
    for (let tries = 1; !this.aborter.signal.aborted; tries += 1) {
      try {
        await this.shrinkIf(this.file.size > MAX_BYTES);
        this.showState("sending", "Sending…", 0);
        const answer = await requestCaption(this.file, this.aborter.signal, (sent) => {
          if (sent < 1) this.showState("sending", "Sending…", sent);
          else this.showState("looking", "Looking at it…");
        });
        this.showCaption(answer);
        return;
      } catch (refusal) {
        if (this.aborter.signal.aborted) return;
        const tooManyPixels = refusal.status === 413 && !this.shrunk;
        if (tooManyPixels && (await this.shrinkIf(true))) continue;
        if (refusal.retryAfter === null || tries > PATIENCE) {
          this.showProblem(refusal);
          return;
        }
        await this.pause(refusal);
      }
    }
  }

  /** Make the photo smaller in this browser and say so; false if it cannot. */
  async shrinkIf(needed) {
    if (!needed || this.shrunk) return false;
    this.showState("sending", "Making it smaller…");
    const smaller = await shrink(this.file, MAX_BYTES, MAX_PIXELS);
    this.shrunk = true;
    if (!smaller) return false; // the server then says in its own words what is wrong
    this.file = smaller;
    this.part("name").textContent = `${smaller.name}, made smaller to fit the limit`;
    return true;
  }

  /** Wait as long as the server asked for, counting down. */
  async pause(refusal) {
    for (let left = refusal.retryAfter; left > 0 && !this.aborter.signal.aborted; left -= 1) {
      this.showState("pausing", `${refusal.message} Trying again in ${left} s.`);
      await wait(1);
    }
  }

  showProblem(refusal) {
    this.showState("failed", "");
    this.part("problem").textContent = refusal.message;
    this.part("problem").hidden = false;
    // the same bytes would get the same answer
    this.part("again").hidden = [400, 413, 415, 422].includes(refusal.status);
    announce(`${this.file.name}: ${refusal.message}`);
  }

  showCaption(answer) {
    this.answer = answer;
    this.showState("done", "");
    const photo = this.part("frame").querySelector("img");
    if (photo) photo.alt = readOut(answer);
    this.part("caption").textContent = answer.caption;
    this.part("caption").hidden = false;
    showConfidence(this.root, answer);
    this.showWords(answer.caption, answer.words ?? []);
    this.showOthers((answer.candidates ?? []).slice(1));
    const published = this.part("published");
    published.textContent =
      answer.published === "queued"
        ? "The relay is away. The caption will appear on the wall when it is back."
        : "On the wall.";
    published.hidden = false;
    this.part("copy").hidden = false;
    this.part("remove").textContent = "Delete from every screen";
    keepSent(answer);
    announce(`${this.file.name}: ${readOut(answer)}`);
  }

  /** The caption again, word by word: each with its probability, and the veil on hover, focus or tap. */
  showWords(caption, words) {
    const line = this.part("words");
    const veil = this.part("veil");
    let kept = null; // the word that was tapped or has the focus
    const places = placeWords(caption, words.map(({ word }) => word));
    const buttons = words.map(({ word, probability, attention }, index) => {
      const button = document.createElement("span");
      button.className = "word";
      button.textContent = places[index].text;
      button.dataset.percent = percent(probability).replace("%", "");
      button.style.setProperty("--probability", probability);
      button.setAttribute("role", "button");
      button.tabIndex = index === 0 ? 0 : -1; // one stop for Tab; the arrows go on from there
      const where = attention ? `, looked ${whereItLooked(attention)}` : "";
      button.setAttribute("aria-label", `${word}, ${percent(probability)}${where}`);
      button.addEventListener("pointerenter", (event) => {
        if (event.pointerType === "mouse") show(button);
      });
      button.addEventListener("pointerleave", (event) => {
        if (event.pointerType === "mouse") show(kept);
      });
      button.addEventListener("focus", () => show((kept = button)));
      button.addEventListener("blur", () => show((kept = null)));
      return button;
    });
    const show = (chosen) => {
      for (const button of buttons) button.classList.toggle("shown", button === chosen);
      const { attention } = words[buttons.indexOf(chosen)] ?? {};
      if (attention) showAttention(veil, attention);
      else veil.hidden = true;
    };
    line.addEventListener("keydown", (event) => {
      const at = buttons.indexOf(document.activeElement);
      const goal = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: buttons.length - 1 }[event.key];
      if (event.key === "Escape") show((kept = null));
      if ((event.key === "Enter" || event.key === " ") && at >= 0) show((kept = buttons[at]));
      if (goal !== undefined || event.key === " ") event.preventDefault();
      if (buttons[goal]) {
        for (const button of buttons) button.tabIndex = button === buttons[goal] ? 0 : -1;
        buttons[goal].focus();
      }
    });
    const between = places.map(({ after }) => after);
    // a word that follows without a space is a part of the one before: dog's
    buttons.forEach((button, i) => button.classList.toggle("joined", between[i - 1] === ""));
    line.replaceChildren(...buttons.flatMap((button, index) => [button, between[index]]));
    line.setAttribute("aria-label", "Word by word");
    line.setAttribute("aria-describedby", "word-help");
    line.hidden = words.length === 0;
    this.part("hint").hidden = !words.some((word) => word.attention);
    this.part("caption").classList.toggle("visually-hidden", words.length > 0);
  }

  showOthers(others) {
    const rows = others.map(({ caption, probability }) => {
      const row = document.createElement("li");
      const text = document.createElement("span");
      text.className = "text";
      text.textContent = caption;
      const meter = document.createElement("meter");
      meter.value = probability;
      meter.setAttribute("aria-hidden", "true");
      const figure = document.createElement("span");
      figure.className = "figure";
      figure.textContent = percent(probability);
      row.append(text, " ", meter, " ", figure);
      return row;
    });
    this.root.querySelector(".others ol").replaceChildren(...rows);
    this.part("others").hidden = rows.length === 0;
  }

  async copy() {
    const button = this.part("copy");
    try {
      await navigator.clipboard.writeText(this.answer.caption);
    } catch {
      // no clipboard without a secure context: select the text and use the older command
      const caption = this.part("caption");
      getSelection().selectAllChildren(caption);
      document.execCommand("copy");
      getSelection().removeAllRanges();
    }
    button.textContent = "Copied";
    announce("Caption copied.");
    await wait(2);
    button.textContent = "Copy caption";
  }

  /** Off this page and, once captioned, off every screen; the card stays if that did not work. */
  async remove() {
    const button = this.part("remove");
    if (this.answer) {
      button.disabled = true;
      try {
        await requestDeletion(this.answer);
      } catch (refusal) {
        button.disabled = false;
        this.part("problem").textContent = refusal.message;
        this.part("problem").hidden = false;
        announce(refusal.message);
        return;
      }
    }
    this.aborter.abort();
    URL.revokeObjectURL(this.photoUrl);
    const next = this.root.nextElementSibling ?? this.root.previousElementSibling;
    this.root.remove();
    main.classList.toggle("has-cards", cards.childElementCount > 0);
    (next?.querySelector(".remove") ?? byId("choose")).focus();
    announce(this.answer ? "Deleted from every screen." : "Removed.");
  }
}

/**
 * Where each word stands in the caption, which is a sentence ("a", "dog", "'s" in "A dog's ..."):
 * its text there, and what comes between it and the next one.
 */
function placeWords(caption, words) {
  const places = [];
  let end = 0;
  for (const word of words) {
    const start = caption.toLowerCase().indexOf(word, end);
    if (start < 0) return words.map((text) => ({ text, after: " " }));
    if (places.length > 0) places.at(-1).after = caption.slice(end, start);
    end = start + word.length;
    places.push({ text: caption.slice(start, end), after: "" });
  }
  if (places.length > 0) places.at(-1).after = caption.slice(end);
  return places;
}

/** Off every screen; what this tab remembers of it goes too. */
async function requestDeletion({ id, delete_token: token }) {
  let response;
  try {
    response = await fetch(`${API}/${encodeURIComponent(id)}`, {
      method: "DELETE",
      headers: { Authorization: `Bearer ${token}` },
    });
  } catch {
    throw new Refusal("The captioner could not be reached, so nothing was deleted yet. Try again.");
  }
  if (!response.ok && response.status !== 404) {
    const body = await response.json().catch(() => null);
    throw Refusal.from(response.status, body, response.headers.get("Retry-After"));
  }
  dropSent(id);
}

/** What this tab sent before the page was loaded again: without its photos, but still to be deleted. */
function showEarlier() {
  const section = byId("earlier");
  const list = section.querySelector("ul");
  for (const answer of allSent()) {
    const row = byId("earlier-row").content.firstElementChild.cloneNode(true);
    const button = row.querySelector("button");
    row.querySelector(".text").textContent = answer.caption;
    button.addEventListener("click", async () => {
      button.disabled = true;
      try {
        await requestDeletion(answer);
      } catch (refusal) {
        button.disabled = false;
        showMessage(refusal.message);
        return;
      }
      const next = row.nextElementSibling ?? row.previousElementSibling;
      row.remove();
      section.hidden = list.childElementCount === 0;
      (next?.querySelector("button") ?? byId("choose")).focus();
      announce("Deleted from every screen.");
    });
    list.prepend(row); // the newest first
  }
  section.hidden = list.childElementCount === 0;
}

// One after the other, so that the first caption comes soon and the server's queue stays free.
const queue = [];
let working = false;

async function enqueue(card) {
  card.showState("waiting", "Waiting its turn");
  queue.push(card);
  if (working) return;
  working = true;
  while (queue.length > 0) await queue.shift().caption();
  working = false;
}

function showMessage(text) {
  message.className = "message error";
  message.textContent = text;
  message.hidden = text === "";
}

/** Take files in, in their order, above those that came before. */
function add(files) {
  const photos = [...files];
  if (photos.length === 0) return;
  showMessage("");
  const fresh = photos.map((file) => new Card(file));
  cards.prepend(...fresh.map((card) => card.root));
  main.classList.add("has-cards");
  fresh.forEach(enqueue);
  cards.scrollIntoView({ block: "nearest" });
}

function acceptChoice() {
  byId("choose").addEventListener("click", () => input.click());
  for (const field of [input, byId("capture")]) {
    field.addEventListener("change", () => {
      add(field.files);
      field.value = ""; // so that the same photo can be chosen again
    });
  }
}

function acceptCamera() {
  const button = byId("use-camera");
  const finger = matchMedia("(pointer: coarse)").matches;
  if (!hasCamera() && !finger) return; // nothing that a click could open
  button.hidden = false;
  button.addEventListener("click", () => {
    if (hasCamera()) openCamera((file) => add([file]));
    else byId("capture").click();
  });
}

function acceptDrop() {
  const veil = byId("drop-veil");
  let depth = 0; // dragenter and dragleave come for every element on the way
  addEventListener("dragenter", (event) => {
    event.preventDefault();
    depth += 1;
    veil.hidden = !event.dataTransfer.types.includes("Files");
  });
  addEventListener("dragleave", () => {
    depth = Math.max(0, depth - 1);
    if (depth === 0) veil.hidden = true;
  });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    veil.hidden = true;
    const { files, items } = event.dataTransfer;
    if ([...items].some((item) => item.webkitGetAsEntry?.()?.isDirectory)) {
      showMessage("That was a folder. Open it and drop the photos in it.");
    } else if (files.length === 0) {
      showMessage("That was not a file. Save the picture first, then drop the file here.");
    } else {
      add(files);
    }
  });
}

function acceptPaste() {
  addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    if (files.length > 0) {
      event.preventDefault();
      add(files);
    } else {
      showMessage("There is no picture on the clipboard.");
    }
  });
}

acceptChoice();
acceptCamera();
acceptDrop();
acceptPaste();
showEarlier();
for (const element of document.querySelectorAll(".with-script, .ways")) element.hidden = false;
for (const element of document.querySelectorAll(".without-script")) element.hidden = true;
document.documentElement.classList.add("scripted");
