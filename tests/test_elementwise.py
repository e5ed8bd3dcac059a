"""Sums, products, other scales and averages against the reference: every form of rounding, at scales far apart."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relax

from sgsc_micro import reference
from sgsc_micro.codegen import SANITIZERS, HostLibrary, to_stored, write_library
from sgsc_micro.device import connect
from sgsc_micro.firmware import build_firmware
from sgsc_micro.ir import with_rounding
from sgsc_micro.passes import optimise
from sgsc_micro.targets import load_target
from tests.graphs import GraphBuilder, Image

SHAPE = 1, 3, 300, 5
"""More columns than 16 bits hold the sum of, and channels that are no multiple of four."""
FAR = [2.0**-50, 0.7 * 2.0**-32, 2.0**-31, 0.7 * 2.0**-23, 0.7 * 2.0**-9, 1 - 2.0**-24, 1.0, 0.7 * 2.0**7]
NEAR = [0.37, 1.0, 1.7]
"""Scales beside that of the input, which is 1."""
SINGLE = {"single", "single_clamped"}
TFLITE = {"tflite", "tflite_clamped", "tflite_high", "tflite_high_clamped", "tflite_long"}
FORMS = {
    "single": {"sum": SINGLE, "multiply": SINGLE, "requantize": SINGLE, "average": SINGLE, "matmul": {"single"}},
    "tflite": {
        "sum": TFLITE, "add": TFLITE, "subtract": TFLITE, "subtract_from": TFLITE, "multiply": TFLITE,
        "requantize": TFLITE, "average": TFLITE | {"divided"}, "matmul": {"tflite"},
    },
}  # fmt: skip
"""What the networks below call, by rounding and micro-kernel."""


class _Graph(GraphBuilder):
    """Many operators of one input, their results side by side."""

    def network(self, results: Callable[[Image], list[relax.Var]]) -> tvm.IRModule:
        x = relax.Var("x", relax.TensorType(SHAPE, "float32"))
        with self.builder.function("main", [x]):
            with self.builder.dataflow():
                image = self._quantize(x, 1.0, 5)
                flat = [self.builder.emit(relax.op.reshape(q, (1, 1, 1, -1))) for q in results(image)]
                joined = self.builder.emit(relax.op.concat(flat, axis=3))
                result = self.builder.emit_output(self._dequantize((joined, 1.0, 0)))
            self.builder.emit_func_output(result)
        return with_rounding(self.builder.finalize(), self.rounding)

    def end(self, total: relax.Expr, scale: float, clips: bool) -> relax.Var:
        """To a scale as far from the accumulator's as is asked for."""
        total = self.builder.emit(total)
        if clips:
            total = self.builder.emit(relax.op.clip(total, -40 * scale, 60 * scale))
        return self._quantize(total, scale, self._zero_point())[0]

    def pairs(self, image: Image, operator: Callable[..., relax.Expr], scale: float, out: float) -> list[relax.Var]:
        """With a constant on either side, clipped and not."""
        values = relax.const(self.rng.integers(-128, 128, (1, 3, 300, 1) if out > 1 else SHAPE).astype(np.int8))
        both = [self._dequantize(image), self._dequantize((values, float(np.float32(scale)), self._zero_point()))]
        sides = both if self.rng.random() < 0.5 else both[::-1]
        return [self.end(operator(*sides), out, clips) for clips in (False, True)]


def _sums(graph: _Graph, image: Image, scales: list[float]) -> list[relax.Var]:
    """Outputs at a scale as far below the sum's as may be, up to one far above."""
    least = [2.0**-21.5, 2.0**-20] if graph.rounding == "tflite" else []
    found = []
    for scale in scales:
        for out in [*least, 2.0**-18, 0.8, 2.0**7]:
            operator = relax.op.add if graph.rng.random() < 0.5 else relax.op.subtract
            found += graph.pairs(image, operator, scale, out * max(scale, 1.0))
    return found


def _products(graph: _Graph, image: Image, scales: list[float]) -> list[relax.Var]:
    found = []
    for scale in scales:
        for ratio in (2.0**-24, 2.0**-3, 0.6, 3.0, 2.0**12):
            found += graph.pairs(image, relax.op.multiply, scale, scale / ratio)
    return found


def _of_one(graph: _Graph, image: Image, _: list[float]) -> list[relax.Var]:
    """Other scales, averages over one axis, two and a window, products of activations, maxima."""
    found = []
    for ratio in (2.0**-40, 2.0**-31, 2.0**-23, 2.0**-9, 0.3, 0.5, 0.9, 1.1, 2.0**9, 2.0**20):
        found += [graph.end(graph._dequantize(image), 1 / ratio, clips) for clips in (False, True)]
    for axes, ratio in [([1, 2], 0.01), ([2], 2.0), ([2], 2.0**-26), ([1], 2.0**20), ([3], 1.0), ([1, 3], 0.3)]:
        mean = relax.op.mean(graph._dequantize(image), axes, True)
        found += [graph.end(mean, 1 / ratio, clips) for clips in (False, True)]
    for size in [(1, 1), (2, 3), (3, 300)]:
        window = relax.op.nn.avg_pool2d(graph._dequantize(image), size, (1, 2), (0, 0), layout="NHWC")
        found += [graph._quantize(graph.builder.emit(window), 1.0, 5)[0]]
        found += [graph.builder.emit(relax.op.nn.max_pool2d(image[0], size, (2, 1), (0, 0), layout="NHWC"))]
    rows = graph.builder.emit(relax.op.strided_slice(image[0], [2], [0], [7]))
    turned = graph.builder.emit(relax.op.permute_dims(rows, (0, 1, 3, 2)))
    reals = [graph._dequantize((q, 1.0, 5)) for q in (rows, turned)]
    found.append(graph.end(relax.op.matmul(*reals), 900.0, clips=False))
    return found


KINDS = [_sums, _products, _of_one]


def _network(kind: Callable[..., list[relax.Var]], rounding: str, scales: list[float]) -> tvm.IRModule:
    graph = _Graph(np.random.default_rng(7), rounding)
    return graph.network(lambda image: kind(graph, image, scales))


def _inputs(count: int) -> np.ndarray:
    """Values by chance, and the ends of the range all over."""
    x = np.random.default_rng(1).integers(-140, 140, (count, *SHAPE[1:]))
    x[0], x[1] = -200, 200
    return x.astype(np.float32)


@pytest.mark.parametrize("rounding", ["single", "tflite"])
def test_every_form_gives_the_references_bytes(rounding: str, tmp_path: Path) -> None:
    """On the host under sanitizers; what is called is looked up in the C."""
    called: set[str] = set()
    for kind in KINDS:
        module, folder, x = _network(kind, rounding, FAR), tmp_path / kind.__name__, _inputs(6)
        manifest = write_library(optimise(module), folder, kind.__name__)
        expected = reference.run_integers(module, x).reshape(len(x), -1)
        found = HostLibrary(folder, ("-O1", *SANITIZERS)).run(to_stored(manifest, x))
        assert np.array_equal(found, expected), kind
        called |= set(re.findall(r"\bsgsc_(\w+)\(", (folder / "model.c").read_text(encoding="utf-8")))
    wanted = {f"{function}_{form}" for function, forms in FORMS[rounding].items() for form in forms}
    assert wanted <= called, wanted - called


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rounding", ["single", "tflite"])
def test_an_emulated_core_gives_them_too(rounding: str, kind: Callable[..., list[relax.Var]], tmp_path: Path) -> None:
    """Its SIMD instructions, sums of more than 16 bits among them."""
    module, target, x = _network(kind, rounding, NEAR), load_target("qemu-m4"), _inputs(3)
    manifest = write_library(optimise(module), tmp_path / "library", kind.__name__)
    image = build_firmware(target, tmp_path / "library", tmp_path / "firmware")
    expected = reference.run_integers(module, x).reshape(len(x), -1)
    with connect(target, image) as device:
        for case, row in enumerate(to_stored(manifest, x)):
            assert np.array_equal(np.frombuffer(device.run(case, row.tobytes()).output, np.int8), expected[case])
