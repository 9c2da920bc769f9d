// The ways in for photos: choosing, the camera, dropping and pasting.

import { byId } from "../shared/dom.js";
import { hasCamera, openCamera } from "./camera.js";

/** Start all ways; `add(files)` takes photos, `showMessage(text)` says why something is none. */
export function startIntake(add, showMessage) {
  acceptChoice(add);
  acceptCamera(add);
  acceptDrop(add, showMessage);
  acceptPaste(add, showMessage);
}

function acceptChoice(add) {
  const input = byId("image");
  byId("choose").addEventListener("click", () => input.click());
  for (const field of [input, byId("capture")]) {
    field.addEventListener("change", () => {
      add(field.files);
      field.value = ""; // so that the same photo can be chosen again
    });
  }
}

function acceptCamera(add) {
  const button = byId("use-camera");
  const finger = matchMedia("(pointer: coarse)").matches;
  if (!hasCamera() && !finger) return; // nothing that a click could open
  button.hidden = false;
  button.addEventListener("click", () => {
    if (hasCamera()) openCamera((file) => add([file]));
    else byId("capture").click();
  });
}

function acceptDrop(add, showMessage) {
  const veil = byId("drop-veil");
  let depth = 0; // dragenter and dragleave come for every element on the way
  addEventListener("dragenter", (event) => {
    event.preventDefault();
    depth += 1;
    veil.hidden = !event.dataTransfer.types.includes("Files");
  });
  addEventListener("dragleave", () => {
    depth = Math.max(0, depth - 1);
    if (depth === 0) veil.hidden = true;
  });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    veil.hidden = true;
    const { files, items } = event.dataTransfer;
    if ([...items].some((item) => item.webkitGetAsEntry?.()?.isDirectory)) {
      showMessage("That was a folder. Open it and drop the photos in it.");
    } else if (files.length === 0) {
      showMessage("That was not a file. Save the picture first, then drop the file here.");
    } else {
      add(files);
    }
  });
}

function acceptPaste(add, showMessage) {
  addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    if (files.length > 0) {
      event.preventDefault();
      add(files);
    } else {
      showMessage("There is no picture on the clipboard.");
    }
  });
}
