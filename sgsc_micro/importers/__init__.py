"""Trained networks into the one form every later room reads: a Relax module with quantised parts as QDQ.

The form: one function ``main(x: float32 [1, ...]) -> float32``. Operators that compute (conv2d, matmul, add, average
pooling) stand between ``dequantize`` and ``quantize``, those that only move or choose (reshape, max pooling) on int8
itself. Images are NHWC, kernels OHWI, dense weights ``[out, in]`` behind a ``permute_dims``. Weights are
``dequantize(int8 constant, scale [C] float32, 0, axis=0)``, biases the same over int32. A leading ``permute_dims``
turns the user's own input layout into NHWC, before the first ``quantize``.
"""

from sgsc_micro.importers.torch import from_torch, load_torch

__all__ = ["from_torch", "load_torch"]
