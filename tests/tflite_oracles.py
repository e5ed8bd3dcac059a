"""What other runtimes answer to a TFLite model: tflite-micro, the oracle, and LiteRT's reference kernels.

Where the two differ, and why, says ``tests/test_tflite_models.py``. Either package may be missing: call
:func:`require_tflite_micro` or :func:`require_litert` in a test that needs it.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from typing import Any

import numpy as np
import pytest

ARENA = 4 << 20
"""Bytes given to tflite-micro: more than any model of the tests needs."""


def require_tflite_micro() -> None:
    """Skip the test where tflite-micro is not installed."""
    pytest.importorskip("tflite_micro", reason="the oracle tflite-micro is not installed")


def require_litert() -> None:
    """Skip the test where LiteRT is not installed."""
    pytest.importorskip("ai_edge_litert", reason="the second witness ai-edge-litert is not installed")


def tflite_micro_outputs(model: bytes, inputs: np.ndarray, output: int = 0) -> np.ndarray:
    """What tflite-micro computes for rows of its one input.

    ``inputs`` [N, ...] holds N inputs of the model's shape without its batch axis of 1, in the model's type (int8, or
    float32 where the model begins with QUANTIZE). Gives output ``output`` [N, ...], without a leading axis of 1.
    Raises RuntimeError where tflite-micro refuses the model; some wrong models end the process instead.
    """
    interpreter = _tflite_micro(model, ARENA)
    shape = tuple(interpreter.get_input_details(0)["shape"])
    results = []
    for row in inputs:
        interpreter.set_input(row.reshape(shape), 0)
        interpreter.invoke()
        results.append(_row(np.array(interpreter.get_output(output))))
    return np.stack(results)


def litert_reference_outputs(model: bytes, inputs: np.ndarray, output: int = 0) -> np.ndarray:
    """The same of LiteRT's reference kernels; never its default ones, which are not bit-exact."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(model_content=model, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[output]
    results = []
    for row in inputs:
        interpreter.set_tensor(source["index"], row.reshape(tuple(source["shape"])))
        interpreter.invoke()
        results.append(_row(interpreter.get_tensor(target["index"])))
    return np.stack(results)


def tflite_micro_arena_bytes(model: bytes) -> int:
    """Bytes of arena that tflite-micro uses: the total its recording allocator prints after one inference.

    Within 8 bytes of the smallest arena it still allocates in. Activations, scratch and the interpreter's structures,
    which pointers of eight bytes make up to twice as large here as on a microcontroller.
    """
    interpreter = _tflite_micro(model, 64 << 20)
    details = interpreter.get_input_details(0)
    interpreter.set_input(np.zeros(tuple(details["shape"]), details["dtype"]), 0)
    interpreter.invoke()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as log:  # C++ writes to the descriptor itself
        kept = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            interpreter.print_allocations()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        log.seek(0)
        found = re.search(rb"Arena allocation total (\d+) bytes", log.read())
    assert found, "tflite-micro printed no arena total"
    return int(found[1])


def _tflite_micro(model: bytes, arena: int) -> Any:
    from tflite_micro.python.tflite_micro import runtime

    return runtime.Interpreter.from_bytes(model, arena_size=arena)


def _row(values: np.ndarray) -> np.ndarray:
    """A copy without a leading axis of 1."""
    return np.array(values[0] if values.ndim and values.shape[0] == 1 else values)
