"""A detector of objects for tests: a real network for OpenCV's dnn, in TensorFlow's format.

It takes what is red in a quarter of a photo for an object of class 1, and what is green for one of
class 2; how red or green the quarter is, is the score.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow

# Quarters of the image, their shares of red and green, boxes around the quarters' middles.
_COLOURS = """
node { name: "image" op: "Placeholder"
  attr { key: "dtype" value { type: DT_FLOAT } }
  attr { key: "shape" value { shape { dim { size: -1 } dim { size: 300 } dim { size: 300 }
                                      dim { size: 3 } } } } }
node { name: "quarters" op: "AvgPool" input: "image"
  attr { key: "ksize" value { list { i: 1 i: 150 i: 150 i: 1 } } }
  attr { key: "strides" value { list { i: 1 i: 150 i: 150 i: 1 } } }
  attr { key: "padding" value { s: "VALID" } } }
node { name: "classes" op: "Conv2D" input: "quarters" input: "classes/weights"
  attr { key: "strides" value { list { i: 1 i: 1 i: 1 i: 1 } } }
  attr { key: "padding" value { s: "VALID" } } }
node { name: "boxes" op: "Conv2D" input: "quarters" input: "boxes/weights"
  attr { key: "strides" value { list { i: 1 i: 1 i: 1 i: 1 } } }
  attr { key: "padding" value { s: "VALID" } } }
node { name: "classes/flat" op: "Flatten" input: "classes" }
node { name: "boxes/flat" op: "Flatten" input: "boxes" }
node { name: "priors" op: "PriorBox" input: "boxes" input: "image"
  attr { key: "width" value { tensor { dtype: DT_FLOAT tensor_shape { dim { size: 1 } }
                                       float_val: 120 } } }
  attr { key: "height" value { tensor { dtype: DT_FLOAT tensor_shape { dim { size: 1 } }
                                        float_val: 120 } } }
  attr { key: "clip" value { b: false } }
  attr { key: "flip" value { b: false } }
  attr { key: "variance" value { tensor { dtype: DT_FLOAT tensor_shape { dim { size: 4 } }
    float_val: 0.1 float_val: 0.1 float_val: 0.2 float_val: 0.2 } } } }
node { name: "found" op: "DetectionOutput" input: "boxes/flat" input: "classes/flat"
  input: "priors"
  attr { key: "background_label_id" value { i: 0 } }
  attr { key: "code_type" value { s: "CENTER_SIZE" } }
  attr { key: "confidence_threshold" value { f: 0.01 } }
  attr { key: "keep_top_k" value { i: 100 } }
  attr { key: "nms_threshold" value { f: 0.6 } }
  attr { key: "num_classes" value { i: 3 } }
  attr { key: "share_location" value { b: true } }
  attr { key: "top_k" value { i: 100 } } }
"""


def write_detector(folder: Path) -> tuple[Path, Path]:
    """The network's weights, as TensorFlow writes them, and its layers."""
    shares = np.zeros((1, 1, 3, 3), np.float32)  # of channels in, classes out
    shares[0, 0, 0, 1] = shares[0, 0, 1, 2] = 1 / 255
    graph = tensorflow.compat.v1.GraphDef()
    for name, kernel in (("classes", shares), ("boxes", np.zeros((1, 1, 3, 4), np.float32))):
        node = graph.node.add(name=f"{name}/weights", op="Const")
        node.attr["dtype"].type = tensorflow.float32.as_datatype_enum
        node.attr["value"].tensor.CopyFrom(tensorflow.make_tensor_proto(kernel))
    weights, config = folder / "colours.pb", folder / "colours.pbtxt"
    weights.write_bytes(graph.SerializeToString())
    config.write_text(_COLOURS)
    return weights, config
