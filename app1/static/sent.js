// What this tab has sent, so that it can still be deleted after a reload. Keeps the id, the delete
// token and the sentence of each caption, never the photo. The tab's own storage ends with the tab,
// so the next person at a shared browser finds nothing.

import { announce, byId } from "../shared/page.js";
import { requestDeletion } from "./api.js";

const KEY = "sent";
const KEPT = 500; // live mode sends up to 12 a minute
const DAY = 86_400_000; // ms; the limit for a tab that stays open

/** Oldest first: [{id, delete_token, caption, at}] */
export function allSent() {
  try {
    const sent = JSON.parse(sessionStorage.getItem(KEY) ?? "[]");
    return sent.filter(({ at }) => Date.now() - at < DAY);
  } catch {
    return []; // the browser gives this page no storage
  }
}

function store(sent) {
  try {
    sessionStorage.setItem(KEY, JSON.stringify(sent.slice(-KEPT)));
  } catch {
    // without storage, only the cards on the page can be deleted
  }
}

/** Remember the answer to an upload, or the new words of an earlier one. */
export function keepSent({ id, delete_token, caption }) {
  const others = allSent().filter((sent) => sent.id !== id);
  store([...others, { id, delete_token, caption, at: Date.now() }]);
}

/** Delete a caption from every screen and from this tab's memory; throws a Refusal. */
export async function deleteSent(answer) {
  await requestDeletion(answer);
  store(allSent().filter(({ id }) => id !== answer.id));
}

/** List what this tab sent before a reload, to be deleted; `onProblem` is called with a sentence. */
export function showEarlier(onProblem) {
  for (const answer of allSent()) showSent(answer, onProblem);
}

/** List one that this tab sent, the newest first. */
export function showSent(answer, onProblem) {
  const section = byId("earlier");
  const list = section.querySelector("ul");
  const row = byId("earlier-row").content.firstElementChild.cloneNode(true);
  const button = row.querySelector("button");
  row.querySelector(".text").textContent = answer.caption;
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      await deleteSent(answer);
    } catch (refusal) {
      button.disabled = false;
      onProblem(refusal.message);
      return;
    }
    const next = row.nextElementSibling ?? row.previousElementSibling;
    row.remove();
    section.hidden = list.childElementCount === 0;
    const start = byId("intake").hidden ? document.querySelector("#live .stop") : byId("choose");
    (next?.querySelector("button") ?? start).focus();
    announce("Deleted from every screen.");
  });
  list.prepend(row);
  section.hidden = false;
}
