// Numbers, names and times as both pages show them, and pictures as they arrive. Touches no element.

/** A probability in words for a person: 0.873 -> "87%"; never a false "0%" or "100%". */
export function percent(probability) {
  const value = 100 * probability;
  if (value > 0 && value < 1) return "<1%";
  if (value > 99 && value < 100) return ">99%";
  return `${Math.round(value)}%`;
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

/** For reading out: with a full stop, unless it ends in one. */
export function ended(text) {
  return /[.!?]$/.test(text) ? text : `${text}.`;
}
