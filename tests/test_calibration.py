"""The threshold of `confident`, and the reliability curve, on cases with known answers."""

from __future__ import annotations

import numpy as np
import pytest

from captioner.training.calibration import choose_threshold, reliability, rightness


def test_the_threshold_separates_what_can_be_separated():
    probabilities = np.array([0.1, 0.2, 0.3, 0.6, 0.7, 0.9])
    right = np.array([False, False, False, True, True, True])
    assert choose_threshold(probabilities, right) == pytest.approx(0.6)
    curve = reliability(probabilities, right, parts=2)
    assert curve["auroc"] == 1
    assert [part["right"] for part in curve["curve"]] == [0, 1]
    assert curve["curve"][0]["probability"] == pytest.approx(0.2)


def test_where_nothing_can_be_separated_nothing_is_unsure():
    probabilities = np.array([0.1, 0.2])
    assert choose_threshold(probabilities, np.array([True, True])) == 0
    assert reliability(probabilities, np.array([True, True]))["auroc"] is None


def test_auroc_counts_ties_half():
    probabilities = np.array([0.5, 0.5, 0.5, 0.5])
    right = np.array([True, False, True, False])
    assert reliability(probabilities, right)["auroc"] == 0.5


def test_a_caption_is_right_when_it_says_what_people_say():
    references = [
        ["a dog runs on the grass", "a brown dog runs on grass", "the dog is running on the grass"],
        ["two kids play with a ball", "two children play with a red ball", "kids playing ball"],
        ["a man rides a bike", "a man riding a bike down a hill", "a man on a bike"],
        ["a woman in a red coat walks", "a woman wearing a red coat", "a lady in a red coat"],
    ]
    captions = ["a dog runs on the grass", "a rocket at night", "a man rides a bike", "a red dog"]
    assert rightness(captions, references).tolist() == [True, False, True, False]
