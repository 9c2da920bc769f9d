"""Decoding strategies: from the decoder's next-word probabilities to captions.

A strategy sees a decoder only through `Steps`: it starts a caption, and carries a batch of
hypotheses one word on. It uses no LiteRT, Keras or pictures, so that it can be tested on a
decoder whose every probability is known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from captioner.tokenizer import Tokenizer


class Steps(Protocol):
    """A decoder that reads one photo."""

    def start(self) -> Any:
        """The state before the first word, for one hypothesis: (1, size) float32."""

    def step(
        self, words: np.ndarray, state: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One word on, for all hypotheses at once.

        Args:
            words: (hypotheses,) int32, the last word of each.
            state: (hypotheses, size) float32.

        Returns:
            log probabilities (hypotheses, vocabulary) float32, the new state, and the attention
            weights (hypotheses, positions) float32, each row of which adds up to 1.
        """


@dataclass(frozen=True)
class Hypothesis:
    """A caption, or the beginning of one.

    `words` are ids without start and end; `log_probabilities` has one entry a word, and one more
    for the end where `ended`; `attention` has one row of weights over the grid a word.
    """

    words: tuple[int, ...] = ()
    log_probabilities: tuple[float, ...] = ()
    attention: tuple[np.ndarray, ...] = ()
    ended: bool = False

    def score(self, length_penalty: float, less: float = 0.0) -> float:
        """Sum of log probabilities, `less` something, over length ** `length_penalty`.

        Source: Wu et al., "Google's Neural Machine Translation System", 2016, eq. 14.
        """
        length = max(len(self.log_probabilities), 1)
        return (sum(self.log_probabilities) - less) / length**length_penalty


def _ruled_out(vocabulary: int, barred: frozenset[int]) -> np.ndarray:
    """What no caption may hold, specials and barred words: -inf there, else 0; (vocabulary,)."""
    row = np.zeros(vocabulary, np.float32)
    row[[Tokenizer.PAD, Tokenizer.START, Tokenizer.UNK, *barred]] = -np.inf
    return row


def _bar(scores: np.ndarray, last: np.ndarray, first: bool) -> None:
    """Rules out an immediate repeat, and the end as first word, in place.

    What is left is not normalised again: a word's probability stays what the decoder said.
    """
    if first:
        scores[:, Tokenizer.END] = -np.inf
    else:
        scores[np.arange(len(last)), last] = -np.inf


def _largest(scores: np.ndarray, count: int) -> list[tuple[float, int, int]]:
    """The `count` largest finite numbers, largest first, with row and column. Overwrites `scores`.

    A few times the largest one: in beams of a usual size, that is faster than to sort or partition.
    """
    found = []
    for _ in range(count):
        row, column = divmod(int(scores.argmax()), scores.shape[1])
        score = float(scores[row, column])
        if not math.isfinite(score):
            break
        found.append((score, row, column))
        scores[row, column] = -np.inf
    return found


def _extend(
    hypothesis: Hypothesis, word: int, log_probability: float, attention: np.ndarray
) -> Hypothesis:
    log_probabilities = (*hypothesis.log_probabilities, float(log_probability))
    if word == Tokenizer.END:
        return Hypothesis(hypothesis.words, log_probabilities, hypothesis.attention, ended=True)
    return Hypothesis(
        (*hypothesis.words, word), log_probabilities, (*hypothesis.attention, attention)
    )


@dataclass(frozen=True)
class BeamSearch:
    """Keeps the `beam_size` best beginnings; `beam_size` 1 is greedy search.

    Args:
        beam_size: hypotheses carried on, all in one batch.
        max_words: of a caption; a hypothesis that reaches it has not ended.
        length_penalty: 0 compares sums of log probabilities, which favours short captions; 1
            compares means.
        repeat_penalty: what a word that the caption already holds costs in log probability, when
            hypotheses are compared; the probabilities that they carry stay the decoder's own.
        repeatable: ids of words that cost nothing then, since sentences are full of them.
        barred: ids of words that no caption may have.
    """

    beam_size: int = 3
    max_words: int = 20
    length_penalty: float = 1.0
    repeat_penalty: float = 0.0
    repeatable: frozenset[int] = frozenset()
    barred: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if self.beam_size < 1 or self.max_words < 1:
            raise ValueError("beam_size and max_words have to be 1 or more")

    def search(self, decoder: Steps) -> list[Hypothesis]:
        """Hypotheses that ended, best first; where none did, the unfinished ones, best first."""
        live: list[Hypothesis] = [Hypothesis()]
        ended: list[Hypothesis] = []
        state = decoder.start()
        words = np.array([Tokenizer.START], np.int32)
        sums = np.zeros(1)  # of log probabilities, less what repeats cost
        costs = np.zeros((1, 0))  # of each word for each live hypothesis
        for length in range(1, self.max_words + 1):
            log_probabilities, state, attention = decoder.step(words, state)
            if length == 1:
                costs = -_ruled_out(log_probabilities.shape[1], self.barred)[None].astype(float)
            scores = sums[:, None] - costs
            scores += log_probabilities
            _bar(scores, words, length == 1)
            # An ended hypothesis keeps its place in the beam, so that a beam of one is greedy.
            origins = _largest(scores, self.beam_size - len(ended))
            longer = [
                _extend(live[row], word, log_probabilities[row, word], attention[row])
                for _, row, word in origins
            ]
            ended += [h for h in longer if h.ended]
            going_on = [i for i, h in enumerate(longer) if not h.ended]
            if not going_on:
                break
            live = [longer[i] for i in going_on]
            sums = np.array([origins[i][0] for i in going_on])
            rows = [origins[i][1] for i in going_on]
            state, costs = state[rows], costs[rows]
            words = np.array([h.words[-1] for h in live], np.int32)
            for row, word in enumerate(words):
                if word not in self.repeatable:
                    costs[row, word] = self.repeat_penalty
        return sorted(ended or live, key=self._score, reverse=True)

    def _weighed(self, hypothesis: Hypothesis) -> list[int]:
        return [word for word in hypothesis.words if word not in self.repeatable]

    def _score(self, hypothesis: Hypothesis) -> float:
        said = self._weighed(hypothesis)
        penalty = self.repeat_penalty * (len(said) - len(set(said)))
        return hypothesis.score(self.length_penalty, penalty)


@dataclass(frozen=True)
class Sampling:
    """Draws `samples` captions word by word from the decoder's own probabilities.

    Args:
        temperature: below 1 likelier words win more often than their probability.
        seed: of the random numbers; the same seed draws the same captions.
        barred: ids of words that no caption may have.
    """

    samples: int = 3
    max_words: int = 20
    temperature: float = 1.0
    seed: int | None = None
    barred: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if self.samples < 1 or self.max_words < 1 or self.temperature <= 0:
            raise ValueError("samples and max_words have to be 1 or more, temperature above 0")

    def search(self, decoder: Steps) -> list[Hypothesis]:
        """As many hypotheses as `samples`, likeliest first; one may not have ended."""
        rng = np.random.default_rng(self.seed)
        drawn = [Hypothesis()] * self.samples
        state = np.repeat(decoder.start(), self.samples, axis=0)
        words = np.full(self.samples, Tokenizer.START, np.int32)
        for length in range(1, self.max_words + 1):
            log_probabilities, state, attention = decoder.step(words, state)
            if length == 1:
                ruled_out = _ruled_out(log_probabilities.shape[1], self.barred)
            allowed = log_probabilities + ruled_out
            _bar(allowed, words, length == 1)
            noisy = allowed / self.temperature + rng.gumbel(size=allowed.shape)
            words = np.argmax(noisy, axis=1).astype(np.int32)
            drawn = [
                h if h.ended else _extend(h, int(word), allowed[row, word], attention[row])
                for row, (h, word) in enumerate(zip(drawn, words, strict=True))
            ]
            if all(h.ended for h in drawn):
                break
        return sorted(drawn, key=lambda h: h.score(1.0), reverse=True)
