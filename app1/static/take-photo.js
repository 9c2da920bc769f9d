// The camera dialog: a live picture, a shutter button, and a button for the other camera, if any.

import { byId } from "../shared/page.js";
import { Camera } from "./camera.js";

const QUALITY = 0.92;
const dialog = byId("camera");
const video = dialog.querySelector("video");
const problem = dialog.querySelector(".problem");
const camera = new Camera(video, showProblem);

function showProblem(sentence) {
  byId("shutter").disabled = true;
  problem.textContent = sentence;
  problem.hidden = false;
}

async function start() {
  problem.hidden = true;
  byId("shutter").disabled = true;
  try {
    byId("other-camera").hidden = !(await camera.start(1920, 1440));
  } catch (error) {
    showProblem(error.message);
  }
}

/** Open the dialog; `take` is called with the photo as a File. */
export function openCamera(take) {
  byId("shutter").onclick = () => {
    camera.frame().toBlob(
      (blob) => {
        const time = new Date().toTimeString().slice(0, 8).replaceAll(":", ".");
        if (blob) take(new File([blob], `Camera ${time}.jpg`, { type: "image/jpeg" }));
        dialog.close();
      },
      "image/jpeg",
      QUALITY,
    );
  };
  dialog.showModal();
  start();
}

video.addEventListener("loadeddata", () => {
  byId("shutter").disabled = false; // there is a picture to take now
});
byId("other-camera").addEventListener("click", () => {
  camera.turn();
  start();
});
byId("close-camera").addEventListener("click", () => dialog.close());
dialog.addEventListener("close", () => camera.stop());
