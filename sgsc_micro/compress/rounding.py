"""Rounding a layer's weights to few bits so that its outputs stay: least squares, then one weight after the other.

The error of weights w' beside w, for inputs with second moments H, is (w - w') H (w - w')^T. What rounding a weight
does to it is made good by the weights not yet rounded: E. Frantar et al., "GPTQ", arXiv 2210.17323.
Shapes: g groups, o outputs of a group, t taps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DAMPING = 0.01
"""Of the mean second moment: holds weights that the inputs say little about where they were."""
PRECISION = 1e-9
"""Of the mean square: inputs that vary by less do not vary."""
SWEEPS = 2
"""Over all weights after the first rounding, each set to its best value beside the others."""
RANGES = np.linspace(0.4, 1.0, 13)
"""Of the range that holds every weight: the candidates for what is clipped."""
EXPONENTS = np.arange(-1, 9)
"""Of the candidates where scales are to stay powers of two of each other."""


@dataclass(frozen=True)
class Moments:
    """Means over (weighted) rows of inputs x [g, t] that a layer sees and outputs y [g, o] that it should give."""

    inputs: np.ndarray  # E[x], [g, t]
    outputs: np.ndarray  # E[y], [g, o]
    second: np.ndarray  # E[x x^T] of what deviates from the mean, [g, t, t]
    cross: np.ndarray  # E[y x^T], the same, [g, o, t]
    power: float  # sum over all outputs of their variance

    @property
    def damped(self) -> np.ndarray:
        """``second`` with a diagonal that makes it definite; [g, t, t]."""
        diagonal = np.einsum("gtt->gt", self.second)
        floor = DAMPING * diagonal.mean(axis=1) + PRECISION * (self.inputs**2).mean(axis=1)  # [g]
        return self.second + np.where(floor > 0, floor, 1.0)[:, None, None] * np.eye(diagonal.shape[1])

    def target(self, weights: np.ndarray) -> np.ndarray:
        """The real weights [g, o, t] that give the outputs best; near ``weights`` where the inputs leave a choice."""
        gap = self.cross - weights @ self.second
        return weights + np.linalg.solve(self.damped, gap.transpose(0, 2, 1)).transpose(0, 2, 1)

    def error(self, deviation: np.ndarray) -> np.ndarray:
        """Mean square that weights off by ``deviation`` [g, o, t] add to the outputs; [g, o]."""
        return np.einsum("got,got->go", deviation @ self.second, deviation)


def choose_scales(moments: Moments, target: np.ndarray, widths: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """float32 [g, o]: of a few candidates those with which ``target`` rounded to ``widths`` [g, o] loses least.

    Where ``scales`` [g, o] are powers of two of each other, their own powers of two: no multipliers need be stored.
    """
    low, high = limits(widths)
    if is_powers_of_two(scales / scales.flat[0]):
        candidates = scales[..., None] * 2.0**EXPONENTS  # [g, o, f]
    else:
        above = target.max(axis=2, initial=0) / np.maximum(high, 1)
        needed = np.maximum(above, target.min(axis=2, initial=0) / np.minimum(low, -1))  # [g, o]
        candidates = np.where(needed > 0, needed, scales)[..., None] * RANGES
    candidates = candidates.astype(np.float32)
    errors = [
        moments.error(_nearest(target, scale, low, high) * scale[..., None] - target)
        for scale in np.moveaxis(candidates, 2, 0)
    ]
    best = np.argmin(errors, axis=0)[..., None]
    return np.take_along_axis(candidates, best, axis=2)[..., 0]


def round_weights(moments: Moments, target: np.ndarray, widths: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """int64 [g, o, t] within ``widths`` [g, o]: ``target`` [g, o, t] in units of ``scales`` [g, o]."""
    low, high = limits(widths)
    hessian = moments.damped
    order = np.argsort(-np.einsum("gtt->gt", hessian), axis=1, kind="stable")  # [g, t]
    rest = np.take_along_axis(target, order[:, None, :], axis=2)
    sorted_rows = np.take_along_axis(hessian, order[:, :, None], axis=1)
    inverse = np.linalg.inv(np.take_along_axis(sorted_rows, order[:, None, :], axis=2))
    upper = np.linalg.cholesky(inverse).transpose(0, 2, 1)  # [g, t, t]
    rounded = np.empty_like(rest)
    for tap in range(rest.shape[2]):
        rounded[..., tap] = np.clip(np.rint(rest[..., tap] / scales), low, high)
        error = (rest[..., tap] - rounded[..., tap] * scales) / upper[:, tap, tap, None]  # [g, o]
        rest[..., tap + 1 :] -= error[..., None] * upper[:, None, tap, tap + 1 :]
    integers = np.take_along_axis(rounded, np.argsort(order, axis=1)[:, None, :], axis=2)
    return _settled(integers, target, hessian, scales, low, high).astype(np.int64)


def limits(widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest integer of so many bits; 0 and 0 for none."""
    reach = np.where(widths > 0, 2.0 ** (widths - 1.0), 0)
    return -reach, np.maximum(reach - 1, 0)


def is_powers_of_two(ratios: np.ndarray) -> bool:
    """Whether every positive ratio is one."""
    return bool((np.frexp(ratios)[0] == 0.5).all())


def _settled(
    integers: np.ndarray, target: np.ndarray, hessian: np.ndarray, scales: np.ndarray, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """Coordinate descent: it only ever lowers the error."""
    gradient = (integers * scales[..., None] - target) @ hessian  # [g, o, t]
    for _ in range(SWEEPS):
        for tap in range(integers.shape[2]):
            step = gradient[..., tap] / (hessian[:, tap, tap, None] * scales)
            better = np.clip(np.rint(integers[..., tap] - step), low, high)
            change = (better - integers[..., tap]) * scales  # [g, o]
            integers[..., tap] = better
            gradient += change[..., None] * hessian[:, None, tap, :]
    return integers


def _nearest(target: np.ndarray, scales: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(target / scales[..., None]), low[..., None], high[..., None])
