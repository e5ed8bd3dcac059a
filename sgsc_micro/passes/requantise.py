"""From ratios of scales to integer multipliers (docs/semantics.md), and their use on whole numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

INT32_MAX = 2**31 - 1
ADD_BITS = 20
"""Fraction bits of the coefficients that bring an add's inputs to one scale."""


@dataclass(frozen=True)
class Multiplier:
    """ratio = m * 2^(left - 32 - shift), m below 2^31, shift in 1..22."""

    m: int
    shift: int
    left: int

    @staticmethod
    def of(ratio: float) -> Multiplier:
        """The multiplier of a positive, finite ratio."""
        mantissa, exponent = math.frexp(ratio)  # ratio = mantissa * 2^exponent, mantissa in [1/2, 1)
        left = max(0, exponent + 2)
        shift = min(left - exponent - 1, 22)
        m = math.floor(math.ldexp(mantissa, exponent - left + 32 + shift) + 0.5)
        return Multiplier(min(m, INT32_MAX), shift, left)

    def apply(self, accumulator: int) -> int:
        """floor((accumulator * 2^left * m + 2^(31 + shift)) / 2^(32 + shift))."""
        return ((accumulator << self.left) * self.m + (1 << (31 + self.shift))) >> (32 + self.shift)


def quantise_bound(value: float, scale: float, zero_point: int) -> int:
    """The int8 that a real bound of a clip becomes; an infinite one is the end of the range."""
    if math.isinf(value):
        return 127 if value > 0 else -128
    return min(max(math.floor(value / scale + 0.5) + zero_point, -128), 127)
