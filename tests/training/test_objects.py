"""Objects from a detector, and an encoder that learns them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("keras")

import keras

from captioner.training.network.decoder import Decoder
from captioner.training.network.model import CaptioningModel
from captioner.training.objectives import Recognition
from captioner.training.objects import CLASSES, ObjectDetector, object_cells
from captioner.training.plan import TrainingError
from tests.kit.detector import write_detector


def red_and_green() -> np.ndarray:
    """Red at the upper left, half as green at the lower right, black elsewhere."""
    image = np.zeros((200, 100, 3), np.float32)
    image[:100, :50, 0] = 255
    image[100:, 50:, 1] = 127.5
    return image


def test_a_detector_finds_objects(tmp_path: Path) -> None:
    detector = ObjectDetector(*write_detector(tmp_path))
    found = detector.detect(red_and_green())
    assert found[:, 0].tolist() == [1, 2]
    assert found[:, 1] == pytest.approx([1, 0.5], abs=0.01)
    assert found[:, 2:] == pytest.approx(
        np.array([[0.05, 0.05, 0.45, 0.45], [0.55, 0.55, 0.95, 0.95]]), abs=0.01
    )
    cells = detector.cells(red_and_green()[None] / np.float32(127.5) - 1, 2, 2)
    assert cells.shape == (1, 2, 2, CLASSES)
    assert cells[0, ..., 1] == pytest.approx(np.array([[1, 0], [0, 0]]), abs=0.01)
    assert cells[0, ..., 2] == pytest.approx(np.array([[0, 0], [0, 0.5]]), abs=0.01)
    assert not cells[..., 3:].any()
    three = np.stack([red_and_green(), np.zeros((200, 100, 3), np.float32), red_and_green()])
    several = detector.cells(three / np.float32(127.5) - 1, 2, 2)
    assert np.array_equal(several[[0, 2]], cells[[0, 0]])
    assert not several[1].any()


def test_objects_count_in_the_cells_that_they_cover() -> None:
    wide, small, weaker = (
        (1, 0.8, 0.25, 0, 1, 0.5),
        (2, 0.6, 0.4, 0.4, 0.6, 0.5),
        (1, 0.5, 0, 0, 1, 1),
    )
    cells = object_cells(np.array([wide, small, weaker], np.float32), 2, 2)
    # half of the first cell is covered; where two are, the surer counts
    assert cells[..., 1] == pytest.approx(np.array([[0.5, 0.8], [0.5, 0.5]]), abs=1e-3)
    # half of the small one's box is in either cell
    assert cells[..., 2] == pytest.approx(np.array([[0.3, 0.3], [0, 0]]), abs=1e-3)


def test_what_is_no_detector_is_refused(tmp_path: Path) -> None:
    network, config = write_detector(tmp_path)
    config.write_text(config.read_text().split('node { name: "found"')[0])
    with pytest.raises(TrainingError, match="gives an output of the shape"):
        ObjectDetector(network, config)
    with pytest.raises(TrainingError, match="cannot be read as a detector of objects"):
        ObjectDetector(tmp_path / "none.pb", config)


def test_other_classes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = ObjectDetector(*write_detector(tmp_path))
    monkeypatch.setattr("captioner.training.objects.CLASSES", 2)
    with pytest.raises(TrainingError, match="other classes than COCO's"):
        detector.cells(red_and_green()[None] / np.float32(127.5) - 1, 2, 2)


def test_an_encoder_learns_objects_and_words_and_stays_near() -> None:
    """Which of four cells is bright says where the object is, and which word people use."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((2, 2, 3))

    def encoder() -> keras.Model:
        return keras.Model(inputs, keras.layers.Conv2D(8, 1, activation="relu")(inputs))

    before, learns = encoder(), encoder()
    learns.set_weights(before.get_weights())
    model = CaptioningModel(learns, Decoder(8, 8, 8, 2))
    rng = np.random.default_rng(1)
    grids = rng.normal(0, 0.1, (40, 2, 2, 3)).astype(np.float32)
    objects = np.zeros((40, 2, 2, CLASSES), np.float16)
    captions = []
    for i in range(40):
        grids[i, i % 2, i // 2 % 2, i % 3] += 1
        objects[i, i % 2, i // 2 % 2, 5 + i % 3] = 1
        captions.append([[4 + i % 3]] if i < 30 else [])  # the last ten are without captions
    objective = Recognition(model, before, captions, [4, 5, 6], [5, 6, 7])
    assert not model.decoder.trainable_variables
    objective.prepare_to_learn(keras.optimizers.Adam(0.02))
    batch = objective.batch(range(40), {"inputs": grids, "objects": objects}, rng)
    assert batch["objects"].shape == (40, 2, 2, 3)
    rows = [objective.train_on_batch(batch, return_dict=True) for _ in range(400)]
    first, last = ({name: float(value) for name, value in rows[i].items()} for i in (0, -1))
    assert first["moved"] == 0
    assert last["moved"] > 0
    assert last["objects"] < first["objects"] / 3
    assert last["words"] < first["words"] / 3

    near = CaptioningModel(encoder(), Decoder(8, 8, 8, 2))
    near.encoder.set_weights(before.get_weights())
    objective = Recognition(near, before, captions, [4, 5, 6], [5, 6, 7], keep_weight=1000.0)
    objective.prepare_to_learn(keras.optimizers.Adam(0.02))
    for _ in range(400):
        kept = objective.train_on_batch(batch, return_dict=True)
    assert float(kept["moved"]) / 1000 < last["moved"] / 4
