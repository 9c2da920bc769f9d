// The requests to app1's API: caption a photo, delete a caption. Every failure is a Refusal.

import { hostToken } from "./host-token.js";

const ROOT = new URL("..", import.meta.url);
const API = new URL("api/captions", ROOT);
const GUEST = document.body.dataset.guest ?? "";
if (GUEST) API.searchParams.set("guest", GUEST);
const TIME_LIMIT = 120_000; // ms for one photo, sending included
const LONGEST_WAIT = 600; // s that a server may ask for with Retry-After
// Answers without problem JSON come from a proxy.
const OF_A_PROXY = {
  413: "The server in front of the captioner refuses pictures of this size. Its host can raise the limit (in nginx: client_max_body_size).",
  429: "The server in front of the captioner takes no more pictures from here for now. Wait a little.",
  502: "The captioner does not run behind its address just now. Try again in a moment.",
  503: "The captioner is busy or being started. Try again in a moment.",
  504: "The captioner took too long over this photo.",
};
const UNREACHABLE = "The captioner could not be reached.";

/** The header that shows a token. A header takes no other characters, and no token of ours has any. */
const showing = (token) => ({ Authorization: `Bearer ${token.replace(/[^!-~]/g, "?")}` });

/** The headers of an upload: the host's token, where this tab has it. */
const ofUploads = () => (hostToken() ? showing(hostToken()) : {});

/** Why a request failed; `message` is the sentence for the person. */
export class Refusal extends Error {
  constructor(sentence, status = 0, retryAfter = null) {
    super(sentence);
    this.status = status; // of the HTTP answer; 0 without one
    this.retryAfter = retryAfter; // seconds, or null
  }

  /** From an answer whose body is problem JSON, if it can be read (null if not). */
  static fromProblem(status, problem, retryAfter) {
    const seconds = Number.parseInt(retryAfter, 10);
    return new Refusal(
      problem?.detail ||
        problem?.title ||
        OF_A_PROXY[status] ||
        `The captioner answered with status ${status}.`,
      status,
      Number.isNaN(seconds) ? null : Math.min(LONGEST_WAIT, Math.max(1, seconds)),
    );
  }
}

/**
 * Send one photo, and return what the API answers about it.
 * @param {File} file
 * @param {boolean} withThumbnail ask for a small JPEG of it, upright, to show in place of the file
 * @param {AbortSignal} signal
 * @param {(fraction: number) => void} onSent called while the photo is sent, with 1 at the end
 */
export function requestCaption(file, withThumbnail, signal, onSent) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch() reports no progress of sending
    request.open("POST", API);
    for (const [name, value] of Object.entries(ofUploads())) request.setRequestHeader(name, value);
    request.responseType = "json";
    request.timeout = TIME_LIMIT;
    request.upload.onprogress = (event) => onSent(event.total ? event.loaded / event.total : 1);
    request.upload.onload = () => onSent(1);
    request.onload = () => {
      const { status, response } = request;
      if (status === 200 && response?.caption !== undefined) resolve(response);
      else reject(Refusal.fromProblem(status, response, request.getResponseHeader("Retry-After")));
    };
    request.ontimeout = () => reject(new Refusal("The captioner took too long over this photo."));
    request.onerror = () =>
      reject(new Refusal(`${UNREACHABLE} Check that it is running, then try again.`));
    request.onabort = () => reject(new Refusal("Removed."));
    signal.addEventListener("abort", () => request.abort());
    const form = new FormData();
    form.append("image", file, file.name);
    form.append("attention", "1");
    if (withThumbnail) form.append("thumbnail", "1");
    request.send(form);
  });
}

/**
 * Caption one frame of a camera; nobody else sees it, unless it is to be published.
 * @param {Blob} frame a JPEG
 */
export async function requestFrame(frame, publish) {
  const url = new URL(API);
  url.searchParams.set("publish", publish ? "1" : "0");
  url.searchParams.set("name", "Live");
  let response;
  try {
    response = await fetch(url, { method: "POST", headers: ofUploads(), body: frame });
  } catch {
    throw new Refusal(UNREACHABLE, 0, 3);
  }
  const answer = await response.json().catch(() => null);
  if (response.ok && answer) return answer;
  throw Refusal.fromProblem(response.status, answer, response.headers.get("Retry-After"));
}

/**
 * Send another request to app1, and return its answer: JSON, or a Blob where `as` says so.
 * @param {string} path from the app's root, without a slash at the beginning
 */
export async function request(path, { token, method = "GET", body, as = "json" } = {}) {
  const headers = showing(token);
  if (body) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(new URL(path, ROOT), {
      method,
      headers,
      body: JSON.stringify(body),
      keepalive: method !== "GET", // a change is made although the page is closed meanwhile
    });
  } catch {
    throw new Refusal(`${UNREACHABLE} Nothing was changed. Try again.`);
  }
  if (response.ok) return response.status === 204 ? null : response[as]();
  const problem = await response.json().catch(() => null);
  throw Refusal.fromProblem(response.status, problem, response.headers.get("Retry-After"));
}

const pathOf = (id) => `api/captions/${encodeURIComponent(id)}`;

/** Delete a caption from every screen; `id` and `delete_token` are in the answer to its upload. */
export async function requestDeletion({ id, delete_token: token }) {
  try {
    await request(pathOf(id), { token, method: "DELETE" });
  } catch (refusal) {
    if (refusal.status !== 404) throw refusal; // 404: it is gone already
  }
}

/** Put a person's words in place of a caption, on every screen. */
export function requestCorrection({ id, delete_token: token }, caption) {
  return request(pathOf(id), { token, method: "PATCH", body: { caption } });
}
