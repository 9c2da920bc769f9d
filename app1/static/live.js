// Live mode: the camera's picture, captioned once a second or when the scene changes. A frame is sent
// to the captioner and kept nowhere, unless the person wants it on the wall.

import { startAloud, say } from "../shared/aloud.js";
import { readOut, verdict } from "../shared/format.js";
import { announce, byId } from "../shared/page.js";
import { requestFrame } from "./api.js";
import { Camera, hasCamera } from "./camera.js";
import { showMessage } from "./intake.js";
import { keepSent, showSent } from "./sent.js";

const SIDE = 448; // pixels of the longer side; the model needs 299
const QUALITY = 0.85;
const LOOK_EVERY = 100; // ms between two comparisons of the scene
const CAPTION_EVERY = 1_000; // ms after which the same scene is captioned again
const SOONEST = 250; // ms between two captions, however the scene changes
const SLOW = 2_000; // ms in place of CAPTION_EVERY once the server has asked for fewer
const CHANGED = 14; // mean difference of grey levels (0 to 255) that is another scene
const WALL_EVERY = 5_000; // ms between two captions on the wall
const GREY = [32, 24]; // pixels of the small picture by which scenes are compared

const section = byId("live");
const video = section.querySelector("video");
const part = (name) => section.querySelector(`.${name}`);
const camera = new Camera(video, (sentence) => {
  pause(sentence);
  announce(sentence);
});
const small = document.createElement("canvas");
[small.width, small.height] = GREY;

let timer = null;
let seen = null; // grey levels of the frame that was captioned last
let last = 0; // when that was
let every = CAPTION_EVERY;
let notBefore = 0;
let busy = false;
let onWall = false;
let published = { caption: "", at: -Infinity };

function greyLevels() {
  const context = small.getContext("2d", { willReadFrequently: true });
  context.drawImage(video, 0, 0, ...GREY);
  const { data } = context.getImageData(0, 0, ...GREY);
  const grey = new Uint8Array(data.length / 4);
  for (let i = 0; i < grey.length; i += 1) {
    grey[i] = (data[4 * i] * 77 + data[4 * i + 1] * 150 + data[4 * i + 2] * 29) >> 8;
  }
  return grey;
}

function difference(one, other) {
  let sum = 0;
  for (let i = 0; i < one.length; i += 1) sum += Math.abs(one[i] - other[i]);
  return sum / one.length;
}

/** Caption this moment if it is time, or if the scene has changed. */
async function look() {
  const now = performance.now();
  if (busy || !camera.isOn || video.readyState < 2 || now < notBefore || now - last < SOONEST) return;
  const grey = greyLevels();
  if (seen && now - last < every && difference(grey, seen) < CHANGED) return;
  busy = true;
  [seen, last] = [grey, now];
  try {
    const blob = await new Promise((resolve) =>
      camera.frame(SIDE).toBlob(resolve, "image/jpeg", QUALITY),
    );
    const answer = await requestFrame(blob, false);
    show(answer);
    performance.measure("frame to words", { start: now });
    await offerToWall(blob, answer);
  } catch (refusal) {
    showProblem(refusal);
  } finally {
    busy = false;
  }
}

let shownCaption = "";

/** Change a text; a screen reader says it once more even if it is the same, so that is left. */
function setText(name, text) {
  if (part(name).textContent !== text) part(name).textContent = text;
}

function show(answer) {
  if (!camera.isOn) return;
  const isPhoto = answer.photo !== false;
  setText("live-caption", isPhoto ? answer.caption : "Nothing that I can describe.");
  setText("guess", isPhoto ? "" : `A guess: ${answer.caption}`);
  part("verdict").textContent = isPhoto ? verdict(answer) : "";
  part("verdict").dataset.confident = answer.confident;
  part("verdict").hidden = !isPhoto || typeof answer.confident !== "boolean";
  part("problem").hidden = true;
  if (answer.caption === shownCaption) return;
  shownCaption = answer.caption;
  say(isPhoto ? readOut(answer) : "Nothing that I can describe.");
}

function showProblem({ message, retryAfter }) {
  if (retryAfter) {
    every = SLOW;
    notBefore = performance.now() + 1000 * retryAfter;
  }
  part("problem").textContent = retryAfter ? `${message} Going on in ${retryAfter} s.` : message;
  part("problem").hidden = false;
}

/**
 * Publish the frame if the person wants that, it is a photo, and its sentence is another than the
 * last one. The person can delete it in the list of what this tab sent.
 */
async function offerToWall(blob, { caption, photo }) {
  const now = performance.now();
  if (!onWall || !camera.isOn || photo === false) return;
  if (caption === published.caption || now - published.at < WALL_EVERY) return;
  published = { caption, at: now };
  const answer = await requestFrame(blob, true);
  keepSent(answer);
  showSent(answer, showMessage);
}

function showAudience() {
  part("on-wall").setAttribute("aria-pressed", String(onWall));
  part("audience").textContent = onWall
    ? "Everyone who has the wall open sees these captions and pictures."
    : "Only you see this. Nothing is kept.";
}

/** Show live mode, in place of the ways to choose a photo. */
function open() {
  section.hidden = false;
  byId("intake").hidden = true;
  section.scrollIntoView({ block: "start" });
}

async function start() {
  open();
  part("problem").hidden = true;
  part("paused").hidden = true;
  [seen, shownCaption, every, notBefore] = [null, "", CAPTION_EVERY, 0];
  part("live-caption").textContent = "Starting the camera…";
  part("guess").textContent = "";
  part("verdict").hidden = true;
  try {
    part("other").hidden = !(await camera.start(1280, 960));
  } catch (error) {
    part("live-caption").textContent = "";
    pause("The camera is off.");
    showProblem(error);
    return;
  }
  if (!camera.isOn) return; // stopped meanwhile
  section.dataset.state = "on";
  announce(`Live. ${part("audience").textContent}`);
  clearInterval(timer);
  timer = setInterval(look, LOOK_EVERY);
}

/** Stop the camera; the section stays, to go on from. */
function stop() {
  clearInterval(timer);
  camera.stop();
  section.dataset.state = "off";
}

/** Stop, and say why, beside a button to go on. */
function pause(why) {
  stop();
  part("why").textContent = why;
  part("paused").hidden = false;
}

/** Show the button that opens live mode. */
export function startLive() {
  const button = byId("go-live");
  button.hidden = false;
  button.addEventListener("click", () => {
    onWall = false;
    showAudience();
    open();
    if (hasCamera()) start();
    else {
      showProblem({
        message: window.isSecureContext
          ? "This browser has no camera for pages."
          : "Browsers open the camera only on pages with https:// and on localhost. " +
            (byId("use-camera").hidden
              ? "Here, choose a photo instead."
              : "Here, take a photo with “Use the camera”."),
      });
    }
  });
  part("stop").addEventListener("click", () => {
    stop();
    section.hidden = true;
    byId("intake").hidden = false;
    button.focus();
    announce("The camera is off.");
  });
  part("resume").addEventListener("click", start);
  part("other").addEventListener("click", () => {
    camera.turn();
    start();
  });
  part("on-wall").addEventListener("click", () => {
    onWall = !onWall;
    showAudience();
    announce(part("audience").textContent);
  });
  startAloud(part("aloud"));
  // Nobody sees what the camera of a hidden tab films, so it stops.
  const hide = () => camera.isOn && pause("The camera stopped when this page was hidden.");
  document.addEventListener("visibilitychange", () => document.hidden && hide());
  addEventListener("pagehide", hide);
}
