// Requests to app1's API: a caption for a photo, and its deletion.

import { dropSent } from "./sent.js";

const API = new URL("../api/captions", import.meta.url);
const TIME_LIMIT = 120_000; // ms for one photo, sending included

/** The API's answer where there is no caption; `message` is the sentence for the person. */
export class Refusal extends Error {
  constructor(sentence, status = 0, retryAfter = null) {
    super(sentence);
    this.status = status;
    this.retryAfter = retryAfter; // seconds, or null
  }

  static from(status, body, retryAfter) {
    const seconds = Number.parseInt(retryAfter, 10);
    return new Refusal(
      body?.detail || body?.title || `The captioner answered with status ${status}.`,
      status,
      Number.isNaN(seconds) ? null : Math.min(600, Math.max(1, seconds)),
    );
  }
}

/** POST one photo. `onSent(fraction)` reports the progress of sending, which fetch() does not. */
export function requestCaption(file, signal, onSent) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", API);
    request.responseType = "json";
    request.timeout = TIME_LIMIT;
    request.upload.onprogress = (event) => onSent(event.total ? event.loaded / event.total : 1);
    request.upload.onload = () => onSent(1);
    request.onload = () => {
      if (request.status === 200 && request.response?.caption !== undefined) {
        resolve(request.response);
      } else {
        reject(Refusal.from(request.status, request.response, request.getResponseHeader("Retry-After")));
      }
    };
    request.ontimeout = () => reject(new Refusal("The captioner took too long over this photo."));
    request.onerror = () =>
      reject(new Refusal("The captioner could not be reached. See that it is running, then try again."));
    request.onabort = () => reject(new Refusal("Removed."));
    signal.addEventListener("abort", () => request.abort());
    const form = new FormData();
    form.append("image", file, file.name);
    form.append("attention", "1");
    request.send(form);
  });
}

/** Delete a caption from every screen, and from this tab's own list. */
export async function requestDeletion({ id, delete_token: token }) {
  let response;
  try {
    response = await fetch(`${API}/${encodeURIComponent(id)}`, {
      method: "DELETE",
      headers: { Authorization: `Bearer ${token}` },
    });
  } catch {
    throw new Refusal("The captioner could not be reached, so nothing was deleted yet. Try again.");
  }
  if (!response.ok && response.status !== 404) {
    const body = await response.json().catch(() => null);
    throw Refusal.from(response.status, body, response.headers.get("Retry-After"));
  }
  dropSent(id);
}
