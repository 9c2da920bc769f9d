"""Learns kernels that published weights lack from the answers of another classifier.

The rest of the network stands still; the missing kernels, and a linear classifier that is thrown
away afterwards, learn to give a teacher's class probabilities (Hinton et al., "Distilling the
Knowledge in a Neural Network", 2015). What comes out is a place to start fine-tuning from, not a
classifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from keras import layers, ops
from tqdm import tqdm

from captioner.picture import read_picture
from captioner.training.encoder import convolutions

_TEMPERATURE = 2.0


def teacher_logits(teacher: Path, paths: Sequence[Path], file: Path) -> np.ndarray:
    """A LiteRT classifier's logits for photos and their mirror images, stored in `file`.

    Args:
        teacher: takes (1, size, size, 3) uint8, ends in a softmax, whose input is what is taken:
            the probabilities of a quantised network are too coarse to learn from.

    Returns:
        (photos, 2, classes) float16.

    Raises:
        ValueError: the network does not end in a softmax.
    """
    if file.exists():
        logits: np.ndarray = np.load(file)
        if len(logits) == len(paths):
            return logits
    network = Interpreter(
        str(teacher),
        num_threads=1,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    network.allocate_tensors()
    given = network.get_input_details()[0]
    # LiteRT has no public way to ask for the operators of a graph.
    softmax = [op for op in network._get_ops_details() if op["op_name"] == "SOFTMAX"]
    if not softmax:
        raise ValueError(f"{teacher} does not end in a softmax; give another classifier")
    tensor = int(softmax[-1]["inputs"][0])
    scale, zero = network._get_tensor_details(tensor, 0)["quantization"]
    size = int(given["shape"][1])
    rows = []
    for path in tqdm(paths, desc="teacher", unit="photo", disable=None):
        rgb = cv2.resize(read_picture(path), (size, size), interpolation=cv2.INTER_AREA)
        pair = []
        for view in (rgb, rgb[:, ::-1]):
            network.set_tensor(given["index"], np.ascontiguousarray(view)[None])
            network.invoke()
            values = network.get_tensor(tensor).ravel().astype(np.float32)
            pair.append((values - zero) * (scale or 1.0))
        rows.append(pair)
    logits = np.asarray(rows, np.float16)
    np.save(file, logits)
    return logits


def relearn(
    top: keras.Model,
    lacking: Sequence[str],
    grids: np.ndarray,
    logits: np.ndarray,
    epochs: int = 5,
    photos_a_step: int = 64,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> None:
    """Trains those convolutions of `top`; everything else in it stays as it is.

    Args:
        top: the encoder behind mixed8.
        lacking: names of the convolutions, first to last.
        grids: (photos, 2, rows, columns, channels) of mixed8, plain and mirrored.
        logits: (photos, 2, classes) of the teacher.
    """
    photos_a_step = min(photos_a_step, len(grids))
    own = convolutions(top)
    _standardise(top, lacking, np.asarray(grids[:: max(1, len(grids) // 256), 0], np.float32))
    for name, layer in own.items():
        layer.trainable = name in lacking
    classes = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(top.output))
    model = keras.Model(top.input, layers.Dense(logits.shape[-1], dtype="float32")(classes))
    steps = max(1, len(grids) // photos_a_step) * epochs
    rate = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    model.compile(keras.optimizers.Adam(rate), _divergence, jit_compile=False)
    for epoch in range(epochs):
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(len(grids))
        losses = []
        for step in range(len(order) // photos_a_step):
            photos = np.sort(order[step * photos_a_step : (step + 1) * photos_a_step])
            mirrored = rng.integers(0, 2, len(photos))
            wanted = logits[photos, mirrored].astype(np.float32)
            losses.append(float(model.train_on_batch(grids[photos, mirrored], wanted)))
        print(f"distillation, epoch {epoch + 1}: divergence {np.mean(losses):.3f}", flush=True)
    for layer in own.values():
        layer.trainable = True


def _standardise(top: keras.Model, names: Sequence[str], grids: np.ndarray) -> None:
    """Scales fresh kernels so that they give mean 0 and variance 1, as batch norm would."""
    for name in names:
        layer = convolutions(top)[name]
        before = keras.Model(top.input, layer.input)(grids)
        out = ops.conv(ops.cast(before, "float32"), layer.kernel, padding=layer.padding)
        out = ops.convert_to_numpy(out)
        mean, deviation = out.mean((0, 1, 2)), out.std((0, 1, 2)) + 1e-6
        layer.kernel.assign(layer.kernel / deviation)
        layer.bias.assign(-mean / deviation)


def _divergence(teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
    soft, log = ops.softmax(teacher / _TEMPERATURE), ops.log_softmax(teacher / _TEMPERATURE)
    own = ops.log_softmax(student / _TEMPERATURE)
    return _TEMPERATURE * ops.mean(ops.sum(soft * (log - own), axis=-1))
