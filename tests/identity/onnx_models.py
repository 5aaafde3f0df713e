"""Small ONNX files with the real networks' inputs and outputs, made here because the real ones are not shipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def write_arcface(path: Path, *, dimension: int = 512, seed: int = 0) -> Path:
    """A recognition network: (1, 3, 112, 112) in, (1, dimension) out; one strided convolution and one matrix."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(seed)
    weights = {
        "kernel": rng.normal(0, 0.1, (4, 3, 8, 8)),
        "matrix": rng.normal(0, 0.1, (784, dimension)),
        "bias": rng.normal(0, 0.1, (dimension,)),
    }
    nodes = [
        helper.make_node("Conv", ["input.1", "kernel"], ["features"], strides=[8, 8]),
        helper.make_node("Relu", ["features"], ["positive"]),
        helper.make_node("Flatten", ["positive"], ["flat"]),
        helper.make_node("Gemm", ["flat", "matrix", "bias"], ["embedding"]),
    ]
    return _write(
        path,
        helper.make_graph(
            nodes,
            "recognition",
            [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 3, 112, 112])],
            [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, dimension])],
            [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
        ),
    )


def write_background(path: Path, *, inverted: bool = False) -> Path:
    """A segmentation network: (1, 3, 320, 320) in, (1, 1, 320, 320) out: all but black is person, or the inverse."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Conv", ["input", "kernel"], ["brightness"]),
        helper.make_node("Clip", ["brightness", "", "dim"], ["person"]),
        helper.make_node("Mul", ["person", "sign"], ["mask"]),
    ]
    values = {
        "kernel": np.ones((1, 3, 1, 1)),
        "dim": np.array(-4.0),  # rembg normalises the input: black is about -6, white about 7
        "sign": np.array(-1.0 if inverted else 1.0),
    }
    return _write(
        path,
        helper.make_graph(
            nodes,
            "background",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 320, 320])],
            [helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1, 1, 320, 320])],
            [numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()],
        ),
    )


def _write(path: Path, graph) -> Path:
    import onnx
    from onnx import helper

    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path
