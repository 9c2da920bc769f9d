// One photo with its caption, made from the page's template. Captions, names and pictures come from
// anybody who may publish: text is added as text nodes only, and a picture only as an image.

import { baseName, clockTime, percent, showConfidence } from "../shared/format.js";

const template = document.getElementById("card");
const pictures = new WeakMap(); // element -> object URL to release

/** A new element for `entry`. */
export function makeCard(entry) {
  const element = template.content.firstElementChild.cloneNode(true);
  updateCard(element, entry);
  return element;
}

/** Show the present state of `entry`. */
export function updateCard(element, entry) {
  const part = (name) => element.querySelector(`.${name}`);
  element.dataset.state = entry.state;
  element.dataset.id = entry.id ?? "";
  element.setAttribute("aria-busy", String(entry.state === "working"));
  showPicture(element, entry.thumbnail);
  part("name").textContent = baseName(entry.image_path);
  const time = element.querySelector("time");
  time.textContent = clockTime(entry.created_at);
  if (time.textContent) time.dateTime = entry.created_at;
  part("caption").textContent = {
    working: "Looking at it…",
    failed: entry.error || "This photo could not be captioned.",
    done: entry.caption,
  }[entry.state];
  const candidates = Array.isArray(entry.candidates) ? entry.candidates.filter(isProbability) : [];
  showConfidence(element, entry);
  part("others").replaceChildren(...candidates.slice(1, 4).map(makeCandidate));
}

/** Release what the element holds before it leaves the page. */
export function releaseCard(element) {
  URL.revokeObjectURL(pictures.get(element)?.url);
  pictures.delete(element);
}

function isProbability(candidate) {
  return typeof candidate?.probability === "number" && typeof candidate.caption === "string";
}

function makeCandidate({ caption, probability }) {
  const row = document.createElement("li");
  const text = document.createElement("span");
  text.className = "text";
  text.textContent = caption;
  const figure = document.createElement("span");
  figure.className = "figure";
  figure.textContent = percent(probability);
  row.append(text, " ", figure);
  return row;
}

/** `thumbnail` is JPEG bytes (an ArrayBuffer) or a data URL of an image; anything else is no picture. */
function showPicture(element, thumbnail) {
  const image = element.querySelector("img");
  const bytes = thumbnail instanceof ArrayBuffer;
  const usable = bytes || (typeof thumbnail === "string" && thumbnail.startsWith("data:image/"));
  element.classList.toggle("without-picture", !usable);
  if (!usable || pictures.get(element)?.thumbnail === thumbnail) return;
  releaseCard(element);
  const url = bytes ? URL.createObjectURL(new Blob([thumbnail], { type: "image/jpeg" })) : thumbnail;
  pictures.set(element, { thumbnail, url });
  image.onerror = () => element.classList.add("without-picture");
  image.src = url;
}
