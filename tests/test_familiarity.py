"""What is familiar to a model: photos near a plane are, others are not."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from captioner import Captioner
from captioner.errors import ModelFolderError
from captioner.familiarity import FAMILIAR_SHARE, Familiarity
from captioner.model_folder import ModelFolder


def features(photos: int, seed: int, width: float = 1.0) -> np.ndarray:
    """In three of twenty dimensions, with a little of all."""
    rng = np.random.default_rng(seed)
    plane = width * np.random.default_rng(0).normal(size=(3, 20))
    around = 0.05 * rng.normal(size=(photos, 20))
    return (rng.normal(size=(photos, 3)) @ plane + around).astype(np.float32)


def test_it_tells_what_lies_off_the_plane() -> None:
    familiarity = Familiarity.fit(features(400, 1))
    assert familiarity is not None

    def share(vectors: np.ndarray) -> float:
        return float(np.mean([vector[None, None] in familiarity for vector in vectors]))

    assert share(features(400, 2)) == pytest.approx(FAMILIAR_SHARE, abs=0.03)
    assert share(features(400, 2, width=3)) > 0.8, "along the plane is not strange"
    aside = np.random.default_rng(3).normal(size=20)
    assert share(features(400, 2) + aside.astype(np.float32)) == 0


def test_a_grid_counts_by_its_mean() -> None:
    familiarity = Familiarity(np.zeros(2, np.float32), np.array([[1.0, 0.0]], np.float32), 1.0)
    assert familiarity.distance(np.array([9.0, 3.0])) == pytest.approx(9)
    grid = np.zeros((2, 2, 2), np.float32)
    grid[0, 0] = 7, 3.9
    assert grid in familiarity
    grid[0, 0] = 7, 4.1
    assert grid not in familiarity


def test_too_few_photos_say_nothing() -> None:
    assert Familiarity.fit(features(6, 1)) is None


def test_it_is_kept_in_the_model_folder(tiny_model: Path, tmp_path: Path) -> None:
    """A picture that is confident is not any more once everything is strange to the model."""
    path = shutil.copytree(tiny_model, tmp_path / "model")
    folder = ModelFolder.open(path).amend(confident_threshold=0.0)
    picture = np.full((40, 50, 3), 200, np.uint8)
    assert Captioner.load(path).caption(picture).confident
    channels = folder.manifest["encoder"]["channels"]
    nothing = np.zeros((1, channels), np.float32)
    for limit, confident in ((1e9, True), (-1.0, False)):
        folder = folder.with_familiarity(Familiarity(nothing[0], nothing, limit))
        assert ModelFolder.open(path).manifest["familiarity"] == "familiarity.npz"
        assert Captioner.load(path).caption(picture).confident is confident

    (path / "familiarity.npz").write_bytes(b"x" * (path / "familiarity.npz").stat().st_size)
    with pytest.raises(ModelFolderError, match="SHA-256"):
        Captioner.load(path)


TWO_CHANNELS = Familiarity(np.zeros(2), np.eye(2), 1.0).to_bytes()


@pytest.mark.parametrize("content", [b"", b"no zip", TWO_CHANNELS])
def test_anything_else_is_refused(content: bytes) -> None:
    with pytest.raises(ModelFolderError, match=r"familiar\.npz does not say"):
        Familiarity.from_bytes(content, "familiar.npz", channels=3)
