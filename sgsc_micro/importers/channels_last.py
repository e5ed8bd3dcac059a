"""NCHW Relax QDQ into NHWC: the layout in which one pixel's channels lie side by side, as every kernel wants them.

Nothing moves at run time: constants are transposed here, and the order a flattened image leaves behind goes into the
input order of the dense layer after it.

    before: conv2d(x [1, C, H, W], dequantize(w OIHW)) + reshape(dequantize(b), [1, O, 1, 1])
    after:  conv2d(x [1, H, W, C], dequantize(w OHWI)) + dequantize(b)

What only moves or chooses integers (reshape, max pooling) is put on the integers themselves. What is no image, such as
a sequence [1, T, F] and its attention, keeps its layout.

    before: quantize(max_pool2d(dequantize(q)))
    after:  max_pool2d(q)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm
from tvm import relax

from sgsc_micro.errors import SgscError
from sgsc_micro.importers.rewriter import TO_NHWC
from sgsc_micro.importers.sequences import SequenceOperators
from sgsc_micro.ir import constant_of, is_constant, shape_of


def to_channels_last(module: tvm.IRModule) -> tvm.IRModule:
    """Rewrite ``main`` of an NCHW module; a module without images comes back with the same meaning."""
    return _Rewriter(module["main"]).run()


class _Rewriter(SequenceOperators):
    """The operators of images, and those that both have."""

    # One method an operator, named as Relax names it.

    def _quantize(self, var: relax.Var, call: relax.Call) -> relax.Var:
        x = self.new[call.args[0]]
        self._keep_order(var, call.args[0])
        source = self.integers.get(x)
        if call.args[0] in self.waiting:
            return self._in_shape(var, self.waiting[call.args[0]](self._emit, call))
        if source is not None and _same_parameters(source, call):
            return source.args[0]
        q = self._emit(relax.Call(call.op, [x, *call.args[1:]], call.attrs))
        return self._in_shape(var, q)

    def _in_shape(self, var: relax.Var, q: relax.Var) -> relax.Var:
        if var not in self.reshaped:
            return q
        self.reshaped.remove(var)
        return self._emit(relax.op.reshape(q, shape_of(var)))

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
        activation, other = (a, b) if a in self.new else (b, a)
        self._keep_order(var, activation)
        x = self.new[activation]
        constant = self._constant_operand(activation, other) if x in self.integers else self._bias(activation, other)
        return self._emit(relax.op.add(x, constant))

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

    def _pad(self, var: relax.Var, call: relax.Call) -> relax.Var:
        x, attrs = self.new[call.args[0]], call.attrs
        source = self.integers.get(x)
        if attrs.pad_mode != "constant" or float(attrs.pad_value) != 0 or source is None:
            raise SgscError("importer: padding with anything but zeros, or before quantisation", hint="pad with zeros")
        pairs = np.array([int(width) for width in attrs.pad_width]).reshape(-1, 2)
        if var in self.images:
            pairs = pairs[list(TO_NHWC)]
        zero = int(constant_of(source.args[2]))
        padded = self._on_integers(x, lambda q: relax.op.nn.pad(q, pairs.ravel().tolist(), pad_value=zero))
        assert padded is not None
        return padded

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
            self.reshaped.add(var)
        return self._global_average(x)

    def _global_average(self, x: relax.Var) -> relax.Var:
        _, height, width, _ = shape_of(x)
        return self._emit(relax.op.nn.avg_pool2d(x, (height, width), layout="NHWC"))

    def _reshape(self, var: relax.Var, call: relax.Call) -> relax.Var:
        x = self.new[call.args[0]]
        shape, source = shape_of(var), call.args[0]
        if source not in self.images and source not in self.order:
            return self._plain_reshape(var, source)
        if len(shape) != 2 or shape[0] != 1:
            raise SgscError(
                f"importer: reshape to {list(shape)} cannot be lowered", hint="flatten to [batch, features]"
            )
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
        self.reshaped.add(var)
        return x

    def _matmul(self, var: relax.Var, call: relax.Call) -> relax.Var:
        x, other = call.args
        if x in self.new and other in self.new:
            return self._emit(relax.op.matmul(self.new[x], self.new[other]))
        weights, dequantize = self._weights(other)  # [out, in]
        if x in self.order:
            weights = np.ascontiguousarray(weights[:, self.order[x]])
        transposed = self._emit(relax.op.permute_dims(self._dequantized(weights, dequantize)))
        return self._emit(relax.op.matmul(self.new[x], transposed))


def _pool(pool: Callable[..., relax.Call], x: relax.Expr, call: relax.Call) -> relax.Call:
    keys = ("pool_size", "strides", "padding", "dilation", "ceil_mode", "count_include_pad")
    return pool(x, **{key: call.attrs[key] for key in keys}, layout="NHWC", out_layout="NHWC")


def _same_parameters(a: relax.Call, b: relax.Call) -> bool:
    return all(np.array_equal(constant_of(x), constant_of(y)) for x, y in zip(a.args[1:3], b.args[1:3], strict=True))
