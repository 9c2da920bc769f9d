// One photo's card on the page, made from the page's template. Captions, names and photos are not
// trusted: text goes in as text nodes only, and a photo only as an image.

import { showCandidates, showConfidence } from "../shared/caption.js";
import { baseName, clockTime } from "../shared/format.js";
import { byId } from "../shared/page.js";
import { now } from "./clock.js";

const MAX_CANDIDATES = 4; // the caption included
const photos = new WeakMap(); // card -> {thumbnail, url}

/** A new card for `entry`. */
export function makeCard(entry) {
  const card = byId("card").content.firstElementChild.cloneNode(true);
  updateCard(card, entry);
  return card;
}

/** Show the present state of `entry`. */
export function updateCard(card, entry) {
  const part = (name) => card.querySelector(`.${name}`);
  card.dataset.state = entry.state;
  card.dataset.id = entry.id ?? "";
  card.setAttribute("aria-busy", String(entry.state === "working"));
  showPhoto(card, entry.thumbnail);
  part("name").textContent = baseName(entry.image_path);
  const time = card.querySelector("time");
  time.textContent = clockTime(entry.created_at, now());
  if (time.textContent) time.dateTime = entry.created_at;
  part("caption").textContent = {
    working: "Looking at it…",
    gap: gapWords(entry.count),
    failed: entry.error || "This photo could not be captioned.",
    done: entry.caption,
  }[entry.state];
  showConfidence(card, entry);
  const listed = Array.isArray(entry.candidates) && entry.by === undefined ? entry.candidates : [];
  const candidates = listed.filter(isCandidate);
  showCandidates(card, candidates.slice(0, MAX_CANDIDATES));
}

/** Free the photo of a card that leaves the page. */
export function releaseCard(card) {
  URL.revokeObjectURL(photos.get(card)?.url);
  photos.delete(card);
}

/** What is said of captions that are gone. */
export function gapWords(count) {
  const many = count !== 1;
  return (
    `${many ? `${count} older captions are` : "An older caption is"} gone: ` +
    `${many ? "they" : "it"} left the history while this page was away.`
  );
}

function isCandidate(candidate) {
  return typeof candidate?.caption === "string";
}

/** Show `thumbnail`: JPEG bytes (an ArrayBuffer) or a data URL of an image. Others are no photo. */
function showPhoto(card, thumbnail) {
  const image = card.querySelector("img");
  const bytes = thumbnail instanceof ArrayBuffer;
  const usable = bytes || (typeof thumbnail === "string" && thumbnail.startsWith("data:image/"));
  card.classList.toggle("without-photo", !usable);
  if (!usable || photos.get(card)?.thumbnail === thumbnail) return;
  releaseCard(card);
  const jpeg = new Blob([thumbnail], { type: "image/jpeg" });
  const url = bytes ? URL.createObjectURL(jpeg) : thumbnail;
  photos.set(card, { thumbnail, url });
  image.onerror = () => card.classList.add("without-photo");
  image.src = url;
}
