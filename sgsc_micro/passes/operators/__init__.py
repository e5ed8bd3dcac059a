"""The quantised operators as data: read from a composite function or a call on integers, and written back as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from tvm import relax

from sgsc_micro.errors import SgscError
from sgsc_micro.passes.operators.arithmetic import (
    Add,
    AveragePool,
    BatchMatMul,
    Binary,
    Lookup,
    MaxPool,
    Mean,
    Multiply,
    Requantize,
    ResizeBilinear,
    Subtract,
)
from sgsc_micro.passes.operators.base import Operand, Operator, Output, Pieces, Quantisation
from sgsc_micro.passes.operators.moves import Concatenate, Embedding, Pad, Reshape, Slice, Take, Transpose
from sgsc_micro.passes.operators.normalise import LayerNorm, Softmax
from sgsc_micro.passes.operators.residual import Read, Residual, composite_of
from sgsc_micro.passes.operators.weighted import Conv2D, Dense, TransposedConv2D, Weighted
from sgsc_micro.passes.requantise import Rounding

__all__ = [
    "Add",
    "AveragePool",
    "BatchMatMul",
    "Binary",
    "Concatenate",
    "Conv2D",
    "Dense",
    "Embedding",
    "LayerNorm",
    "Lookup",
    "MaxPool",
    "Mean",
    "Multiply",
    "Operator",
    "Output",
    "Pad",
    "Quantisation",
    "Requantize",
    "Reshape",
    "Residual",
    "ResizeBilinear",
    "Slice",
    "Softmax",
    "Subtract",
    "Take",
    "Transpose",
    "TransposedConv2D",
    "Weighted",
    "read_composite",
    "read_integer_operator",
]

_COMPOSITES: Mapping[str, Read] = {
    kind.composite: kind.read
    for kind in (
        Conv2D,
        TransposedConv2D,
        Dense,
        Add,
        Subtract,
        Multiply,
        Requantize,
        Lookup,
        Embedding,
        AveragePool,
        Mean,
        Softmax,
        LayerNorm,
        BatchMatMul,
        ResizeBilinear,
    )
} | {
    composite_of(weighted, add): partial(Residual.read, weighted.read, add.read)
    for weighted in (Conv2D, TransposedConv2D, Dense)
    for add in (Add, Subtract)
}

_ON_INTEGERS: dict[str, Callable[[relax.Call], Operator]] = {
    "relax.reshape": Reshape.read,
    "relax.permute_dims": Transpose.read,
    "relax.nn.max_pool2d": MaxPool.read,
    "relax.nn.pad": Pad.read,
    "relax.concat": Concatenate.read,
    "relax.strided_slice": Slice.read,
    "relax.take": Take.read,
}


def read_composite(function: relax.Function, rounding: Rounding) -> tuple[Operator, list[Operand]]:
    """The operator that a composite function of :mod:`sgsc_micro.passes.fuse` stands for, and what it reads."""
    return _COMPOSITES[str(function.attrs["Composite"])](Pieces.of(function, rounding))


def read_integer_operator(call: relax.Call) -> Operator:
    """The operator of a call on int8 tensors that needed no fusing. ``call`` is typed.

    Errors: ``SgscError`` naming what was left unfused.
    """
    read = _ON_INTEGERS.get(call.op.name)
    if read is None:
        raise SgscError(
            f"{call.op.name} is not part of a quantised operator",
            hint="quantise its inputs and its output; docs/operators.md lists the forms that fuse",
        )
    return read(call)
