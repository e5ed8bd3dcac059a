"""Convolution, transposed convolution and dense layers: constants meet activations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from tvm import relax

from sgsc_micro.blocking import Blocking, choose
from sgsc_micro.compiler_flags import Objective
from sgsc_micro.errors import SgscError
from sgsc_micro.ir import constant_of, is_constant
from sgsc_micro.passes.operators.base import Operand, Operator, Output, Pieces, Quantisation, numbers
from sgsc_micro.passes.operators.planes import Planes
from sgsc_micro.storage import Packing, compute_order, width_of


@dataclass(frozen=True, eq=False)
class Weighted(Operator):
    """What these have in common. weights int8 [O, ..., I], scales float32 [O], bias int32 [O]."""

    weights: np.ndarray
    scales: np.ndarray
    bias: np.ndarray
    input: Quantisation
    output: Output

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

    @property
    def channel_groups(self) -> int:
        """Groups of output channels, each of input channels of its own."""
        return 1

    def blocking(self, output: Sequence[int], objective: Objective) -> Blocking:
        """How its channels, in the order of their computation, meet the pixels of a result of shape ``output``."""
        weights = self.weights if self.order is None else self.weights[self.order]
        return choose(weights, self.channel_groups, self.input.reach, math.prod(output[:-1]), objective)

    @property
    def order(self) -> np.ndarray | None:
        """In which the kernel computes the channels, int64 [O]: by width, where to say so takes fewer bytes than heads
        of ever new widths; None where they come as they are."""
        return compute_order(self.widths, self.taps) if self.mixes else None

    def gathered_bytes(self, rows: int) -> int:
        """What gathering ``rows`` rows needs besides them."""
        return 0

    @property
    def copied_bytes(self) -> int:
        """The activations of one pixel and group, to an even number, where the image has not just them side by side."""
        return self.taps + 1 if self.taps % 2 else 0

    def rows_at_once(self, output: Sequence[int], objective: Objective) -> int:
        """Pixels whose activations meet the weights together."""
        if Packing.of(objective.instruction_set) is Packing.BYTES:
            return 4 if math.prod(output[:-1]) > 2 else 1
        return self.blocking(output, objective).rows

    def scratch_bytes(self, output: Sequence[int], objective: Objective) -> int:
        """Rows of activations, copied, or widened with what gathering them needs."""
        rows = self.rows_at_once(output, objective)
        reordered = 0 if self.order is None else rows * len(self.weights)
        if Packing.of(objective.instruction_set) is Packing.BYTES:
            return rows * self.copied_bytes + reordered
        return rows * self.blocking(output, objective).row_bytes + self.gathered_bytes(rows) + reordered

    def result_bytes(self, output: Sequence[int], objective: Objective) -> int:
        """More room, for results that something is added to."""
        return self.rows_at_once(output, objective) * output[-1]

    def accumulator_scales(self) -> np.ndarray:
        """Real scale of each channel's accumulator; float64 [O]."""
        return self.input.scale * self.scales.astype(np.float64)

    def accumulator_bound(self) -> np.ndarray:
        """The largest magnitude each channel's accumulator can take; int64 [O]."""
        flat = np.abs(self.weights.reshape(len(self.weights), -1).astype(np.int64))
        return np.abs(self.bias.astype(np.int64)) + flat.sum(axis=1) * self.input.reach

    def _constants(self, builder: relax.BlockBuilder) -> tuple[relax.Var, relax.Var]:
        zero = relax.const(np.zeros(len(self.weights), np.int8))
        weights = relax.op.dequantize(relax.const(self.weights), relax.const(self.scales), zero, axis=0)
        bias_scales = relax.const(self.accumulator_scales().astype(np.float32))
        bias = relax.op.dequantize(relax.const(self.bias), bias_scales, zero, axis=0)
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
    def channel_groups(self) -> int:
        """See :class:`Weighted`."""
        return self.groups

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
    def is_pointwise(self) -> bool:
        """One tap, and an output pixel for every input pixel."""
        steps = *self.weights.shape[1:3], *self.strides, *self.upsample
        return all(step == 1 for step in steps) and not any(self.padding)

    @property
    def run(self) -> int:
        """Activations of a group under one row of a kernel."""
        return math.prod(self.weights.shape[2:])

    @property
    def copies_taps(self) -> bool:
        """Whether a row's activations are copied together before they are widened, four by four."""
        return not self.is_pointwise and self.weights.shape[3] % 4 != 0

    @property
    def copied_bytes(self) -> int:
        """See :class:`Weighted`."""
        return super().copied_bytes if self.is_pointwise else self.taps + self.taps % 2

    def gathered_bytes(self, rows: int) -> int:
        """See :class:`Weighted`: a kernel row outside of the image, and rows before they are widened."""
        return 0 if self.is_pointwise else self.run + self.copies_taps * rows * self.taps

    def planes(self, output: Sequence[int]) -> Planes:
        """How a depthwise one gives a result of shape ``output``."""
        return Planes.of(output[1:3], self.weights.shape[1:3], self.strides, self.dilation, self.padding[:2])

    def scratch_bytes(self, output: Sequence[int], objective: Objective) -> int:
        """See :class:`Operator`."""
        return self.planes(output).scratch_bytes if self.is_depthwise else super().scratch_bytes(output, objective)

    def result_bytes(self, output: Sequence[int], objective: Objective) -> int:
        """See :class:`Weighted`; those of a depthwise one lie over its accumulators."""
        return 0 if self.is_depthwise else super().result_bytes(output, objective)

    @property
    def overwrites(self) -> tuple[int, ...]:  # type: ignore[override]
        """A depthwise one has widened what lies below a row of output before it writes it, where rows are as long."""
        spans = [(taps - 1) * step for taps, step in zip(self.weights.shape[1:3], self.dilation, strict=True)]
        top, left, bottom, right = self.padding
        keeps_size = self.strides == (1, 1) and [top + bottom, left + right] == spans
        return (0,) if self.is_depthwise and keeps_size else ()

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
        top, left, bottom, right = _complement(self.weights.shape[1:3], self.padding)
        behind = max(-bottom, 0), max(-right, 0)  # rows and columns that no input reaches
        cropping = top, left, bottom + behind[0], right + behind[1]
        layouts = {"data_layout": "NHWC", "kernel_layout": "OHWI", "out_layout": "NHWC"}
        total = relax.op.nn.conv2d_transpose(
            real, weights, strides=self.upsample, padding=cropping, output_padding=behind, **layouts
        )
        return self.output.emit(builder, builder.emit(relax.op.add(builder.emit(total), bias)))

    @staticmethod
    def read(pieces: Pieces) -> tuple[Operator, list[Operand]]:
        """From a composite function."""
        attrs = pieces.one("relax.nn.conv2d_transpose").attrs
        if any(v != 1 for v in (*numbers(attrs.dilation), int(attrs.groups))):
            raise SgscError("a transposed convolution with dilation or groups cannot be lowered")
        arguments, operands = Weighted.parts(pieces)
        (top, left, bottom, right), behind = numbers(attrs.padding), numbers(attrs.output_padding)
        cropping = top, left, bottom - behind[0], right - behind[1]
        padding = _complement(arguments["weights"].shape[1:3], cropping)
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
        return Dense(**arguments), operands
