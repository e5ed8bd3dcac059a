"""What stands for a tensor between two operators of a QDQ graph, and how it becomes int8 again.

Every array has the cases of a batch as its first axis, before the axes that the graph knows of; a constant has 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sgsc_micro.errors import SgscError
from sgsc_micro.reference import arithmetic as exact
from sgsc_micro.reference.layer_norm import layer_norm_rows


@dataclass(frozen=True)
class Dequantised:
    """scale * (q - zero_point): ``q`` int8 (int32 in a bias), ``scale`` float32, one or one per channel."""

    q: np.ndarray
    scale: np.ndarray
    zero_point: int
    stored: np.ndarray
    """``q`` before any later permutation."""

    @property
    def centred(self) -> np.ndarray:
        """q - zero_point, int64."""
        return self.q.astype(np.int64) - self.zero_point

    def floats(self, dtype: type[np.floating]) -> np.ndarray:
        """q - zero_point as floats, for BLAS."""
        return self.q.astype(dtype) - dtype(self.zero_point)

    def steps(self, scale: np.float32, zero_point: int, rounding: str) -> np.ndarray:
        """See :class:`Accumulator`: requantising."""
        return Accumulator(self.centred, self.scale.astype(np.float64)).steps(scale, zero_point, rounding)


@dataclass(frozen=True)
class Accumulator:
    """scale / count * integers: int64 [N, ...]; ``scale`` float64, broadcastable to it.

    ``count`` is what TFLite divides its multiplier by in a mean.
    """

    integers: np.ndarray
    scale: np.ndarray
    count: int = 1

    def steps(self, scale: np.float32, _zero_point: int, rounding: str) -> np.ndarray:
        """int64: the real value in steps of ``scale``, rounded."""
        ratio = self.scale / float(scale)
        if rounding == "single":
            return exact.requantise_single(self.integers, ratio)
        return exact.requantise_twice(self.integers, ratio, self.count)


@dataclass(frozen=True)
class Finished:
    """Integers that are those of the output already, for operators that keep or prescribe its scale."""

    q: np.ndarray
    scale: float
    zero_point: int

    def steps(self, scale: np.float32, zero_point: int, _rounding: str) -> np.ndarray:
        """int64: q - zero_point.

        Errors: ``SgscError`` where the output has another scale (by 1e-6) or zero point.
        """
        if abs(float(scale) - self.scale) > 1e-6 or zero_point != self.zero_point:
            raise SgscError(
                "reference: an operator that keeps its scale is quantised to another", hint="requantise after it"
            )
        return self.q.astype(np.int64) - zero_point


@dataclass(frozen=True)
class Normalised:
    """``value`` with every row of its last axis to mean 0 and variance 1, but for ``epsilon``."""

    value: Dequantised
    epsilon: float

    def steps(self, scale: np.float32, _zero_point: int, _rounding: str) -> np.ndarray:
        """int64: the real value in steps of ``scale``, rounded half up."""
        return layer_norm_rows(self.value.q, float(self.value.scale), self.epsilon, float(scale))


@dataclass(frozen=True)
class Masked:
    """``value`` of which a softmax sees what is ``seen``, bool [1, rows, columns]."""

    value: Dequantised
    seen: np.ndarray


@dataclass(frozen=True)
class Activated:
    """A value clamped to [low, high] (real) when it is quantised."""

    value: Dequantised | Accumulator | Finished | Normalised
    low: float
    high: float


Value = np.ndarray | Dequantised | Accumulator | Finished | Normalised | Masked | Activated
"""An array is int8 as stored, or float32: the network's input."""


def quantise(x: Value, scale: np.float32, zero_point: int, rounding: str) -> np.ndarray:
    """int8 [N, ...] of any value."""
    if isinstance(x, np.ndarray):
        return exact.quantise(x, float(scale), zero_point).astype(np.int8)
    if isinstance(x, Masked):
        raise SgscError("reference: a masked tensor is read by something else than a softmax")
    active = x if isinstance(x, Activated) else Activated(x, -np.inf, np.inf)
    low, high = (exact.bound(v, float(scale), zero_point, rounding) for v in (active.low, active.high))
    steps = active.value.steps(scale, zero_point, rounding)
    return np.clip(steps + zero_point, low, high).astype(np.int8)
