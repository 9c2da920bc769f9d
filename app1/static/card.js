// One photo's card, from the moment the photo is chosen to its caption and its deletion.

import { showCandidates, showConfidence } from "../shared/caption.js";
import { readOut } from "../shared/format.js";
import { announce, byId } from "../shared/page.js";
import { requestCaption, requestCorrection } from "./api.js";
import { acceptKeys } from "./edit.js";
import { deleteSent, keepSent } from "./sent.js";
import { shrink } from "./shrink.js";
import { showWords } from "./words.js";

const SMALL_BYTES = 900_000; // a proxy's own limit is often 1 MB, and the model needs no more
const MAX_BYTES = Number(document.body.dataset.maxUploadBytes);
const MAX_PIXELS = Number(document.body.dataset.maxPixels);
const MAX_RETRIES = 5; // times that a busy server is asked again without asking the person
const FINAL = [400, 413, 415, 422]; // statuses that the same file would get again

const SAVED = {
  delivered: "Saved. Every screen shows it.",
  queued: "Saved. Every screen shows it as soon as the relay can be reached.",
  waiting: "Saved. The host sees it.",
};

const seconds = (count) => new Promise((resolve) => setTimeout(resolve, 1000 * count));

/** Whether a file is a WebP, in which browsers do not apply EXIF's orientation. */
async function isWebp(file) {
  const start = new Uint8Array(await file.slice(8, 12).arrayBuffer());
  return String.fromCharCode(...start) === "WEBP";
}

export class Card {
  /** `queue` is called with the card when the person wants to try the photo again. */
  constructor(file, queue) {
    this.file = file;
    this.aborter = new AbortController();
    this.root = byId("card").content.firstElementChild.cloneNode(true);
    this.part("name").textContent = file.name;
    this.part("copy").addEventListener("click", () => this.copy());
    this.part("again").addEventListener("click", () => queue(this));
    this.part("change").addEventListener("click", () => this.startEdit());
    this.part("cancel").addEventListener("click", () => this.endEdit());
    this.part("edit").addEventListener("submit", (event) => {
      event.preventDefault();
      this.saveEdit();
    });
    acceptKeys(
      this.root.querySelector("textarea"),
      () => this.saveEdit(),
      () => this.endEdit(),
    );
    this.part("remove").addEventListener("click", () => this.remove());
    this.part("remove").hidden = false;
    this.showPhoto();
  }

  part(name) {
    return this.root.querySelector(`.${name}`);
  }

  /** Show the photo from the file, before it is sent; the browser applies its EXIF orientation. */
  showPhoto() {
    this.photoUrl = URL.createObjectURL(this.file);
    this.isShown = this.putPhoto(this.photoUrl);
  }

  /** Put a picture onto the card, in place of another; resolves to whether it can be shown. */
  putPhoto(url) {
    const frame = this.part("frame");
    const photo = document.createElement("img");
    return new Promise((resolve) => {
      photo.onload = () => {
        photo.alt = this.answer ? readOut(this.answer) : this.file.name;
        frame.querySelector("img")?.remove();
        frame.prepend(photo);
        frame.style.setProperty("--shape", photo.naturalWidth / photo.naturalHeight);
        frame.classList.add("shaped");
        this.part("unseen").hidden = true;
        resolve(true);
      };
      photo.onerror = () => {
        this.part("unseen").hidden = false;
        resolve(false);
      };
      photo.src = url;
    });
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

  showProblem(sentence) {
    this.part("problem").textContent = sentence;
    this.part("problem").hidden = false;
  }

  /** Send the photo and show the answer; resolves when the card needs nothing more. */
  async caption() {
    for (let tries = 1; !this.aborter.signal.aborted; tries += 1) {
      try {
        if (this.file.size > MAX_BYTES) await this.shrink();
        this.showState("sending", "Sending…", 0);
        const withPicture = !(await this.isShown) || (await isWebp(this.file));
        const answer = await requestCaption(this.file, withPicture, this.aborter.signal, (sent) => {
          if (sent < 1) this.showState("sending", "Sending…", sent);
          else this.showState("looking", "Looking at it…");
        });
        this.showCaption(answer);
        return;
      } catch (refusal) {
        if (this.aborter.signal.aborted) return;
        // a small file can have too many pixels
        if (refusal.status === 413 && (await this.shrink())) continue;
        if (refusal.retryAfter === null || tries > MAX_RETRIES) {
          this.showFailure(refusal);
          return;
        }
        await this.pause(refusal);
      }
    }
  }

  /** Make the photo smaller, once; false if it was done before or this browser cannot. */
  async shrink() {
    if (this.shrunk) return false;
    this.showState("sending", "Making it smaller…");
    const smaller = await shrink(this.file, Math.min(MAX_BYTES, SMALL_BYTES), MAX_PIXELS);
    this.shrunk = true;
    if (!smaller) return false; // the server's answer then names the problem
    this.file = smaller;
    this.part("name").textContent = `${smaller.name}, made smaller to fit the limit`;
    return true;
  }

  /** Wait as long as the server asked for, counting down. */
  async pause(refusal) {
    for (let left = refusal.retryAfter; left > 0 && !this.aborter.signal.aborted; left -= 1) {
      this.showState("pausing", `${refusal.message} Trying again in ${left} s.`);
      await seconds(1);
    }
  }

  showFailure(refusal) {
    this.showState("failed", "");
    this.showProblem(refusal.message);
    this.part("again").hidden = FINAL.includes(refusal.status);
    announce(`${this.file.name}: ${refusal.message}`);
  }

  showCaption(answer) {
    this.showState("done", "");
    if (answer.thumbnail) this.putPhoto(answer.thumbnail);
    this.part("copy").hidden = false;
    this.part("change").hidden = answer.published === "no";
    this.part("remove").textContent = "Delete from every screen";
    this.showAnswer(answer);
    announce(`${this.file.name}: ${readOut(answer)}`);
  }

  /** Fill what depends on the caption: the model's, or a person's in its place. */
  showAnswer(answer) {
    this.answer = answer;
    const photo = this.part("frame").querySelector("img");
    if (photo) photo.alt = readOut(answer);
    this.part("caption").textContent = answer.caption;
    this.part("caption").hidden = false;
    showConfidence(this.root, answer);
    showWords(this.root, answer.caption, answer.words ?? []);
    const use = answer.published === "no" ? null : (caption) => this.saveCaption(caption);
    showCandidates(this.root, answer.candidates ?? [], use);
    for (const note of this.root.querySelectorAll("[data-published]")) {
      note.hidden = note.dataset.published !== answer.published;
    }
    keepSent(answer);
  }

  // --- the uploader's own words

  startEdit() {
    const text = this.root.querySelector("textarea");
    text.value = this.answer.caption;
    this.part("edit").hidden = false;
    this.part("candidates").hidden = true; // a click on one would discard what is written here
    text.focus();
    text.select();
  }

  endEdit() {
    this.part("edit").hidden = true;
    this.part("candidates").hidden = !this.part("candidates").querySelector("li");
    this.part("change").focus();
  }

  async saveEdit() {
    const caption = this.root.querySelector("textarea").value.trim();
    if (!caption) {
      this.showProblem("Write a caption, or delete the photo.");
      return;
    }
    await this.saveCaption(caption);
  }

  /** Put a person's words in place of the model's: written by hand, or another of its captions. */
  async saveCaption(caption) {
    if (this.isSaving) return; // a second click
    this.isSaving = true;
    this.root.setAttribute("aria-busy", "true");
    let published = "";
    try {
      ({ published } = await requestCorrection(this.answer, caption));
    } catch (refusal) {
      this.showProblem(refusal.message);
      announce(refusal.message);
      return;
    } finally {
      this.isSaving = false;
      this.root.setAttribute("aria-busy", "false");
    }
    this.part("problem").hidden = true;
    const { id, delete_token } = this.answer; // the rest is about the model's caption
    this.showAnswer({ id, delete_token, caption, published, by: "uploader" });
    this.endEdit();
    announce(SAVED[published]);
  }

  async copy() {
    const button = this.part("copy");
    try {
      await navigator.clipboard.writeText(this.answer.caption);
    } catch {
      // outside a secure context there is no clipboard; the older command copies a selection
      getSelection().selectAllChildren(this.part("caption"));
      document.execCommand("copy");
      getSelection().removeAllRanges();
    }
    button.textContent = "Copied";
    announce("Caption copied.");
    await seconds(2);
    button.textContent = "Copy caption";
  }

  /** Remove the card; a caption is deleted from every screen first, or the card stays. */
  async remove() {
    const button = this.part("remove");
    if (this.answer) {
      button.disabled = true;
      try {
        await deleteSent(this.answer);
      } catch (refusal) {
        button.disabled = false;
        this.showProblem(refusal.message);
        announce(refusal.message);
        return;
      }
    }
    this.aborter.abort();
    URL.revokeObjectURL(this.photoUrl);
    const next = this.root.nextElementSibling ?? this.root.previousElementSibling;
    this.root.remove();
    (next?.querySelector(".remove") ?? byId("choose")).focus();
    announce(this.answer ? "Deleted from every screen." : "Removed.");
  }
}
