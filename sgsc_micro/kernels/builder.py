"""What every kernel's TIR has in common: its parameters, named loops, calls of micro-kernels, the requantising end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from sgsc_micro.errors import SgscError
from sgsc_micro.kernels.constants import POOLS, Constants, Entry
from sgsc_micro.passes.operators import Output
from sgsc_micro.passes.requantise import INT32_MAX, DoubleRounding, Multiplier, SingleRounding

Expression = Any
"""A TIR expression; TVM's own classes overload every operator."""

Shapes = dict[str, tuple[tuple[int, ...], str]]
"""Shape and dtype by parameter name."""


@dataclass
class Kernel:
    """A kernel while it is built: buffers over its C parameters, in their order; ``function`` when it is done."""

    constants: Constants
    buffers: dict[str, Any] = field(default_factory=dict)
    dots: set[tuple[str, int]] = field(default_factory=set)
    """The dot products it needs, by shape and field width."""
    function: Any = None

    @property
    def row(self) -> Any:
        """The scratch row of widened activations."""
        return self.buffers["scratch"]

    @property
    def output(self) -> Any:
        """The int8 tensor it writes."""
        return self.buffers["out"]

    def input(self, number: int = 0) -> Any:
        """An int8 tensor it reads."""
        return self.buffers[f"in{number}"]

    def place(self, buffer: str, offset: Expression) -> Expression:
        """The address of a byte of a tensor that was opened flat."""
        return T.address_of(self.buffers[buffer][offset])

    def load(self, entry: Entry, index: Expression) -> Expression:
        """An integer constant, as int32."""
        return T.Cast("int32", self.buffers[entry.pool][entry.offset + index])

    def address(self, entry: Entry, index: Expression) -> Expression:
        """The address of a stored constant."""
        return T.address_of(self.buffers[entry.pool][entry.offset + index])


def pool_shapes(constants: Constants) -> Shapes:
    """The pools that are used, as parameters."""
    return {pool: ((constants.size(pool),), np.dtype(POOLS[pool]).name) for pool in constants.used}


def parameters(shapes: Shapes) -> dict[str, Any]:
    """Buffers over the parameters of the PrimFunc that is open, in order, by name; each of a shape and a dtype."""
    handles = {name: T.arg(name, T.handle(dtype)) for name, (_, dtype) in shapes.items()}
    return {name: T.decl_buffer(shape, dtype, data=handles[name]) for name, (shape, dtype) in shapes.items()}


@contextlib.contextmanager
def kernel(
    name: str, inputs: list[tuple[int, ...]], output: tuple[int, ...], constants: Constants, scratch: int = 0
) -> Iterator[Kernel]:
    """Open a PrimFunc over int8 tensors of these shapes, ``scratch`` bytes and the pools ``constants`` uses."""
    built = Kernel(constants)
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name(name)
            T.func_attr({"global_symbol": name})  # not noalias: an output may lie over an input
            shapes: Shapes = {f"in{number}": (shape, "int8") for number, shape in enumerate(inputs)}
            shapes["out"] = output, "int8"
            if scratch:
                shapes["scratch"] = (scratch,), "int8"
            built.buffers = parameters(shapes | pool_shapes(constants))
            yield built
    built.function = builder.get()


@contextlib.contextmanager
def loop(name: str, extent: Expression) -> Iterator[Expression]:
    """A loop with a named variable; one of extent 1 is no loop."""
    if isinstance(extent, int) and extent == 1:
        yield tirx.const(0, "int32")
        return
    with T.serial(0, extent) as variable:
        IRBuilder.name(name, variable)
        yield variable


@contextlib.contextmanager
def loops(**extents: Expression) -> Iterator[list[Expression]]:
    """Nested loops, outermost first."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(loop(name, extent)) for name, extent in extents.items()]


def call(function: str, *arguments: Expression, dtype: str = "int32") -> Expression:
    """A micro-kernel of sgsc_kernels.h that gives a value."""
    return T.call_extern(dtype, function, *arguments)


def run(function: str, *arguments: Expression) -> None:
    """A micro-kernel of sgsc_kernels.h that gives none."""
    T.evaluate(T.call_extern("void", function, *arguments))


def bind(name: str, value: Expression) -> Expression:
    """A named local variable."""
    variable = T.bind(value)
    IRBuilder.name(name, variable)
    return variable


def check(layer: str, multipliers: Sequence[Multiplier], bounds: np.ndarray) -> None:
    """Accumulators of magnitudes up to ``bounds`` int64 [C] fit int32, shifted left as far as they will be.

    Errors: ``SgscError`` naming the layer and a channel that could leave int32.
    """
    for channel, (bound, multiplier) in enumerate(zip(bounds.tolist(), multipliers, strict=True)):
        if (reached := bound << multiplier.left) > INT32_MAX:
            raise SgscError(
                f"{layer}: the accumulator of channel {channel} can reach {reached}, beyond int32",
                hint="use a larger output scale, narrower weights or a smaller bias",
            )


_SHORT_LIMIT = 2**30
"""Where TFLite's rounding could overflow: the short form doubles the accumulator first."""
_MOST_RIGHT = 22
"""So far the short form shifts right: the zero point, shifted left as far, has to fit."""
_FULL = (-128, 127)


def is_short(multiplier: Multiplier, bound: int) -> bool:
    """Whether the short form takes accumulators of a magnitude up to ``bound``, where it shifts them as far."""
    doubles = isinstance(multiplier, DoubleRounding)
    return multiplier.right <= _MOST_RIGHT and not (doubles and bound << multiplier.left >= _SHORT_LIMIT)


def clamped(name: str, output: Output) -> str:
    """The micro-kernel for an output that may not end where int8 does."""
    return name if output.bounds == _FULL else f"{name}_clamped"


class Requantiser:
    """An output's multipliers: literals where all accumulators agree, else constants beside the weights."""

    def __init__(
        self, constants: Constants, output: Output, multipliers: Sequence[Multiplier], bounds: np.ndarray
    ) -> None:
        """Accumulators of magnitudes up to ``bounds`` int64 [C], as the constants imply, and their multipliers [C].

        In TFLite's rounding they have one multiplier.
        Errors: ``SgscError`` naming the layer where one could leave int32, shifted left as far as it will be.
        """
        check(constants.layer, multipliers, bounds)
        self.output, self.least_right = output, multipliers[0].least_right
        (form,) = {_form(*pair) for pair in zip(multipliers, bounds.tolist(), strict=True)}
        self.kind = form if form == "tflite_long" else clamped(form, output)
        """How the micro-kernels that do it are called at their end."""
        self.m = _shared(constants, "multipliers", [multiplier.m for multiplier in multipliers])
        self.shift = _shared(constants, "shifts", [multiplier.right - multiplier.left for multiplier in multipliers])

    def arguments(self, built: Kernel, number: Expression = 0) -> list[Expression]:
        """A micro-kernel's last arguments, ``struct sgsc_scale``, for accumulators of one multiplier."""
        m, shift = (_load(built, value, number) for value in (self.m, self.shift))
        left, right = T.max(self.least_right - shift, 0), T.max(shift, self.least_right)
        return [left, m, right, self.output.zero_point, *self.output.bounds]


def _form(multiplier: Multiplier, bound: int) -> str:
    if isinstance(multiplier, SingleRounding):
        return "single"
    if not is_short(multiplier, bound):
        return "tflite_long"
    return "tflite" if multiplier.right else "tflite_high"


def _shared(constants: Constants, what: str, values: list[int]) -> Entry | int:
    return values[0] if len(set(values)) == 1 else constants.integers(what, np.array(values))


def _load(built: Kernel, value: Entry | int, number: Expression) -> Expression:
    return built.load(value, number) if isinstance(value, Entry) else tirx.const(value, "int32")
