"""InceptionV3 as the encoder: `keras.applications`' topology, batch norm folded away.

A folded convolution is a kernel and a bias, which is what a deployed network computes and what the
weights we start from consist of; nothing is left that behaves differently in training and in use.
The order of the 94 convolutions is the creation order of `keras.applications.InceptionV3`, so that
weights move between the two by index. This is not a classifier: it ends in a grid of features.

Source: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2015.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
from keras import layers, ops

from captioner.training.plan import INPUT_SIZE

OUTPUT_LAYERS = ("mixed8", "mixed10")


class _Builder:
    """Adds convolutions to a graph and numbers them in the order of `keras.applications`."""

    def __init__(self, width: float) -> None:
        self.count, self.width = 0, width

    def conv(self, x, filters, rows, columns, padding="same", strides=1):  # type: ignore[no-untyped-def]
        name = f"conv{self.count:02d}"
        self.count += 1
        filters = max(2, round(filters * self.width))
        return layers.Conv2D(
            filters, (rows, columns), strides=strides, padding=padding, activation="relu",
            kernel_initializer="he_normal", name=name,
        )(x)  # fmt: skip


def _stem_to_mixed8(build: _Builder, x):  # type: ignore[no-untyped-def]
    """(batch, 299, 299, 3) -> mixed8 (batch, 8, 8, 1280)."""
    conv = build.conv
    x = conv(x, 32, 3, 3, "valid", 2)
    x = conv(x, 32, 3, 3, "valid")
    x = conv(x, 64, 3, 3)
    x = layers.MaxPooling2D(3, 2)(x)
    x = conv(x, 80, 1, 1, "valid")
    x = conv(x, 192, 3, 3, "valid")
    x = layers.MaxPooling2D(3, 2)(x)  # (batch, 35, 35, 192)

    for index, pool_filters in enumerate((32, 64, 64)):  # mixed0 .. mixed2
        one = conv(x, 64, 1, 1)
        five = conv(conv(x, 48, 1, 1), 64, 5, 5)
        three = conv(conv(conv(x, 64, 1, 1), 96, 3, 3), 96, 3, 3)
        pool = conv(layers.AveragePooling2D(3, 1, "same")(x), pool_filters, 1, 1)
        x = layers.Concatenate(name=f"mixed{index}")([one, five, three, pool])

    three = conv(x, 384, 3, 3, "valid", 2)  # mixed3: (batch, 17, 17, 768)
    double = conv(conv(conv(x, 64, 1, 1), 96, 3, 3), 96, 3, 3, "valid", 2)
    x = layers.Concatenate(name="mixed3")([three, double, layers.MaxPooling2D(3, 2)(x)])

    for index, filters in enumerate((128, 160, 160, 192), start=4):  # mixed4 .. mixed7
        one = conv(x, 192, 1, 1)
        seven = conv(conv(conv(x, filters, 1, 1), filters, 1, 7), 192, 7, 1)
        double = conv(conv(x, filters, 1, 1), filters, 7, 1)
        double = conv(conv(conv(double, filters, 1, 7), filters, 7, 1), 192, 1, 7)
        pool = conv(layers.AveragePooling2D(3, 1, "same")(x), 192, 1, 1)
        x = layers.Concatenate(name=f"mixed{index}")([one, seven, double, pool])

    three = conv(conv(x, 192, 1, 1), 320, 3, 3, "valid", 2)
    seven = conv(conv(conv(x, 192, 1, 1), 192, 1, 7), 192, 7, 1)
    seven = conv(seven, 192, 3, 3, "valid", 2)
    return layers.Concatenate(name="mixed8")([three, seven, layers.MaxPooling2D(3, 2)(x)])


def _mixed9_to_mixed10(build: _Builder, x, last_pooling: str):  # type: ignore[no-untyped-def]
    """mixed8 (batch, 8, 8, 1280) -> mixed10 (batch, 8, 8, 2048)."""
    conv = build.conv
    for index, pooling in ((9, "average"), (10, last_pooling)):
        one = conv(x, 320, 1, 1)
        three = conv(x, 384, 1, 1)
        three = [conv(three, 384, 1, 3), conv(three, 384, 3, 1)]
        double = conv(conv(x, 448, 1, 1), 384, 3, 3)
        double = [conv(double, 384, 1, 3), conv(double, 384, 3, 1)]
        pool = layers.MaxPooling2D if pooling == "max" else layers.AveragePooling2D
        pooled = conv(pool(3, 1, "same")(x), 192, 1, 1)
        x = layers.Concatenate(name=f"mixed{index}")([one, *three, *double, pooled])
    return x


def build_encoder(
    output_layer: str = "mixed10",
    last_pooling: str = "max",
    input_layer: str = "image",
    input_size: int = INPUT_SIZE,
    width: float = 1.0,
) -> keras.Model:
    """The encoder with fresh weights.

    Args:
        output_layer: where the network ends, "mixed8" or "mixed10".
        last_pooling: "max" as in the network of 2015, or "average" as in `keras.applications`,
            in the pooling branch of mixed10.
        input_layer: "image", or "mixed8" for the part behind it, which reads stored mixed8 grids.
        input_size: pixels of a side of the image.
        width: multiplies the filters of every convolution; below 1 for tests.

    Returns:
        A model: images (batch, input_size, input_size, 3) in [-1, 1], or grids, -> (batch, rows,
        columns, channels); at 299 pixels and full width 8 x 8 x 1280 at mixed8, 8 x 8 x 2048 at
        mixed10.
    """
    if output_layer not in OUTPUT_LAYERS:
        raise ValueError(
            f"output_layer has to be {' or '.join(OUTPUT_LAYERS)}, not {output_layer!r}"
        )
    build = _Builder(width)
    inputs = keras.Input((input_size, input_size, 3), name="image")
    x = _stem_to_mixed8(build, inputs)
    if input_layer == "mixed8":
        inputs = x = keras.Input(x.shape[1:], name="mixed8_grid")
    if output_layer == "mixed10":
        x = _mixed9_to_mixed10(build, x, last_pooling)
    return keras.Model(inputs, x, name=f"{input_layer}_to_{output_layer}")


def convolutions(encoder: keras.Model) -> dict[str, layers.Conv2D]:
    """The convolutions by name, "conv00" to "conv93"."""
    return {layer.name: layer for layer in encoder.layers if isinstance(layer, layers.Conv2D)}


def encoder_weights(encoder: keras.Model, dtype: str = "float16") -> dict[str, np.ndarray]:
    """{"convNN/kernel": (rows, columns, in, out), "convNN/bias": (out,)} in `dtype`."""
    return {
        f"{name}/{part}": np.asarray(keras.ops.convert_to_numpy(getattr(layer, part)), dtype)
        for name, layer in convolutions(encoder).items()
        for part in ("kernel", "bias")
    }


def set_encoder_weights(encoder: keras.Model, weights: Mapping[str, np.ndarray]) -> list[str]:
    """Copies what `weights` holds into `encoder`; returns the names of the kernels it lacks.

    Raises:
        ValueError: an array has another shape than the layer.
    """
    lacking = []
    for name, layer in convolutions(encoder).items():
        for part in ("kernel", "bias"):
            key = f"{name}/{part}"
            if key not in weights:
                lacking.append(key)
                continue
            variable, value = getattr(layer, part), np.asarray(weights[key], np.float32)
            if tuple(variable.shape) != value.shape:
                raise ValueError(
                    f"{key} is {value.shape} in the weights, {tuple(variable.shape)} here"
                )
            variable.assign(value)
    return lacking


def standardize(encoder: keras.Model, names: Sequence[str], images: np.ndarray) -> None:
    """Scales fresh kernels so that they give mean 0 and variance 1 a channel, as batch norm would.

    Args:
        names: "convNN/kernel" of those to scale.
        images: (photos, size, size, 3), from which mean and variance are taken.
    """
    own = convolutions(encoder)
    for layer in (own[name.split("/")[0]] for name in sorted(names)):
        before = keras.Model(encoder.input, layer.input).predict(images, batch_size=32, verbose=0)
        out = ops.conv(ops.cast(before, "float32"), layer.kernel, padding=layer.padding)
        out = ops.convert_to_numpy(out)
        mean, deviation = out.mean((0, 1, 2)), out.std((0, 1, 2)) + 1e-6
        layer.kernel.assign(layer.kernel / deviation)
        layer.bias.assign(-mean / deviation)


def folded_keras_weights(model: keras.Model) -> dict[str, np.ndarray]:
    """Weights of a `keras.applications.InceptionV3`, each batch norm folded into its convolution.

    Keras's batch norm has no gamma here: y = (conv(x) - mean) / sqrt(variance + epsilon) + beta.
    """
    convs = [layer for layer in model.layers if isinstance(layer, layers.Conv2D)]
    norms = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    # Keras lists layers by depth; its names count in creation order, which is the order we share.
    for layers_of_a_kind in (convs, norms):
        layers_of_a_kind.sort(key=lambda layer: int(re.sub(r".*?(?:_(\d+))?$", r"0\1", layer.name)))
    weights = {}
    for number, (conv, norm) in enumerate(zip(convs, norms, strict=True)):
        scale = 1.0 / np.sqrt(np.asarray(norm.moving_variance) + norm.epsilon)
        weights[f"conv{number:02d}/kernel"] = np.asarray(conv.kernel) * scale
        weights[f"conv{number:02d}/bias"] = (
            np.asarray(norm.beta) - np.asarray(norm.moving_mean) * scale
        )
    return weights


def load_encoder_weights(source: str | Path) -> tuple[dict[str, np.ndarray], str]:
    """Weights to start from, and the pooling of mixed10 that they were trained with.

    Args:
        source: "imagenet" for Keras's own download (needs a network), or an .npz file with the keys
            "convNN/kernel" and "convNN/bias".
    """
    if str(source) == "imagenet":
        model = keras.applications.InceptionV3(include_top=False, weights="imagenet")
        return folded_keras_weights(model), "average"
    with np.load(source, allow_pickle=False) as file:
        return {key: file[key] for key in file.files if key.startswith("conv")}, "max"
