"""The weighted layers of a Relax QDQ module: their constants read, replaced, and kept in a file.

A compressed network is the module it was made of and new constants for some of its layers: ``with_constants``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relax

from sgsc_micro.errors import SgscError
from sgsc_micro.ir import bindings_of, constant_of, is_constant, rounding_of, with_rounding
from sgsc_micro.storage import width_of

_KINDS = {"relax.nn.conv2d": "conv2d", "relax.nn.conv2d_transpose": "transposedconv2d", "relax.matmul": "dense"}


@dataclass(frozen=True, eq=False)
class Constants:
    """What a layer computes with: weights int8 [O, ...], scales float32 [O], bias int32 [O] at scales times x's."""

    weights: np.ndarray
    scales: np.ndarray
    bias: np.ndarray

    @property
    def widths(self) -> np.ndarray:
        """Bits each output channel's weights need; int64 [O]."""
        return width_of(self.weights)

    @property
    def taps(self) -> int:
        """Weights of one output channel."""
        return int(np.prod(self.weights.shape[1:]))

    @property
    def channel_scales(self) -> np.ndarray:
        """Of every output channel; float64 [O]."""
        return self.scales.astype(np.float64)

    def weights_expression(self) -> relax.Call:
        """As Relax QDQ."""
        zero = relax.const(np.zeros(self.scales.shape, np.int8))
        return relax.op.dequantize(relax.const(self.weights), relax.const(self.scales), zero, axis=0)

    def bias_expression(self, input_scale: float) -> relax.Call:
        """As Relax QDQ."""
        zero = relax.const(np.zeros(len(self.bias), np.int8))
        scales = relax.const((input_scale * self.channel_scales).astype(np.float32))
        return relax.op.dequantize(relax.const(self.bias), scales, zero, axis=0)


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution, transposed convolution or dense layer of ``main``."""

    name: str
    call: relax.Call
    input: relax.Var
    """The dequantised activations it reads."""
    input_scale: float
    constants: Constants
    product: relax.Var
    """Without the bias."""
    total: relax.Var
    """With it; the product where the layer has none."""

    @property
    def is_dense(self) -> bool:
        """Whether its weights are multiplied transposed."""
        return bool(self.call.op.name == "relax.matmul")

    @property
    def is_depthwise(self) -> bool:
        """Whether every channel of its output reads one of its input, each another."""
        groups = 1 if self.is_dense else int(self.call.attrs.groups)
        return groups > 1 and groups == len(self.constants.weights) and self.constants.weights.shape[3] == 1


def layers_of(module: tvm.IRModule) -> list[Layer]:
    """In the order of execution; named as the compiled network's layers are, ``conv2d_0``."""
    values = dict(bindings_of(module["main"]))
    biased = {value.args[0]: var for var, value in values.items() if _is(value, "relax.add")}
    layers: list[Layer] = []
    for var, value in values.items():
        if not (isinstance(value, relax.Call) and getattr(value.op, "name", "") in _KINDS):
            continue
        kernel: Any = values.get(value.args[1])
        if _is(kernel, "relax.permute_dims"):
            kernel = values.get(kernel.args[0])
        if not _is_decoded_constant(kernel):
            continue  # two activations, multiplied
        weights = constant_of(kernel.args[0])
        total, bias = var, np.zeros(len(weights), np.int32)
        addend: Any = values.get(values[biased[var]].args[1]) if var in biased else None
        if _is_decoded_constant(addend):
            total, bias = biased[var], constant_of(addend.args[0]).astype(np.int32)
        scales = np.broadcast_to(constant_of(kernel.args[1]), len(weights)).astype(np.float32)
        kind = _KINDS[value.op.name]
        number = sum(layer.name.startswith(f"{kind}_") for layer in layers)
        constants = Constants(weights, scales, np.broadcast_to(bias, len(weights)))
        input_scale = float(constant_of(values[value.args[0]].args[1]))
        layers.append(Layer(f"{kind}_{number}", value, value.args[0], input_scale, constants, var, total))
    return layers


def with_constants(module: tvm.IRModule, changed: Mapping[str, Constants]) -> tvm.IRModule:
    """The same network with the constants of the layers named in ``changed``; every layer comes out with a bias.

    Errors: ``SgscError`` naming a layer that is not there, or whose constants have another shape.
    """
    layers = layers_of(module)
    _check(layers, changed)
    by_product = {layer.product: layer for layer in layers}
    totals = {layer.total for layer in layers} - by_product.keys()
    main, builder = module["main"], relax.BlockBuilder()
    new: dict[relax.Expr, relax.Expr] = {}

    def use(expression: relax.Expr) -> relax.Expr:
        if isinstance(expression, relax.Tuple):
            return relax.Tuple([use(part) for part in expression.fields])
        return new.get(expression, expression)

    with builder.function("main", list(main.params)):
        with builder.dataflow():
            for var, value in bindings_of(main):
                if var in totals:  # came with its product
                    continue
                if isinstance(value, relax.Var | relax.Tuple):
                    new[var] = use(value)
                    continue
                layer = by_product.get(var)
                if layer is None:
                    new[var] = builder.emit(relax.Call(value.op, [use(part) for part in value.args], value.attrs))
                    continue
                constants = changed.get(layer.name, layer.constants)
                kernel = builder.emit(constants.weights_expression())
                if layer.is_dense:
                    kernel = builder.emit(relax.op.permute_dims(kernel))
                bias = builder.emit(constants.bias_expression(layer.input_scale))
                product = builder.emit(relax.Call(value.op, [use(value.args[0]), kernel], value.attrs))
                new[layer.product] = new[layer.total] = builder.emit(relax.op.add(product, bias))
            output = builder.emit_output(use(main.body.body))
        builder.emit_func_output(output)
    rewritten = with_rounding(builder.finalize(), rounding_of(module))
    live: tvm.IRModule = relax.transform.DeadCodeElimination(["main"])(rewritten)
    return live


def to_arrays(constants: Mapping[str, Constants]) -> dict[str, np.ndarray]:
    """Flat, for a file."""
    return {
        f"{name}/{field}": getattr(layer, field)
        for name, layer in constants.items()
        for field in ("weights", "scales", "bias")
    }


def from_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, Constants]:
    """The inverse of :func:`to_arrays`."""
    names = dict.fromkeys(key.rpartition("/")[0] for key in arrays)
    return {name: Constants(*(arrays[f"{name}/{field}"] for field in ("weights", "scales", "bias"))) for name in names}


def _check(layers: list[Layer], changed: Mapping[str, Constants]) -> None:
    shapes = {layer.name: layer.constants.weights.shape for layer in layers}
    for name, constants in changed.items():
        if shapes.get(name) != constants.weights.shape:
            raise SgscError(
                f"{name}: constants of shape {constants.weights.shape} for {shapes.get(name, 'no such layer')}",
                hint="they belong to another network; build the project again",
            )


def _is(value: Any, operator: str) -> bool:
    return isinstance(value, relax.Call) and getattr(value.op, "name", "") == operator


def _is_decoded_constant(value: Any) -> bool:
    return _is(value, "relax.dequantize") and is_constant(value.args[0])
