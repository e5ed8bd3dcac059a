"""The operators of sequences [1, T, F]: what a transformer has beside linear layers. Their layout stays as it is."""

from __future__ import annotations

import numpy as np
from tvm import relax

from sgsc_micro.errors import SgscError
from sgsc_micro.importers.constants import evaluate, mask
from sgsc_micro.importers.rewriter import TO_NHWC, Rewriter
from sgsc_micro.importers.tables import FUNCTIONS, embedding, lookup
from sgsc_micro.ir import constant_of, shape_of


class SequenceOperators(Rewriter):
    """One method an operator, named as Relax names it."""

    def _constant_operand(self, activation: relax.Var, other: relax.Expr) -> relax.Expr:
        """What is added to a quantised tensor: a mask, or a constant at a scale of its own."""
        if activation in self.images or activation in self.order:
            raise SgscError("importer: a constant is added to an image", hint="add it to the layer before, as a bias")
        values = evaluate(other, self.calls)
        if values is not None:
            return mask(values)
        integers, dequantize = self._weights(other)
        parameters = [constant_of(argument) for argument in dequantize.args[1:3]]
        if any(parameter.size != 1 for parameter in parameters) or integers.size != np.prod(shape_of(other)):
            raise SgscError("importer: a constant of several scales is added", hint="quantise it per tensor")
        scalars = [relax.const(parameter.reshape(())) for parameter in parameters]
        return self._emit(relax.op.dequantize(relax.const(integers.reshape(shape_of(other))), *scalars))

    def _plain_reshape(self, var: relax.Var, source: relax.Var) -> relax.Var:
        """Of the integers now, or when there are any."""
        x = self.new[source]
        if source in self.waiting:
            self.waiting[var] = self.waiting[source]
        elif (moved := self._on_integers(x, lambda q: relax.op.reshape(q, shape_of(var)))) is not None:
            return moved
        self.reshaped.add(var)
        return x

    def _broadcast_to(self, var: relax.Var, call: relax.Call) -> relax.Var:
        if shape_of(var) != shape_of(call.args[0]):
            raise SgscError("importer: an activation is broadcast", hint="give both operands the same leading axes")
        self._keep_order(var, call.args[0])
        return self.new[call.args[0]]

    def _permute_dims(self, var: relax.Var, call: relax.Call) -> relax.Var:
        x, source = self.new[call.args[0]], call.args[0]
        axes = [int(axis) for axis in call.attrs.axes]
        if source in self.order or source in self.reshaped:
            raise SgscError("importer: the axes of an image are permuted", hint="see docs/operators.md")
        if source in self.images:  # its pixels become positions
            self.images.remove(var)
            axes = [TO_NHWC.index(axis) for axis in axes]
        if axes == sorted(axes):
            return x
        moved = self._on_integers(x, lambda q: relax.op.permute_dims(q, axes))
        if moved is None:
            raise SgscError("importer: axes are permuted before they are quantised", hint="quantise before that")
        return moved

    def _source(self, expression: relax.Var, what: str) -> relax.Call:
        """The dequantize behind an operand."""
        source = self.integers.get(self.new[expression])
        if source is None:
            raise SgscError(f"importer: {what} of a tensor that is not quantised", hint="quantise before it")
        return source

    def _function(self, var: relax.Var, call: relax.Call) -> relax.Var:
        self._keep_order(var, call.args[0])
        self.waiting[var] = lookup(self._source(call.args[0], call.op.name), FUNCTIONS[call.op.name])
        return self.new[call.args[0]]

    def _astype(self, var: relax.Var, call: relax.Call) -> relax.Var:
        if not str(call.attrs.dtype).startswith("int"):
            raise SgscError(f"importer: a cast to {call.attrs.dtype}", hint="only tokens may be cast, to integers")
        if float(constant_of(self._source(call.args[0], "a cast").args[1])) != 1:
            raise SgscError("importer: tokens of another scale than 1", hint="quantise them to scale 1")
        return self.new[call.args[0]]

    def _take(self, var: relax.Var, call: relax.Call) -> relax.Var:
        table, tokens = call.args[:2]
        if tokens not in self.new or call.attrs.axis is None or int(call.attrs.axis) != 0:
            raise SgscError("importer: take of an activation cannot be lowered")
        self.waiting[var] = embedding(self._source(tokens, "an embedding"), *self._weights(table))
        return self.new[tokens]

    def _where(self, var: relax.Var, call: relax.Call) -> relax.Var:
        condition, first, second = (evaluate(argument, self.calls) for argument in call.args)
        if condition is None or (first is None) == (second is None):
            raise SgscError("importer: where whose condition and other value are not constant")
        x = call.args[1] if first is None else call.args[2]
        zero = np.float32(0)
        added = np.where(condition, zero if first is None else first, zero if second is None else second)
        return self._emit(relax.op.add(self.new[x], mask(added)))

    def _softmax(self, var: relax.Var, call: relax.Call) -> relax.Var:
        if any(argument in self.images for argument in call.args):
            raise SgscError("importer: softmax over an image cannot be lowered")
        return self._emit(relax.Call(call.op, [self.new[call.args[0]]], call.attrs))

    def _layer_norm(self, var: relax.Var, call: relax.Call) -> relax.Var:
        if call.args[0] in self.images:
            raise SgscError("importer: layer norm over an image cannot be lowered")
        return self._emit(relax.Call(call.op, [self.new[call.args[0]], *call.args[1:]], call.attrs))
