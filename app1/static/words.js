// The caption on a card word by word: each word with its probability and, on hover, focus or tap,
// where in the photo the model looked while it wrote the word.

import { percent } from "../shared/format.js";
import { showAttention, whereItLooked } from "./attention.js";

/** Show the `words` ([{word, probability, attention}]) of `caption` on a card. */
export function showWords(card, caption, words) {
  const line = card.querySelector(".words");
  const veil = card.querySelector(".veil");
  const places = placeWords(caption, words.map(({ word }) => word));
  const buttons = words.map((word, index) => makeButton(word, places[index].text));
  let kept = null; // the word that was tapped or has the focus

  const show = (chosen) => {
    for (const button of buttons) button.classList.toggle("shown", button === chosen);
    const { attention } = words[buttons.indexOf(chosen)] ?? {};
    if (attention) showAttention(veil, attention);
    else veil.hidden = true;
  };
  const moveTo = (chosen) => {
    for (const button of buttons) button.tabIndex = button === chosen ? 0 : -1;
    chosen.focus();
  };

  buttons.forEach((button, index) => {
    button.tabIndex = index === 0 ? 0 : -1; // one stop for Tab; the arrow keys go on
    // without a space before it, a word is part of the one before: dog's
    button.classList.toggle("joined", places[index - 1]?.after === "");
    button.classList.toggle("stopped", /^\S/.test(places[index].after));
    button.addEventListener("pointerenter", ({ pointerType }) => {
      if (pointerType === "mouse") show(button);
    });
    button.addEventListener("pointerleave", ({ pointerType }) => {
      if (pointerType === "mouse") show(kept);
    });
    button.addEventListener("focus", () => show((kept = button)));
    button.addEventListener("blur", () => show((kept = null)));
  });
  line.addEventListener("keydown", (event) => {
    const at = buttons.indexOf(document.activeElement);
    const last = buttons.length - 1;
    const goal = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last }[event.key];
    if (event.key === "Escape") show((kept = null));
    if ((event.key === "Enter" || event.key === " ") && at >= 0) show((kept = buttons[at]));
    if (goal !== undefined || event.key === " ") event.preventDefault(); // no scrolling
    if (buttons[goal]) moveTo(buttons[goal]);
  });
  line.replaceChildren(...unbroken(buttons, places));
  line.hidden = words.length === 0;
  card.querySelector(".hint").hidden = !words.some(({ attention }) => attention);
  // the words show the caption; the heading stays for screen readers
  card.querySelector(".caption").classList.toggle("visually-hidden", words.length > 0);
}

/** A span, because a real button would not break across lines with the sentence. */
function makeButton({ word, probability, attention }, text) {
  const button = document.createElement("span");
  button.className = "word";
  button.textContent = text;
  button.dataset.percent = percent(probability).replace("%", "");
  button.style.setProperty("--probability", probability);
  button.setAttribute("role", "button");
  const where = attention ? `, looked ${whereItLooked(attention)}` : "";
  button.setAttribute("aria-label", `${word}, ${percent(probability)}${where}`);
  return button;
}

/** Buttons and the text after them; no line breaks before a full stop, or within "dog's". */
function unbroken(buttons, places) {
  const pieces = [];
  let piece = null;
  buttons.forEach((button, index) => {
    if (piece === null) {
      piece = document.createElement("span");
      piece.className = "unbroken";
      pieces.push(piece);
    }
    const [, stop, space] = /^(\S*)(.*)$/s.exec(places[index].after);
    piece.append(button, stop);
    if (space !== "") {
      pieces.push(space);
      piece = null;
    }
  });
  return pieces;
}

/**
 * Find each word in the caption: "a", "dog" and "'s" in "A dog's ball.".
 * Returns for each its `text` there, and the text `after` it, up to the next word.
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
