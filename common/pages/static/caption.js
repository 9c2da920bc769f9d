// Fills the parts of a card that both pages have: those of confidence.html and candidates.html in
// common/pages/templates.

import { odds, percent, verdict } from "./format.js";
import { byId } from "./page.js";

/**
 * Show the confidence: `confident` (a boolean), `confidence` (0 to 1) and `photo` (false for what the
 * model cannot describe), where given. All of them are about the model's words, not about a person's
 * (`by`).
 */
export function showConfidence(card, { confident, confidence, photo, by }) {
  const isPersons = by !== undefined;
  card.dataset.photo = isPersons || photo !== false;
  const element = card.querySelector(".verdict");
  element.hidden = !isPersons && typeof confident !== "boolean";
  element.dataset.confident = isPersons || confident;
  element.firstChild.data = verdict({ confident, photo, by });
  const known = !isPersons && typeof confidence === "number";
  card.querySelector(".confidence").hidden = !known;
  card.querySelector(".odds").textContent = known ? odds(confidence) : "";
}

/** Show all candidates ([{caption, probability}]) but the first, which is the caption itself. */
export function showCandidates(card, candidates) {
  const template = byId("candidate").content.firstElementChild;
  const rows = candidates.slice(1).map(({ caption, probability }) => {
    const row = template.cloneNode(true);
    row.querySelector(".text").textContent = caption;
    row.querySelector("meter").value = probability;
    row.querySelector(".figure").textContent = percent(probability);
    return row;
  });
  card.querySelector(".candidates ol").replaceChildren(...rows);
  card.querySelector(".candidates").hidden = rows.length === 0;
}
