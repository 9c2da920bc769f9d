"""The threshold of `confident`, and the reliability curve, on cases with known answers."""

from __future__ import annotations

import numpy as np
import pytest

from captioner.training.calibration import choose_threshold, reliability, rightness, separation


def test_the_threshold_separates_what_can_be_separated():
    sureness = np.array([0.1, 0.2, 0.3, 0.6, 0.7, 0.9])
    right = np.array([False, False, False, True, True, True])
    assert choose_threshold(sureness, right) == pytest.approx(0.6)
    found = separation(sureness, right, parts=2)
    assert found["auroc"] == 1
    assert [part["right"] for part in found["curve"]] == [0, 1]
    assert found["curve"][0]["mean"] == pytest.approx(0.2)


def test_the_report_tells_the_sure_from_the_others():
    sureness, right = np.array([0.1, 0.6, 0.7, 0.9]), np.array([False, False, True, True])
    found = reliability(sureness, 1 - sureness, right, 0.6)
    assert found["sure"] == {"photos": 3, "mean": 0.7333, "right": 0.6667}
    assert found["not_sure"] == {"photos": 1, "mean": 0.1, "right": 0.0}
    assert (found["auroc"], found["by_probability"]["auroc"]) == (1, 0)
    assert "not_sure" not in reliability(sureness, sureness, right, 0.0)


def test_where_nothing_can_be_separated_nothing_is_unsure():
    sureness = np.array([0.1, 0.2])
    assert choose_threshold(sureness, np.array([True, True])) == 0
    assert separation(sureness, np.array([True, True]))["auroc"] is None


def test_auroc_counts_ties_half():
    sureness = np.array([0.5, 0.5, 0.5, 0.5])
    right = np.array([True, False, True, False])
    assert separation(sureness, right)["auroc"] == 0.5


def test_a_caption_is_right_when_it_says_what_people_say():
    references = [
        ["a dog runs on the grass", "a brown dog runs on grass", "the dog is running on the grass"],
        ["two kids play with a ball", "two children play with a red ball", "kids playing ball"],
        ["a man rides a bike", "a man riding a bike down a hill", "a man on a bike"],
        ["a woman in a red coat walks", "a woman wearing a red coat", "a lady in a red coat"],
    ]
    captions = ["a dog runs on the grass", "a rocket at night", "a man rides a bike", "a red dog"]
    assert rightness(captions, references).tolist() == [True, False, True, False]
