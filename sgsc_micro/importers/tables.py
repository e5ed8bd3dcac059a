"""Operators that become tables when their result is quantised: functions of one value, rows for tokens."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from tvm import relax

from sgsc_micro.ir import constant_of

Emit = Callable[[relax.Expr], relax.Var]
Waiting = Callable[[Emit, relax.Call], relax.Var]
"""Emits the int8 result of an operator, given the quantize call that ends it."""

FUNCTIONS: dict[str, Callable[[float], float]] = {
    "relax.nn.gelu": lambda x: x * math.erfc(-x / math.sqrt(2)) / 2,
    "relax.nn.gelu_tanh": lambda x: x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "relax.sigmoid": lambda x: 1 / (1 + math.exp(-x)) if x >= 0 else 1 - 1 / (1 + math.exp(x)),
    "relax.tanh": math.tanh,
}
"""Functions of one value, which become tables."""


def lookup(source: relax.Call, function: Callable[[float], float]) -> Waiting:
    """A table of ``function`` of what the dequantize ``source`` gives: take(table, astype(q, int32) + 128)."""
    scale, zero_point = float(constant_of(source.args[1])), int(constant_of(source.args[2]))
    values = np.array([function(scale * (q - zero_point)) for q in range(-128, 128)])

    def emit_lookup(emit: Emit, quantize: relax.Call) -> relax.Var:
        return emit(relax.op.take(relax.const(_quantised(values, quantize)), _index(emit, source.args[0], 128)))

    return emit_lookup


def embedding(source: relax.Call, weights: np.ndarray, dequantize: relax.Call) -> Waiting:
    """Rows of ``weights`` int8 [V, F] for the tokens that the dequantize ``source`` gives, at scale 1.

    take(table, clip(astype(q, int32) - zero_point, 0, V - 1), axis=0).
    """
    scale, zero_point = (np.float64(constant_of(argument)) for argument in dequantize.args[1:3])
    values = (weights - zero_point.reshape(-1, 1)) * scale.reshape(-1, 1)

    def emit_embedding(emit: Emit, quantize: relax.Call) -> relax.Var:
        token = _index(emit, source.args[0], -int(constant_of(source.args[2])))
        inside = emit(relax.op.clip(token, 0, len(weights) - 1))
        return emit(relax.op.take(relax.const(_quantised(values, quantize)), inside, axis=0))

    return emit_embedding


def _index(emit: Emit, q: relax.Expr, offset: int) -> relax.Var:
    return emit(relax.op.add(emit(relax.op.astype(q, "int32")), relax.const(np.int32(offset))))


def _quantised(values: np.ndarray, quantize: relax.Call) -> np.ndarray:
    scale, zero_point = float(constant_of(quantize.args[1])), int(constant_of(quantize.args[2]))
    return np.clip(np.floor(values / scale + 0.5) + zero_point, -128, 127).astype(np.int8)
