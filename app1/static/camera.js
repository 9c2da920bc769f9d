// The camera dialog: a live picture, a shutter button, and a button for the other camera, if any.

const dialog = document.getElementById("camera");
const video = dialog.querySelector("video");
const problem = dialog.querySelector(".problem");
const shutter = document.getElementById("shutter");
const otherCamera = document.getElementById("other-camera");
let stream = null;
let facing = "environment";

const REASONS = {
  NotAllowedError:
    "The browser was not allowed to use the camera. Allow it in the browser's site settings.",
  NotFoundError: "No camera was found on this device.",
  NotReadableError: "Another program is using the camera. Close it and try again.",
};

async function start() {
  stop();
  problem.hidden = true;
  shutter.disabled = true;
  try {
    const wanted = { facingMode: facing, width: { ideal: 1920 }, height: { ideal: 1440 } };
    const started = await navigator.mediaDevices.getUserMedia({ video: wanted });
    if (!dialog.open) {
      started.getTracks().forEach((track) => track.stop()); // closed meanwhile
      return;
    }
    stream = started;
    video.srcObject = stream;
    const devices = await navigator.mediaDevices.enumerateDevices();
    otherCamera.hidden = devices.filter((device) => device.kind === "videoinput").length < 2;
  } catch (error) {
    problem.textContent = REASONS[error.name] ?? `The camera could not be started (${error.name}).`;
    problem.hidden = false;
  }
}

function stop() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  video.srcObject = null;
}

/** Whether this page may ask for a camera: a secure context with a camera interface. */
export function hasCamera() {
  return window.isSecureContext && Boolean(navigator.mediaDevices?.getUserMedia);
}

/** Open the dialog; `take` is called with the photo as a File. */
export function openCamera(take) {
  shutter.onclick = () => {
    const canvas = document.createElement("canvas");
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob(
      (blob) => {
        const time = new Date().toTimeString().slice(0, 8).replaceAll(":", ".");
        if (blob) take(new File([blob], `Camera ${time}.jpg`, { type: "image/jpeg" }));
        dialog.close();
      },
      "image/jpeg",
      0.92,
    );
  };
  dialog.showModal();
  start();
}

video.addEventListener("loadeddata", () => {
  shutter.disabled = false; // there is a picture to take now
});
otherCamera.addEventListener("click", () => {
  facing = facing === "environment" ? "user" : "environment";
  start();
});
document.getElementById("close-camera").addEventListener("click", () => dialog.close());
dialog.addEventListener("close", stop);
