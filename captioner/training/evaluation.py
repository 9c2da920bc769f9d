"""`captioner evaluate`: a model's captions of a collection, scored as the literature scores them.

The scores are those of `pycocoevalcap` (its PTB tokenizer and METEOR are Java programs) over raw
reference captions, times 100. The captions come from the same `Captioner` that the servers run, so
preprocessing, encoder and search are theirs. A report keeps everything that a score depends on:
captions, decoder settings, counts, hashes of model and data. No time or path is in it: the same
model and data give the same file.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from captioner.errors import CaptionerError
from captioner.manifest import Manifest
from captioner.model_folder import ModelFolder, write_text
from captioner.training.datasets import SPLITS, Dataset, Photo, file_names, read_dataset
from common.settings import Settings

if TYPE_CHECKING:
    from pycocoevalcap.meteor.meteor import Meteor


SCORES = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")


class EvaluationError(CaptionerError):
    """Captions cannot be scored: a program or a package is missing, or nothing is to be scored."""

    title = "The captions cannot be scored"


def evaluate(
    predictions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    training_captions: Iterable[str] | None = None,
) -> dict[str, float]:
    """Score one caption a photo against what people wrote about it.

    Args:
        predictions: {photo: caption}, for the same photos as `references`.
        references: {photo: raw captions}, one at least. CIDEr's document frequencies are taken
            from them, so the score of a subset is not comparable with that of the whole split.
        training_captions: what the model learned from, for the share of captions that it repeats.

    Returns:
        `SCORES`, each times 100; `distinct_share`, different captions by photos; `mean_length` in
        words of the PTB tokenizer, without punctuation; with training captions `seen_share`, the
        share of captions found among them word for word.

    Raises:
        EvaluationError: Java or pycocoevalcap is missing or fails, or the photos differ.
    """
    if not predictions or predictions.keys() != references.keys():
        raise EvaluationError(
            f"There are {len(predictions)} captions to score and references for {len(references)} "
            "photos; both are needed for the same photos, one at least."
        )
    if lonely := [name for name, captions in references.items() if not captions]:
        raise EvaluationError(f"{lonely[0]} has no reference caption; leave it out.")
    check_scorers()

    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    with _plain_locale():
        wanted = _tokenized(references)
        given = _tokenized({name: [predictions[name]] for name in references})
        values: list[float] = [*Bleu(4).compute_score(wanted, given, verbose=0)[0]]
        with _meteor() as meteor:
            values.append(meteor.compute_score(wanted, given)[0])
        values.append(Rouge().compute_score(wanted, given)[0])
        values.append(Cider().compute_score(wanted, given)[0])
        scores = {name: round(100 * float(v), 2) for name, v in zip(SCORES, values, strict=True)}
        captions = [lines[0] for lines in given.values()]
        words = sum(len(caption.split()) for caption in captions)
        scores["distinct_share"] = round(len(set(captions)) / len(captions), 4)
        scores["mean_length"] = round(words / len(captions), 2)
        if training_captions is not None:
            seen = {*_tokenized({"train": list(training_captions)}).get("train", [])}
            scores["seen_share"] = round(sum(c in seen for c in captions) / len(captions), 4)
    return scores


def check_scorers() -> None:
    """Raise EvaluationError, with what to install, where the scorers cannot run."""
    if util.find_spec("pycocoevalcap") is None:
        raise EvaluationError(
            "The standard scores need the package pycocoevalcap; install it with "
            "'python -m pip install -c requirements.lock pycocoevalcap'."
        )
    java = shutil.which("java")
    # macOS has a program of that name which only says that there is no Java.
    if java is None or subprocess.run([java, "-version"], capture_output=True).returncode:
        raise EvaluationError(
            "The standard scores need Java; install it with 'apt-get install "
            "default-jre-headless' (Debian, Ubuntu) or 'brew install openjdk' (macOS)."
        )


def _tokenized(captions: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Lower-case words by the PTB tokenizer, without punctuation, one space between."""
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    # A line break of any kind within a caption would shift all that follow.
    lines = {
        name: [{"caption": " ".join(c.split())} for c in own] for name, own in captions.items()
    }
    return dict(PTBTokenizer().tokenize(lines))


@contextlib.contextmanager
def _meteor() -> Iterator[Meteor]:
    """METEOR's scorer, whose Java program is ended and its pipes closed at the end."""
    from pycocoevalcap.meteor.meteor import Meteor

    meteor = Meteor()
    process = meteor.meteor_p
    try:
        yield meteor
    except (BrokenPipeError, ValueError) as error:  # what its absence looks like from here
        process.kill()
        said = process.stderr.read().decode(errors="replace").strip().splitlines()
        why = said[-1] if said else str(error)
        raise EvaluationError(f"METEOR's Java program failed ({why}).") from error
    finally:
        process.kill()
        process.wait()
        meteor.lock = threading.Lock()  # kept locked by a failure, and its destructor takes it
        for pipe in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


@contextlib.contextmanager
def _plain_locale() -> Iterator[None]:
    """Java reads and writes UTF-8, whatever the user's locale (it needs this up to version 17)."""
    before = os.environ.get("LC_ALL")
    os.environ["LC_ALL"] = "C.UTF-8"
    try:
        yield
    finally:
        if before is None:
            del os.environ["LC_ALL"]
        else:
            os.environ["LC_ALL"] = before


def data_sha256(photos: Iterable[Photo]) -> str:
    """One hash over names, captions and contents of photos; their order does not matter."""
    whole = hashlib.sha256()
    for photo in sorted(photos, key=lambda photo: photo.path.name):
        content = hashlib.sha256(photo.path.read_bytes()).hexdigest()
        whole.update(json.dumps([photo.path.name, photo.captions, content]).encode())
    return whole.hexdigest()


def protocol(
    name: str, split: str, photos: Sequence[Photo], model: Manifest, beam_size: int
) -> dict[str, Any]:
    """What the scores of a report depend on; `name` is the collection's, `model` the manifest."""
    from captioner.confidence import choices  # NumPy, which `--help` does not need

    counts = [len(photo.captions) for photo in photos]
    return {
        "data": {
            "name": name,
            "split": split,
            "photos": len(photos),
            "references": sum(counts),
            "references_a_photo": sorted({min(counts), max(counts)}),
            "sha256": data_sha256(photos),
        },
        "model": {
            "name": model.name,
            "files": {file: entry.sha256 for file, entry in sorted(model.files.items())},
        },
        "encoder": model.encoder.to_json(),
        "decoder": {
            "strategy": "beam search" if beam_size > 1 else "greedy",
            "beam_size": beam_size,
            "choices": choices(beam_size) if model.calibration.estimator else beam_size,
            **model.decoder.to_json(),
        },
        "scorer": f"pycocoevalcap {metadata.version('pycocoevalcap')}, PTB tokenizer, times 100",
    }


def write_report(
    path: str | Path,
    scores: Mapping[str, float],
    protocol: Mapping[str, Any],
    predictions: Mapping[str, str],
    reliability: Mapping[str, Any] | None = None,
) -> None:
    """Write scores, what they depend on, and the captions as JSON, whole or not at all."""
    report = {
        "scores": dict(scores),
        "protocol": dict(protocol),
        "reliability": dict(reliability or {}),
        "predictions": dict(sorted(predictions.items())),
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(report, indent=1, ensure_ascii=False) + "\n")


def chosen(dataset: Dataset, split: str, limit: int | None = None) -> list[Photo]:
    """The photos of a split by name, the first `limit` of them.

    Raises:
        EvaluationError: there are none, or two of one name.
    """
    photos = sorted(dataset.of(split), key=lambda photo: photo.path.name)[:limit]
    if not photos:
        raise EvaluationError(f"The collection has no photo in the split {split}: {dataset}.")
    names = Counter(photo.path.name for photo in photos)
    if twice := [name for name, count in names.items() if count > 1]:
        raise EvaluationError(
            f"The collection has more than one {twice[0]}, which a report cannot distinguish; "
            "give one of them another name."
        )
    return photos


# The command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", help="model: a name under models/, or a path (default: CAPTIONER_MODEL)"
    )
    parser.add_argument("--data", required=True, help="data set: its folder or its captions file")
    parser.add_argument(
        "--split", default="test", choices=[*SPLITS, "all"], help="split to score (default: test)"
    )
    parser.add_argument(
        "--beam-size", type=int, default=3, choices=range(1, 11), metavar="1..10",
        help="captions to find by beam search, 5 if it is 2 to 5 (default: 3; 1 is greedy)",
    )  # fmt: skip
    parser.add_argument(
        "--limit", type=int, metavar="N", help="score only the first N photos by name"
    )
    parser.add_argument(
        "--output", metavar="FILE", help="write captions and scores to FILE, as JSON"
    )
    parser.add_argument(
        "--record", metavar="NAME", help="write the report to the model folder as NAME.json"
    )
    parser.add_argument(
        "--into",
        metavar="MODEL",
        help="write the report of --record to the folder of this model instead",
    )
    parser.add_argument("--only", metavar="FILE", help="JSON list of the file names to score")


def main(args: argparse.Namespace) -> int:
    """Caption a split, print the scores, and write the report if that is asked for.

    Raises:
        CaptionerError: the data, the model or a photo cannot be read, or Java is missing.
    """
    settings = Settings.from_environment()
    check_scorers()  # before an hour of captions that could then not be scored
    dataset = read_dataset(args.data)
    if args.only:
        wanted = file_names(args.only)
        kept = tuple(photo for photo in dataset.photos if photo.path.name in wanted)
        dataset = Dataset(kept, dataset.missing)
    photos = chosen(dataset, args.split, args.limit)
    several = min(len(photo.captions) for photo in photos) > 1

    import numpy as np

    from captioner.captioner import Captioner
    from captioner.training import calibration

    folder = ModelFolder.open(args.model or settings.captioner_model)
    captioner = Captioner.load(folder.path)
    captions = {}
    for photo in tqdm(photos, desc="captions", unit="photo", disable=None):
        try:
            captions[photo.path.name] = captioner.caption(photo.path, beam_size=args.beam_size)
        except CaptionerError as error:
            raise EvaluationError(f"{photo.path}: {error}") from error
    predictions = {name: caption.text for name, caption in captions.items()}
    references = {photo.path.name: photo.captions for photo in photos}
    training = [caption for photo in dataset.of("train") for caption in photo.captions]
    scores = evaluate(predictions, references, training if args.split != "train" else None)
    for name, value in scores.items():
        print(f"{name:<15}{value:>8g}")
    reliability: dict[str, Any] = {}
    if several:
        correct = calibration.is_correct([*predictions.values()], [*references.values()])
        probabilities = np.array([caption.probability for caption in captions.values()])
        confidence = np.array(
            [c.probability if c.confidence is None else c.confidence for c in captions.values()]
        )
        threshold = folder.manifest.calibration.threshold
        reliability = calibration.reliability(confidence, probabilities, correct, threshold)
    place = Path(args.data).resolve()
    name = (place if place.is_dir() else place.parent).name
    details = protocol(name, args.split, photos, folder.manifest, args.beam_size)
    if args.output:
        write_report(args.output, scores, details, predictions, reliability)
    if args.record:
        into = ModelFolder.open(args.into) if args.into else folder
        write_report(into.path / f"{args.record}.json", scores, details, predictions, reliability)
        _record(into, args.record, {"model": details["model"]["name"], **scores, **reliability})
    return 0


def _record(folder: ModelFolder, name: str, metrics: Mapping[str, Any]) -> None:
    """Keep the figures of a report in `metrics.json`, and the scores in the manifest too."""
    file = folder.path / "metrics.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    text = json.dumps({**known, name: metrics}, indent=1) + "\n"
    write_text(file, text)
    scores = {score: metrics[score] for score in SCORES}
    folder.amend(scores={**folder.manifest.scores, name: scores})
