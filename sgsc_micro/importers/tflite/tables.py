"""Functions of one int8 value as tables of 256, computed as tflite-micro's integer kernels compute them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from sgsc_micro.fixed_point import ONE, halved, logistic, scaled, significand, tanh
from sgsc_micro.importers.tflite.model import Refused, Tensor

INPUT_BITS = 4
"""Integer bits of what logistic and tanh see: beyond 15 they are flat."""


def logistic_table(x: Tensor, y: Tensor) -> np.ndarray:
    """int8 [256], from -128 up; to scale 1/256, zero point -128."""
    _check_output(y, 1 / 256, -128)
    return _sigmoid_table(x, logistic, 23, -128)


def tanh_table(x: Tensor, y: Tensor) -> np.ndarray:
    """int8 [256], from -128 up; to scale 1/128, zero point 0."""
    _check_output(y, 1 / 128, 0)
    return _sigmoid_table(x, tanh, 24, 0)


def _sigmoid_table(x: Tensor, function: Callable[[int], int], bits: int, zero_point: int) -> np.ndarray:
    mantissa, exponent = math.frexp(x.scale * 2.0 ** (31 - INPUT_BITS))
    m = math.floor(math.ldexp(mantissa, 31) + 0.5)
    radius = math.floor((2**INPUT_BITS - 1) * 2.0 ** (31 - INPUT_BITS - exponent))

    def value(q: int) -> int:
        if q <= -radius:
            return -128
        return 127 if q >= radius else halved(function(scaled(q, m, exponent)), bits) + zero_point

    return _table(x, value)


def leaky_relu_table(x: Tensor, y: Tensor, alpha: float) -> np.ndarray:
    """int8 [256], from -128 up."""
    slope = x.scale * alpha / y.scale
    if not math.isfinite(slope):
        raise Refused(f"has alpha {alpha}")
    above, below = significand(x.scale / y.scale), significand(abs(slope))
    sign = -1 if slope < 0 else 1
    return _table(x, lambda q: y.zero_point + (scaled(q, *above) if q >= 0 else sign * scaled(q, *below)))


def hard_swish_table(x: Tensor, y: Tensor) -> np.ndarray:
    """int8 [256], from -128 up: x * min(max(x + 3, 0), 6) / 6 in int16 words."""
    fine = x.scale / 128
    output, output_exponent = _half_significand(fine / y.scale)
    relu, relu_exponent = _half_significand(fine / (3 / 32768))
    if output_exponent > 0:
        raise Refused(f"has an output scale of {y.scale}, too fine for its input's {x.scale}")

    def value(q: int) -> int:
        wide = q * 128
        gate = _saturated(wide << max(relu_exponent - 1, 0))
        gate = _high_half(gate, relu)
        gate = _saturated(gate * 2) if relu_exponent > 0 else halved(gate, -relu_exponent)
        gate = (gate + 32768) >> 1  # from [-1, 1) to [0, 1)
        product = gate * _high_half(wide, output)
        result = int(math.copysign(abs(product) >> 15, product))
        return halved(result, -output_exponent) + y.zero_point

    return _table(x, value)


def _half_significand(ratio: float) -> tuple[int, int]:
    """Like :func:`significand` with 15 bits."""
    m, exponent = significand(ratio)
    return (32767 if m >= ONE - (1 << 15) else (m + (1 << 15)) >> 16), exponent


def _high_half(a: int, b: int) -> int:
    """a * b / 2^15, half up, of int16 words."""
    return (a * b + (1 << 14)) >> 15


def _saturated(x: int) -> int:
    return min(max(x, -32768), 32767)


def _check_output(y: Tensor, scale: float, zero_point: int) -> None:
    if (y.scale, y.zero_point) != (scale, zero_point):
        raise Refused(f"has an output of scale {y.scale}, zero point {y.zero_point}, not {scale}, {zero_point}")


def _table(x: Tensor, value: Callable[[int], int]) -> np.ndarray:
    try:
        values = [value(q - x.zero_point) for q in range(-128, 128)]
    except OverflowError as error:
        raise Refused(f"has scales too far apart: {error}") from error
    return np.clip(values, -128, 127).astype(np.int8)
