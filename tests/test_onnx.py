"""ONNX QDQ in, through TVM's importer: within rounding of onnx's own reference evaluator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="onnx is not installed")

from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tests.conftest import sgsc

SCALE = 16.0
"""Of the network's output."""


class Writer:
    """A chain of QDQ operators over one float input [1, 3, 8, 8]."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, values: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def quantised(self, x: str, scale: float, zero_point: int) -> str:
        """To int8 and back."""
        parameters = self.constant(np.float32(scale)), self.constant(np.int8(zero_point))
        return self.node("DequantizeLinear", self.node("QuantizeLinear", x, *parameters), *parameters)

    def weights(self, shape: tuple[int, ...], x_scale: float) -> tuple[str, str]:
        """Per-channel weights and an int32 bias, dequantised."""
        scales = self.rng.uniform(0.01, 0.05, shape[0]).astype(np.float32)
        zeros = self.constant(np.zeros(shape[0], np.int8)), self.constant(np.zeros(shape[0], np.int32))
        values = self.constant(self.rng.integers(-128, 128, shape).astype(np.int8))
        bias = self.constant(self.rng.integers(-500, 500, shape[0]).astype(np.int32))
        bias_scales = self.constant((scales * np.float32(x_scale)).astype(np.float32))
        return (
            self.node("DequantizeLinear", values, self.constant(scales), zeros[0], axis=0),
            self.node("DequantizeLinear", bias, bias_scales, zeros[1], axis=0),
        )

    def model(self, y: str, shape: tuple[int | str, ...] = (1, 3, 8, 8), made: tuple[int, ...] = (1, 3, 8, 8)) -> Any:
        source = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        sink = helper.make_tensor_value_info(y, TensorProto.FLOAT, made)
        graph = helper.make_graph(self.nodes, "net", [source], [sink], self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _network(seed: int) -> Any:
    """Two convolutions with a residual, a pooling, a dense layer."""
    writer = Writer(seed)
    x = writer.quantised("x", 0.05, 3)
    total = writer.node("Conv", x, *writer.weights((4, 3, 3, 3), 0.05), strides=[2, 2], pads=[1, 1, 1, 1])
    x = writer.quantised(writer.node("Relu", total), 0.5, -128)
    y = writer.quantised(writer.node("Conv", x, *writer.weights((4, 4, 3, 3), 0.5), pads=[1, 1, 1, 1]), 1.5, 5)
    x = writer.quantised(writer.node("Relu", writer.node("Add", x, y)), 1.5, -128)
    x = writer.quantised(writer.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), 1.5, -128)
    x = writer.node("Gemm", writer.node("Flatten", x), *writer.weights((5, 16), 1.5), transB=1)
    return writer.model(writer.quantised(x, SCALE, 5), made=(1, 5))


@pytest.mark.parametrize("seed", range(3))
def test_an_onnx_network_compiles_to_what_it_means(seed: int, tmp_path: Path) -> None:
    model = _network(seed)
    onnx.save(model, tmp_path / "net.onnx")
    x = np.random.default_rng(seed).normal(0, 2, (20, 3, 8, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    compiled = sgsc("compile", tmp_path / "net.onnx", "--target", "host", "-o", tmp_path / "out")
    assert compiled.exit_code == 0, compiled.output
    ran = sgsc("run", tmp_path / "out", "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy")
    assert ran.exit_code == 0, ran.output
    evaluator = ReferenceEvaluator(model)
    expected = np.concatenate([evaluator.run(None, {"x": row[None]})[0] for row in x])
    # onnx rounds half to even in float32: a step may differ in every layer.
    assert np.abs(np.load(tmp_path / "y.npy") - expected).max() <= 3 * SCALE
    assert np.ptp(expected, axis=0).min() > 10 * SCALE


def test_a_float_onnx_network_is_refused(tmp_path: Path) -> None:
    writer = Writer(0)
    onnx.save(writer.model(writer.node("Relu", "x")), tmp_path / "net.onnx")
    failed = sgsc("compile", tmp_path / "net.onnx", "--target", "host", "-o", tmp_path / "out")
    assert (
        failed.exit_code == 1
        and "relax.nn.relu is not part of a quantised operator" in failed.stderr
        and "Traceback" not in failed.stderr
    )


def test_an_onnx_operator_that_cannot_be_lowered_is_named(tmp_path: Path) -> None:
    writer = Writer(0)
    y = writer.quantised(writer.node("Erf", writer.quantised("x", 0.05, 3)), 0.01, 0)
    onnx.save(writer.model(y), tmp_path / "net.onnx")
    failed = sgsc("compile", tmp_path / "net.onnx", "--target", "host", "-o", tmp_path / "out")
    assert failed.exit_code == 1 and "erf" in failed.stderr and "Traceback" not in failed.stderr


def test_a_dynamic_onnx_input_is_named(tmp_path: Path) -> None:
    writer = Writer(0)
    onnx.save(writer.model(writer.quantised("x", 0.05, 3), ("batch", 3, 8, 8)), tmp_path / "net.onnx")
    failed = sgsc("compile", tmp_path / "net.onnx", "--target", "host", "-o", tmp_path / "out")
    assert failed.exit_code == 1 and "input 'x' has a dynamic shape" in failed.stderr


def test_a_file_that_is_no_onnx_model_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"\x08\x07nonsense")
    failed = sgsc("compile", tmp_path / "net.onnx", "--target", "host", "-o", tmp_path / "out")
    assert failed.exit_code == 1 and "net.onnx: not an ONNX model" in failed.stderr
