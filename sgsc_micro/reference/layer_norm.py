"""Layer normalisation in whole numbers (docs/semantics.md), for int8 in steps of one scale, out in steps of another."""

from __future__ import annotations

import math

import numpy as np

from sgsc_micro.errors import SgscError
from sgsc_micro.reference.arithmetic import tflite_multiplier

LONGEST = 1024


def layer_norm_rows(q: np.ndarray, scale: float, epsilon: float, output_scale: float) -> np.ndarray:
    """int64 [..., F]: steps of ``output_scale`` of int8 [..., F] at ``scale``, each row to mean 0 and variance 1.

    Errors: ``SgscError`` where F is beyond 1024, or epsilon is so much more than scale^2 that 64 bits do not hold both.
    """
    length = q.shape[-1]
    if length > LONGEST:
        raise SgscError(f"reference: layer norm over {length} values")
    rows = q.reshape(-1, length).astype(np.int64)
    total, squares = rows.sum(axis=1), (rows**2).sum(axis=1)
    one = length**2 * epsilon / (scale * scale)
    fitting = [bits for bits in range(11) if math.floor(4**bits * one + 0.5) <= 2**61]
    if not fitting:
        raise SgscError("reference: the epsilon of a layer norm outweighs its input", hint="use a larger input scale")
    bits = fitting[-1]
    added = math.floor(4**bits * one + 0.5)
    m, exponent = tflite_multiplier(2**bits / output_scale)
    factors, shifts = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
    for row, variance in enumerate((length * squares - total**2).tolist()):
        weight, doublings = max(4**bits * variance + added, 1), 0
        while weight << 2 * doublings < 2**62:
            doublings += 1
        factors[row] = (m << 32) // math.isqrt(weight << 2 * doublings)
        shifts[row] = min(max(63 - exponent - doublings, 1), 62)
    deviations = length * rows - total[:, None]
    steps = (deviations * factors[:, None] + (np.int64(1) << shifts[:, None] - 1)) >> shifts[:, None]
    return steps.reshape(q.shape)
