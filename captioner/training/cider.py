"""CIDEr-D on word ids, fast enough to be the reward of self-critical training.

The measure is that of Vedantam et al., "CIDEr", 2015, section 4.1 (CIDEr-D: clipped counts, a
Gaussian penalty on the difference in length, sigma 6, times 10), as in `pycocoevalcap`'s Cider
scorer. It is not the reported score: that one comes from `evaluation.py`, with its tokenizer.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

Words = Sequence[Hashable]
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
        self._frequencies: Counter[tuple[Hashable, ...]] = Counter()
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


def _ngrams(words: Words) -> Counter[tuple[Hashable, ...]]:
    words = tuple(words)
    return Counter(
        words[start : start + size]
        for size in range(1, _LONGEST + 1)
        for start in range(len(words) - size + 1)
    )
