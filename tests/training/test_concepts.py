"""Concepts: which words they are, how captions hold them, how recognition blurs them."""

from __future__ import annotations

import numpy as np
import pytest

from captioner.tokenizer import Tokenizer
from captioner.training.concepts import as_if_recognised, concept_ids, concept_shares

TOKENIZER = Tokenizer(["a", "dog", "the", "is", "red", "running", "ball"])


def test_concepts_are_the_most_frequent_content_words():
    words = [TOKENIZER.words[i] for i in concept_ids(TOKENIZER, 3)]
    assert words == ["dog", "red", "running"]
    assert len(concept_ids(TOKENIZER, 4)) == 4
    with pytest.raises(ValueError, match="has 4 content words, not 5"):
        concept_ids(TOKENIZER, 5)


def test_shares_count_captions_and_not_words():
    captions: list[list[str]] = [["a dog is the dog", "a red ball"], [], ["a red red dog"]]
    ids = [[TOKENIZER.encode(c) for c in own] for own in captions]
    shares = concept_shares(ids, concept_ids(TOKENIZER, 4))
    wanted = np.array([[0.5, 0.5, 0, 0.5], [0, 0, 0, 0], [1, 1, 0, 0]])
    np.testing.assert_allclose(shares, wanted)


def test_recognition_misses_words_and_sees_others_weakly():
    shares = (np.random.default_rng(0).random((200, 50)) < 0.1).astype(np.float32)
    seen = as_if_recognised(shares, np.random.default_rng(1))
    assert seen.dtype == np.float32
    assert seen.min() >= 0
    assert seen.max() <= 1
    there, absent = seen[shares == 1], seen[shares == 0]
    assert 0.65 < (there > 0).mean() < 0.85
    assert 0 < (absent > 0).mean() < 0.15
    assert absent.max() <= 0.4
