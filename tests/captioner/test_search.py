"""Decoding strategies on decoders whose every probability is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from captioner.search import BeamSearch, Hypothesis, Sampling
from captioner.tokenizer import Tokenizer

END, A, B, C = Tokenizer.END, 4, 5, 6
VOCABULARY = 7


class Table:
    """A decoder given as {words so far: {next word: probability}}; its state is those words."""

    def __init__(self, table: dict[tuple[int, ...], dict[int, float]], longest: int = 12) -> None:
        self.table, self.longest = table, longest
        self.calls: list[int] = []

    def start(self) -> np.ndarray:
        return np.zeros((1, self.longest), np.float32)

    def step(self, words, state):
        self.calls.append(len(words))
        state = state.copy()
        log = np.full((len(words), VOCABULARY), -np.inf, np.float32)
        for row, word in enumerate(words):
            so_far = [int(w) for w in state[row] if w]
            if word != Tokenizer.START:
                so_far.append(int(word))
                state[row, : len(so_far)] = so_far
            for following, probability in self.table[tuple(so_far)].items():
                log[row, following] = math.log(probability)
        attention = np.full((len(words), 4), 0.25, np.float32)
        return log, state, attention


def brute_force(table, max_words, repeat_penalty=0.0, repeatable=()):
    """All captions that end, best mean log probability, less what repeats cost, first."""
    found = []
    for length in range(1, max_words):
        for words in itertools.product((A, B, C), repeat=length):
            probabilities = []
            for i, word in enumerate((*words, END)):
                probability = table.get(words[:i], {}).get(word, 0.0)
                if not probability or (0 < i < length and words[i - 1] == word):
                    break
                probabilities.append(math.log(probability))
            else:
                weighed = [word for word in words if word not in repeatable]
                cost = repeat_penalty * (len(weighed) - len(set(weighed)))
                found.append(((sum(probabilities) - cost) / len(probabilities), words))
    return [words for _, words in sorted(found, reverse=True)]


def random_table(seed, depth=4):
    rng = np.random.default_rng(seed)
    table = {}
    for length in range(depth + 1):
        for words in itertools.product((A, B, C), repeat=length):
            p = rng.dirichlet(np.ones(4))
            table[words] = dict(zip((A, B, C, END), p, strict=True))
    return table


# Greedy takes A (0.6), after which nothing is likely; the beam finds B C.
GARDEN_PATH = {
    (): {A: 0.6, B: 0.4},
    (A,): {B: 0.3, C: 0.3, END: 0.4},
    (B,): {C: 0.95, END: 0.05},
    (B, C): {END: 1.0},
    (A, B): {END: 1.0},
    (A, C): {END: 1.0},
}


def test_greedy_takes_the_likeliest_word_each_time():
    best = BeamSearch(1).search(Table(GARDEN_PATH))[0]
    assert best.words == (A,)
    assert best.ended
    assert best.log_probabilities == pytest.approx([math.log(0.6), math.log(0.4)])


def test_a_beam_finds_what_greedy_misses():
    best = BeamSearch(2).search(Table(GARDEN_PATH))[0]
    assert best.words == (B, C)
    assert best.score(1.0) == pytest.approx(math.log(0.4 * 0.95) / 3)
    assert len(best.attention) == 2


@pytest.mark.parametrize("seed", range(20))
def test_a_wide_beam_finds_the_best_of_all_captions(seed):
    """A beam as wide as the tree is an exhaustive search."""
    table = random_table(seed)
    found = BeamSearch(200, max_words=5).search(Table(table))
    expected = brute_force(table, 5)
    assert [h.words for h in found[:5]] == expected[:5]


@pytest.mark.parametrize("seed", range(20))
def test_a_word_that_was_said_costs_what_the_penalty_says(seed):
    """Also over an exhaustive search; the probabilities stay the decoder's own."""
    table = random_table(seed)
    search = BeamSearch(200, max_words=5, repeat_penalty=1.5, repeatable=frozenset([B]))
    found = search.search(Table(table))
    expected = brute_force(table, 5, 1.5, [B])
    assert [h.words for h in found[:5]] == expected[:5]
    best = found[0]
    path = [table[best.words[:i]][w] for i, w in enumerate((*best.words, END))]
    assert best.log_probabilities == pytest.approx([math.log(p) for p in path], rel=1e-5)


def test_a_beam_goes_round_a_repeat():
    """Greedy too: it is weighed while the caption grows, not only at its end."""
    table = {(): {A: 1.0}, (A,): {B: 1.0}, (A, B): {A: 0.6, C: 0.4},
             (A, B, A): {END: 1.0}, (A, B, C): {END: 1.0}}  # fmt: skip
    for size in (1, 3):
        assert BeamSearch(size).search(Table(table))[0].words == (A, B, A)
        said = BeamSearch(size, repeat_penalty=1.0).search(Table(table))[0]
        assert said.words == (A, B, C)
        free = BeamSearch(size, repeat_penalty=1.0, repeatable=frozenset([A]))
        assert free.search(Table(table))[0].words == (A, B, A)


@pytest.mark.parametrize("beam_size", [1, 2, 3, 7])
def test_all_beams_are_one_batch(beam_size):
    table = Table(random_table(1))
    BeamSearch(beam_size, max_words=4).search(table)
    assert len(table.calls) <= 4
    assert max(table.calls) <= beam_size


def test_the_length_penalty_chooses_between_short_and_long():
    table = {(): {A: 0.5, B: 0.5}, (A,): {END: 0.8, C: 0.2}, (B,): {C: 0.9, END: 0.1},
             (B, C): {END: 0.85, A: 0.15}, (A, C): {END: 1.0}, (B, C, A): {END: 1.0}}  # fmt: skip
    assert BeamSearch(4, length_penalty=0.0).search(Table(table))[0].words == (A,)
    assert BeamSearch(4, length_penalty=1.0).search(Table(table))[0].words == (B, C)


def test_the_best_partial_hypothesis_is_the_answer_when_none_ends():
    endless = {
        words: {A: 0.7, B: 0.3} for n in range(9) for words in itertools.product((A, B), repeat=n)
    }
    found = BeamSearch(2, max_words=5).search(Table(endless))
    assert not found[0].ended
    # An immediate repeat is barred, however likely.
    assert found[0].words == (A, B, A, B, A)


def test_specials_never_come_out_and_no_caption_is_empty():
    table = {(): {Tokenizer.UNK: 0.5, END: 0.3, Tokenizer.PAD: 0.1, A: 0.1}, (A,): {END: 1.0}}
    for strategy in (BeamSearch(1), BeamSearch(3), Sampling(4, seed=1)):
        assert {h.words for h in strategy.search(Table(table))} == {(A,)}


def test_fewer_ways_than_beams_are_no_trouble():
    table = {(): {A: 1.0}, (A,): {END: 1.0}}
    assert [h.words for h in BeamSearch(10).search(Table(table))] == [(A,)]


def test_samples_follow_the_probabilities_and_the_seed():
    table = {(): {A: 0.75, B: 0.25}, (A,): {END: 1.0}, (B,): {END: 1.0}}
    drawn = Sampling(400, seed=3).search(Table(table))
    share = sum(h.words == (A,) for h in drawn) / len(drawn)
    assert 0.68 < share < 0.82
    again = Sampling(400, seed=3).search(Table(table))
    assert [h.words for h in again] == [h.words for h in drawn]


def test_a_low_temperature_is_nearly_greedy():
    drawn = Sampling(50, temperature=0.05, seed=0).search(Table(GARDEN_PATH))
    assert {h.words for h in drawn} == {(A,)}


@pytest.mark.parametrize(
    "strategy",
    [
        lambda: BeamSearch(0),
        lambda: BeamSearch(1, 0),
        lambda: Sampling(0),
        lambda: Sampling(1, temperature=0),
    ],
)
def test_senseless_settings_are_refused(strategy):
    with pytest.raises(ValueError, match="have to be"):
        strategy()


def test_the_score_of_a_hypothesis_counts_its_end():
    ended = Hypothesis((A,), (math.log(0.5), math.log(0.25)), (), ended=True)
    assert ended.score(1.0) == pytest.approx(math.log(0.125) / 2)
    assert ended.score(0.0) == pytest.approx(math.log(0.125))
