"""Operators that compute on activations alone: elementwise, reductions, pooling, products, interpolation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm import relax

from sgsc_micro.errors import SgscError
from sgsc_micro.ir import constant_of
from sgsc_micro.passes.operators.base import Operand, Operator, Output, Pieces, Quantisation, numbers


class _Channelwise(Operator):
    @property
    def channelwise(self) -> bool:
        """See :class:`Operator`."""
        return True


class _Elementwise(_Channelwise):
    def keeps_apart(self, axis: int) -> bool:
        """See :class:`Operator`."""
        return True


@dataclass(frozen=True)
class Binary(_Elementwise):
    """Two activations, each at its own scale, element by element; broadcast as NumPy does."""

    relax_op: ClassVar[str] = ""
    overwrites: ClassVar[tuple[int, ...]] = (0, 1)
    inputs: tuple[Quantisation, Quantisation]
    output: Output

    def emit(self, builder: relax.BlockBuilder, *inputs: relax.Expr) -> relax.Expr:
        """The operator over int8 inputs as QDQ."""
        reals = [builder.emit(quantisation.dequantize(x)) for quantisation, x in zip(self.inputs, inputs, strict=True)]
        compute: Callable[..., relax.Call] = getattr(relax.op, self.relax_op)
        return self.output.emit(builder, builder.emit(compute(*reals)))

    @classmethod
    def read(cls, pieces: Pieces) -> tuple[Operator, list[Operand]]:
        """From a composite function."""
        (a, b), operands = pieces.activations(f"relax.{cls.relax_op}")
        return cls((a, b), pieces.output()), operands


@dataclass(frozen=True)
class Add(Binary):
    """a + b."""

    composite: ClassVar[str] = "sgsc.add"
    relax_op: ClassVar[str] = "add"
    sign: ClassVar[int] = 1


@dataclass(frozen=True)
class Subtract(Add):
    """a - b."""

    composite: ClassVar[str] = "sgsc.subtract"
    relax_op: ClassVar[str] = "subtract"
    sign: ClassVar[int] = -1


@dataclass(frozen=True)
class Multiply(Binary):
    """a * b."""

    composite: ClassVar[str] = "sgsc.multiply"
    relax_op: ClassVar[str] = "multiply"


@dataclass(frozen=True)
class Requantize(_Elementwise):
    """From one scale and zero point to another."""

    composite: ClassVar[str] = "sgsc.requantize"
    overwrites: ClassVar[tuple[int, ...]] = (0,)
    input: Quantisation
    output: Output

    def constant(self, value: int) -> int | None:
        """See :class:`Operator`."""
        return self.output.end(value - self.input.zero_point, self.output.multiplier(self.input.scale))

    @property
    def is_identity(self) -> bool:
        """See :class:`Operator`."""
        return self.input == self.output.quantisation and self.output.bounds == (-128, 127)

    def emit(self, builder: relax.BlockBuilder, *inputs: relax.Expr) -> relax.Expr:
        """The operator over int8 ``x`` as QDQ."""
        return self.output.emit(builder, builder.emit(self.input.dequantize(inputs[0])))

    @staticmethod
    def read(pieces: Pieces) -> tuple[Operator, list[Operand]]:
        """From a composite function."""
        quantisation, operands = pieces.activation()
        return Requantize(quantisation, pieces.output()), operands


@dataclass(frozen=True, eq=False)
class Lookup(_Elementwise):
    """Any function of one int8 value; ``table`` int8 [256], from -128 up."""

    composite: ClassVar[str] = "sgsc.lookup"
    overwrites: ClassVar[tuple[int, ...]] = (0,)
    table: np.ndarray

    def constant(self, value: int) -> int | None:
        """See :class:`Operator`."""
        return int(self.table[value + 128])

    def evaluate(self, *values: np.ndarray) -> np.ndarray | None:
        """See :class:`Operator`."""
        return self.table[values[0].astype(np.int64) + 128]

    @property
    def is_identity(self) -> bool:
        """See :class:`Operator`."""
        return np.array_equal(self.table, np.arange(-128, 128))

    def emit(self, builder: relax.BlockBuilder, *inputs: relax.Expr) -> relax.Expr:
        """table[q + 128]."""
        wide = builder.emit(relax.op.astype(inputs[0], "int32"))
        index = builder.emit(relax.op.add(wide, relax.const(np.int32(128))))
        return relax.op.take(relax.const(self.table), index)

    @staticmethod
    def read(pieces: Pieces) -> tuple[Operator, list[Operand]]:
        """From a composite function."""
        return Lookup(constant_of(pieces.one("relax.take").args[0])), [pieces.one("relax.astype").args[0]]


@dataclass(frozen=True)
class AveragePool(_Channelwise):
    """Mean over the part of each window that lies in the image; padding (top, left, bottom, right)."""

    composite: ClassVar[str] = "sgsc.avg_pool2d"
    size: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[int, int, int, int]
    input: Quantisation
    output: Output

    def constant(self, value: int) -> int | None:
        """See :class:`Operator`."""
        if self.output.rounding == "tflite":
            low, high = self.output.bounds
            return min(max(value, low), high)
        if any(self.padding):
            return None
        count = self.size[0] * self.size[1]
        centred = (value - self.input.zero_point) * count
        return self.output.end(centred, self.output.multiplier(self.input.scale / count))

    def emit(self, builder: relax.BlockBuilder, *inputs: relax.Expr) -> relax.Expr:
        """The operator over int8 ``x`` as QDQ."""
        real = builder.emit(self.input.dequantize(inputs[0]))
        pooled = relax.op.nn.avg_pool2d(real, self.size, self.strides, self.padding, layout="NHWC")
        return self.output.emit(builder, builder.emit(pooled))

    @staticmethod
    def read(pieces: Pieces) -> tuple[Operator, list[Operand]]:
        """From a composite function."""
        attrs = pieces.one("relax.nn.avg_pool2d").attrs
        padding = numbers(attrs.padding)
        if attrs.ceil_mode or (any(padding) and attrs.count_include_pad):
            raise SgscError("average pooling with ceil_mode or that counts its padding cannot be lowered")
        quantisation, operands = pieces.activation()
        output = pieces.output()
        if output.rounding == "tflite" and not quantisation.close_to(output.quantisation):
            raise SgscError("average pooling has to keep scale and zero point", hint="as TFLite's does")
        return AveragePool(numbers(attrs.pool_size), numbers(attrs.strides), padding, quantisation, output), operands


@dataclass(frozen=True)
class MaxPool(_Channelwise):
    """Maximum over windows of int8 values; padding (top, left, bottom, right) never wins."""

    size: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[int, int, int, int]

    def constant(self, value: int) -> int | None:
        """See :class:`Operator`."""
        return value

    def emit(self, builder: relax.BlockBuilder, *inputs: relax.Expr) -> relax.Expr:
        """The Relax operator on the integers."""
        return relax.op.nn.max_pool2d(inputs[0], self.size, self.strides, self.padding, layout="NHWC")

    @staticmethod
    def read(call: relax.Call) -> Operator:
        """From a call on integers."""
        attrs = call.attrs
        if attrs.ceil_mode or any(v != 1 for v in numbers(attrs.dilation)):
            raise SgscError("max pooling with ceil_mode or dilation cannot be lowered")
        return MaxPool(numbers(attrs.pool_size), numbers(attrs.strides), numbers(attrs.padding))


@dataclass(frozen=True)
class Mean(Operator):
    """Mean over whole axes, counted from the last, which is -1."""

    composite: ClassVar[str] = "sgsc.mean"
    axes: tuple[int, ...]
    keepdims: bool
    input: Quantisation
    output: Output

    @property
    def channelwise(self) -> bool:
        """See :class:`Operator`."""
        return -1 not in self.axes

    def emit(self, builder: relax.BlockBuilder, *inputs: relax.Expr) -> relax.Expr:
        """The operator over int8 ``x`` as QDQ."""
        real = builder.emit(self.input.dequantize(inputs[0]))
        return self.output.emit(builder, builder.emit(relax.op.mean(real, list(self.axes), self.keepdims)))

    @staticmethod
    def read(pieces: Pieces) -> tuple[Operator, list[Operand]]:
        """From a composite function."""
        call = pieces.one("relax.mean")
        rank = len(call.args[0].ty.shape)
        axes = range(rank) if call.attrs.axis is None else numbers(call.attrs.axis)
        quantisation, operands = pieces.activation()
        from_last = tuple(sorted({axis % rank - rank for axis in axes}))
        return Mean(from_last, bool(call.attrs.keepdims), quantisation, pieces.output()), operands


@dataclass(frozen=True)
class BatchMatMul(Operator):
    """[..., M, K] times [..., K, N], leading axes broadcast."""

    composite: ClassVar[str] = "sgsc.matmul"
    inputs: tuple[Quantisation, Quantisation]
    output: Output

    def keeps_apart(self, axis: int) -> bool:
        """See :class:`Operator`."""
        return axis < -2

    def emit(self, builder: relax.BlockBuilder, *inputs: relax.Expr) -> relax.Expr:
        """The operator over int8 inputs as QDQ."""
        reals = [builder.emit(quantisation.dequantize(x)) for quantisation, x in zip(self.inputs, inputs, strict=True)]
        return self.output.emit(builder, builder.emit(relax.op.matmul(*reals)))

    @staticmethod
    def read(pieces: Pieces) -> tuple[Operator, list[Operand]]:
        """From a composite function."""
        (a, b), operands = pieces.activations("relax.matmul")
        return BatchMatMul((a, b), pieces.output()), operands


@dataclass(frozen=True)
class ResizeBilinear(_Channelwise):
    """Linear interpolation over height and width of an NHWC image."""

    composite: ClassVar[str] = "sgsc.resize"
    size: tuple[int, int]
    mode: str
    """half_pixel, align_corners or asymmetric."""
    input: Quantisation
    output: Output

    def emit(self, builder: relax.BlockBuilder, *inputs: relax.Expr) -> relax.Expr:
        """The operator over int8 ``x`` as QDQ."""
        real = builder.emit(self.input.dequantize(inputs[0]))
        resized = relax.op.image.resize2d(
            real, self.size, layout="NHWC", method="linear", coordinate_transformation_mode=self.mode
        )
        return self.output.emit(builder, builder.emit(resized))

    @staticmethod
    def read(pieces: Pieces) -> tuple[Operator, list[Operand]]:
        """From a composite function."""
        call = pieces.one("relax.image.resize2d")
        quantisation, operands = pieces.activation()
        if call.attrs.method != "linear" or not quantisation.close_to(pieces.output().quantisation):
            raise SgscError("a resize has to be linear and keep scale and zero point", hint="requantise after it")
        size, mode = numbers(call.args[1].values), str(call.attrs.coordinate_transformation_mode)
        return ResizeBilinear(size, mode, quantisation, pieces.output()), operands
