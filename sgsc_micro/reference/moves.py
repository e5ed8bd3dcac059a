"""Operators that only move values; each works on int8 arrays and on what was dequantised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from tvm import relax

from sgsc_micro.errors import SgscError
from sgsc_micro.ir import constant_of, is_constant
from sgsc_micro.reference.values import Dequantised, Value
from sgsc_micro.reference.weighted import numbers


def _move(x: Value, move: Callable[[np.ndarray], np.ndarray]) -> Value:
    if isinstance(x, Dequantised):
        return replace(x, q=move(x.q))
    if not isinstance(x, np.ndarray):
        raise SgscError("reference: an accumulator is moved before it is quantised")
    return move(x)


def reshape(_rounding: str, call: relax.Call, x: Value) -> Value:
    """The same values under another shape."""
    shape = numbers(call.args[1].values)
    return _move(x, lambda array: array.reshape(len(array), *shape))


def permute_dims(_rounding: str, call: relax.Call, x: Value) -> Value:
    """Axes in another order; reversed where none is given."""

    def move(array: np.ndarray) -> np.ndarray:
        rank = array.ndim - 1
        axes = range(rank)[::-1] if call.attrs.axes is None else [axis % rank for axis in numbers(call.attrs.axes)]
        return array.transpose(0, *(axis + 1 for axis in axes))

    return _move(x, move)


def pad(_rounding: str, call: relax.Call, x: Value) -> Value:
    """A constant around the values."""
    flat = numbers(call.attrs.pad_width)
    if call.attrs.pad_mode != "constant":
        raise SgscError(f"reference: padding in mode {call.attrs.pad_mode}")
    widths = [(0, 0), *zip(flat[::2], flat[1::2], strict=True)]
    return _move(x, lambda array: np.pad(array, widths, constant_values=int(call.attrs.pad_value)))


def concat(_rounding: str, call: relax.Call, *parts: Value) -> np.ndarray:
    """One behind the other along an axis."""
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    cases, axis = max(map(len, arrays)), 0 if call.attrs.axis is None else int(call.attrs.axis)
    if len(arrays) != len(parts):
        raise SgscError("reference: tensors are concatenated that are not quantised")
    whole = [np.broadcast_to(array, (cases, *array.shape[1:])) for array in arrays]
    return np.concatenate(whole, axis % (whole[0].ndim - 1) + 1)


def strided_slice(_rounding: str, call: relax.Call, x: Value) -> Value:
    """begin:end:step along the axes named, as in Python."""
    axes, begins, ends = ([int(v.value) for v in argument] for argument in call.args[1:4])
    steps = [int(v.value) for v in call.args[4]] if len(call.args) > 4 else [1] * len(axes)

    def move(array: np.ndarray) -> np.ndarray:
        parts = [slice(None)] * array.ndim
        for axis, *part in zip(axes, begins, ends, steps, strict=True):
            parts[axis % (array.ndim - 1) + 1] = slice(*part)
        return array[tuple(parts)]

    return _move(x, move)


def take(_rounding: str, call: relax.Call, x: Value, indices: Value) -> Value:
    """Constant indices along an axis, or computed rows of a table; without an axis, a value of a table for each."""
    if call.attrs.axis is None:
        if not (isinstance(x, np.ndarray) and isinstance(indices, np.ndarray)):
            raise SgscError("reference: a table of values that are not integers")
        return x.reshape(-1)[indices]
    if not is_constant(call.args[1]):
        if not (is_constant(call.args[0]) and isinstance(indices, np.ndarray) and int(call.attrs.axis) == 0):
            raise SgscError("reference: computed indices into what is no table")
        return constant_of(call.args[0])[indices]
    positions = constant_of(call.args[1])
    return _move(x, lambda array: array.take(positions, int(call.attrs.axis) % (array.ndim - 1) + 1))


def astype(_rounding: str, call: relax.Call, x: Value) -> Value:
    """Wider integers."""
    return _move(x, lambda array: array.astype(str(call.attrs.dtype)))
