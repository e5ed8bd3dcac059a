"""What every room asks of a Relax expression: its shape, its constant, the calls of a function in order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import relax
from tvm.ir import Constant

from sgsc_micro.errors import SgscError

tvm_ffi.register_error("SgscError", SgscError)  # raised inside a TVM pass, it comes out as itself


def shape_of(expression: relax.Expr) -> tuple[int, ...]:
    """The static shape of a tensor expression."""
    return tuple(int(extent) for extent in expression.ty.shape)


def is_constant(expression: relax.Expr) -> bool:
    """Whether the expression is a constant tensor."""
    return isinstance(expression, Constant)


def constant_of(expression: relax.Expr) -> np.ndarray:
    """The value of a constant tensor or number."""
    value = expression.value
    return np.asarray(value.numpy() if hasattr(value, "numpy") else value)


def bindings_of(function: relax.Function) -> Iterator[tuple[relax.Var, relax.Expr]]:
    """The (variable, value) pairs of a function in order, over all its blocks."""
    for block in function.body.blocks:
        for binding in block.bindings:
            yield binding.var, binding.value


_ROUNDING = "sgsc.rounding"


def rounding_of(module: tvm.IRModule) -> Any:
    """How a module's operators round (docs/semantics.md): ``single``, or ``tflite`` where ``main`` says so."""
    attributes = module["main"].attrs
    return str(attributes[_ROUNDING]) if attributes and _ROUNDING in attributes else "single"


def with_rounding(module: tvm.IRModule, rounding: str) -> tvm.IRModule:
    """The same module whose ``main`` says how it rounds."""
    module = module.clone()
    module["main"] = module["main"].with_attr(_ROUNDING, rounding)
    return module
