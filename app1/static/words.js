// The words of a caption on a card: where the model looked for each, and the other candidates.

import { percent } from "../shared/format.js";
import { showAttention, whereItLooked } from "./attention.js";

/**
 * Show the caption word by word on a card: each word with its probability, and the veil over the photo on
 * hover, focus or tap.
 */
export function showWords(root, caption, words) {
  const part = (name) => root.querySelector(`.${name}`);
  const line = part("words");
  const veil = part("veil");
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
  part("hint").hidden = !words.some((word) => word.attention);
  part("caption").classList.toggle("visually-hidden", words.length > 0);
}

/** Show the other candidates on a card. */
export function showOthers(root, others) {
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
  root.querySelector(".others ol").replaceChildren(...rows);
  root.querySelector(".others").hidden = rows.length === 0;
}

/**
 * The place of each word in the caption, which is a sentence ("a", "dog", "'s" in "A dog's ..."): its
 * text there, and the text between it and the next one.
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
