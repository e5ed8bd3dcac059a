"""NCHW Relax QDQ into NHWC: the layout in which one pixel's channels lie side by side, as every kernel wants them.

Nothing moves at run time: constants are transposed here, and the order a flattened image leaves behind goes into the
input order of the dense layer after it.

    before: conv2d(x [1, C, H, W], dequantize(w OIHW)) + reshape(dequantize(b), [1, O, 1, 1])
    after:  conv2d(x [1, H, W, C], dequantize(w OHWI)) + dequantize(b)

What only moves or chooses integers (reshape, max pooling) is put on the integers themselves.

    before: quantize(max_pool2d(dequantize(q)))
    after:  max_pool2d(q)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm
from tvm import relax

from sgsc_micro.errors import SgscError
from sgsc_micro.ir import bindings_of, constant_of, is_constant, shape_of

_TO_NHWC = (0, 2, 3, 1)
_ELEMENTWISE = {"relax.nn.relu", "relax.clip"}


def to_channels_last(module: tvm.IRModule) -> tvm.IRModule:
    """Rewrite ``main`` of an NCHW module; a module without images comes back with the same meaning."""
    return _Rewriter(module["main"]).run()


class _Rewriter:
    """One walk over the bindings; remembers for each old variable its new one and what has to be made up for later."""

    def __init__(self, function: relax.Function) -> None:
        self.old = function
        self.builder = relax.BlockBuilder()
        self.calls: dict[relax.Var, relax.Call] = {}
        self.new: dict[relax.Var, relax.Var] = {}
        self.order: dict[relax.Var, np.ndarray] = {}  # flattened images: new position -> old position
        self.flattened: set[relax.Var] = set()  # pooled images that the old graph has as [1, features]
        self.integers: dict[relax.Var, relax.Call] = {}  # new variable -> the dequantize that made it

    def run(self) -> tvm.IRModule:
        (parameter,) = self.old.params
        with self.builder.function("main", [parameter]):
            with self.builder.dataflow():
                image = len(shape_of(parameter)) == 4
                self.new[parameter] = self._emit(relax.op.permute_dims(parameter, _TO_NHWC)) if image else parameter
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
        return relax.op.permute_dims(output, (0, 3, 1, 2)) if len(shape_of(output)) == 4 else output

    def _bind(self, var: relax.Var, value: relax.Expr) -> None:
        if isinstance(value, relax.Var):
            self.new[var] = self.new[value]
            self._keep_order(var, value)
            return
        if not isinstance(value, relax.Call):
            raise SgscError(f"importer: cannot take {type(value).__name__} bound to {var.name_hint}")
        self.calls[var] = value
        if not any(argument in self.new for argument in value.args):
            return  # weights: read where they are used
        rewrite = getattr(self, "_" + value.op.name.rsplit(".", 1)[-1], None)
        if rewrite is None:
            raise SgscError(f"importer: operator {value.op.name} cannot be lowered", hint="see docs/operators.md")
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
        if any(source in self.flattened for source in sources):
            self.flattened.add(var)

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

    # One method an operator, named as Relax names it.

    def _quantize(self, var: relax.Var, call: relax.Call) -> relax.Var:
        x = self.new[call.args[0]]
        self._keep_order(var, call.args[0])
        source = self.integers.get(x)
        if source is not None and _same_parameters(source, call):
            return source.args[0]
        q = self._emit(relax.Call(call.op, [x, *call.args[1:]], call.attrs))
        if var in self.flattened:
            self.flattened.remove(var)
            return self._emit(relax.op.reshape(q, (1, shape_of(q)[-1])))
        return q

    def _dequantize(self, var: relax.Var, call: relax.Call) -> relax.Var:
        self._keep_order(var, call.args[0])
        return self._dequantize_integers(self.new[call.args[0]], call)

    def _elementwise(self, var: relax.Var, call: relax.Call) -> relax.Var:
        self._keep_order(var, call.args[0])
        return self._emit(relax.Call(call.op, [self.new[call.args[0]], *call.args[1:]], call.attrs))

    _relu = _clip = _elementwise

    def _add(self, var: relax.Var, call: relax.Call) -> relax.Var:
        a, b = call.args
        if a in self.new and b in self.new:
            self._keep_order(var, a, b)
            return self._emit(relax.op.add(self.new[a], self.new[b]))
        activation, bias = (a, b) if a in self.new else (b, a)
        self._keep_order(var, activation)
        return self._emit(relax.op.add(self.new[activation], self._bias(activation, bias)))

    def _bias(self, accumulator: relax.Var, bias: relax.Expr) -> relax.Var:
        """A bias as int32; one that was left in float, as PT2E leaves it, is rounded to the accumulator's scale."""
        shaped = self.calls.get(bias)
        values = shaped.args[0] if shaped is not None and shaped.op.name == "relax.reshape" else bias
        if not is_constant(values):
            return self._dequantized(*self._weights(bias))
        layer = self.calls[accumulator]
        source = self.integers.get(self.new[layer.args[0]])
        if source is None:
            raise SgscError("importer: a layer reads a tensor that is not quantised", hint="quantise every activation")
        weights, dequantize = self._weights(layer.args[1])
        x_scale, w_scales = (np.float64(constant_of(call.args[1])) for call in (source, dequantize))
        scales = np.broadcast_to(x_scale * w_scales, len(weights))
        integers = np.floor(constant_of(values).ravel().astype(np.float64) / scales + 0.5)
        if np.abs(integers).max() >= 2**31:
            raise SgscError(
                "importer: a bias leaves int32 at its accumulator's scale", hint="use coarser weight scales"
            )
        parameters = relax.const(scales.astype(np.float32)), relax.const(np.zeros(len(weights), np.int8))
        return self._emit(relax.op.dequantize(relax.const(integers.astype(np.int32)), *parameters, axis=0))

    def _conv2d(self, var: relax.Var, call: relax.Call) -> relax.Var:
        weights, dequantize = self._weights(call.args[1])
        weights = np.ascontiguousarray(weights.transpose(0, 2, 3, 1))
        geometry = {key: call.attrs[key] for key in ("strides", "padding", "dilation", "groups")}
        layouts = {"data_layout": "NHWC", "kernel_layout": "OHWI", "out_layout": "NHWC"}
        x = self.new[call.args[0]]
        return self._emit(relax.op.nn.conv2d(x, self._dequantized(weights, dequantize), **geometry, **layouts))

    def _max_pool2d(self, var: relax.Var, call: relax.Call) -> relax.Var:
        pooled = self._on_integers(self.new[call.args[0]], lambda q: _pool(relax.op.nn.max_pool2d, q, call))
        if pooled is None:
            raise SgscError(
                "importer: max pooling of a tensor that is not quantised", hint="quantise before the pooling"
            )
        return pooled

    def _avg_pool2d(self, var: relax.Var, call: relax.Call) -> relax.Var:
        return self._emit(_pool(relax.op.nn.avg_pool2d, self.new[call.args[0]], call))

    def _adaptive_avg_pool2d(self, var: relax.Var, call: relax.Call) -> relax.Var:
        if [int(extent) for extent in call.attrs.output_size] != [1, 1]:
            raise SgscError("importer: adaptive average pooling to more than one pixel", hint="use AvgPool2d")
        return self._global_average(self.new[call.args[0]])

    def _mean(self, var: relax.Var, call: relax.Call) -> relax.Var:
        x = self.new[call.args[0]]
        if len(shape_of(x)) != 4 or sorted(int(axis) % 4 for axis in call.attrs.axis) != [2, 3]:
            raise SgscError("importer: mean over other axes than height and width cannot be lowered")
        if not call.attrs.keepdims:
            self.flattened.add(var)
        return self._global_average(x)

    def _global_average(self, x: relax.Var) -> relax.Var:
        _, height, width, _ = shape_of(x)
        return self._emit(relax.op.nn.avg_pool2d(x, (height, width), layout="NHWC"))

    def _reshape(self, var: relax.Var, call: relax.Call) -> relax.Var:
        x = self.new[call.args[0]]
        shape = [int(extent) for extent in call.args[1].values]
        if len(shape) != 2 or shape[0] != 1:
            raise SgscError(f"importer: reshape to {shape} cannot be lowered", hint="flatten to [batch, features]")
        self._keep_order(var, call.args[0])
        if len(shape_of(x)) == 2:
            return x
        if len(shape_of(x)) == 4:
            _, height, width, channels = shape_of(x)
            old = np.arange(channels * height * width).reshape(channels, height, width)
            if height * width > 1:
                self.order[var] = old.transpose(1, 2, 0).ravel()
        flat = self._on_integers(x, lambda q: relax.op.reshape(q, shape))
        if flat is not None:
            return flat
        if shape[1] != shape_of(x)[-1]:
            raise SgscError("importer: reshape of a tensor that is not quantised", hint="quantise before the reshape")
        self.flattened.add(var)
        return x

    def _matmul(self, var: relax.Var, call: relax.Call) -> relax.Var:
        weights, dequantize = self._weights(call.args[1])  # [out, in]
        x = call.args[0]
        if x in self.order:
            weights = np.ascontiguousarray(weights[:, self.order[x]])
        transposed = self._emit(relax.op.permute_dims(self._dequantized(weights, dequantize)))
        return self._emit(relax.op.matmul(self.new[x], transposed))


def _pool(pool: Callable[..., relax.Call], x: relax.Expr, call: relax.Call) -> relax.Call:
    keys = ("pool_size", "strides", "padding", "dilation", "ceil_mode", "count_include_pad")
    return pool(x, **{key: call.attrs[key] for key in keys}, layout="NHWC", out_layout="NHWC")


def _same_order(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return a is b is None or (a is not None and b is not None and np.array_equal(a, b))


def _same_parameters(a: relax.Call, b: relax.Call) -> bool:
    return all(np.array_equal(constant_of(x), constant_of(y)) for x, y in zip(a.args[1:3], b.args[1:3], strict=True))
