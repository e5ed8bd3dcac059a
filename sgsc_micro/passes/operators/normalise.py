"""Operators over whole rows of activations: softmax, layer norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm import relax

from sgsc_micro.errors import SgscError
from sgsc_micro.ir import constant_of, shape_of
from sgsc_micro.passes.operators.base import Operand, Operator, Output, Pieces, Quantisation, numbers


@dataclass(frozen=True)
class Softmax(Operator):
    """Over the last axis, to scale 1/256 and zero point -128; ``causal`` (of a square): row i over i + 1 values."""

    composite: ClassVar[str] = "sgsc.softmax"
    overwrites: ClassVar[tuple[int, ...]] = (0,)
    input: Quantisation
    output: Output
    causal: int = 0
    """Rows and columns of the scores under a causal mask; 0 without one."""

    def keeps_apart(self, axis: int) -> bool:
        """See :class:`Operator`."""
        return axis != -1

    def emit(self, builder: relax.BlockBuilder, *inputs: relax.Expr) -> relax.Expr:
        """The operator over int8 ``x`` as QDQ."""
        real = builder.emit(self.input.dequantize(inputs[0]))
        if self.causal:
            real = builder.emit(relax.op.add(real, relax.const(_causal(self.causal))))
        return self.output.emit(builder, builder.emit(relax.op.nn.softmax(real, axis=-1)))

    @staticmethod
    def read(pieces: Pieces) -> tuple[Operator, list[Operand]]:
        """From a composite function."""
        call = pieces.one("relax.nn.softmax")
        if int(call.attrs.axis) not in (-1, len(call.args[0].ty.shape) - 1):
            raise SgscError("softmax over another axis than the last cannot be lowered", hint="transpose first")
        quantisation, operands = pieces.activation()
        if pieces.output().quantisation != Quantisation(1 / 256, -128):
            raise SgscError("softmax has to be quantised to scale 1/256, zero point -128", hint="as TFLite does")
        if "relax.add" not in pieces.calls:
            return Softmax(quantisation, pieces.output()), operands
        length, mask = shape_of(call)[-1], constant_of(pieces.one("relax.add").args[1])
        if shape_of(call)[-2:] != (length, length) or not np.array_equal(mask, _causal(length)):
            raise SgscError(
                "softmax under a mask that is not causal cannot be lowered",
                hint="row i has to see the first i + 1 of as many columns as there are rows",
            )
        return Softmax(quantisation, pieces.output(), length), operands


def _causal(length: int) -> np.ndarray:
    """float32 [length, length]: 0 on and below the diagonal, -inf above it."""
    return np.triu(np.full((length, length), -np.inf, np.float32), 1)


@dataclass(frozen=True)
class LayerNorm(Operator):
    """Every row of the last axis to mean 0 and variance 1, but for ``epsilon``; no weights."""

    composite: ClassVar[str] = "sgsc.layer_norm"
    overwrites: ClassVar[tuple[int, ...]] = (0,)
    epsilon: float
    input: Quantisation
    output: Output

    def keeps_apart(self, axis: int) -> bool:
        """See :class:`Operator`."""
        return axis != -1

    def emit(self, builder: relax.BlockBuilder, *inputs: relax.Expr) -> relax.Expr:
        """The operator over int8 ``x`` as QDQ."""
        real, length = builder.emit(self.input.dequantize(inputs[0])), shape_of(inputs[0])[-1]
        one, zero = (relax.const(fill(length, np.float32)) for fill in (np.ones, np.zeros))
        normal = relax.op.nn.layer_norm(real, one, zero, axes=[-1], epsilon=self.epsilon)
        return self.output.emit(builder, builder.emit(normal))

    @staticmethod
    def read(pieces: Pieces) -> tuple[Operator, list[Operand]]:
        """From a composite function."""
        call = pieces.one("relax.nn.layer_norm")
        weights, bias = (constant_of(argument) for argument in call.args[1:])
        if numbers(call.attrs.axes) not in ((-1,), (len(shape_of(call)) - 1,)):
            raise SgscError("layer norm over other axes than the last cannot be lowered")
        if (weights != 1).any() or bias.any():
            raise SgscError("layer norm with weights cannot be lowered", hint="fold them into the layer behind it")
        quantisation, operands = pieces.activation()
        return LayerNorm(float(call.attrs.epsilon), quantisation, pieces.output()), operands
