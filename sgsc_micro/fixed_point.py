"""Fixed-point arithmetic as TFLite's kernels do it (docs/semantics.md): int32 words of so many fraction bits.

Everything here runs when a network is compiled; what of it a microcontroller does is in c/sgsc_kernels.h.
"""

from __future__ import annotations

import math

import numpy as np

ONE = 2**31 - 1
"""The largest word of 31 fraction bits stands for 1."""


def high_product(a: int, b: int) -> int:
    """a * b / 2^31, half up: the product of words whose integer bits add up."""
    return (a * b + (1 << 30)) >> 31


def halved(x: int, bits: int) -> int:
    """x / 2^bits, half away from zero."""
    magnitude = (abs(x) + (1 << bits >> 1)) >> bits
    return magnitude if x >= 0 else -magnitude


_EXP_EIGHTH = 1895147668  # exp(-1/8)
_THIRD = 715827883
_EXP_POWERS = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)
"""exp(-2^k) for k = -2 .. 4, 31 fraction bits."""


def exp_negative(x: int, integer_bits: int = 5) -> int:
    """exp of a word <= 0 with ``integer_bits`` integer bits, as a word of 31 fraction bits.

    A polynomial of fourth degree on (-1/4, 0], times exp(-2^k) for every bit of the rest.
    """
    if x == 0:
        return ONE
    fraction_bits = 31 - integer_bits
    quarter = 1 << (fraction_bits - 2)
    within = (x & (quarter - 1)) - quarter  # in [-1/4, 0)
    a = (within << integer_bits) + (1 << 28)  # + 1/8
    a2 = high_product(a, a)
    a3, a4 = high_product(a2, a), high_product(a2, a2)
    series = halved(high_product(halved(a4, 2) + a3, _THIRD) + a2, 1)
    result = _EXP_EIGHTH + high_product(_EXP_EIGHTH, a + series)
    rest = within - x
    for exponent, power in enumerate(_EXP_POWERS, start=-2):
        if integer_bits > exponent and rest & (1 << (fraction_bits + exponent)):
            result = high_product(result, power)
    return result


SOFTMAX_BITS = 5
"""Integer bits of a difference inside softmax: beyond 31 it counts for nothing."""


def exp_table(scale: float) -> np.ndarray:
    """exp(-d * scale) for d = 0, 1, ... as far as a softmax counts it; int64 [<= 256], 31 fraction bits.

    Errors: ``ValueError`` for a scale below 2^-26, at which TFLite gives up as well.
    """
    ratio = min(scale * 2.0 ** (31 - SOFTMAX_BITS), 2.0**31 - 1)
    if ratio <= 1:
        raise ValueError(f"softmax of an input of scale {scale}")
    mantissa, left = math.frexp(ratio)
    m = math.floor(math.ldexp(mantissa, 31) + 0.5)
    if m == 2**31:
        m, left = 2**30, left + 1
    radius = math.floor((2**SOFTMAX_BITS - 1) * 2.0 ** (31 - SOFTMAX_BITS) / 2.0**left)
    differences = range(min(radius, 255) + 1)
    return np.array([exp_negative(high_product(-difference << left, m), SOFTMAX_BITS) for difference in differences])


def significand(ratio: float) -> tuple[int, int]:
    """(m, exponent) of a ratio: m * 2^(exponent - 31), |m| in [2^30, 2^31); (0, 0) where 31 shifts leave nothing."""
    mantissa, exponent = math.frexp(ratio)
    m = math.floor(abs(math.ldexp(mantissa, 31)) + 0.5)
    if m == 2**31:
        m, exponent = 2**30, exponent + 1
    return (int(math.copysign(m, ratio)), exponent) if exponent >= -31 else (0, 0)


def scaled(x: int, m: int, exponent: int) -> int:
    """x * m * 2^(exponent - 31), rounded twice: to the high word, then to what lies above the bits shifted out.

    Errors: ``OverflowError`` where x leaves int32 on its way.
    """
    shifted = x << max(exponent, 0)
    if abs(shifted) > ONE:
        raise OverflowError(f"{x} * 2^{exponent} leaves int32")
    return halved(high_product(shifted, m), max(-exponent, 0))


def _newton_reciprocal(x: int) -> int:
    """2 / (1 + x), 29 fraction bits, of x in [0, 1) with 31: three steps of Newton's method."""
    half = halved(x + ONE, 1)
    y = 1515870810 + high_product(half, -1010580540)  # 48/17 - 32/17 * half
    for _ in range(3):
        y += high_product(y, (1 << 29) - high_product(half, y)) * 4
    return y


def logistic(x: int) -> int:
    """1 / (1 + exp(-x)) of a word with 4 integer bits, as a word of 31 fraction bits."""
    if x == 0:
        return 1 << 30
    positive = min(_newton_reciprocal(exp_negative(-abs(x), 4)) * 2, ONE)
    return positive if x > 0 else ONE - positive


def tanh(x: int) -> int:
    """tanh of a word with 4 integer bits, as a word of 31 fraction bits."""
    magnitude = min((_newton_reciprocal(exp_negative(-abs(x), 5)) - (1 << 29)) * 4, ONE)
    return magnitude if x > 0 else -magnitude if x < 0 else 0
