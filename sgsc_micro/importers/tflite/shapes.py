"""Arithmetic on shapes, done when a network is imported: converters leave it behind a free batch axis.

before: shape(x) -> strided_slice -> pack(., 8, 8, 4) -> transpose_conv's output shape
after:  transpose_conv whose output shape is the constant [1, 8, 8, 4]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from sgsc_micro.importers.tflite.model import DAMAGED, Model, Operator, Refused, Tensor
from sgsc_micro.importers.tflite.moves import spans_of


def fold_shapes(model: Model) -> Model:
    """The model without operators that compute int32 from constants and shapes; what they gave is constant.

    One that cannot be evaluated stays, and is refused by whoever converts it.
    """
    known: dict[int, Tensor] = {}
    kept: list[Operator] = []
    for operator in model.operators:
        inputs = tuple(None if tensor is None else known.get(tensor.index, tensor) for tensor in operator.inputs)
        operator = replace(operator, inputs=inputs)
        values = _evaluated(operator)
        if values is None:
            kept.append(operator)
        else:
            known[operator.output.index] = replace(operator.output, values=values)
    return replace(model, operators=tuple(kept))


def _evaluated(operator: Operator) -> np.ndarray | None:
    if len(operator.outputs) != 1 or operator.output.dtype != "int32":
        return None
    if operator.kind == "SHAPE":
        return np.array(operator.input(0).shape, np.int32)
    evaluate = _EVALUATED.get(operator.kind)
    if evaluate is None or any(t is None or t.values is None or t.dtype != "int32" for t in operator.inputs):
        return None
    try:
        values = evaluate(operator).astype(np.int32)
    except (Refused, *DAMAGED):
        return None
    return values if values.shape == operator.output.shape else None


def _values(operator: Operator) -> list[np.ndarray]:
    return [tensor.values for tensor in operator.inputs if tensor is not None and tensor.values is not None]


def _strided_slice(operator: Operator) -> np.ndarray:
    x = _values(operator)[0]
    spans, kept = spans_of(operator, x.shape)
    part = x[np.ix_(*(list(span) for span in spans))]
    return part.reshape([len(spans[axis]) for axis in kept])


def _joined(operator: Operator) -> np.ndarray:
    return np.concatenate(_values(operator), operator.options("ConcatenationOptions").Axis())


def _stacked(operator: Operator) -> np.ndarray:
    return np.stack(_values(operator), operator.options("PackOptions").Axis())


def _reshaped(operator: Operator) -> np.ndarray:
    return _values(operator)[0].reshape(operator.output.shape)


_EVALUATED: dict[str, Callable[[Operator], np.ndarray]] = {
    "ADD": lambda operator: np.add(*_values(operator)),
    "CONCATENATION": _joined,
    "MUL": lambda operator: np.multiply(*_values(operator)),
    "PACK": _stacked,
    "RESHAPE": _reshaped,
    "STRIDED_SLICE": _strided_slice,
    "SUB": lambda operator: np.subtract(*_values(operator)),
}
