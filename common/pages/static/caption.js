// Fills the parts of a card that both pages have: those of confidence.html and candidates.html in
// common/pages/templates.

import { odds, percent } from "./format.js";
import { byId } from "./page.js";

/** Show how sure the model is: `confident` (a boolean) and `confidence` (0 to 1), where given. */
export function showConfidence(card, { confident, confidence }) {
  const verdict = card.querySelector(".verdict");
  verdict.hidden = typeof confident !== "boolean";
  verdict.dataset.confident = confident;
  verdict.firstChild.data = confident ? "Fairly sure" : "Not sure";
  const known = typeof confidence === "number";
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
