// The upload page: starts its parts. Text from files and servers goes in as text nodes only.

import { acceptPhotos, showMessage } from "./intake.js";
import { startLive } from "./live.js";
import { showEarlier } from "./sent.js";

acceptPhotos();
showEarlier(showMessage);
startLive();
for (const element of document.querySelectorAll(".with-script, .ways")) element.hidden = false;
for (const element of document.querySelectorAll(".without-script")) element.hidden = true;
