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
        live = relax.transform.DeadCodeElimination(["main"])(module)
        return FuseOpsByPattern(list(_patterns()), bind_constants=True)(_OneUse(live).run())


def _patterns() -> Iterator[tuple[str, DFPattern]]:
    """Longest first: the first pattern that matches wins."""
    weighted = {
        "conv2d": is_op("relax.nn.conv2d")(_activation(), _weights()).has_attr(_NHWC),
        "conv2d_transpose": is_op("relax.nn.conv2d_transpose")(_activation(), _weights()).has_attr(_NHWC),
        "dense": is_op("relax.matmul")(_activation(), is_op("relax.permute_dims")(_weights())),
    }
    for name, accumulator in weighted.items():
        biased = is_op("relax.add")(accumulator, _weights())
        yield from ((f"sgsc.{name}", ending) for ending in (*_endings(biased), *_endings(accumulator)))
    computed = {
        "add": is_op("relax.add")(_activation(), _activation()),
        "subtract": is_op("relax.subtract")(_activation(), _activation()),
        "multiply": is_op("relax.multiply")(_activation(), _activation()),
        "matmul": is_op("relax.matmul")(_activation(), _activation()),
        "avg_pool2d": is_op("relax.nn.avg_pool2d")(_activation()),
        "mean": is_op("relax.mean")(_activation()),
        "resize": is_op("relax.image.resize2d")(_activation(), wildcard()),
        "requantize": _activation(),
    }
    for name, result in computed.items():
        yield from ((f"sgsc.{name}", ending) for ending in _endings(result))
    for scores in (is_op("relax.add")(_activation(), is_const()), _activation()):
        yield "sgsc.softmax", _quantized(is_op("relax.nn.softmax")(scores))
    yield "sgsc.layer_norm", _quantized(is_op("relax.nn.layer_norm")(_activation(), is_const(), is_const()))
    yield "sgsc.embedding", is_op("relax.take")(is_const(), is_op("relax.clip")(_index(), wildcard(), wildcard()))
    yield "sgsc.lookup", is_op("relax.take")(is_const(), _index())


def _activation() -> DFPattern:
    """A new pattern at each call: one that is used twice matches the same tensor only."""
    return is_op("relax.dequantize")(wildcard(), is_const(), is_const())


def _index() -> DFPattern:
    return is_op("relax.add")(is_op("relax.astype")(wildcard()), is_const())


def _weights() -> DFPattern:
    return is_op("relax.dequantize")(is_const(), is_const(), is_const())


def _endings(x: DFPattern) -> Iterator[DFPattern]:
    """Quantised after a clip, after a relu, or as it is."""
    clipped = is_op("relax.clip")(x, wildcard(), wildcard())
    for activated in (clipped, is_op("relax.nn.relu")(x), x):
        yield _quantized(activated)


def _quantized(x: DFPattern) -> DFPattern:
    return is_op("relax.quantize")(x, is_const(), is_const())


class _OneUse:
    """Gives every use of a dequantize its own copy: a value used outside of a pattern would not be fused."""

    def __init__(self, module: tvm.IRModule) -> None:
        self.old = module["main"]
        self.builder = relax.BlockBuilder()

    def run(self) -> tvm.IRModule:
        dequantizes: dict[relax.Var, relax.Call] = {}
        new: dict[relax.Var, relax.Var] = {}

        def use(expression: relax.Expr) -> relax.Expr:
            if isinstance(expression, relax.Tuple):
                return relax.Tuple([use(part) for part in expression.fields])
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
        module = self.builder.finalize()
        module["main"] = module["main"].with_attrs(self.old.attrs or {})
        return module
