"""Trained networks into the one form every later room reads: a Relax module with quantised parts as QDQ.

The form: one function ``main(x: float32 [1, ...]) -> float32``. Operators that compute (conv2d, matmul, add, average
pooling) stand between ``dequantize`` and ``quantize``, those that only move or choose (reshape, max pooling) on int8
itself. Images are NHWC, sequences [1, T, F], kernels OHWI, dense weights ``[out, in]`` behind a ``permute_dims``.
Weights are ``dequantize(int8 constant, scale [C] float32, 0, axis=0)``, biases the same over int32. A leading
``permute_dims`` turns the user's own input layout into NHWC, before the first ``quantize``. ``main`` says how it rounds
(:func:`sgsc_micro.ir.rounding_of`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import tvm

from sgsc_micro.errors import SgscError
from sgsc_micro.importers.onnx import from_onnx
from sgsc_micro.importers.tflite import from_tflite
from sgsc_micro.importers.torch import from_torch, load_torch

__all__ = ["from_onnx", "from_tflite", "from_torch", "load_model", "load_torch"]

_FORMATS: dict[str, Callable[[Path], tvm.IRModule]] = {
    ".tflite": from_tflite,
    ".onnx": from_onnx,
    ".pt2": lambda path: from_torch(load_torch(path)),
}


def load_model(path: Path) -> tvm.IRModule:
    """A quantised network from a file, by the ending of its name.

    Errors: ``SgscError`` for another ending, or from the importer.
    """
    read = _FORMATS.get(path.suffix)
    if read is None:
        raise SgscError(f"{path}: no model format ends in {path.suffix!r}", hint=f"expected {' or '.join(_FORMATS)}")
    return read(path)
