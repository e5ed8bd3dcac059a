"""TFLite operators that move int8 values, to Relax on the integers. One with several outputs gives a list."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax

from sgsc_micro.importers.tflite.convert import Scope, axis_of, constant, integers, same_quantisation
from sgsc_micro.importers.tflite.model import Operator, Refused
from sgsc_micro.ir import shape_of


def _handed_on(scope: Scope, op: Operator, number: int = 0) -> relax.Expr:
    """Input ``number``, which every output is quantised like."""
    for output in op.outputs:
        same_quantisation(op.input(number), output)
    return scope.integers(op.input(number))


def reshape(scope: Scope, op: Operator) -> relax.Var:
    """To the shape the file states for the output; the input that states it too is not needed."""
    x = _handed_on(scope, op)
    if math.prod(op.output.shape) != math.prod(shape_of(x)):
        raise Refused(f"makes {list(op.output.shape)} of {list(shape_of(x))}")
    return scope.emit(relax.op.reshape(x, op.output.shape))


def transpose(scope: Scope, op: Operator) -> relax.Var:
    """Axis i of the output is axis input1[i] of the input."""
    rank = len(op.input(0).shape)
    axes = [axis_of(axis, rank) for axis in integers(op.input(1))]
    if sorted(axes) != list(range(rank)):
        raise Refused(f"has axes {axes} for {rank}")
    return scope.emit(relax.op.permute_dims(_handed_on(scope, op), axes))


def pad(scope: Scope, op: Operator) -> relax.Var:
    """With the zero point, or with input 2."""
    widths, rank = constant(op.input(1), "int32", "int64"), len(op.input(0).shape)
    if widths.shape != (rank, 2) or widths.min(initial=0) < 0 or widths.max(initial=0) >= 2**31:
        raise Refused(f"has paddings {widths.tolist()} on {rank} axes")
    value, filling = op.output.zero_point, op.optional(2)
    if filling is not None:
        same_quantisation(op.input(0), filling)
        value = int(constant(filling, "int8").ravel()[0])
    return scope.emit(relax.op.nn.pad(_handed_on(scope, op), widths.ravel().tolist(), pad_value=value))


def concatenation(scope: Scope, op: Operator) -> relax.Var:
    """Along one axis."""
    options = op.options("ConcatenationOptions")
    if options.FusedActivationFunction():
        raise Refused("has a fused activation, which int8 kernels do not have")
    parts = [_handed_on(scope, op, number) for number in range(len(op.inputs))]
    return scope.emit(relax.op.concat(parts, axis_of(options.Axis(), len(op.output.shape))))


def pack(scope: Scope, op: Operator) -> relax.Var:
    """Along a new axis."""
    axis = axis_of(op.options("PackOptions").Axis(), len(op.output.shape))
    parts = []
    for number in range(len(op.inputs)):
        part = _handed_on(scope, op, number)
        shape = shape_of(part)
        parts.append(scope.emit(relax.op.reshape(part, (*shape[:axis], 1, *shape[axis:]))))
    return scope.emit(relax.op.concat(parts, axis))


def unpack(scope: Scope, op: Operator) -> list[relax.Var]:
    """Every slice along one axis, without it."""
    x = _handed_on(scope, op)
    axis = axis_of(op.options("UnpackOptions").Axis(), len(shape_of(x)))
    sizes = [1] * len(op.outputs)
    parts = _parts(scope, x, axis, sizes)
    shape = shape_of(x)
    return [scope.emit(relax.op.reshape(part, (*shape[:axis], *shape[axis + 1 :]))) for part in parts]


def split(scope: Scope, op: Operator) -> list[relax.Var]:
    """Equal parts; the axis comes first."""
    x = _handed_on(scope, op, 1)
    axis = axis_of(integers(op.input(0))[0], len(shape_of(x)))
    if shape_of(x)[axis] % len(op.outputs):
        raise Refused(f"splits {shape_of(x)[axis]} into {len(op.outputs)}")
    return _parts(scope, x, axis, [shape_of(x)[axis] // len(op.outputs)] * len(op.outputs))


def split_v(scope: Scope, op: Operator) -> list[relax.Var]:
    """Parts of given sizes, one of which may be -1: what is left."""
    x, sizes = _handed_on(scope, op), integers(op.input(1))
    axis = axis_of(integers(op.input(2))[0], len(shape_of(x)))
    sizes = [shape_of(x)[axis] - sum(sizes) - 1 if size == -1 else size for size in sizes]
    if len(sizes) != len(op.outputs):
        raise Refused(f"has {len(sizes)} sizes for {len(op.outputs)} outputs")
    return _parts(scope, x, axis, sizes)


def _parts(scope: Scope, x: relax.Expr, axis: int, sizes: list[int]) -> list[relax.Var]:
    if min(sizes) < 1 or sum(sizes) != shape_of(x)[axis]:
        raise Refused(f"splits {shape_of(x)[axis]} into {sizes}")
    parts, begin = [], 0
    for size in sizes:
        parts.append(scope.emit(relax.op.strided_slice(x, [axis], [begin], [begin + size], [1])))
        begin += size
    return parts


def slice_(scope: Scope, op: Operator) -> relax.Var:
    """From input 1, as many as input 2 says; -1: to the end."""
    x, begins, sizes = _handed_on(scope, op), integers(op.input(1)), integers(op.input(2))
    shape = shape_of(x)
    if not len(begins) == len(sizes) == len(shape):
        raise Refused(f"has {len(begins)} begins and {len(sizes)} sizes for {len(shape)} axes")
    ends = [n if size == -1 else b + size for b, size, n in zip(begins, sizes, shape, strict=True)]
    if any(not 0 <= begin < end <= n for begin, end, n in zip(begins, ends, shape, strict=True)):
        raise Refused(f"takes {begins} to {ends} of {list(shape)}")
    return _sliced(scope, x, begins, [e - b for b, e in zip(begins, ends, strict=True)], [1] * len(shape))


def strided_slice(scope: Scope, op: Operator) -> relax.Var:
    """As Python slices; bits of the masks leave ends away, or drop an axis."""
    x = _handed_on(scope, op)
    spans, kept = spans_of(op, shape_of(x))
    sizes = [len(span) for span in spans]
    part = _sliced(scope, x, [span[0] for span in spans], sizes, [span.step for span in spans])
    return part if len(kept) == len(spans) else scope.emit(relax.op.reshape(part, [sizes[axis] for axis in kept]))


def spans_of(op: Operator, shape: tuple[int, ...]) -> tuple[list[range], list[int]]:
    """What a STRIDED_SLICE takes of every axis, and the axes that it keeps."""
    options = op.options("StridedSliceOptions")
    begins, ends, strides = (integers(op.input(number)) for number in (1, 2, 3))
    if options.EllipsisMask() or options.NewAxisMask() or options.Offset():
        raise Refused("has an ellipsis, new axes or an offset")
    if not len(begins) == len(ends) == len(strides) <= len(shape):
        raise Refused(f"has {len(begins)} begins, {len(ends)} ends and {len(strides)} strides for {len(shape)} axes")
    spans, kept = [], []
    for axis, extent in enumerate(shape):
        bit = 1 << axis
        begin, end, step = (0, extent, 1) if axis >= len(begins) else (begins[axis], ends[axis], strides[axis])
        if options.ShrinkAxisMask() & bit:
            if not -extent <= begin < extent or step < 1:
                raise Refused(f"takes index {begin} of {extent}")
            span = range(begin % extent, begin % extent + 1)
        elif step == 0:
            raise Refused("has a stride of 0")
        else:
            whole = None if options.BeginMask() & bit else begin, None if options.EndMask() & bit else end, step
            span = range(*slice(*whole).indices(extent))
            kept.append(axis)
        if not span:
            raise Refused(f"takes nothing of axis {axis}")
        spans.append(span)
    return spans, kept


def _sliced(scope: Scope, x: relax.Expr, begins: list[int], sizes: list[int], steps: list[int]) -> relax.Var:
    ends = [b + step * (n - 1) + (1 if step > 0 else -1) for b, n, step in zip(begins, sizes, steps, strict=True)]
    before_first = [end if end >= 0 else -(10**9) for end in ends]  # Relax counts -1 from the end
    return scope.emit(relax.op.strided_slice(x, list(range(len(begins))), begins, before_first, steps))


def resize_nearest_neighbor(scope: Scope, op: Operator) -> relax.Var:
    """To the size of input 1: rows, then columns, by index."""
    x, options = _handed_on(scope, op), op.options("ResizeNearestNeighborOptions")
    sizes = integers(op.input(1))
    if len(shape_of(x)) != 4 or len(sizes) != 2 or min(sizes) < 1:
        raise Refused(f"makes {sizes} of {list(shape_of(x))}")
    for axis, size in ((1, sizes[0]), (2, sizes[1])):
        nearest = _nearest(shape_of(x)[axis], size, options)
        if not np.array_equal(nearest, np.arange(shape_of(x)[axis])):
            x = scope.emit(relax.op.take(x, relax.const(nearest), axis=axis))
    return x


def _nearest(extent: int, size: int, options: Any) -> np.ndarray:
    """int32 [size], in float32 as tflite-micro computes it."""
    corners, half = bool(options.AlignCorners()), bool(options.HalfPixelCenters())
    between = corners and size > 1
    scale = np.float32(extent - 1) / np.float32(size - 1) if between else np.float32(extent) / np.float32(size)
    position = (np.arange(size, dtype=np.float32) + np.float32(0.5 if half else 0)) * scale
    nearest = np.floor(position + np.float32(0.5)) if corners else np.floor(position)
    return np.clip(nearest, 0, extent - 1).astype(np.int32)


MOVING: dict[str, Callable[[Scope, Operator], relax.Var | list[relax.Var]]] = {
    "CONCATENATION": concatenation,
    "EXPAND_DIMS": reshape,
    "PACK": pack,
    "PAD": pad,
    "PADV2": pad,
    "RESHAPE": reshape,
    "RESIZE_NEAREST_NEIGHBOR": resize_nearest_neighbor,
    "SLICE": slice_,
    "SPLIT": split,
    "SPLIT_V": split_v,
    "SQUEEZE": reshape,
    "STRIDED_SLICE": strided_slice,
    "TRANSPOSE": transpose,
    "UNPACK": unpack,
}
