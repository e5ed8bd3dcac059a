"""What a graph computes from constants alone, as an array: masks, and constants under another shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tvm import relax

from sgsc_micro.errors import SgscError
from sgsc_micro.ir import constant_of, is_constant, shape_of


def evaluate(expression: relax.Expr, calls: Mapping[relax.Expr, relax.Call]) -> np.ndarray | None:
    """The value of a constant, or of a call in ``calls`` on such; None where it is known at run time only."""
    if is_constant(expression):
        return constant_of(expression)
    call = calls.get(expression)
    compute = None if call is None else _COMPUTED.get(call.op.name)
    if call is None or compute is None:
        return None
    operands = [evaluate(argument, calls) for argument in call.args if isinstance(argument.ty, relax.TensorType)]
    return None if any(operand is None for operand in operands) else np.asarray(compute(call, *operands))


def mask(values: np.ndarray) -> relax.Expr:
    """A float32 constant [rows, columns] of 0 and -inf, to be added before a softmax.

    Errors: ``SgscError`` where it differs from head to head.
    """
    if values.ndim < 2 or math.prod(values.shape[:-2]) != 1:
        raise SgscError(f"importer: a mask of shape {list(values.shape)}", hint="use one mask for all heads")
    return relax.const(values.reshape(values.shape[-2:]).astype(np.float32))


def _sliced(call: relax.Call, x: np.ndarray) -> np.ndarray:
    axes, begins, ends = ([int(v.value) for v in argument] for argument in call.args[1:4])
    steps = [int(v.value) for v in call.args[4]] if len(call.args) > 4 else [1] * len(axes)
    parts = [slice(None)] * x.ndim
    for axis, *part in zip(axes, begins, ends, steps, strict=True):
        parts[axis] = slice(*part)
    return x[tuple(parts)]


_COMPUTED: dict[str, Callable[..., Any]] = {
    "relax.astype": lambda call, x: x.astype(str(call.attrs.dtype)),
    "relax.broadcast_to": lambda call, x: np.broadcast_to(x, shape_of(call)),
    "relax.equal": lambda _, a, b: a == b,
    "relax.expand_dims": lambda call, x: x.reshape(shape_of(call)),
    "relax.full": lambda call, x: np.full(shape_of(call), x),
    "relax.logical_not": lambda _, x: ~x,
    "relax.reshape": lambda call, x: x.reshape(shape_of(call)),
    "relax.strided_slice": _sliced,
    "relax.where": lambda _, condition, a, b: np.where(condition, a, b),
}
