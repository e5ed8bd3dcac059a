"""What quantised operators are made of: scales, the end of an accumulator, the pieces they are read from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from tvm import relax

from sgsc_micro.compiler_flags import Objective
from sgsc_micro.ir import bindings_of, constant_of, is_constant
from sgsc_micro.passes.requantise import Multiplier, Rounding, multiplier_of, quantise_bound


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

    def close_to(self, other: Quantisation) -> bool:
        """Whether an operator that keeps its scale may go from one to the other: as near as TFLite asks."""
        return abs(self.scale - other.scale) <= 1e-6 and self.zero_point == other.zero_point

    @property
    def reach(self) -> int:
        """The largest |q - zero_point|."""
        return max(127 - self.zero_point, self.zero_point + 128)


@dataclass(frozen=True)
class Output:
    """How an accumulator ends: clamped to ``activation`` (real), quantised to ``quantisation``."""

    quantisation: Quantisation
    activation: tuple[float, float] = (-math.inf, math.inf)
    rounding: Rounding = "single"

    @property
    def zero_point(self) -> int:
        """The output's zero point."""
        return self.quantisation.zero_point

    @property
    def bounds(self) -> tuple[int, int]:
        """The int8 values between which the result is clamped."""
        scale = self.quantisation.scale
        low, high = (quantise_bound(v, scale, self.zero_point, self.rounding) for v in self.activation)
        return low, high

    def multiplier(self, scale: float) -> Multiplier:
        """From an accumulator of real ``scale`` to the output."""
        return multiplier_of(scale / self.quantisation.scale, self.rounding)

    def end(self, accumulator: int, multiplier: Multiplier) -> int:
        """One accumulator as the int8 it becomes."""
        low, high = self.bounds
        return min(max(multiplier.apply(accumulator) + self.zero_point, low), high)

    def emit(self, builder: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        """quantize(activation(x))."""
        low, high = self.activation
        if (low, high) == (0.0, math.inf):
            x = builder.emit(relax.op.nn.relu(x))
        elif (low, high) != (-math.inf, math.inf):
            x = builder.emit(relax.op.clip(x, low, high))
        return self.quantisation.quantize(x)


class Operator:
    """An operator between int8 tensors.

    One with a ``composite`` stands for a function of QDQ pieces of that name; one without for a call on integers.
    """

    composite: ClassVar[str] = ""
    overwrites: ClassVar[tuple[int, ...]] = ()
    """Numbers of the inputs that the output may lie over, where it is as large: what is read from a byte on is read
    before that byte is written."""

    @property
    def channelwise(self) -> bool:
        """Whether channel c of the output depends on channel c of the inputs alone, where their counts are the same."""
        return False

    def keeps_apart(self, axis: int) -> bool:
        """The same of slices along any ``axis``, counted from the last, which is -1."""
        return axis == -1 and self.channelwise

    def scratch_bytes(self, output: Sequence[int], objective: Objective) -> int:
        """What its kernel needs of the arena while it runs, for a result of shape ``output``."""
        return 0

    def constant(self, value: int) -> int | None:
        """What a channel becomes whose input is ``value`` everywhere; None where that is no one value."""
        return None

    def evaluate(self, *values: np.ndarray) -> np.ndarray | None:
        """The int8 output for constant inputs; None where the operator computes more than a compiler should."""
        return None

    @property
    def is_identity(self) -> bool:
        """Whether the output is the input, where their shapes are the same."""
        return False

    def emit(self, builder: relax.BlockBuilder, *inputs: relax.Expr) -> relax.Expr:
        """The operator over int8 ``inputs``: as QDQ pieces, or the call on integers."""
        raise NotImplementedError


Operand = Any
"""A parameter of a composite function (relax.Var), or an int8 constant inside (np.ndarray)."""


@dataclass
class Pieces:
    """The calls of a composite function by operator name, in order; how the network rounds."""

    rounding: Rounding
    calls: dict[str, list[relax.Call]] = field(default_factory=dict)
    values: dict[relax.Expr, relax.Call] = field(default_factory=dict)

    @staticmethod
    def of(function: relax.Function, rounding: Rounding) -> Pieces:
        """Taken apart."""
        pieces = Pieces(rounding)
        for var, value in bindings_of(function):
            pieces.values[var] = value
            pieces.calls.setdefault(value.op.name, []).append(value)
        return pieces

    def parts(self) -> list[Pieces]:
        """One after another, each up to its quantize."""
        parts = [Pieces(self.rounding)]
        for var, value in self.values.items():
            parts[-1].values[var] = value
            parts[-1].calls.setdefault(value.op.name, []).append(value)
            if value.op.name == "relax.quantize":
                parts.append(Pieces(self.rounding))
        return parts[:-1]

    def one(self, name: str) -> relax.Call:
        """The first call of an operator."""
        return self.calls[name][0]

    def activations(self, name: str) -> tuple[list[Quantisation], list[Operand]]:
        """What the operator ``name`` reads: how each operand is quantised, and its integers."""
        dequantizes = [self.values[argument] for argument in self.one(name).args if argument in self.values]
        operands = [call.args[0] for call in dequantizes]
        integers = [constant_of(operand) if is_constant(operand) else operand for operand in operands]
        return [Quantisation.of(call) for call in dequantizes], integers

    def activation(self) -> tuple[Quantisation, list[Operand]]:
        """The same of the only operand that is no constant."""
        (call,) = (call for call in self.calls["relax.dequantize"] if not is_constant(call.args[0]))
        return Quantisation.of(call), [call.args[0]]

    def output(self) -> Output:
        """How it ends."""
        activation = (-math.inf, math.inf)
        if "relax.nn.relu" in self.calls:
            activation = (0.0, math.inf)
        elif "relax.clip" in self.calls:
            low, high = (float(constant_of(bound)) for bound in self.one("relax.clip").args[1:3])
            activation = (low, high)
        return Output(Quantisation.of(self.one("relax.quantize")), activation, self.rounding)


def numbers(values: Any) -> Any:
    """A tuple of Python integers."""
    return tuple(int(value) for value in values)
