"""One walk over the bindings of a Relax QDQ module, every value held as exact integers and their real scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import tvm
from tvm import relax

from sgsc_micro.errors import SgscError
from sgsc_micro.ir import bindings_of, constant_of, is_constant, rounding_of, shape_of
from sgsc_micro.reference import computed, moves, weighted
from sgsc_micro.reference.values import Activated, Dequantised, Masked, Value, quantise

AT_ONCE = 2**21
"""Values of a network's largest tensor that are held at a time, over the cases of a batch."""


def run(module: tvm.IRModule, x: np.ndarray) -> np.ndarray:
    """Outputs float32 [N, ...] of a QDQ module for inputs float32 [N, ...], laid out as the user's network takes them.

    Errors: ``SgscError`` for a float operator between quantised ones, or an accumulator beyond int32.
    """
    return np.concatenate(
        [_cases(part.centred * part.scale.astype(np.float64)) for part in _results(module, x)]
    ).astype(np.float32)


def run_integers(module: tvm.IRModule, x: np.ndarray) -> np.ndarray:
    """The int8 output [N, ...] behind :func:`run`: the bytes the C library must give."""
    return np.concatenate([_cases(part.stored) for part in _results(module, x)])


def _cases(values: np.ndarray) -> np.ndarray:
    """[N, 1, ...] as [N, ...]: the batch of one that networks are written for gives way to the cases."""
    return values.reshape(len(values), *values.shape[2:]) if values.shape[1:2] == (1,) else values


def _results(module: tvm.IRModule, x: np.ndarray) -> Iterator[Dequantised]:
    """The last dequantised tensor, for one part of the cases after another."""
    if not np.isfinite(x).all():
        raise SgscError("input: NaN or infinite values", hint="clean the data first")
    interpreter, main = Interpreter(module), module["main"]
    shape = shape_of(main.params[0])
    tensors = [var for var, _ in bindings_of(main) if isinstance(var.ty, relax.TensorType)]
    step = max(AT_ONCE // max(math.prod(shape_of(tensor)) for tensor in tensors), 1)
    for first in range(0, max(len(x), 1), step):
        part = x[first : first + step]
        result = interpreter.call(main, [part.reshape(len(part), *shape)])
        if not isinstance(result, Dequantised):
            raise SgscError("reference: the module does not end in a dequantize")
        yield result


class Interpreter:
    """Evaluates a module's expressions: whole functions, or a walk over bindings that looks inside."""

    def __init__(self, module: tvm.IRModule) -> None:
        self.module = module
        self.rounding = rounding_of(module)

    def call(self, function: relax.Function, arguments: list[Value]) -> Value:
        """The value of a function of the module."""
        values: dict[relax.Expr, Value] = dict(zip(function.params, arguments, strict=True))
        for var, value in bindings_of(function):
            values[var] = self.evaluate(value, values)
        return values[function.body.body]

    def evaluate(self, expression: relax.Expr, values: Mapping[relax.Expr, Value]) -> Value:
        """The value of an expression whose variables have ``values``."""
        if isinstance(expression, relax.Var):
            return values[expression]
        if is_constant(expression):
            return constant_of(expression)[None]
        operands = [self.evaluate(argument, values) for argument in _tensors(expression.args)]
        if isinstance(expression.op, relax.GlobalVar):
            return self.call(self.module[expression.op], operands)
        operator = _OPERATORS.get(expression.op.name)
        if operator is None:
            raise SgscError(f"reference: operator {expression.op.name} has no integer meaning")
        return operator(self.rounding, expression, *operands)


def _tensors(arguments: list[relax.Expr]) -> Iterator[relax.Expr]:
    """The tensors among an operator's arguments, those in a tuple too."""
    for argument in arguments:
        if isinstance(argument, relax.Tuple):
            yield from _tensors(argument.fields)
        elif isinstance(argument.ty, relax.TensorType):
            yield argument


def _quantize(rounding: str, call: relax.Call, x: Value, *_: Value) -> np.ndarray:
    return quantise(x, np.float32(constant_of(call.args[1])), int(constant_of(call.args[2])), rounding)


def _dequantize(_rounding: str, call: relax.Call, x: Value, *_: Value) -> Dequantised:
    scale, zero_point = constant_of(call.args[1]).astype(np.float32), constant_of(call.args[2])
    if not isinstance(x, np.ndarray) or (zero_point.ndim and zero_point.any()):
        raise SgscError("reference: a dequantize of real values, or with zero points per channel other than 0")
    return Dequantised(x, scale, 0 if zero_point.ndim else int(zero_point), stored=x)


def _relu(_rounding: str, _call: relax.Call, x: Value) -> Activated:
    return _clamped(x, 0.0, np.inf)


def _clip(_rounding: str, call: relax.Call, x: Value, *_: Value) -> Value:
    low, high = (float(constant_of(limit)) for limit in call.args[1:3])
    if isinstance(x, np.ndarray) and x.dtype == np.int32:  # an index
        return np.clip(x, int(low), int(high))
    return _clamped(x, low, high)


def _clamped(x: Value, low: float, high: float) -> Activated:
    if isinstance(x, np.ndarray | Masked):
        raise SgscError("reference: an activation of a tensor that is not quantised")
    if isinstance(x, Activated):
        return Activated(x.value, max(low, x.low), min(high, x.high))
    return Activated(x, low, high)


_OPERATORS: dict[str, Callable[..., Value]] = {
    "relax.quantize": _quantize,
    "relax.dequantize": _dequantize,
    "relax.nn.relu": _relu,
    "relax.clip": _clip,
    "relax.nn.conv2d": weighted.conv2d,
    "relax.nn.conv2d_transpose": weighted.conv2d_transpose,
    "relax.matmul": weighted.matmul,
    "relax.add": computed.add,
    "relax.subtract": computed.subtract,
    "relax.multiply": computed.multiply,
    "relax.mean": computed.mean,
    "relax.nn.max_pool2d": computed.max_pool2d,
    "relax.nn.avg_pool2d": computed.avg_pool2d,
    "relax.nn.softmax": computed.softmax,
    "relax.nn.layer_norm": computed.layer_norm,
    "relax.image.resize2d": computed.resize2d,
    "relax.nn.pad": moves.pad,
    "relax.reshape": moves.reshape,
    "relax.permute_dims": moves.permute_dims,
    "relax.concat": moves.concat,
    "relax.strided_slice": moves.strided_slice,
    "relax.take": moves.take,
    "relax.astype": moves.astype,
}
