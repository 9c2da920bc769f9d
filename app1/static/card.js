// One photo's card: sends the photo, follows its state, and shows its caption. Text is added as text
// nodes only.

import { announce, byId, wait } from "../shared/dom.js";
import { readOut, showConfidence } from "../shared/format.js";
import { requestCaption, requestDeletion } from "./api.js";
import { keepSent } from "./sent.js";
import { shrink } from "./shrink.js";
import { showOthers, showWords } from "./words.js";

const MAX_BYTES = Number(document.body.dataset.maxUploadBytes);
const MAX_PIXELS = Number(document.body.dataset.maxPixels);
const PATIENCE = 5; // times that a busy server is asked again before the person is

/**
 * One photo on the page, from the moment it is chosen to its caption and its deletion.
 * `onAgain(card)` is called when the person asks to try again, `onRemoved()` when the card has gone.
 */
export class Card {
  constructor(file, { onAgain, onRemoved }) {
    this.onRemoved = onRemoved;
    this.file = file;
    this.aborter = new AbortController();
    this.root = byId("card").content.firstElementChild.cloneNode(true);
    this.part = (name) => this.root.querySelector(`.${name}`);
    this.part("name").textContent = file.name;
    this.part("problem").hidden = true;
    this.part("copy").addEventListener("click", () => this.copy());
    this.part("again").addEventListener("click", () => onAgain(this));
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
    showWords(this.root, answer.caption, answer.words ?? []);
    showOthers(this.root, (answer.candidates ?? []).slice(1));
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
    this.onRemoved();
    (next?.querySelector(".remove") ?? byId("choose")).focus();
    announce(this.answer ? "Deleted from every screen." : "Removed.");
  }
}
