"""From ratios of scales to integer multipliers (docs/semantics.md), and their use on whole numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

INT32_MAX = 2**31 - 1
ADD_BITS = 20
"""Fraction bits of the coefficients that bring an add's inputs to one scale."""

Rounding = Literal["single", "tflite"]


@dataclass(frozen=True)
class Multiplier:
    """An integer that stands for a ratio of scales.

    The accumulator is shifted left by ``left`` bits (it has to fit int32 still), multiplied by ``m`` (below 2^31),
    and what lies above the low word is shifted right by ``right`` bits, of which ``least_right`` are always there.
    """

    least_right: ClassVar[int]
    m: int
    right: int
    left: int

    def apply(self, accumulator: int) -> int:
        """round(accumulator * ratio)."""
        raise NotImplementedError


class SingleRounding(Multiplier):
    """ratio = m * 2^(left - 32 - right), right in 1..22."""

    least_right = 1

    @staticmethod
    def of(ratio: float) -> SingleRounding:
        """The multiplier of a positive, finite ratio."""
        mantissa, exponent = math.frexp(ratio)  # ratio = mantissa * 2^exponent, mantissa in [1/2, 1)
        left = max(0, exponent + 2)
        right = min(left - exponent - 1, 22)
        m = math.floor(math.ldexp(mantissa, exponent - left + 32 + right) + 0.5)
        return SingleRounding(min(m, INT32_MAX), right, left)

    def apply(self, accumulator: int) -> int:
        """floor((accumulator * 2^left * m + 2^(31 + right)) / 2^(32 + right))."""
        return ((accumulator << self.left) * self.m + (1 << (31 + self.right))) >> (32 + self.right)


class DoubleRounding(Multiplier):
    """TFLite's: ratio = m * 2^(left - 31 - right), right in 0..31."""

    least_right = 0

    @staticmethod
    def of(ratio: float) -> DoubleRounding:
        """The multiplier of a positive, finite ratio; one too small for 31 bits is 0."""
        mantissa, exponent = math.frexp(ratio)
        m = math.floor(math.ldexp(mantissa, 31) + 0.5)
        if m == 2**31:
            m, exponent = 2**30, exponent + 1
        return DoubleRounding(m, max(-exponent, 0), max(exponent, 0)) if exponent >= -31 else DoubleRounding(0, 0, 0)

    def apply(self, accumulator: int) -> int:
        """Half up to the high word, then half away from zero over the bits that remain."""
        high = ((accumulator << self.left) * self.m + (1 << 30)) >> 31
        half = (1 << self.right) >> 1
        return (high + half - (high < 0 and self.right > 0)) >> self.right


def multiplier_of(ratio: float, rounding: Rounding) -> Multiplier:
    """The multiplier of a ratio of scales under a rounding."""
    return SingleRounding.of(ratio) if rounding == "single" else DoubleRounding.of(ratio)


def quantise_bound(value: float, scale: float, zero_point: int, rounding: Rounding) -> int:
    """The int8 that a real bound of a clip becomes; an infinite one is the end of the range."""
    if math.isinf(value):
        return 127 if value > 0 else -128
    if rounding == "single":
        steps = math.floor(value / scale + 0.5)
    else:
        quotient = float(np.float32(value) / np.float32(scale))  # TFLite divides in float32
        steps = int(math.copysign(math.floor(abs(quotient) + 0.5), quotient))
    return min(max(steps + zero_point, -128), 127)
