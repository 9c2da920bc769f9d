// Takes photos in (choose, drop, paste, camera), and captions them one after the other.

import { byId } from "../shared/page.js";
import { hasCamera } from "./camera.js";
import { Card } from "./card.js";
import { hostToken } from "./host-token.js";
import { openCamera } from "./take-photo.js";

const cards = byId("cards");
const message = byId("message");

// One at a time: the first caption comes soon, and the server's queue stays free for others.
const waiting = [];
let working = false;

async function queue(card) {
  card.showState("waiting", "Waiting its turn");
  waiting.push(card);
  if (working) return;
  working = true;
  while (waiting.length > 0) await waiting.shift().caption();
  working = false;
}

/** Show a sentence above the cards; "" hides it. */
export function showMessage(text) {
  message.className = "message error";
  message.textContent = text;
  message.hidden = text === "";
  message.scrollIntoView({ block: "nearest" });
}

/** Add a card for each file, in their order, above the earlier cards. */
function add(files) {
  const photos = [...files];
  if (photos.length === 0) return;
  showMessage("");
  const added = photos.map((file) => new Card(file, queue));
  cards.prepend(...added.map((card) => card.root));
  added.forEach(queue);
  cards.scrollIntoView({ block: "nearest" });
}

function acceptChoice() {
  const input = byId("image");
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
  const touch = matchMedia("(pointer: coarse)").matches;
  if (!hasCamera() && !touch) return;
  button.hidden = false;
  button.addEventListener("click", () => {
    if (hasCamera()) openCamera((file) => add([file]));
    else byId("capture").click(); // opens the camera app of a phone
  });
}

function acceptDrop() {
  const veil = byId("drop-veil");
  let depth = 0; // dragenter and dragleave also come from each element under the pointer
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

/** Start to accept photos in every way that this browser has. */
export function acceptPhotos() {
  if (hostToken()) {
    byId("refusal")?.remove(); // the host may upload
    byId("formats").hidden = false;
  }
  acceptChoice();
  acceptCamera();
  acceptDrop();
  acceptPaste();
}
