"""The NumPy reference against oracles of other makes: rational arithmetic, torch's convolutions, tflite-micro."""

from __future__ import annotations

import functools
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import tvm
from hypothesis import given
from hypothesis import strategies as st
from tvm import relax

from sgsc_micro.codegen import HostLibrary, write_library
from sgsc_micro.errors import SgscError
from sgsc_micro.importers.tflite import import_model
from sgsc_micro.ir import bindings_of, constant_of, with_rounding
from sgsc_micro.passes import optimise
from sgsc_micro.passes.requantise import DoubleRounding, SingleRounding
from sgsc_micro.reference import arithmetic, run, run_integers, softmax
from tests.graphs import random_graph
from tests.tflite_graphs import KINDS, random_model, single_operator_models
from tests.tflite_models import ModelWriter, Quantization
from tests.tflite_oracles import require_tflite_micro, tflite_micro_outputs

RATIOS = st.floats(min_value=2.0**-20, max_value=64.0)
ROUNDINGS = ["single", "tflite"]


def _requantise(accumulators: np.ndarray, ratio: float, rounding: str) -> np.ndarray:
    function = arithmetic.requantise_single if rounding == "single" else arithmetic.requantise_twice
    return function(accumulators, np.array(ratio))


@given(RATIOS, st.integers(-(2**20), 2**20))
def test_requantising_is_rounding_half_up_of_the_real_product(ratio: float, accumulator: int) -> None:
    q = int(_requantise(np.array([accumulator]), ratio, "single")[0])
    exact = Fraction(ratio) * accumulator
    assert abs(q - exact) <= Fraction(1, 2) + abs(exact) / 2**29  # half a step, and the multiplier's own rounding


@given(RATIOS, st.integers(-(2**20), 2**20))
def test_double_rounding_is_two_roundings_in_rational_arithmetic(ratio: float, accumulator: int) -> None:
    mantissa, exponent = math.frexp(ratio)
    m = math.floor(Fraction(mantissa) * 2**31 + Fraction(1, 2))
    if m == 2**31:
        m, exponent = 2**30, exponent + 1
    first = math.floor(Fraction(accumulator * 2 ** max(exponent, 0) * m, 2**31) + Fraction(1, 2))
    scaled = Fraction(first, 2 ** max(-exponent, 0))
    away = math.floor(abs(scaled) + Fraction(1, 2)) * (1 if scaled >= 0 else -1)
    assert int(_requantise(np.array([accumulator]), ratio, "tflite")[0]) == away


@pytest.mark.parametrize("ratio", [0.5, 0.25, 0.125, 1.0, 2.0**-12, 2.0**-20])
def test_powers_of_two_are_exact_and_round_half_up(ratio: float) -> None:
    accumulators = np.arange(-4096, 4097)
    assert np.array_equal(_requantise(accumulators, ratio, "single"), np.floor(accumulators * ratio + 0.5))


def test_double_rounding_by_hand() -> None:
    assert arithmetic.tflite_multiplier(0.3) == (1288490189, -1)  # 0.6 * 2^31 = 1288490188.8
    # 6 * 0.3 = 1.8, 3.6 in half steps, 4 after the first rounding; 5 * 0.3 = 1.5, 3 half steps: away from zero
    assert _requantise(np.array([6, -6, 5, -5]), 0.3, "tflite").tolist() == [2, -2, 2, -2]
    # 9 / 8 = 4.5 quarters: half up makes 5 of it, -4 of -4.5; 1.125 would be 1 at once
    assert _requantise(np.array([9, -9, 11, -11]), 0.125, "tflite").tolist() == [1, -1, 2, -1]
    assert _requantise(np.array([11, -11]), 0.125, "single").tolist() == [1, -1]
    # the mean of 3 values at ratio 1 = 2^30 * 2^(1 - 31): one bit more, divided; at 2^-31 none is left
    assert arithmetic.divided_multiplier(2**30, 1, 3) == (2**31 // 3, 0)
    assert arithmetic.divided_multiplier(2**30, -31, 3) == (2**30 // 3, -31)


@given(RATIOS)
def test_both_implementations_choose_the_same_multiplier(ratio: float) -> None:
    single, double = SingleRounding.of(ratio), DoubleRounding.of(ratio)
    assert (single.m, single.right, single.left) == arithmetic.multiplier(ratio)
    assert (double.m, double.left - double.right) == arithmetic.tflite_multiplier(ratio)


@given(st.floats(-20, 20, width=32), st.floats(2.0**-10, 1, width=32), st.integers(-128, 127))
def test_a_bound_rounds_as_the_module_does(value: float, scale: float, zero_point: int) -> None:
    quotient = np.float32(value) / np.float32(scale)
    away = math.copysign(math.floor(abs(float(quotient)) + 0.5), quotient)
    assert arithmetic.bound(value, scale, zero_point, "tflite") == np.clip(away + zero_point, -128, 127)
    up = math.floor(value / scale + 0.5)
    assert arithmetic.bound(value, scale, zero_point, "single") == np.clip(up + zero_point, -128, 127)


def test_exp_and_reciprocal_are_near_the_real_ones() -> None:
    x = -np.arange(0, 31 << 26, 123457)
    assert np.abs(softmax.exp_negative(x) / 2**31 - np.exp(x / 2**26)).max() < 2e-6
    y = np.arange(0, 2**31, 123457)
    assert np.abs(softmax.reciprocal(y) / 2**31 - 1 / (1 + y / 2**31)).max() < 1e-8


def test_softmax_is_near_the_real_one() -> None:
    q = np.random.default_rng(0).integers(-128, 128, (50, 7))
    real = np.exp(q * 0.05) / np.exp(q * 0.05).sum(axis=1, keepdims=True)
    assert np.abs(softmax.softmax_rows(q, 0.05) + 128 - np.minimum(real * 256, 255)).max() <= 1


Parameters = tuple[float, int]


def _program(
    shape: tuple[int, ...],
    operands: list[Parameters],
    operator: str,
    output: Parameters,
    rounding: str,
    **options: object,
) -> tvm.IRModule:
    """quantize(operator(dequantize(x), ...)): operand i is the input ``x``, quantised in its own way."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape, "float32"))

    def parameters(scale: float, zero_point: int) -> tuple[relax.Expr, relax.Expr]:
        return relax.const(np.float32(scale)), relax.const(np.int8(zero_point))

    with builder.function("main", [x]):
        with builder.dataflow():
            reals = []
            for operand in operands:
                q = builder.emit(relax.op.quantize(x, *parameters(*operand), out_dtype="int8"))
                reals.append(builder.emit(relax.op.dequantize(q, *parameters(*operand))))
            function = functools.reduce(getattr, operator.split("."), relax.op)
            total = builder.emit(function(*reals, **options))
            q = builder.emit(relax.op.quantize(total, *parameters(*output), out_dtype="int8"))
            result = builder.emit_output(relax.op.dequantize(q, *parameters(*output)))
        builder.emit_func_output(result)
    return with_rounding(builder.finalize(), rounding)


def _whole(values: list[float], scale: float = 1.0) -> np.ndarray:
    return (np.array(values, np.float32) * np.float32(scale))[None]


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_sums_and_products_by_hand(rounding: str) -> None:
    x = _whole([-3, 0, 5, 60])
    step, half, double = (1.0, 3), (0.5, -7), (2.0, 10)
    add = _program((1, 4), [step, half], "add", double, rounding)
    assert run_integers(add, x)[0].tolist() == [7, 10, 15, 70]
    subtract = _program((1, 4), [half, half], "subtract", step, rounding)
    assert run_integers(subtract, x)[0].tolist() == [3, 3, 3, 3]
    multiply = _program((1, 4), [step, half], "multiply", (5.0, -100), rounding)
    assert run_integers(multiply, x)[0].tolist() == [-98, -100, -95, 127]


def test_pooling_and_means_by_hand() -> None:
    x = _whole([-3, 2, 5, 8, -1, 0]).reshape(1, 2, 3, 1)
    same = (1.0, 20)
    pool = {"pool_size": (2, 2), "strides": (1, 1), "padding": (0, 0, 1, 1), "count_include_pad": False}
    found = {
        rounding: run_integers(
            _program((1, 2, 3, 1), [same], "nn.avg_pool2d", same, rounding, layout="NHWC", **pool), x
        ).ravel()
        for rounding in ROUNDINGS
    }
    means = np.array([6 / 4, 6 / 4, 5 / 2, 7 / 2, -1 / 2, 0])  # of what lies in the image
    assert found["single"].tolist() == (np.floor(means + 0.5) + 20).tolist()
    assert found["tflite"].tolist() == np.floor(means + 20 + 0.5).tolist()
    mean = _program((1, 2, 3, 1), [same], "mean", (0.5, -4), "single", axis=[1, 2])
    assert run_integers(mean, x).ravel().tolist() == [math.floor(11 / 6 / 0.5 + 0.5) - 4]


def test_tflite_rounds_negative_averages_away_from_zero() -> None:
    pool = {"pool_size": (1, 2), "strides": (1, 2), "count_include_pad": False, "layout": "NHWC"}
    module = _program((1, 1, 4, 1), [(1.0, 0)], "nn.avg_pool2d", (1.0, 0), "tflite", **pool)
    assert run_integers(module, _whole([-3, 0, 3, 0]).reshape(1, 1, 4, 1)).ravel().tolist() == [-2, 2]
    module = with_rounding(module, "single")
    assert run_integers(module, _whole([-3, 0, 3, 0]).reshape(1, 1, 4, 1)).ravel().tolist() == [-1, 2]


@pytest.mark.parametrize("mode", ["half_pixel", "align_corners", "asymmetric"])
@pytest.mark.parametrize("size", [(1, 1), (7, 3), (2, 11)])
def test_resizing_is_torchs_to_a_step(mode: str, size: tuple[int, int]) -> None:
    x = np.random.default_rng(0).integers(-128, 128, (1, 4, 5, 2)).astype(np.float32)
    same = (1.0, 0)
    options = {"size": size, "layout": "NHWC", "method": "linear", "coordinate_transformation_mode": mode}
    found = run_integers(_program(x.shape, [same], "image.resize2d", same, "tflite", **options), x)
    if mode == "asymmetric":  # torch has no such mode: each output by its own sum
        positions = [np.arange(n) * extent / n for n, extent in zip(size, x.shape[1:3], strict=True)]
        expected = x[0]
        for axis, place in enumerate(positions):
            low = np.floor(place).astype(int)
            high, part = np.minimum(low + 1, expected.shape[axis] - 1), place - low
            part = part.reshape(-1, *[1] * (2 - axis))
            expected = expected.take(low, axis) * (1 - part) + expected.take(high, axis) * part
    else:
        image = torch.tensor(x.transpose(0, 3, 1, 2))
        resized = torch.nn.functional.interpolate(
            image, size=size, mode="bilinear", align_corners=mode == "align_corners"
        )
        expected = resized.numpy()[0].transpose(1, 2, 0)
    assert np.abs(found[0] - expected).max() <= 1.5  # positions have 10 fraction bits


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("stride,dilation,padding", [(1, 1, (1, 1, 1, 1)), (2, 1, (0, 1, 2, 0)), (1, 2, (0, 0, 0, 0))])
def test_convolution_is_torchs(groups: int, stride: int, dilation: int, padding: tuple[int, int, int, int]) -> None:
    rng = np.random.default_rng(groups)
    x, w = rng.integers(-128, 128, (2, 9, 7, 4)), rng.integers(-128, 128, (8, 3, 2, 4 // groups))
    geometry = {"strides": stride, "dilation": dilation, "groups": groups}
    found = _weighted(x, w, "conv2d", padding=padding, **geometry)
    top, left, bottom, right = padding
    padded = np.pad(x, [(0, 0), (top, bottom), (left, right), (0, 0)]).transpose(0, 3, 1, 2)
    tensors = (torch.tensor(v, dtype=torch.float64) for v in (padded, w.transpose(0, 3, 1, 2)))
    expected = torch.conv2d(*tensors, stride=stride, dilation=dilation, groups=groups)
    assert np.array_equal(found, _as_int8(expected))


@pytest.mark.parametrize("strides,padding", [((1, 1), (0, 0, 0, 0)), ((2, 3), (1, 0, 2, 1)), ((4, 1), (0, 1, 1, 0))])
def test_transposed_convolution_is_torchs(strides: tuple[int, int], padding: tuple[int, int, int, int]) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.integers(-128, 128, (2, 3, 5, 4)), rng.integers(-128, 128, (6, 3, 2, 4))
    found = _weighted(x, w, "conv2d_transpose", padding=padding, strides=strides)
    tensors = (torch.tensor(v, dtype=torch.float64) for v in (x.transpose(0, 3, 1, 2), w.transpose(3, 0, 1, 2)))
    whole = torch.conv_transpose2d(*tensors, stride=strides)
    top, left, bottom, right = padding
    expected = whole[:, :, top : whole.shape[2] - bottom, left : whole.shape[3] - right]
    assert np.array_equal(found, _as_int8(expected))


def _weighted(x: np.ndarray, w: np.ndarray, operator: str, **geometry: object) -> np.ndarray:
    """A convolution of integers [N, H, W, C] as they are, in steps of 1024."""
    builder = relax.BlockBuilder()
    image = relax.Var("x", relax.TensorType((1, *x.shape[1:]), "float32"))
    one, zero, step = relax.const(np.float32(1)), relax.const(np.int8(0)), relax.const(np.float32(1024))
    with builder.function("main", [image]):
        with builder.dataflow():
            q = builder.emit(relax.op.quantize(image, one, zero, out_dtype="int8"))
            weights = builder.emit(relax.op.dequantize(relax.const(w.astype(np.int8)), one, zero))
            layouts = {"data_layout": "NHWC", "kernel_layout": "OHWI", "out_layout": "NHWC"}
            real = builder.emit(relax.op.dequantize(q, one, zero))
            total = builder.emit(getattr(relax.op.nn, operator)(real, weights, **layouts, **geometry))
            q = builder.emit(relax.op.quantize(total, step, zero, out_dtype="int8"))
            result = builder.emit_output(relax.op.dequantize(q, step, zero))
        builder.emit_func_output(result)
    return run_integers(builder.finalize(), x.astype(np.float32))


def _as_int8(accumulators: torch.Tensor) -> np.ndarray:
    """In steps of 1024, half up, NHWC."""
    return np.clip(np.floor(accumulators.numpy().transpose(0, 2, 3, 1) / 1024 + 0.5), -128, 127)


def _against_tflite_micro(model: bytes, q: np.ndarray) -> None:
    expected = tflite_micro_outputs(model, q)
    module = import_model(model, "drawn")
    quantize = next(value for _, value in bindings_of(module["main"]) if value.op.name == "relax.quantize")
    scale, zero_point = (float(constant_of(argument)) for argument in quantize.args[1:3])
    found = run_integers(module, ((q - zero_point) * scale).astype(np.float32))
    assert np.array_equal(found.reshape(expected.shape), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_every_operator_gives_tflite_micros_bytes(kind: str) -> None:
    require_tflite_micro()
    compared = 0
    for model, q in single_operator_models(kind, np.random.default_rng(0), 10):
        try:
            _against_tflite_micro(model, q)
            compared += 1
        except SgscError as refusal:
            assert "cannot be taken" in str(refusal)
    if not compared:
        pytest.skip(f"the importer refuses every {kind}")


@pytest.mark.parametrize("seed", range(20))
def test_networks_give_tflite_micros_bytes(seed: int) -> None:
    require_tflite_micro()
    model, q = random_model(seed)
    try:
        _against_tflite_micro(model, q)
    except SgscError as refusal:
        pytest.skip(str(refusal))


def _in_float32(operator: str) -> tuple[bytes, np.ndarray]:
    """A model some of whose bytes change where a product or ratio of scales is, or is not, rounded to float32."""
    writer, q = ModelWriter(), np.arange(-50, 50, dtype=np.int8).reshape(-1, 1)
    scales = 0.03225954994559288, 0.029263848438858986, 0.005892573855817318  # -83 - -92: 3, in float32 2
    if operator in ("ADD", "SUB"):
        q = np.arange(-128, 128, dtype=np.int16).astype(np.int8).reshape(-1, 1)
        x = writer.activation((1, 1), Quantization(scales[0], 0))
        other = writer.constant(np.array([[-92]], np.int8), Quantization(scales[1], 0))
        return writer.bytes([x], [writer.binary(operator, x, other, Quantization(scales[2], 0))]), q
    factors = 0.06348933279514313, 0.12305216491222382  # 2^-7 in float32, a little less in float64
    x, output = writer.activation((1, 1), Quantization(factors[0], 0)), Quantization(2.0**-6, 0)
    if operator == "BATCH_MATMUL":
        one = writer.constant(np.array([[1]], np.int8), Quantization(factors[1], 0))
        return writer.bytes([x], [writer.batch_matmul(x, one, output)]), q
    if operator == "MUL":
        one = writer.constant(np.array([[1]], np.int8), Quantization(factors[1], 0))
        return writer.bytes([x], [writer.binary("MUL", x, one, output)]), q
    channels = 2 if operator == "FULLY_CONNECTED by channel" else 1
    weights, of_weights = np.ones((channels, 1), np.int8), np.full(channels, factors[1], np.float32)
    return writer.bytes([x], [writer.fully_connected(x, weights, of_weights, None, output)]), q


@pytest.mark.parametrize(
    "operator", ["ADD", "SUB", "MUL", "BATCH_MATMUL", "FULLY_CONNECTED", "FULLY_CONNECTED by channel"]
)
def test_ratios_of_scales_have_tflite_micros_precision(operator: str, tmp_path: Path) -> None:
    """In the reference and in the kernels: float32 or float64 decides some of these bytes."""
    require_tflite_micro()
    model, q = _in_float32(operator)
    _against_tflite_micro(model, q)
    write_library(optimise(import_model(model, operator)), tmp_path, operator)
    found = HostLibrary(tmp_path).run(q)
    assert np.array_equal(found.ravel(), tflite_micro_outputs(model, q).ravel())


def test_an_accumulator_beyond_int32_is_an_error_and_not_an_answer() -> None:
    for rounding in ROUNDINGS:
        with pytest.raises(SgscError, match="int32"):
            _requantise(np.array([2**31]), 0.1, rounding)


def test_cases_computed_in_parts_are_those_computed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = random_graph(1)
    whole = run_integers(module, x), run(module, x)
    monkeypatch.setattr("sgsc_micro.reference.interpreter.AT_ONCE", 1)
    assert np.array_equal(run_integers(module, x), whole[0]) and np.array_equal(run(module, x), whole[1])


def test_nan_inputs_are_refused() -> None:
    module, x = random_graph(0)
    x[0] = np.nan
    with pytest.raises(SgscError, match="NaN"):
        run(module, x)
