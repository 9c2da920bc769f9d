// Numbers, names, times and confidence as text, the same on both pages.

/** A probability as a percentage: 0.873 -> "87%"; never a false "0%" or "100%". */
export function percent(probability) {
  const value = 100 * probability;
  if (value > 0 && value < 1) return "<1%";
  if (value > 99 && value < 100) return ">99%";
  return `${Math.round(value)}%`;
}

/** How likely a caption is right (0 to 1), as a sentence. */
export function odds(confidence) {
  const tenths = Math.floor(10 * confidence + 0.5);
  if (confidence === 0) return "Does not look like a photo";
  if (tenths === 0) return "Hardly any caption like this is right";
  if (tenths === 10) return "Nearly all captions like this are right";
  return `About ${tenths} in 10 captions like this ${tenths === 1 ? "is" : "are"} right`;
}

/** The verdict on a caption; the same as `verdict` in templates/confidence.html. */
export function verdict({ confident, photo, by }) {
  if (by !== undefined) return "Checked by a person";
  if (photo === false) return "Not a photo that I can describe. A guess";
  return confident === false ? "Not sure" : "Fairly sure";
}

/** A caption as a screen reader or a voice says it, a doubt first: "Not sure: A dog." */
export function readOut({ caption, confident, photo, by }) {
  const sentence = /[.!?]$/.test(caption) ? caption : `${caption}.`;
  const doubtful = by === undefined && (confident === false || photo === false);
  return `${doubtful ? `${verdict({ confident, photo })}: ` : ""}${sentence}`;
}

/** The last part of a path of any system: "C:\\photos\\dog.jpg" -> "dog.jpg"; "" without a path. */
export function baseName(path) {
  return typeof path === "string" ? path.split(/[\\/]/).pop() : "";
}

/** "14:02" for a time today, "3 Mar, 14:02" for an earlier day; "" if `iso` is no time. */
export function clockTime(iso, now = new Date()) {
  const moment = new Date(iso);
  if (Number.isNaN(moment.getTime())) return "";
  const today = moment.toDateString() === now.toDateString();
  const day = today ? {} : { day: "numeric", month: "short" };
  return moment.toLocaleString([], { ...day, hour: "numeric", minute: "2-digit" });
}
