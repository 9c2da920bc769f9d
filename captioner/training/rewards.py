"""What self-critical training rewards: CIDEr-D, BLEU-4 and unigram F on word ids, fast.

CIDEr-D is that of Vedantam et al., "CIDEr", 2015, section 4.1 (CIDEr-D: clipped counts, a
Gaussian penalty on the difference in length, sigma 6, times 10), as in `pycocoevalcap`'s Cider
scorer. These are not the reported scores: those come from `evaluation.py`, with its tokenizer.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from captioner.tokenizer import Tokenizer

Words = Sequence[Hashable]
Counts = Counter[tuple[Hashable, ...]]
_LONGEST, _SIGMA = 4, 6.0


class CiderD:
    """Scores captions of photos whose references it was given.

    Args:
        references: for each photo, its references, each a sequence of words or ids.
        corpus: where the document frequencies come from, likewise; the references if not given.
    """

    def __init__(
        self, references: Sequence[Sequence[Words]], corpus: Sequence[Sequence[Words]] | None = None
    ) -> None:
        corpus = references if corpus is None else corpus
        self._frequencies: Counts = Counter()
        for photo in corpus:
            self._frequencies.update({gram for words in photo for gram in _ngrams(words)})
        self._log_photos = math.log(max(len(corpus), 1))
        self._references = [[self._vector(words) for words in photo] for photo in references]

    def _vector(
        self, words: Words
    ) -> tuple[list[dict[tuple[Hashable, ...], float]], list[float], int]:
        vectors: list[dict[tuple[Hashable, ...], float]] = [{} for _ in range(_LONGEST)]
        for gram, count in _ngrams(words).items():
            rarity = self._log_photos - math.log(max(self._frequencies.get(gram, 0), 1))
            vectors[len(gram) - 1][gram] = count * rarity
        norms = [math.sqrt(sum(v * v for v in vector.values())) for vector in vectors]
        # pycocoevalcap measures length in bigrams.
        return vectors, norms, max(len(words) - 1, 0)

    def score(self, photo: int, words: Words) -> float:
        """CIDEr-D of a caption of the photo with that index, in [0, 10]."""
        vectors, norms, length = self._vector(words)
        total = 0.0
        for others, other_norms, other_length in self._references[photo]:
            similarity = 0.0
            for vector, norm, other, other_norm in zip(
                vectors, norms, others, other_norms, strict=True
            ):
                if norm and other_norm:
                    product = sum(
                        min(value, other[gram]) * other[gram]
                        for gram, value in vector.items()
                        if gram in other
                    )
                    similarity += product / (norm * other_norm)
            total += similarity * math.exp(-((length - other_length) ** 2) / (2 * _SIGMA**2))
        return 10.0 * total / _LONGEST / len(self._references[photo])


class Reward:
    """CIDEr-D plus weighted shares of measures that want other things of a caption.

    CIDEr-D alone makes captions short and alike. `bleu` weighs smoothed BLEU-4, which wants whole
    phrases; `unigram` weighs the unigram F that METEOR begins with, recall before precision, which
    wants captions that say more.

    Args:
        references: for each photo, its references, as ids with the end of the sentence: without
            that word captions learn to break off.
    """

    def __init__(
        self, references: Sequence[Sequence[Words]], bleu: float = 0.0, unigram: float = 0.0
    ) -> None:
        self._bleu, self._unigram = bleu, unigram
        self._cider = CiderD(references)
        self._counts = [[_ngrams(words) for words in own] for own in references]
        self._lengths = [[len(words) for words in own] for own in references]

    def score(self, photo: int, words: Words) -> float:
        """The reward of a caption of the photo with that index, 0 or more."""
        total = self._cider.score(photo, words)
        if self._bleu or self._unigram:
            own, others, lengths = _ngrams(words), self._counts[photo], self._lengths[photo]
            total += self._bleu * _smoothed_bleu(own, len(words), others, lengths)
            total += self._unigram * max(
                _unigram_f(own, len(words), other, length)
                for other, length in zip(others, lengths, strict=True)
            )
        return total


def _smoothed_bleu(
    own: Counts, length: int, others: Sequence[Counts], lengths: Sequence[int]
) -> float:
    """Sentence BLEU-4 with one added to all counts but those of words (Lin and Och 2004)."""
    if not length:
        return 0.0
    matches, totals = [0] * _LONGEST, [0] * _LONGEST
    for gram, count in own.items():
        totals[len(gram) - 1] += count
        matches[len(gram) - 1] += min(count, max(other.get(gram, 0) for other in others))
    if not matches[0]:
        return 0.0
    logs = math.log(matches[0] / totals[0])
    logs += sum(math.log((matches[n] + 1) / (totals[n] + 1)) for n in range(1, _LONGEST))
    closest = min(lengths, key=lambda other: (abs(other - length), other))
    return math.exp(logs / _LONGEST + min(0.0, 1 - closest / length))


def _unigram_f(own: Counts, length: int, other: Counts, other_length: int) -> float:
    """Harmonic mean of unigram precision and recall, recall at 0.85 (Denkowski and Lavie 2014)."""
    matches = sum(min(n, other.get(gram, 0)) for gram, n in own.items() if len(gram) == 1)
    if not matches:
        return 0.0
    precision, recall = matches / length, matches / other_length
    return precision * recall / (0.85 * precision + 0.15 * recall)


def _ngrams(words: Words) -> Counts:
    words = tuple(words)
    return Counter(
        words[start : start + size]
        for size in range(1, _LONGEST + 1)
        for start in range(len(words) - size + 1)
    )


def strip_after_end(line: np.ndarray, keep_end: bool = True) -> tuple[int, ...]:
    """Words (time,) int up to the end of the sentence."""
    words = tuple(line.tolist())
    if Tokenizer.END in words:
        return words[: words.index(Tokenizer.END) + keep_end]
    return words
