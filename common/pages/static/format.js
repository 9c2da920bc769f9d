// Numbers, names, times and confidence as both pages show them.

/** A probability in words for a person: 0.873 -> "87%"; never a false "0%" or "100%". */
export function percent(probability) {
  const value = 100 * probability;
  if (value > 0 && value < 1) return "<1%";
  if (value > 99 && value < 100) return ">99%";
  return `${Math.round(value)}%`;
}

/** Show a caption's confidence on its element; parts as in common/pages/templates/confidence.html. */
export function showConfidence(element, { confident, confidence, photo }) {
  element.dataset.photo = photo !== false;
  const verdict = element.querySelector(".verdict");
  verdict.hidden = typeof confident !== "boolean";
  verdict.dataset.confident = confident;
  verdict.firstChild.data = doubt({ confident, photo }) || "Fairly sure";
  const known = typeof confidence === "number";
  element.querySelector(".confidence").hidden = !known;
  element.querySelector(".odds").textContent = known ? odds(confidence) : "";
}

/** The chance that a caption is right, in words; as in common/pages/templates/confidence.html. */
export function odds(chance) {
  const tenths = Math.floor(10 * chance + 0.5);
  if (chance === 0) return "Unlike the photos that the model was trained on";
  if (tenths === 0) return "Hardly any caption like this is right";
  if (tenths === 10) return "Nearly all captions like this are right";
  return `About ${tenths} in 10 captions like this ${tenths === 1 ? "is" : "are"} right`;
}

/** A caption for reading out, the doubt before it: "Not sure: A dog." */
export function readOut(entry) {
  const before = doubt(entry);
  return `${before ? `${before}: ` : ""}${ended(entry.caption)}`;
}

/** The doubt about a caption in words, "" for none; as in common/pages/templates/confidence.html. */
function doubt({ confident, photo }) {
  if (photo === false) return "Not a photo that I can describe. A guess";
  return confident === false ? "Not sure" : "";
}

/** The last part of a path of any system: "C:\\photos\\dog.jpg" -> "dog.jpg". */
export function baseName(path) {
  return typeof path === "string" ? path.split(/[\\/]/).pop() : "";
}

/** "14:02" for a moment of today, "3 Mar, 14:02" for an older one; "" for what is no time. */
export function clockTime(iso, now = new Date()) {
  const moment = new Date(iso);
  if (Number.isNaN(moment.getTime())) return "";
  const today = moment.toDateString() === now.toDateString();
  const day = today ? {} : { day: "numeric", month: "short" };
  return moment.toLocaleString([], { ...day, hour: "numeric", minute: "2-digit" });
}

/** With a full stop, unless it ends in one. */
function ended(text) {
  return /[.!?]$/.test(text) ? text : `${text}.`;
}
