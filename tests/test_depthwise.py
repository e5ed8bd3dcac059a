"""The depthwise kernel against the NumPy reference over drawn geometry, and what its weights take of flash."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from sgsc_micro import storage
from sgsc_micro.codegen import footprint, write_library
from sgsc_micro.ir import shape_of
from sgsc_micro.kernels.depthwise import stream_of
from sgsc_micro.passes import optimise
from sgsc_micro.passes.operators import planes
from sgsc_micro.passes.plan import read_plan
from tests.fuzz import check_module
from tests.graphs import GraphBuilder, Image

SEEDS = st.integers(0, 2**32 - 1)
BANDS = st.sampled_from([0, 200, 600, planes.BAND_BYTES])
"""Bytes of a band: one row at a time, a few, all there are."""


class _Builder(GraphBuilder):
    """Depthwise layers alone, of more kinds than networks have."""

    finer = 1.0
    """What divides the scale of a result: many saturate then, and multipliers shift left."""

    def depthwise(self, image: Image, same: bool = False) -> Image:
        """Any kernel up to 5 x 5, stride, dilation and padding; or of those that keep the size."""
        _, height, width, channels = shape_of(image[0])
        kernel = self._draw(1, 6), self._draw(1, 6)
        dilation = self._draw(1, 3), self._draw(1, 3)
        if self.rng.random() < 0.5:
            kernel, dilation = (3, 3), (1, 1)
        strides = self._draw(1, 4), self._draw(1, 4)
        spans = [(taps - 1) * step for taps, step in zip(kernel, dilation, strict=True)]
        before = [self._draw(0, span + 1) for span in spans]
        behind = [span - first for span, first in zip(spans, before, strict=True)]
        if same:
            strides = 1, 1
        elif height > spans[0] and width > spans[1]:
            behind = [self._draw(0, span + 1) for span in spans]
        weights, scales = self._weights((channels, *kernel, 1))
        total = relax.op.nn.conv2d(
            self._dequantize(image),
            self._constant(weights, scales),
            strides=strides,
            padding=[*before, *behind],
            dilation=dilation,
            groups=channels,
            data_layout="NHWC",
            kernel_layout="OHWI",
        )
        self.finer = 2.0 ** self._draw(0, 7) if self.rng.random() < 0.4 else 1.0
        result = self._finish(self.builder.emit(total), image[1] * scales, weights[0].size)
        self.finer = 1.0
        return result

    def _quantize(self, x: relax.Var, scale: float, zero_point: int) -> Image:
        return super()._quantize(x, scale / self.finer, zero_point)

    def same(self, image: Image) -> Image:
        """One whose result can lie over what it reads."""
        return self.depthwise(image, same=True)

    def skipped(self, image: Image) -> Image:
        """One that something is added to, or subtracted from, or the other way round."""
        other = self.same(image)
        return self._binary(image, other) if self.rng.random() < 0.5 else self._binary(other, image)


def _network(seed: int, kinds: Sequence[str], widths: Sequence[int]) -> tuple[tvm.IRModule, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = int(rng.integers(1, 14)), int(rng.integers(1, 14)), int(rng.integers(2, 10))
    builder = _Builder(rng, str(rng.choice(["single", "tflite"])))
    module = builder.build(shape, kinds, list(widths))
    return module, rng.normal(0, 3, (3, shape[2], *shape[:2])).astype(np.float32)


def _check(seed: int, kinds: Sequence[str], widths: Sequence[int], band: int, *, emulate: bool = False) -> None:
    module, x = _network(seed, kinds, widths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planes, "BAND_BYTES", band)
        check_module(module, x, emulate=emulate)


KINDS = st.lists(st.sampled_from(["depthwise", "same", "skipped"]), min_size=1, max_size=3)
WIDTHS = st.sampled_from([range(9), range(9), [0, 3], [8]])


@given(seed=SEEDS, kinds=KINDS, widths=WIDTHS, band=BANDS)
@settings(max_examples=25, deadline=None)
def test_the_host_gives_the_references_bytes(seed: int, kinds: list[str], widths: Sequence[int], band: int) -> None:
    _check(seed, kinds, widths, band)


@pytest.mark.slow
@given(seed=SEEDS, kinds=KINDS, widths=WIDTHS, band=BANDS)
@settings(max_examples=25, deadline=None)
def test_many_more_on_the_host(seed: int, kinds: list[str], widths: Sequence[int], band: int) -> None:
    _check(seed, kinds, widths, band)


@pytest.mark.parametrize("seed", range(6))
def test_an_emulated_core_gives_the_references_bytes(seed: int) -> None:
    _check(seed, ["depthwise", "same", "skipped"], range(9), [0, 200, planes.BAND_BYTES][seed % 3], emulate=True)


@given(st.lists(st.integers(0, 8), min_size=1, max_size=9), st.integers(1, 5), st.integers(1, 5), st.booleans(), SEEDS)
def test_a_stream_holds_the_weights(widths: list[int], rows: int, columns: int, turned: bool, seed: int) -> None:
    """Read bit by bit, as the header describes it, not as it was written."""
    rng = np.random.default_rng(seed)
    weights = np.zeros((len(widths), rows, columns, 1), np.int8)
    for channel, width in zip(weights, widths, strict=True):
        channel[:] = rng.integers(-(1 << width >> 1), max(1 << width >> 1, 1), channel.shape)
    number = int.from_bytes(stream_of(weights, turned).tobytes(), "little")

    def take(bits: int) -> int:
        nonlocal number
        value, number = number % 2**bits, number >> bits
        return value

    for channel in weights[..., 0]:
        width = take(4)
        for tap in (channel.T if turned else channel).ravel().tolist():
            assert take(width) == tap % 2**width
    assert number == 0


@pytest.mark.parametrize(
    ("widths", "taps", "size"),
    [([8], 9, 10), ([8, 8], 9, 19), ([7, 6, 5, 4], 9, 27), ([3, 2, 1, 0], 9, 9), ([0, 0], 9, 4), ([6], 25, 20)],
)
def test_a_weight_of_b_bits_takes_b_bits(widths: list[int], taps: int, size: int) -> None:
    """And 4 for each channel; to whole bytes in a layer, of which there are 4."""
    assert storage.stream_bytes(widths, taps) == size


def test_the_library_stores_what_the_size_model_says(tmp_path: Path) -> None:
    module, _ = _network(0, ["depthwise", "skipped"], range(9))
    manifest = write_library(optimise(module), tmp_path, "network")
    layers = [layer for layer in manifest["layers"] if "widths" in layer and layer["shape"][:-1]]
    assert len(layers) == 2
    for layer in layers:
        assert layer["bytes"]["weights"] == storage.stream_bytes(layer["widths"], layer["taps"])
    assert manifest["constant_bytes"] == footprint(optimise(module)).flash


def test_a_result_of_the_same_size_lies_over_what_it_is_computed_from() -> None:
    plan = read_plan(optimise(_network(0, ["depthwise", "same", "same"], [8])[0]))
    over = {resident.name: resident.over for resident in plan.tensors.values()}
    assert (over["conv2d_1"], over["conv2d_2"]) == ("conv2d_0", "conv2d_1")
