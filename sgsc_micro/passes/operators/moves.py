"""Operators that only move int8 values: what comes out went in, or is a constant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm import relax

from sgsc_micro.errors import SgscError
from sgsc_micro.ir import constant_of, shape_of
from sgsc_micro.passes.operators.base import Operand, Operator, Pieces, numbers


@dataclass(frozen=True)
class Reshape(Operator):
    """The same bytes under another shape: nothing moves."""

    shape: tuple[int, ...]

    @property
    def channelwise(self) -> bool:
        """See :class:`Operator`."""
        return True

    def constant(self, value: int) -> int | None:
        """See :class:`Operator`."""
        return value

    def evaluate(self, *values: np.ndarray) -> np.ndarray | None:
        """See :class:`Operator`."""
        return values[0].reshape(self.shape)

    @property
    def is_identity(self) -> bool:
        """See :class:`Operator`."""
        return True

    def emit(self, builder: relax.BlockBuilder, *inputs: relax.Expr) -> relax.Expr:
        """The Relax operator on the integers."""
        return relax.op.reshape(inputs[0], self.shape)

    @staticmethod
    def read(call: relax.Call) -> Operator:
        """From a call on integers."""
        return Reshape(numbers(call.ty.shape))


@dataclass(frozen=True)
class Transpose(Operator):
    """Axis i of the output is axis ``axes[i]`` of the input."""

    axes: tuple[int, ...]

    @property
    def channelwise(self) -> bool:
        """See :class:`Operator`."""
        return self.axes[-1] == len(self.axes) - 1

    def constant(self, value: int) -> int | None:
        """See :class:`Operator`."""
        return value

    def evaluate(self, *values: np.ndarray) -> np.ndarray | None:
        """See :class:`Operator`."""
        return values[0].transpose(self.axes)

    @property
    def is_identity(self) -> bool:
        """See :class:`Operator`."""
        return self.axes == tuple(range(len(self.axes)))

    def emit(self, builder: relax.BlockBuilder, *inputs: relax.Expr) -> relax.Expr:
        """The Relax operator on the integers."""
        return relax.op.permute_dims(inputs[0], self.axes)

    @staticmethod
    def read(call: relax.Call) -> Operator:
        """From a call on integers."""
        rank = len(shape_of(call.args[0]))
        axes = range(rank)[::-1] if call.attrs.axes is None else (int(axis) % rank for axis in call.attrs.axes)
        return Transpose(tuple(axes))


@dataclass(frozen=True)
class Pad(Operator):
    """``value`` around the input: ``widths`` (before, after) by axis."""

    widths: tuple[tuple[int, int], ...]
    value: int

    @property
    def channelwise(self) -> bool:
        """See :class:`Operator`."""
        return True

    def constant(self, value: int) -> int | None:
        """See :class:`Operator`."""
        return value if value == self.value else None

    def evaluate(self, *values: np.ndarray) -> np.ndarray | None:
        """See :class:`Operator`."""
        return np.pad(values[0], self.widths, constant_values=self.value)

    @property
    def is_identity(self) -> bool:
        """See :class:`Operator`."""
        return True

    def emit(self, builder: relax.BlockBuilder, *inputs: relax.Expr) -> relax.Expr:
        """The Relax operator on the integers."""
        return relax.op.nn.pad(inputs[0], [width for pair in self.widths for width in pair], pad_value=self.value)

    @staticmethod
    def read(call: relax.Call) -> Operator:
        """From a call on integers."""
        flat = numbers(call.attrs.pad_width)
        if call.attrs.pad_mode != "constant":
            raise SgscError(f"padding in mode {call.attrs.pad_mode} cannot be lowered", hint="pad with a constant")
        return Pad(tuple(zip(flat[::2], flat[1::2], strict=True)), int(call.attrs.pad_value))


@dataclass(frozen=True)
class Concatenate(Operator):
    """Inputs one behind the other along ``axis``."""

    axis: int

    @property
    def channelwise(self) -> bool:
        """See :class:`Operator`."""
        return True

    def evaluate(self, *values: np.ndarray) -> np.ndarray | None:
        """See :class:`Operator`."""
        return np.concatenate(values, self.axis)

    @property
    def is_identity(self) -> bool:
        """See :class:`Operator`."""
        return True

    def emit(self, builder: relax.BlockBuilder, *inputs: relax.Expr) -> relax.Expr:
        """The Relax operator on the integers."""
        return relax.op.concat(list(inputs), self.axis)

    @staticmethod
    def read(call: relax.Call) -> Operator:
        """From a call on integers."""
        axis = 0 if call.attrs.axis is None else int(call.attrs.axis)
        return Concatenate(axis % len(numbers(call.ty.shape)))


@dataclass(frozen=True)
class Slice(Operator):
    """Every ``strides[i]``-th element of axis i from ``begin[i]``, ``shape`` of them."""

    begin: tuple[int, ...]
    strides: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def channelwise(self) -> bool:
        """See :class:`Operator`."""
        return self.strides[-1] > 0

    def constant(self, value: int) -> int | None:
        """See :class:`Operator`."""
        return value

    def evaluate(self, *values: np.ndarray) -> np.ndarray | None:
        """See :class:`Operator`."""
        spans = zip(self.begin, self.strides, self.shape, strict=True)
        return values[0][np.ix_(*(first + step * np.arange(n) for first, step, n in spans))]

    @property
    def is_identity(self) -> bool:
        """See :class:`Operator`."""
        return all(stride == 1 for stride in self.strides)

    def emit(self, builder: relax.BlockBuilder, *inputs: relax.Expr) -> relax.Expr:
        """The Relax operator on the integers."""
        spans = zip(self.begin, self.strides, self.shape, strict=True)
        ends = [begin + stride * (extent - 1) + (1 if stride > 0 else -1) for begin, stride, extent in spans]
        before_first = [end if end >= 0 else -(10**9) for end in ends]  # Relax counts -1 from the end
        axes = list(range(len(self.shape)))
        return relax.op.strided_slice(inputs[0], axes, list(self.begin), before_first, list(self.strides))

    @staticmethod
    def read(call: relax.Call) -> Operator:
        """From a call on integers."""
        source, shape = shape_of(call.args[0]), numbers(call.ty.shape)
        axes, begins = ([int(v.value) for v in argument] for argument in call.args[1:3])
        steps = [int(v.value) for v in call.args[4]] if len(call.args) > 4 else [1] * len(axes)
        begin, strides = [0] * len(source), [1] * len(source)
        for axis, first, step in zip(axes, begins, steps, strict=True):
            extent = source[axis]
            first = first + extent if first < 0 else first
            begin[axis] = min(max(first, 0), extent - 1 if step < 0 else extent)
            strides[axis] = step
        return Slice(tuple(begin), tuple(strides), shape)


@dataclass(frozen=True, eq=False)
class Take(Operator):
    """Slices ``indices`` (int32 [n]) of ``axis``, counted from the last, which is -1."""

    indices: np.ndarray
    axis: int

    @property
    def channelwise(self) -> bool:
        """See :class:`Operator`."""
        return self.axis != -1

    def constant(self, value: int) -> int | None:
        """See :class:`Operator`."""
        return value

    def evaluate(self, *values: np.ndarray) -> np.ndarray | None:
        """See :class:`Operator`."""
        return values[0].take(self.indices, self.axis)

    @property
    def is_identity(self) -> bool:
        """See :class:`Operator`."""
        return np.array_equal(self.indices, np.arange(len(self.indices)))

    def emit(self, builder: relax.BlockBuilder, *inputs: relax.Expr) -> relax.Expr:
        """The Relax operator on the integers."""
        return relax.op.take(inputs[0], relax.const(self.indices), axis=self.axis)

    @staticmethod
    def read(call: relax.Call) -> Operator:
        """From a call on integers."""
        indices, rank = constant_of(call.args[1]), len(shape_of(call.args[0]))
        if indices.ndim != 1 or call.attrs.axis is None:
            raise SgscError("take has to be given a list of indices and an axis")
        return Take(indices.astype(np.int32), int(call.attrs.axis) % rank - rank)


@dataclass(frozen=True, eq=False)
class Embedding(Operator):
    """Rows of ``table`` int8 [V, F] for tokens q - ``zero_point``, of which those outside are the nearest inside."""

    composite: ClassVar[str] = "sgsc.embedding"
    table: np.ndarray
    zero_point: int

    def emit(self, builder: relax.BlockBuilder, *inputs: relax.Expr) -> relax.Expr:
        """take(table, clip(q - zero_point, 0, V - 1), axis=0)."""
        wide = builder.emit(relax.op.astype(inputs[0], "int32"))
        token = builder.emit(relax.op.add(wide, relax.const(np.int32(-self.zero_point))))
        inside = builder.emit(relax.op.clip(token, 0, len(self.table) - 1))
        return relax.op.take(relax.const(self.table), inside, axis=0)

    @staticmethod
    def read(pieces: Pieces) -> tuple[Operator, list[Operand]]:
        """From a composite function."""
        table, offset = constant_of(pieces.one("relax.take").args[0]), constant_of(pieces.one("relax.add").args[1])
        limits = tuple(int(constant_of(limit)) for limit in pieces.one("relax.clip").args[1:3])
        if table.ndim != 2 or limits != (0, len(table) - 1) or int(pieces.one("relax.take").attrs.axis) != 0:
            raise SgscError("an embedding has to clip its tokens to the rows of its table")
        return Embedding(table, -int(offset)), [pieces.one("relax.astype").args[0]]
