"""CIDEr-D as a reward, held against pycocoevalcap's scorer."""

from __future__ import annotations

import numpy as np
import pytest

from captioner.tokenizer import Tokenizer
from captioner.training.rewards import CiderD, Reward, strip_after_end

REFERENCES = [
    ["a dog runs on the grass", "a brown dog is running", "the dog runs through green grass"],
    ["two children play with a ball", "kids playing with a red ball", "two kids play outside"],
    ["a man on a bike", "a man rides a bike down a hill", "a cyclist rides down the hill"],
    ["a woman in a red coat", "a lady wearing a red coat walks", "a woman walks in the snow"],
]
CAPTIONS = [
    "a dog runs through the grass",
    "two kids play with a red ball",
    "a dog runs on the grass",
    "a woman a woman a woman in a red red red coat",
]


def test_it_gives_what_pycocoevalcap_gives():
    scorer = pytest.importorskip("pycocoevalcap.cider.cider").Cider()
    references = dict(enumerate(REFERENCES))
    mean, each = scorer.compute_score(references, {i: [c] for i, c in enumerate(CAPTIONS)})
    ours = CiderD([[r.split() for r in own] for own in REFERENCES])
    scores = [ours.score(i, caption.split()) for i, caption in enumerate(CAPTIONS)]
    assert scores == pytest.approx(list(each), abs=1e-9)
    assert np.mean(scores) == pytest.approx(mean)
    assert scores[0] > 1 > scores[2]


def test_ids_are_as_good_as_words():
    words = sorted({w for own in REFERENCES for r in own for w in r.split()})
    number = {word: i for i, word in enumerate(words)}
    by_word = CiderD([[r.split() for r in own] for own in REFERENCES])
    by_id = CiderD([[[number[w] for w in r.split()] for r in own] for own in REFERENCES])
    caption = "two kids play with a ball"
    assert by_id.score(1, [number[w] for w in caption.split()]) == pytest.approx(
        by_word.score(1, caption.split())
    )


def test_document_frequencies_may_come_from_elsewhere():
    references = [[r.split() for r in own] for own in REFERENCES]
    everywhere = CiderD(references[:1], corpus=[*references, *references])
    alone = CiderD(references[:1])
    caption = CAPTIONS[0].split()
    # Of one photo every n-gram is in all photos, and so worth nothing.
    assert alone.score(0, caption) == 0
    assert everywhere.score(0, caption) > 1


@pytest.mark.parametrize("caption", ["", "zebra", "zebra giraffe lion okapi"])
def test_captions_that_share_nothing_score_nothing(caption):
    ours = CiderD([[r.split() for r in own] for own in REFERENCES])
    assert ours.score(0, caption.split()) == 0


def test_a_reward_adds_bleu_and_unigram_f():
    references = [[r.split() for r in own] for own in REFERENCES]
    caption = ["a", "dog", "runs", "on", "the", "green", "grass"]
    cider = CiderD(references).score(0, caption)
    assert Reward(references).score(0, caption) == pytest.approx(cider)
    # Of 7, 6, 5 and 4 n-grams 7, 5, 3 and 2 are in a reference; the closest has 6 words. The
    # first reference has 6 of the 7 words.
    bleu = (7 / 7 * 6 / 7 * 4 / 6 * 3 / 5) ** 0.25
    precision, recall = 6 / 7, 6 / 6
    unigram = precision * recall / (0.85 * precision + 0.15 * recall)
    both = Reward(references, bleu=2.0, unigram=3.0).score(0, caption)
    assert both == pytest.approx(cider + 2 * bleu + 3 * unigram)


def test_a_reward_of_nothing_in_common_is_nothing():
    references = [[r.split() for r in own] for own in REFERENCES]
    assert Reward(references, 1.0, 1.0).score(0, ["zebra"]) == 0
    assert Reward(references, 1.0, 1.0).score(0, []) == 0


def test_short_captions_are_punished_by_bleu():
    references = [[["a", "b", "c", "d", "e", "f", "g", "h"]]]
    whole, half = (
        Reward(references, bleu=1.0).score(0, words.split())
        for words in ("a b c d e f g h", "a b c d")
    )
    assert half < whole / 2


def test_words_after_the_end_do_not_count():
    end = Tokenizer.END
    line = np.array([7, 8, end, 9, end])
    assert strip_after_end(line) == (7, 8, end)
    assert strip_after_end(line, keep_end=False) == (7, 8)
    assert strip_after_end(np.array([7, 8])) == (7, 8)
