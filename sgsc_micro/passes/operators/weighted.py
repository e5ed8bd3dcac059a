"""Convolution, transposed convolution and dense layers: constants meet activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from tvm import relax

from sgsc_micro.errors import SgscError
from sgsc_micro.ir import constant_of, is_constant
from sgsc_micro.passes.operators.base import Operand, Operator, Output, Pieces, Quantisation, numbers
from sgsc_micro.storage import width_of


@dataclass(frozen=True, eq=False)
class Weighted(Operator):
    """What these have in common. weights int8 [O, ..., I], scales float32 [O], bias int32 [O].

    ``per_tensor``: a dense layer's weights have one scale; TFLite rounds its product with the input's to float32.
    """

    weights: np.ndarray
    scales: np.ndarray
    bias: np.ndarray
    input: Quantisation
    output: Output
    per_tensor: bool = False

    @property
    def mixes(self) -> bool:
        """Whether every output reads every input channel: the weights then absorb any order of them."""
        return True

    @property
    def widths(self) -> np.ndarray:
        """Bits each output channel's integers need; int64 [O]."""
        return width_of(self.weights)

    @property
    def taps(self) -> int:
        """Weights per output channel."""
        return int(np.prod(self.weights.shape[1:]))

    def accumulator_scales(self) -> np.ndarray:
        """Real scale of each channel's accumulator; float64 [O]."""
        if self.per_tensor:
            return np.array([self.output.product(self.input.scale, float(scale)) for scale in self.scales])
        return self.input.scale * self.scales.astype(np.float64)

    def accumulator_bound(self) -> np.ndarray:
        """The largest magnitude each channel's accumulator can take; int64 [O]."""
        flat = np.abs(self.weights.reshape(len(self.weights), -1).astype(np.int64))
        return np.abs(self.bias.astype(np.int64)) + flat.sum(axis=1) * self.input.reach

    def _constants(self, builder: relax.BlockBuilder) -> tuple[relax.Var, relax.Var]:
        zeros = np.zeros(len(self.weights), np.int8)
        of_weights = (self.scales[0], np.int8(0)) if self.per_tensor else (self.scales, zeros)
        weights = relax.op.dequantize(relax.const(self.weights), *map(relax.const, of_weights), axis=0)
        bias_scales = relax.const(self.accumulator_scales().astype(np.float32))
        bias = relax.op.dequantize(relax.const(self.bias), bias_scales, relax.const(zeros), axis=0)
        return builder.emit(weights), builder.emit(bias)

    @staticmethod
    def parts(pieces: Pieces) -> tuple[dict[str, Any], list[Operand]]:
        """Constructor arguments of this class out of a composite; the last constant may be the bias."""
        weights, *bias = [call for call in pieces.calls["relax.dequantize"] if is_constant(call.args[0])]
        values = constant_of(weights.args[0])
        quantisation, operands = pieces.activation()
        arguments = {
            "weights": values,
            "scales": np.broadcast_to(constant_of(weights.args[1]), len(values)).astype(np.float32),
            "bias": constant_of(bias[0].args[0]).astype(np.int32) if bias else np.zeros(len(values), np.int32),
            "input": quantisation,
            "output": pieces.output(),
        }
        return arguments, operands


@dataclass(frozen=True, eq=False)
class Conv2D(Weighted):
    """NHWC convolution, kernels OHWI with I = channels / groups; padding (top, left, bottom, right).

    ``upsample`` puts zeros between the input's rows and columns first: a transposed convolution is one of these.
    """

    composite: ClassVar[str] = "sgsc.conv2d"
    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    upsample: tuple[int, int] = (1, 1)

    @property
    def is_depthwise(self) -> bool:
        """One input channel to one output channel."""
        return self.groups > 1 and self.groups == len(self.weights) and self.weights.shape[3] == 1

    @property
    def channelwise(self) -> bool:
        """See :class:`Operator`."""
        return self.is_depthwise

    @property
    def mixes(self) -> bool:
        """See :class:`Weighted`."""
        return self.groups == 1

    @property
    def sees_zeros(self) -> bool:
        """Whether some windows reach beyond the input's own values."""
        return any(self.padding) or self.upsample != (1, 1)

    def emit(self, builder: relax.BlockBuilder, *inputs: relax.Expr) -> relax.Expr:
        """The operator over int8 ``x`` as QDQ."""
        weights, bias = self._constants(builder)
        real = builder.emit(self.input.dequantize(inputs[0]))
        geometry = {"strides": self.strides, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}
        layouts = {"data_layout": "NHWC", "kernel_layout": "OHWI", "out_layout": "NHWC"}
        total = builder.emit(relax.op.nn.conv2d(real, weights, **geometry, **layouts))
        return self.output.emit(builder, builder.emit(relax.op.add(total, bias)))

    @staticmethod
    def read(pieces: Pieces) -> tuple[Operator, list[Operand]]:
        """From a composite function."""
        attrs = pieces.one("relax.nn.conv2d").attrs
        geometry = {key: numbers(attrs[key]) for key in ("strides", "padding", "dilation")}
        arguments, operands = Weighted.parts(pieces)
        return Conv2D(**arguments, **geometry, groups=int(attrs.groups)), operands


@dataclass(frozen=True, eq=False)
class TransposedConv2D(Conv2D):
    """A convolution of stride 1 over the upsampled input, its kernels turned by half a turn."""

    composite: ClassVar[str] = "sgsc.conv2d_transpose"

    def emit(self, builder: relax.BlockBuilder, *inputs: relax.Expr) -> relax.Expr:
        """The operator over int8 ``x`` as QDQ, in Relax's own terms."""
        turned = TransposedConv2D(self._turned(self.weights), self.scales, self.bias, self.input, self.output)
        weights, bias = turned._constants(builder)
        real = builder.emit(self.input.dequantize(inputs[0]))
        cropping = _complement(self.weights.shape[1:3], self.padding)
        layouts = {"data_layout": "NHWC", "kernel_layout": "OHWI", "out_layout": "NHWC"}
        total = relax.op.nn.conv2d_transpose(real, weights, strides=self.upsample, padding=cropping, **layouts)
        return self.output.emit(builder, builder.emit(relax.op.add(builder.emit(total), bias)))

    @staticmethod
    def read(pieces: Pieces) -> tuple[Operator, list[Operand]]:
        """From a composite function."""
        attrs = pieces.one("relax.nn.conv2d_transpose").attrs
        if any(numbers(attrs.output_padding)) or any(v != 1 for v in (*numbers(attrs.dilation), int(attrs.groups))):
            raise SgscError("a transposed convolution with output padding, dilation or groups cannot be lowered")
        arguments, operands = Weighted.parts(pieces)
        padding = _complement(arguments["weights"].shape[1:3], numbers(attrs.padding))
        arguments["weights"] = TransposedConv2D._turned(arguments["weights"])
        return TransposedConv2D(**arguments, padding=padding, upsample=numbers(attrs.strides)), operands

    @staticmethod
    def _turned(weights: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(weights[:, ::-1, ::-1])


def _complement(kernel: tuple[int, ...], padding: tuple[int, ...]) -> tuple[int, int, int, int]:
    """What a transposed convolution crops from its output, as the padding of its input; and back."""
    top, left, bottom, right = padding
    return kernel[0] - 1 - top, kernel[1] - 1 - left, kernel[0] - 1 - bottom, kernel[1] - 1 - right


@dataclass(frozen=True, eq=False)
class Dense(Weighted):
    """x [..., I] times weights [O, I] transposed."""

    composite: ClassVar[str] = "sgsc.dense"

    def emit(self, builder: relax.BlockBuilder, *inputs: relax.Expr) -> relax.Expr:
        """The operator over int8 ``x`` as QDQ."""
        weights, bias = self._constants(builder)
        kernel = builder.emit(relax.op.permute_dims(weights))
        total = builder.emit(relax.op.matmul(builder.emit(self.input.dequantize(inputs[0])), kernel))
        return self.output.emit(builder, builder.emit(relax.op.add(total, bias)))

    @staticmethod
    def read(pieces: Pieces) -> tuple[Operator, list[Operand]]:
        """From a composite function."""
        arguments, operands = Weighted.parts(pieces)
        kernel = pieces.values[pieces.one("relax.permute_dims").args[0]]
        return Dense(**arguments, per_tensor=constant_of(kernel.args[1]).ndim == 0), operands
