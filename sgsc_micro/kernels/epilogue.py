"""How the channels of a weighted layer end: bias, multiplier, shift, clamp, as c/sgsc_weighted.h takes them."""

from __future__ import annotations

import numpy as np

from sgsc_micro.kernels.builder import Expression, Kernel, check, clamped, is_short
from sgsc_micro.kernels.constants import Constants, Entry
from sgsc_micro.passes.operators import Weighted
from sgsc_micro.passes.requantise import Multiplier

_LARGEST_SHORT = 22
"""The largest shift of the short form."""
_LONG_FORM = 64
"""Added to a shift whose channel must take the longer way."""


class Epilogue:
    """The constants of a layer's channels; multipliers and shifts once where all channels agree."""

    def __init__(self, constants: Constants, operator: Weighted, bias: np.ndarray) -> None:
        """``bias`` int [O]: what the sums of products begin with.

        Errors: ``SgscError`` naming the layer where an accumulator could leave int32.
        """
        output, bounds = operator.output, operator.accumulator_bound()
        multipliers = [output.multiplier(float(scale)) for scale in operator.accumulator_scales()]
        check(constants.layer, multipliers, bounds)
        shifts = [_shift(multiplier, bound) for multiplier, bound in zip(multipliers, bounds.tolist(), strict=True)]
        self.output = output
        self.bias = constants.integers("bias", bias, ("halves", "ints"))
        self.all_short = all(1 <= shift <= _LARGEST_SHORT for shift in shifts)
        self.multipliers = _stored(constants, "multipliers", [multiplier.m for multiplier in multipliers], "ints")
        self.shifts = _stored(constants, "shifts", shifts, "bytes")

    @property
    def clamping(self) -> str:
        """The rounding, and whether there are bounds besides int8's, as micro-kernels are called at their end."""
        return clamped(self.output.rounding, self.output)

    @property
    def kind(self) -> str:
        """The same of micro-kernels that know whether every channel takes the short form."""
        return self.clamping if self.all_short else f"{self.output.rounding}_any"

    def arguments(self, built: Kernel, channel: Expression) -> list[Expression]:
        """The micro-kernel's arguments from the bias on, for channels from ``channel``."""
        at = {entry: channel if entry.count > 1 else 0 for entry in (self.multipliers, self.shifts)}
        return [
            built.address(self.bias, channel),
            2 if self.bias.pool == "halves" else 4,
            *(x for entry, index in at.items() for x in (built.address(entry, index), int(entry.count > 1))),
            self.output.zero_point,
            *self.output.bounds,
        ]


def _shift(multiplier: Multiplier, bound: int) -> int:
    shift = multiplier.right - multiplier.left
    return shift if is_short(multiplier, bound) else shift + _LONG_FORM


def _stored(constants: Constants, what: str, values: list[int], pool: str) -> Entry:
    same = len(set(values)) == 1
    return constants.integers(what, np.array(values[:1] if same else values), (pool,))
