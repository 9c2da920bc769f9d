"""Concepts: the content words that the decoder recognises in a photo before it writes.

They are the most frequent words of the vocabulary without function words, so the tokenizer and a
count determine them. Source: Yao et al., "Boosting Image Captioning with Attributes", 2017.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from captioner.tokenizer import Tokenizer

# Articles, prepositions, pronouns, auxiliaries, conjunctions, numberless quantities and adverbs.
_FUNCTION_WORDS = """
a about above across after against all along also an and another any are around as at away back be
because been before behind being below beside between both but by can could did different do does
doing done down during each end every few for from front full getting going had half has have having
he her here him his how i in inside into is it its just like lot lots made make making many middle
more most much my near next no nor not number of off on one only onto or other our out outside over
own part past set several she showing shown side so some someone something such than that the their
them then there these they this those through to together too top toward towards under up upon us
used using various very was way we were what when where which while who whose will with within
without would you your 's n't 're 've 'll 'd 'm
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())


def content_words(tokenizer: Tokenizer) -> list[int]:
    """Ids of the words that are not function words, most frequent first."""
    specials = len(Tokenizer.SPECIALS)
    return [i for i, w in enumerate(tokenizer.words) if i >= specials and w not in FUNCTION_WORDS]


def concept_ids(tokenizer: Tokenizer, count: int) -> list[int]:
    """The first `count` of `content_words`.

    Raises:
        ValueError: the vocabulary has fewer.
    """
    ids = content_words(tokenizer)
    if len(ids) < count:
        raise ValueError(f"the vocabulary has {len(ids)} content words, not {count}")
    return ids[:count]


def concept_shares(captions: Sequence[Sequence[Sequence[int]]], ids: Sequence[int]) -> np.ndarray:
    """How many of a photo's captions hold each concept.

    Args:
        captions: for each photo its captions, as word ids.
        ids: of the concepts.

    Returns:
        (photos, concepts) float32 in [0, 1]; 0 for a photo without captions.
    """
    position = {word: i for i, word in enumerate(ids)}
    shares = np.zeros((len(captions), len(ids)), np.float32)
    for row, own in zip(shares, captions, strict=True):
        for words in own:
            for word in {*words} & position.keys():
                row[position[word]] += 1 / len(own)
    return shares


def as_if_recognised(shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Concept shares of texts, blurred as recognition in a photo blurs them.

    A quarter of the words is missed, the others are seen with any certainty, and some words of
    another text come in weakly.

    Args:
        shares: (texts, concepts) in [0, 1].

    Returns:
        (texts, concepts) float32 in [0, 1].
    """
    seen = shares * rng.uniform(0.1, 1, shares.shape) * (rng.random(shares.shape) < 0.75)
    others = seen[rng.permutation(len(seen))] * rng.uniform(0, 0.4, (len(seen), 1))
    return np.maximum(seen, others).astype(np.float32)
