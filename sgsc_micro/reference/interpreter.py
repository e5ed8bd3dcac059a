"""One walk over the bindings of a Relax QDQ function, every value held as exact integers and their real scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import tvm
from tvm import relax

from sgsc_micro.errors import SgscError
from sgsc_micro.ir import bindings_of, constant_of, is_constant
from sgsc_micro.reference import arithmetic as exact

ADD_BITS = 20


@dataclass(frozen=True)
class Quantised:
    """int8 integers, as stored between operators."""

    q: np.ndarray


@dataclass(frozen=True)
class Real:
    """What stands for a real tensor: ``scale * integers``, clamped to [low, high] (real) when it is quantised.

    integers: int64 [N, ...]; scale: float64, one number or one per channel (last axis; first for weights).
    """

    integers: np.ndarray
    scale: np.ndarray
    low: float = -np.inf
    high: float = np.inf
    stored: np.ndarray | None = None
    """The int8 integers this is the dequantised form of, before any later permutation."""


Value = np.ndarray | Quantised | Real


def run(module: tvm.IRModule, x: np.ndarray) -> np.ndarray:
    """Outputs float32 [N, ...] of a QDQ module for inputs float32 [N, ...], laid out as the user's network takes them.

    Errors: ``SgscError`` for a float operator between quantised ones, or an accumulator beyond int32.
    """
    result = _result(module, x)
    return (result.integers * result.scale).astype(np.float32)


def run_integers(module: tvm.IRModule, x: np.ndarray) -> np.ndarray:
    """The int8 output [N, ...] behind :func:`run`: the bytes the C library must give."""
    return np.asarray(_result(module, x).stored, dtype=np.int8)


def _result(module: tvm.IRModule, x: np.ndarray) -> Real:
    if not np.isfinite(x).all():
        raise SgscError("input: NaN or infinite values", hint="clean the data first")
    result = Interpreter(module).call(module["main"], [x])
    if not isinstance(result, Real) or result.stored is None:
        raise SgscError("reference: the module does not end in a dequantize")
    return result


class Interpreter:
    """Evaluates a module's expressions one by one: whole functions, or a walk over bindings that looks inside."""

    def __init__(self, module: tvm.IRModule) -> None:
        self.module = module

    def call(self, function: relax.Function, arguments: list[Value]) -> Value:
        """A function's value for the values of its parameters."""
        values: dict[relax.Expr, Value] = dict(zip(function.params, arguments, strict=True))
        for var, value in bindings_of(function):
            values[var] = self.evaluate(value, values)
        return values[function.body.body]

    def evaluate(self, expression: relax.Expr, values: Mapping[relax.Expr, Value]) -> Value:
        """An expression's value where its variables have ``values``."""
        if isinstance(expression, relax.Var):
            return values[expression]
        if is_constant(expression):
            return constant_of(expression)
        if isinstance(expression.op, relax.GlobalVar):
            arguments = [self.evaluate(argument, values) for argument in expression.args]
            return self.call(self.module[expression.op], arguments)
        operator = _OPERATORS.get(expression.op.name)
        if operator is None:
            raise SgscError(f"reference: operator {expression.op.name} has no integer meaning")
        parts = [argument for argument in expression.args if not isinstance(argument, relax.ShapeExpr)]
        return operator(expression, *(self.evaluate(part, values) for part in parts))


def _quantize(call: relax.Call, x: Value, scale: np.ndarray, zero_point: np.ndarray) -> Quantised:
    s, z = float(scale), int(zero_point)
    if not isinstance(x, Real):
        return Quantised(exact.quantise(np.asarray(x), s, z))
    low = -128 if np.isneginf(x.low) else int(exact.quantise(np.array(x.low), s, z))
    high = 127 if np.isposinf(x.high) else int(exact.quantise(np.array(x.high), s, z))
    return Quantised(exact.requantise(x.integers, x.scale / s, z, low, high))


def _dequantize(call: relax.Call, x: Value, scale: np.ndarray, zero_point: np.ndarray) -> Real:
    integers = (x.q if isinstance(x, Quantised) else np.asarray(x)).astype(np.int64)
    if zero_point.ndim and zero_point.any():
        raise SgscError("reference: per-channel zero points other than 0")
    centred = integers if zero_point.ndim else integers - int(zero_point)
    return Real(centred, scale.astype(np.float64), stored=integers)


def _conv2d(call: relax.Call, x: Value, w: Value) -> Real:
    x, w = _real(call, x), _real(call, w)
    attrs = call.attrs
    accumulator = exact.conv2d(
        x.integers,
        w.integers,
        strides=[int(v) for v in attrs.strides],
        padding=[int(v) for v in attrs.padding],
        dilation=[int(v) for v in attrs.dilation],
        groups=int(attrs.groups),
    )
    return Real(accumulator, x.scale * w.scale)


def _matmul(call: relax.Call, x: Value, w: Value) -> Real:
    x, w = _real(call, x), _real(call, w)
    accumulator = x.integers.astype(np.float64) @ w.integers.astype(np.float64)  # [N, in] @ [in, out]
    return Real(accumulator.astype(np.int64), x.scale * w.scale)


def _add(call: relax.Call, a: Value, b: Value) -> Real:
    a, b = _real(call, a), _real(call, b)
    if b.integers.ndim == 1:  # a bias: already at the accumulator's scale
        if not np.allclose(b.scale, a.scale, rtol=1e-5, atol=0):
            raise SgscError("reference: a bias is not at the scale of its accumulator")
        return replace(a, integers=a.integers + b.integers)
    if a.scale.ndim or b.scale.ndim:
        raise SgscError("reference: add of an accumulator that was not quantised first")
    largest = max(a.scale, b.scale)
    coefficients = [int(np.floor(2.0**ADD_BITS * (t.scale / largest) + 0.5)) for t in (a, b)]
    return Real(coefficients[0] * a.integers + coefficients[1] * b.integers, largest / 2.0**ADD_BITS)


def _clamp(low: float, high: float, call: relax.Call, x: Value) -> Real:
    x = _real(call, x)
    return replace(x, low=max(x.low, low), high=min(x.high, high), stored=None)


def _relu(call: relax.Call, x: Value) -> Real:
    return _clamp(0.0, np.inf, call, x)


def _clip(call: relax.Call, x: Value, low: np.ndarray, high: np.ndarray) -> Real:
    return _clamp(float(low), float(high), call, x)


def _max_pool2d(call: relax.Call, x: Value) -> Quantised:
    if not isinstance(x, Quantised):
        raise SgscError("reference: max pooling of a tensor that is not quantised")
    attrs = call.attrs
    if attrs.ceil_mode or any(int(v) != 1 for v in attrs.dilation):
        raise SgscError("reference: max pooling with ceil_mode or dilation")
    windows = exact.windows(
        x.q,
        [int(v) for v in attrs.pool_size],
        [int(v) for v in attrs.strides],
        [int(v) for v in attrs.padding],
        fill=-128,
    )
    return Quantised(windows.max(axis=(-2, -1)))


def _avg_pool2d(call: relax.Call, x: Value) -> Real:
    x, attrs = _real(call, x), call.attrs
    if attrs.ceil_mode or any(int(v) for v in attrs.padding):
        raise SgscError("reference: average pooling with padding or ceil_mode", hint="pool without")
    size = [int(v) for v in attrs.pool_size]
    windows = exact.windows(x.integers, size, [int(v) for v in attrs.strides], [0, 0, 0, 0], fill=0)
    return Real(windows.sum(axis=(-2, -1)), x.scale / (size[0] * size[1]))


def _reshape(call: relax.Call, x: Value) -> Value:
    shape = [-1, *(int(extent) for extent in call.args[1].values[1:])]  # the first axis is the batch
    return _move(x, lambda array: array.reshape(shape))


def _permute_dims(call: relax.Call, x: Value) -> Value:
    axes = None if call.attrs.axes is None else [int(axis) for axis in call.attrs.axes]
    return _move(x, lambda array: array.transpose(axes))


def _move(x: Value, move: Callable[[np.ndarray], np.ndarray]) -> Value:
    if isinstance(x, Quantised):
        return Quantised(move(x.q))
    return replace(x, integers=move(x.integers)) if isinstance(x, Real) else move(x)


def _real(call: relax.Call, x: Value) -> Real:
    if not isinstance(x, Real):
        raise SgscError(f"reference: {call.op.name} works on a tensor that is not quantised")
    if not (np.isneginf(x.low) and np.isposinf(x.high)) and call.op.name not in ("relax.nn.relu", "relax.clip"):
        raise SgscError(f"reference: {call.op.name} follows an activation that was not quantised")
    return x


_OPERATORS: dict[str, Callable[..., Value]] = {
    "relax.quantize": _quantize,
    "relax.dequantize": _dequantize,
    "relax.nn.conv2d": _conv2d,
    "relax.matmul": _matmul,
    "relax.add": _add,
    "relax.nn.relu": _relu,
    "relax.clip": _clip,
    "relax.nn.max_pool2d": _max_pool2d,
    "relax.nn.avg_pool2d": _avg_pool2d,
    "relax.reshape": _reshape,
    "relax.permute_dims": _permute_dims,
}
