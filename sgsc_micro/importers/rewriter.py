"""The walk that turns a graph's layout, whatever its operators are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm
from tvm import relax

from sgsc_micro.errors import SgscError
from sgsc_micro.importers.tables import FUNCTIONS, Waiting
from sgsc_micro.ir import bindings_of, constant_of, shape_of

TO_NHWC = (0, 2, 3, 1)


class Rewriter:
    """One walk over the bindings; remembers for each old variable its new one and what has to be made up for later.

    A method ``_name`` of a class below rewrites the operator that Relax calls ``name``: from the old variable and call
    to the new variable.
    """

    def __init__(self, function: relax.Function) -> None:
        self.old = function
        self.builder = relax.BlockBuilder()
        self.calls: dict[relax.Var, relax.Call] = {}
        self.new: dict[relax.Var, relax.Var] = {}
        self.order: dict[relax.Var, np.ndarray] = {}  # flattened images: new position -> old position
        self.images: set[relax.Var] = set()  # old variables whose new ones are NHWC
        self.reshaped: set[relax.Var] = set()  # old variables whose new ones take their shape when they are quantised
        self.waiting: dict[relax.Var, Waiting] = {}  # those without new ones before they are quantised
        self.integers: dict[relax.Var, relax.Call] = {}  # new variable -> the dequantize that made it

    def run(self) -> tvm.IRModule:
        """The module rewritten. Errors: ``SgscError`` naming an operator that cannot be lowered."""
        (parameter,) = self.old.params
        with self.builder.function("main", [parameter]):
            with self.builder.dataflow():
                self.new[parameter] = parameter
                if len(shape_of(parameter)) == 4:
                    self.images.add(parameter)
                    self.new[parameter] = self._emit(relax.op.permute_dims(parameter, TO_NHWC))
                for var, value in bindings_of(self.old):
                    self._bind(var, value)
                output = self.builder.emit_output(self._output())
            self.builder.emit_func_output(output)
        return self.builder.finalize()

    def _emit(self, expression: relax.Expr) -> relax.Var:
        return self.builder.emit(expression)

    def _output(self) -> relax.Expr:
        result = self.old.body.body
        if result in self.order:
            raise SgscError(
                "importer: the network ends in a flattened image", hint="end it in a dense layer or a pooling"
            )
        output = self.new[result]
        return relax.op.permute_dims(output, (0, 3, 1, 2)) if result in self.images else output

    def _bind(self, var: relax.Var, value: relax.Expr) -> None:
        sources = value.args if isinstance(value, relax.Call) else [value]
        if any(source in self.images for source in sources) and len(shape_of(var)) == 4:
            self.images.add(var)
        if isinstance(value, relax.Var):
            self.new[var] = self.new[value]
            self._keep_order(var, value)
            return
        if not isinstance(value, relax.Call):
            raise SgscError(f"importer: cannot take {type(value).__name__} bound to {var.name_hint}")
        self.calls[var] = value
        if not any(argument in self.new for argument in value.args):
            return  # weights: read where they are used
        name = value.op.name
        if any(argument in self.waiting for argument in value.args) and name not in ("relax.quantize", "relax.reshape"):
            raise SgscError(f"importer: {name} of a table or an embedding", hint="quantise that first")
        method = "function" if name in FUNCTIONS else name.rsplit(".", 1)[-1]
        rewrite = getattr(self, f"_{method}", None)
        if rewrite is None:
            raise SgscError(f"importer: operator {name} cannot be lowered", hint="see docs/operators.md")
        self.new[var] = rewrite(var, value)

    def _keep_order(self, var: relax.Var, *sources: relax.Var) -> None:
        """The features of ``var`` are in the order of its sources', which must agree."""
        orders = [self.order.get(source) for source in sources]
        if any(not _same_order(orders[0], order) for order in orders):
            raise SgscError(
                "importer: sum of features in different orders", hint="add the images before they are flattened"
            )
        if orders[0] is not None:
            self.order[var] = orders[0]
        if any(source in self.reshaped for source in sources):
            self.reshaped.add(var)

    def _weights(self, expression: relax.Expr) -> tuple[np.ndarray, relax.Call]:
        """The integer constant behind ``dequantize`` (and ``reshape`` or ``permute_dims``), and the dequantize call."""
        call = self.calls.get(expression)
        while call is not None and call.op.name in ("relax.reshape", "relax.permute_dims"):
            call = self.calls.get(call.args[0])
        if call is None or call.op.name != "relax.dequantize":
            raise SgscError(
                "importer: an operator has weights that are not quantised", hint="quantise every weight and bias"
            )
        return constant_of(call.args[0]), call

    def _dequantized(self, values: np.ndarray, call: relax.Call) -> relax.Var:
        return self._emit(relax.op.dequantize(relax.const(values), call.args[1], call.args[2], axis=0))

    def _on_integers(self, x: relax.Var, move: Callable[[relax.Expr], relax.Call]) -> relax.Var | None:
        """``dequantize(move(q))`` where x is ``dequantize(q)``; None where it is not."""
        call = self.integers.get(x)
        if call is None:
            return None
        return self._dequantize_integers(self._emit(move(call.args[0])), call)

    def _dequantize_integers(self, q: relax.Var, call: relax.Call) -> relax.Var:
        dequantize = relax.Call(call.op, [q, *call.args[1:]], call.attrs)
        result = self._emit(dequantize)
        self.integers[result] = dequantize
        return result


def _same_order(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return a is b is None or (a is not None and b is not None and np.array_equal(a, b))
