// The upload page: takes photos in, captions them one after the other, and shows each on a card.

import { announce, byId } from "../shared/dom.js";
import { requestDeletion } from "./api.js";
import { Card } from "./card.js";
import { startIntake } from "./intake.js";
import { allSent } from "./sent.js";

const cards = byId("cards");
const message = byId("message");

function showCount() {
  byId("main").classList.toggle("has-cards", cards.childElementCount > 0);
}

// One after the other, so that the first caption comes soon and the server's queue stays free.
const queue = [];
let working = false;

async function enqueue(card) {
  card.showState("waiting", "Waiting its turn");
  queue.push(card);
  if (working) return;
  working = true;
  while (queue.length > 0) await queue.shift().caption();
  working = false;
}

function showMessage(text) {
  message.className = "message error";
  message.textContent = text;
  message.hidden = text === "";
}

/** Take files in, in their order, above those that came before. */
function add(files) {
  const photos = [...files];
  if (photos.length === 0) return;
  showMessage("");
  const fresh = photos.map((file) => new Card(file, { onAgain: enqueue, onRemoved: showCount }));
  cards.prepend(...fresh.map((card) => card.root));
  showCount();
  fresh.forEach(enqueue);
  cards.scrollIntoView({ block: "nearest" });
}

/** What this tab sent before the page was loaded again: without its photos, but still to be deleted. */
function showEarlier() {
  const section = byId("earlier");
  const list = section.querySelector("ul");
  for (const answer of allSent()) {
    const row = byId("earlier-row").content.firstElementChild.cloneNode(true);
    const button = row.querySelector("button");
    row.querySelector(".text").textContent = answer.caption;
    button.addEventListener("click", async () => {
      button.disabled = true;
      try {
        await requestDeletion(answer);
      } catch (refusal) {
        button.disabled = false;
        showMessage(refusal.message);
        return;
      }
      const next = row.nextElementSibling ?? row.previousElementSibling;
      row.remove();
      section.hidden = list.childElementCount === 0;
      (next?.querySelector("button") ?? byId("choose")).focus();
      announce("Deleted from every screen.");
    });
    list.prepend(row); // the newest first
  }
  section.hidden = list.childElementCount === 0;
}

startIntake(add, showMessage);
showEarlier();
for (const element of document.querySelectorAll(".with-script, .ways")) element.hidden = false;
for (const element of document.querySelectorAll(".without-script")) element.hidden = true;
document.documentElement.classList.add("scripted");
