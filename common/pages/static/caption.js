// Fills the parts of a card that both pages have: those of confidence.html and candidates.html in
// common/pages/templates.

import { odds, verdict } from "./format.js";
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

/**
 * Show all candidates ([{caption}]) but the first, which is the caption itself. With `use`, each has
 * a button that calls it with its caption.
 */
export function showCandidates(card, candidates, use = null) {
  const template = byId("candidate").content.firstElementChild;
  const rows = candidates.slice(1).map(({ caption }) => {
    const row = template.cloneNode(true);
    row.querySelector(".text").textContent = caption;
    if (use !== null) row.append(makeUseButton(caption, use));
    return row;
  });
  card.querySelector(".candidates ol").replaceChildren(...rows);
  card.querySelector(".candidates").hidden = rows.length === 0;
}

function makeUseButton(caption, use) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "button plain use";
  button.textContent = "Use this";
  button.setAttribute("aria-label", `Use this: ${caption}`);
  button.addEventListener("click", () => use(caption));
  return button;
}
