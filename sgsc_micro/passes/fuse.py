"""Quantised operators out of their QDQ pieces: each becomes one composite function over int8 tensors.

before: quantize(relu(conv2d(dequantize(q), dequantize(w)) + dequantize(b)))
after:  fused_conv2d(q)      # Composite = "sgsc.conv2d", the pieces and their constants inside
"""

from __future__ import annotations

from collections.abc import Iterator

import tvm
from tvm import relax
from tvm.relax.dpl import DFPattern, is_const, is_op, wildcard
from tvm.relax.transform import FuseOpsByPattern

from sgsc_micro.ir import bindings_of, is_constant

_NHWC = {"data_layout": "NHWC", "kernel_layout": "OHWI"}


@tvm.transform.module_pass(opt_level=0, name="FuseQuantizedOps")
class FuseQuantizedOps:
    """The pass; float operators that are no part of a quantised one stay as they are."""

    def transform_module(self, module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """``main`` with one call to a composite function per quantised operator."""
        return FuseOpsByPattern(list(_patterns()), bind_constants=True)(_OneUse(module).run())


def _patterns() -> Iterator[tuple[str, DFPattern]]:
    """Longest first: the first pattern that matches wins."""
    conv = is_op("relax.nn.conv2d")(_activation(), _weights()).has_attr(_NHWC)
    dense = is_op("relax.matmul")(_activation(), is_op("relax.permute_dims")(_weights()))
    for name, accumulator in (("conv2d", conv), ("dense", dense)):
        biased = is_op("relax.add")(accumulator, _weights())
        yield from ((f"sgsc.{name}", ending) for ending in (*_endings(biased), *_endings(accumulator)))
    total = is_op("relax.add")(_activation(), _activation())
    yield from (("sgsc.add", ending) for ending in _endings(total))
    pooled = is_op("relax.nn.avg_pool2d")(_activation())
    yield from (("sgsc.avg_pool2d", ending) for ending in _endings(pooled))
    yield from (("sgsc.requantize", ending) for ending in _endings(_activation()))


def _activation() -> DFPattern:
    return is_op("relax.dequantize")(wildcard(), is_const(), is_const())


def _weights() -> DFPattern:
    return is_op("relax.dequantize")(is_const(), is_const(), is_const())


def _endings(x: DFPattern) -> Iterator[DFPattern]:
    """Quantised after a clip, after a relu, or as it is."""
    clipped = is_op("relax.clip")(x, wildcard(), wildcard())
    for activated in (clipped, is_op("relax.nn.relu")(x), x):
        yield is_op("relax.quantize")(activated, is_const(), is_const())


class _OneUse:
    """Gives every use of a dequantize its own copy: a value used outside of a pattern would not be fused."""

    def __init__(self, module: tvm.IRModule) -> None:
        self.old = module["main"]
        self.builder = relax.BlockBuilder()

    def run(self) -> tvm.IRModule:
        dequantizes: dict[relax.Var, relax.Call] = {}
        new: dict[relax.Var, relax.Var] = {}

        def use(expression: relax.Expr) -> relax.Expr:
            if expression in dequantizes:
                return self.builder.emit(dequantizes[expression])
            return new.get(expression, expression)

        with self.builder.function("main", list(self.old.params)):
            with self.builder.dataflow():
                for var, value in bindings_of(self.old):
                    if isinstance(value, relax.Var):
                        new[var] = use(value)
                        continue
                    source = value.args[0]
                    call = relax.Call(value.op, [use(argument) for argument in value.args], value.attrs)
                    if value.op.name == "relax.dequantize" and (is_constant(source) or source in new):
                        dequantizes[var] = call
                    else:
                        new[var] = self.builder.emit(call)
                output = self.builder.emit_output(use(self.old.body.body))
            self.builder.emit_func_output(output)
        return self.builder.finalize()
