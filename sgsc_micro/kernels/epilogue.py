"""How the channels of a weighted layer end: bias, multiplier, shift, clamp, as c/sgsc_weighted.h takes them."""

from __future__ import annotations

import numpy as np

from sgsc_micro.kernels.builder import Expression, Kernel, check
from sgsc_micro.kernels.constants import Constants, Entry
from sgsc_micro.passes.operators import Weighted
from sgsc_micro.passes.requantise import DoubleRounding, Multiplier

_SHORT_LIMIT = 2**30
"""Where TFLite's rounding could overflow: the micro-kernel doubles the accumulator first."""
_LONG_FORM = 64
"""Added to a shift whose channel must take the longer way."""
_FULL = (-128, 127)


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
        self.zero_point, self.bounds, self.rounding = output.zero_point, output.bounds, output.rounding
        self.bias = constants.integers("bias", bias, ("halves", "ints"))
        self.multipliers = _stored(constants, "multipliers", [multiplier.m for multiplier in multipliers], "ints")
        self.shifts = _stored(constants, "shifts", shifts, "bytes")

    @property
    def kind(self) -> str:
        """How the micro-kernels that do it are called at their end."""
        return self.rounding if self.bounds == _FULL else f"{self.rounding}_clamped"

    def arguments(self, built: Kernel, channel: Expression) -> list[Expression]:
        """The micro-kernel's arguments from the bias on, for channels from ``channel``."""
        at = {entry: channel if entry.count > 1 else 0 for entry in (self.multipliers, self.shifts)}
        return [
            built.address(self.bias, channel),
            2 if self.bias.pool == "halves" else 4,
            *(x for entry, index in at.items() for x in (built.address(entry, index), int(entry.count > 1))),
            self.zero_point,
            *self.bounds,
        ]


def _shift(multiplier: Multiplier, bound: int) -> int:
    shift = multiplier.right - multiplier.left
    doubles = isinstance(multiplier, DoubleRounding)
    return shift + _LONG_FORM if doubles and bound << multiplier.left >= _SHORT_LIMIT else shift


def _stored(constants: Constants, what: str, values: list[int], pool: str) -> Entry:
    same = len(set(values)) == 1
    return constants.integers(what, np.array(values[:1] if same else values), (pool,))
