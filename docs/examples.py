"""Makes the README's six examples again: photos in docs/examples/, and the table that shows them.

    python docs/examples.py

Captions them with the default model. The photos come with scikit-image (requirements-test.txt) and
are free: PHOTOS says whose they are. The verdicts are a person's, of the captions of the model that
is in `models/`; look again when that changes.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from captioner import Captioner

ROOT = Path(__file__).resolve().parent.parent

# name in skimage.data: (what it is and whose, whether the caption is right)
PHOTOS = {
    "chelsea": ("Chelsea, S. van der Walt, CC0", "half right: that cat, but no camera"),
    "camera": ("photographer, L. Varshney, CC0", "right"),
    "astronaut": ("Eileen Collins, NASA, public domain", "wrong"),
    "rocket": ("Falcon 9, SpaceX, CC0", "wrong"),
    "coffee": ("coffee, R. Michetti, CC0", "half right: the bowl is a cup"),
    "horse": ("horse, A. Preuss, public domain", "wrong"),
}
START, END = "<!-- examples: python docs/examples.py -->", "<!-- /examples -->"
SIZE = (300, 225)


def main() -> None:
    captioner = Captioner.load()
    folder = ROOT / "docs" / "examples"
    folder.mkdir(exist_ok=True)
    pictures, captions, answers = [], [], {}
    for name, (whose, verdict) in PHOTOS.items():
        photo = getattr(skimage.data, name)()
        photo = np.asarray(photo[0] if isinstance(photo, tuple) else photo)
        if photo.dtype == bool:
            photo = photo.astype(np.uint8) * 255
        if photo.ndim == 2:
            photo = np.stack([photo] * 3, axis=-1)
        answer = captioner.caption(photo)
        answers[name] = {**answer.to_dict(), "source": whose, "verdict": verdict}
        small = Image.fromarray(photo)
        small.thumbnail(SIZE)
        small.save(folder / f"{name}.jpg", quality=85)
        sure = "" if answer.confident else "Not sure: "
        if not answer.photo:
            sure = "Not a photo that I can describe. A guess: "
        pictures.append(f"![{whose}](docs/examples/{name}.jpg)")
        captions.append(f"**{sure}{answer.text}** ({verdict})")
    (folder / "captions.json").write_text(json.dumps(answers, indent=1) + "\n", encoding="utf-8")
    rows = []
    for first in range(0, len(pictures), 3):
        rows.append(f"| {' | '.join(pictures[first : first + 3])} |")
        if not first:
            rows.append("|---|---|---|")
        rows.append(f"| {' | '.join(captions[first : first + 3])} |")
    readme = ROOT / "README.md"
    block = "\n".join([START, *rows, END])
    pattern = re.escape(START) + ".*?" + re.escape(END)
    text = readme.read_text(encoding="utf-8")
    readme.write_text(re.sub(pattern, lambda _: block, text, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    main()
