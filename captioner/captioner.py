"""`Captioner`: a picture in, a sentence about it out.

It puts preprocessing, encoder, search and vocabulary together.
It runs without TensorFlow. It is not thread-safe: one thread owns it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from captioner.confidence import ConfidenceEstimator, choices
from captioner.cores import usable_cores
from captioner.engine import Engine, WideEngine
from captioner.manifest import Manifest
from captioner.model_folder import ModelFolder
from captioner.pictures.decode import Source
from captioner.pictures.preprocess import Preprocessor
from captioner.search import BeamSearch, Hypothesis, Sampling
from captioner.tokenizer import Tokenizer
from captioner.wording import WordRules, alt_text

WIDEST = 4  # threads for one photo at most; measured on two cores only


@dataclass(frozen=True)
class Word:
    """A word, its probability in [0, 1], and where the decoder looked when it chose it.

    `attention` is (rows, columns) float32 over the picture and adds up to 1.
    """

    word: str
    probability: float
    attention: np.ndarray = field(repr=False, compare=False)


@dataclass(frozen=True)
class Candidate:
    """A caption that the search found; `probability` is the geometric mean of its words'."""

    text: str
    probability: float
    words: tuple[Word, ...] = field(repr=False)


@dataclass(frozen=True)
class Caption:
    """What is in a picture: the best candidate, and all of them.

    `confidence` is how likely the best one is correct, in [0, 1]; 0 where the picture is no
    photo. It is None where the model folder has no calibration.
    `confident` is whether it, or else the probability, reaches the threshold of the folder.
    """

    candidates: tuple[Candidate, ...]
    confidence: float | None
    confident: bool

    @property
    def text(self) -> str:
        return self.candidates[0].text

    @property
    def probability(self) -> float:
        return self.candidates[0].probability

    @property
    def alt_text(self) -> str:
        """The best caption as an alternative text, without a guessed gender."""
        words = [word.word for word in self.words]
        return alt_text(sentence(WordRules().neutral().applied(words)) if words else self.text)

    @property
    def photo(self) -> bool:
        """Whether the picture is one that the model can describe."""
        return self.confidence is None or self.confidence > 0

    @property
    def words(self) -> tuple[Word, ...]:
        return self.candidates[0].words

    def to_dict(self, attention: bool = False) -> dict[str, Any]:
        """The caption as JSON has it; `attention` adds each word's weights, rows by columns."""
        words = [{"word": w.word, "probability": _rounded(w.probability)} for w in self.words]
        if attention:
            for entry, word in zip(words, self.words, strict=True):
                entry["attention"] = [[_rounded(x) for x in row] for row in word.attention]
        return {
            "caption": self.text,
            "candidates": [
                {"caption": c.text, "probability": _rounded(c.probability)} for c in self.candidates
            ],
            "words": words,
            "confidence": None if self.confidence is None else _rounded(self.confidence),
            "confident": self.confident,
            "photo": self.photo,
        }


class Captioner:
    """Captions pictures with one model.

    `manifest` is that of its folder: name, encoder, decoder, sizes, scores, training data.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        manifest: Manifest,
        confidence: ConfidenceEstimator | None = None,
        rules: WordRules | None = None,
    ) -> None:
        self._engine, self._tokenizer, self.manifest = engine, tokenizer, manifest
        self._confidence = confidence
        self._rules = rules or WordRules()
        self.preprocessor = Preprocessor.from_manifest(manifest)
        decoder = manifest.decoder
        repeatable = set(decoder.repeatable)
        self._beam_search = BeamSearch(
            max_words=decoder.max_words,
            length_penalty=decoder.length_penalty,
            repeat_penalty=decoder.repeat_penalty,
            repeatable=frozenset(i for i, word in enumerate(tokenizer.words) if word in repeatable),
            barred=frozenset(
                i for i, word in enumerate(tokenizer.words) if word in self._rules.barred
            ),
        )

    @classmethod
    def load(
        cls, model: str | Path | None = None, threads: int = 2, words: str | Path | None = None
    ) -> Captioner:
        """Loads a model folder, by its name under `models/` or its path; the default one if None.

        Args:
            words: a file of replacements and barred words, see `WordRules`.

        Raises:
            ModelFolderError: there is none, or its files do not fit each other or their hashes.
            WordsFileError: the file of words cannot be used.
        """
        folder = ModelFolder.open(model)
        return cls._load(folder, folder.serving(), [threads], None, words)[0]

    @classmethod
    def load_several(
        cls, count: int, model: str | Path | None = None, words: str | Path | None = None
    ) -> list[Captioner]:
        """Loads captioners that work at the same time, each in a thread of its own.

        They share the cores that the process may use, and the bytes of the model. While only one of
        them has a photo, its networks use several threads.

        Args:
            count: of captioners.
            model, words: as of `load`.

        Raises:
            ModelFolderError, WordsFileError: as of `load`.
        """
        folder, cores = ModelFolder.open(model), usable_cores()
        files, all_threads = folder.serving(), min(cores, WIDEST)
        if count == 1:
            return cls._load(folder, files, [all_threads], None, words)
        own = max(1, cores // count)
        wide = WideEngine(*files, all_threads) if all_threads > own else None
        return cls._load(folder, files, count * [own], wide, words)

    @classmethod
    def _load(
        cls,
        folder: ModelFolder,
        files: tuple[bytes, bytes, bytes],
        threads: Sequence[int],
        wide: WideEngine | None,
        words: str | Path | None,
    ) -> list[Captioner]:
        """A captioner for each number of threads."""
        rules = WordRules.read(words) if words else None
        tokenizer, confidence = folder.tokenizer(), folder.confidence()
        encoder, decoder = folder.manifest.encoder, folder.manifest.decoder
        captioners = []
        for number in threads:
            engine = Engine(*files, threads=number, wide=wide)
            engine.check(
                encoder.input_size, (*encoder.grid, encoder.channels), decoder.units,
                decoder.vocabulary_size,
            )  # fmt: skip
            captioners.append(cls(engine, tokenizer, folder.manifest, confidence, rules))
        return captioners

    def caption(
        self,
        source: Source,
        beam_size: int = 3,
        max_candidates: int | None = None,
        strategy: BeamSearch | Sampling | None = None,
        style: str = "caption",
        **limits: int,
    ) -> Caption:
        """Captions one picture.

        Args:
            source: path, bytes of an image file, or RGB uint8 array (height, width, 3).
            beam_size: hypotheses that the search carries on; 1 is greedy. A model that has learned
                to choose among captions carries on five if it is 2 to 5.
            max_candidates: captions in the answer, best first; `beam_size` if None.
            strategy: instead of beam search with the model's own settings.
            style: "caption", or "alt" for an alternative text: at most 125 characters, no "image
                of", no guessed gender.
            limits: `max_bytes` and `max_pixels`, checked before decoding.

        Raises:
            CaptionerError: its subclasses NoPictureError, PictureTooLargeError,
                UnsupportedPictureError and BrokenPictureError say what is wrong with the picture.
        """
        with self.at_work():
            rgb = self.preprocessor.load(source, **limits)
            return self.caption_rgb(rgb, beam_size, max_candidates, strategy, style)

    def caption_rgb(
        self,
        rgb: np.ndarray,
        beam_size: int = 3,
        max_candidates: int | None = None,
        strategy: BeamSearch | Sampling | None = None,
        style: str = "caption",
    ) -> Caption:
        """As `caption`, for a picture that `preprocessor.load` has read."""
        estimator = self._confidence
        chooses = estimator is not None and strategy is None
        with self.at_work():
            grid = self.encode(rgb)
            found = choices(beam_size) if chooses else beam_size
            hypotheses = self.search(grid, found, strategy)
        confidence = None
        if estimator is not None:
            judged = hypotheses if chooses else hypotheses[:1]
            order, confidence = estimator.judge(grid.mean((0, 1)), judged)
            hypotheses[: len(order)] = [judged[i] for i in order]
        if max_candidates is None:
            max_candidates = beam_size
        rules = self._rules.neutral() if style == "alt" else self._rules
        distinct: dict[str, Candidate] = {}  # two may be the same after words were replaced
        for hypothesis in hypotheses:
            candidate = self._candidate(hypothesis, rules, style)
            distinct.setdefault(candidate.text, candidate)
            if len(distinct) >= max_candidates:
                break
        candidates = tuple(distinct.values())
        likely = candidates[0].probability if confidence is None else confidence
        # A picture that is not a photo is never confident, however low the threshold.
        confident = likely > 0 and likely >= self.manifest.calibration.threshold
        return Caption(candidates, confidence, confident)

    def at_work(self) -> contextlib.AbstractContextManager[None]:
        """While this captioner has a photo, others of `load_several` leave it its core.

        `caption` does so by itself. It is for callers of `caption_rgb` that decode on their own.
        """
        return self._engine.at_work()

    def encode(self, rgb: np.ndarray) -> np.ndarray:
        """The encoder's grid (rows, columns, channels) float32 of a picture as `caption_rgb`'s."""
        return self._engine.encode(self.preprocessor.tensor(rgb))

    def search(
        self, grid: np.ndarray, beam_size: int = 3, strategy: BeamSearch | Sampling | None = None
    ) -> list[Hypothesis]:
        """What the search finds for an encoder's grid, best first, as ids of words."""
        with self._engine.read(grid) as steps:
            return (strategy or replace(self._beam_search, beam_size=beam_size)).search(steps)

    def caption_batch(self, sources: Iterable[Source], **options: Any) -> list[Caption]:
        """Captions several pictures, each as `caption` does; the first that fails raises.

        One after the other: on a few cores, batches bring an encoder nothing.
        """
        return [self.caption(source, **options) for source in sources]

    def _candidate(self, hypothesis: Hypothesis, rules: WordRules, style: str) -> Candidate:
        said = rules.applied([self._tokenizer.words[word] for word in hypothesis.words])
        words = tuple(
            Word(word, math.exp(log), weights.reshape(self.manifest.encoder.grid))
            for word, log, weights in zip(
                said, hypothesis.log_probabilities, hypothesis.attention, strict=False
            )
        )
        mean = sum(hypothesis.log_probabilities[: len(words)]) / max(len(words), 1)
        text = sentence(said)
        return Candidate(alt_text(text) if style == "alt" else text, math.exp(mean), words)


def sentence(words: Sequence[str]) -> str:
    """Words of the tokenizer as a person writes them: `a dog 's bowl` -> `A dog's bowl.`"""
    text = ""
    for word in words:
        text += word if word in _CLITICS or not text else " " + word
    return f"{text[:1].upper()}{text[1:]}." if text else ""


_CLITICS = frozenset(("'s", "n't", "'re", "'ve", "'ll", "'d", "'m", "'"))


def _rounded(value: float) -> float:
    return round(float(value), 6)
