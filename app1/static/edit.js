// The field in which a person changes a caption. A caption is one line, so Enter saves.

/** Let Enter in the field call `save`, and Escape `cancel`. */
export function acceptKeys(field, save, cancel) {
  field.addEventListener("keydown", (event) => {
    if (event.isComposing) return; // Enter and Escape belong to the input method
    if (event.key === "Enter") {
      event.preventDefault();
      save();
    } else if (event.key === "Escape") cancel();
  });
}
