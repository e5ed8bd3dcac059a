"""The quantised operators as data: read from a composite function, and written back as one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from tvm import relax

from sgsc_micro.errors import SgscError
from sgsc_micro.ir import bindings_of, constant_of, is_constant
from sgsc_micro.passes.requantise import Multiplier, quantise_bound
from sgsc_micro.storage import width_of


@dataclass(frozen=True)
class Quantisation:
    """real = scale * (q - zero_point); ``scale`` is a float32 value."""

    scale: float
    zero_point: int

    def dequantize(self, q: relax.Expr) -> relax.Call:
        """The Relax call that gives the real tensor."""
        return relax.op.dequantize(q, relax.const(np.float32(self.scale)), relax.const(np.int8(self.zero_point)))

    def quantize(self, x: relax.Expr) -> relax.Call:
        """The Relax call that gives the int8 tensor."""
        parameters = relax.const(np.float32(self.scale)), relax.const(np.int8(self.zero_point))
        return relax.op.quantize(x, *parameters, out_dtype="int8")

    @staticmethod
    def of(call: relax.Call) -> Quantisation:
        """The parameters of a per-tensor quantize or dequantize call."""
        return Quantisation(float(constant_of(call.args[1])), int(constant_of(call.args[2])))

    @property
    def reach(self) -> int:
        """The largest |q - zero_point|."""
        return max(127 - self.zero_point, self.zero_point + 128)


@dataclass(frozen=True)
class Output:
    """How an accumulator ends: clamped to ``activation`` (real), quantised to ``quantisation``."""

    quantisation: Quantisation
    activation: tuple[float, float] = (-math.inf, math.inf)

    @property
    def zero_point(self) -> int:
        """The output's zero point."""
        return self.quantisation.zero_point

    @property
    def bounds(self) -> tuple[int, int]:
        """The int8 values between which the result is clamped."""
        low, high = (quantise_bound(v, self.quantisation.scale, self.zero_point) for v in self.activation)
        return low, high

    def multiplier(self, scale: float) -> Multiplier:
        """From an accumulator of real ``scale`` to the output."""
        return Multiplier.of(scale / self.quantisation.scale)

    def requantise(self, accumulator: int, scale: float) -> int:
        """One accumulator as the int8 it becomes."""
        low, high = self.bounds
        return min(max(self.multiplier(scale).apply(accumulator) + self.zero_point, low), high)

    def emit(self, builder: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        """quantize(activation(x))."""
        low, high = self.activation
        if (low, high) == (0.0, math.inf):
            x = builder.emit(relax.op.nn.relu(x))
        elif (low, high) != (-math.inf, math.inf):
            x = builder.emit(relax.op.clip(x, low, high))
        return self.quantisation.quantize(x)


@dataclass(frozen=True, eq=False)
class Weighted:
    """What convolutions and dense layers share. weights int8 [O, ..., I], scales float32 [O], bias int32 [O]."""

    weights: np.ndarray
    scales: np.ndarray
    bias: np.ndarray
    input: Quantisation
    output: Output

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


@dataclass(frozen=True, eq=False)
class Conv2D(Weighted):
    """NHWC convolution, kernels OHWI with I = channels / groups; padding (top, left, bottom, right)."""

    composite: ClassVar[str] = "sgsc.conv2d"
    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def is_depthwise(self) -> bool:
        """One input channel to one output channel."""
        return self.groups > 1 and self.groups == len(self.weights) and self.weights.shape[3] == 1

    def emit(self, builder: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        """The operator over int8 ``x`` as QDQ."""
        weights, bias = self._constants(builder)
        geometry = {"strides": self.strides, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}
        layouts = {"data_layout": "NHWC", "kernel_layout": "OHWI", "out_layout": "NHWC"}
        real = builder.emit(self.input.dequantize(x))
        total = builder.emit(relax.op.nn.conv2d(real, weights, **geometry, **layouts))
        return self.output.emit(builder, builder.emit(relax.op.add(total, bias)))


@dataclass(frozen=True, eq=False)
class Dense(Weighted):
    """x [1, I] times weights [O, I] transposed."""

    composite: ClassVar[str] = "sgsc.dense"

    def emit(self, builder: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        """The operator over int8 ``x`` as QDQ."""
        weights, bias = self._constants(builder)
        kernel = builder.emit(relax.op.permute_dims(weights))
        total = builder.emit(relax.op.matmul(builder.emit(self.input.dequantize(x)), kernel))
        return self.output.emit(builder, builder.emit(relax.op.add(total, bias)))


@dataclass(frozen=True)
class Add:
    """Elementwise sum of two activations, each at its own scale."""

    composite: ClassVar[str] = "sgsc.add"
    inputs: tuple[Quantisation, Quantisation]
    output: Output

    def emit(self, builder: relax.BlockBuilder, a: relax.Expr, b: relax.Expr) -> relax.Expr:
        """The operator over int8 ``a`` and ``b`` as QDQ."""
        reals = [builder.emit(quantisation.dequantize(x)) for quantisation, x in zip(self.inputs, (a, b), strict=True)]
        return self.output.emit(builder, builder.emit(relax.op.add(*reals)))


@dataclass(frozen=True)
class AveragePool:
    """Mean over windows without padding; a global mean is one window."""

    composite: ClassVar[str] = "sgsc.avg_pool2d"
    size: tuple[int, int]
    strides: tuple[int, int]
    input: Quantisation
    output: Output

    @property
    def accumulator_scale(self) -> float:
        """Real scale of the sum over one window."""
        return self.input.scale / (self.size[0] * self.size[1])

    def emit(self, builder: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        """The operator over int8 ``x`` as QDQ."""
        real = builder.emit(self.input.dequantize(x))
        pooled = relax.op.nn.avg_pool2d(real, self.size, self.strides, layout="NHWC")
        return self.output.emit(builder, builder.emit(pooled))


@dataclass(frozen=True)
class Requantize:
    """From one scale and zero point to another."""

    composite: ClassVar[str] = "sgsc.requantize"
    input: Quantisation
    output: Output

    def emit(self, builder: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        """The operator over int8 ``x`` as QDQ."""
        return self.output.emit(builder, builder.emit(self.input.dequantize(x)))


@dataclass(frozen=True)
class MaxPool:
    """Maximum over windows of int8 values; padding (top, left, bottom, right) never wins."""

    size: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[int, int, int, int]

    def emit(self, _builder: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        """The Relax operator on the integers."""
        return relax.op.nn.max_pool2d(x, self.size, self.strides, self.padding, layout="NHWC")


@dataclass(frozen=True)
class Flatten:
    """[1, H, W, C] to [1, H * W * C], channels last: nothing moves."""

    def emit(self, _builder: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        """The Relax operator on the integers."""
        return relax.op.reshape(x, (1, int(np.prod([int(extent) for extent in x.ty.shape]))))


Operator = Conv2D | Dense | Add | AveragePool | Requantize | MaxPool | Flatten


@dataclass
class _Pieces:
    """The calls of a composite function by operator name, in order."""

    calls: dict[str, list[relax.Call]] = field(default_factory=dict)

    @staticmethod
    def of(function: relax.Function) -> _Pieces:
        pieces = _Pieces()
        for _, value in bindings_of(function):
            pieces.calls.setdefault(value.op.name, []).append(value)
        return pieces

    def one(self, name: str) -> relax.Call:
        return self.calls[name][0]

    def activations(self, parameters: list[relax.Var]) -> tuple[Quantisation, ...]:
        """Of each parameter in order."""
        calls = [call for call in self.calls["relax.dequantize"] if not is_constant(call.args[0])]
        by_parameter = {call.args[0]: Quantisation.of(call) for call in calls}
        return tuple(by_parameter[parameter] for parameter in parameters)

    def output(self) -> Output:
        activation = (-math.inf, math.inf)
        if "relax.nn.relu" in self.calls:
            activation = (0.0, math.inf)
        elif "relax.clip" in self.calls:
            low, high = (float(constant_of(bound)) for bound in self.one("relax.clip").args[1:3])
            activation = (low, high)
        return Output(Quantisation.of(self.one("relax.quantize")), activation)

    def weighted(self, parameters: list[relax.Var]) -> dict[str, Any]:
        """Constructor arguments of :class:`Weighted`; the last constant may be the bias."""
        weights, *bias = [call for call in self.calls["relax.dequantize"] if is_constant(call.args[0])]
        values = constant_of(weights.args[0])
        return {
            "weights": values,
            "scales": np.broadcast_to(constant_of(weights.args[1]), len(values)).astype(np.float32),
            "bias": constant_of(bias[0].args[0]).astype(np.int32) if bias else np.zeros(len(values), np.int32),
            "input": self.activations(parameters)[0],
            "output": self.output(),
        }


def _numbers(values: Any) -> Any:
    return tuple(int(value) for value in values)


def _conv2d(pieces: _Pieces, parameters: list[relax.Var]) -> Operator:
    attrs = pieces.one("relax.nn.conv2d").attrs
    geometry = {key: _numbers(attrs[key]) for key in ("strides", "padding", "dilation")}
    return Conv2D(**pieces.weighted(parameters), **geometry, groups=int(attrs.groups))


def _avg_pool2d(pieces: _Pieces, parameters: list[relax.Var]) -> Operator:
    attrs = pieces.one("relax.nn.avg_pool2d").attrs
    if any(_numbers(attrs.padding)) or attrs.ceil_mode:
        raise SgscError("average pooling with padding or ceil_mode cannot be lowered", hint="pool without padding")
    return AveragePool(
        _numbers(attrs.pool_size), _numbers(attrs.strides), pieces.activations(parameters)[0], pieces.output()
    )


_READERS: dict[str, Callable[[_Pieces, list[relax.Var]], Operator]] = {
    Conv2D.composite: _conv2d,
    Dense.composite: lambda pieces, parameters: Dense(**pieces.weighted(parameters)),
    Add.composite: lambda pieces, parameters: Add(_pair(pieces.activations(parameters)), pieces.output()),
    AveragePool.composite: _avg_pool2d,
    Requantize.composite: lambda pieces, parameters: Requantize(pieces.activations(parameters)[0], pieces.output()),
}


def _pair(quantisations: tuple[Quantisation, ...]) -> tuple[Quantisation, Quantisation]:
    return quantisations[0], quantisations[-1]  # add(x, x) has one parameter


def read_composite(function: relax.Function) -> Operator:
    """The operator that a composite function of :mod:`sgsc_micro.passes.fuse` stands for."""
    return _READERS[str(function.attrs["Composite"])](_Pieces.of(function), list(function.params))


def read_integer_operator(call: relax.Call) -> Operator:
    """The operator of a call on int8 tensors that needed no fusing.

    Errors: ``SgscError`` naming what was left unfused.
    """
    if call.op.name == "relax.reshape":
        return Flatten()
    if call.op.name == "relax.nn.max_pool2d":
        attrs = call.attrs
        if attrs.ceil_mode or any(v != 1 for v in _numbers(attrs.dilation)):
            raise SgscError("max pooling with ceil_mode or dilation cannot be lowered")
        return MaxPool(_numbers(attrs.pool_size), _numbers(attrs.strides), _numbers(attrs.padding))
    raise SgscError(
        f"{call.op.name} is not part of a quantised operator",
        hint="quantise its inputs and its output; docs/operators.md lists the forms that fuse",
    )
