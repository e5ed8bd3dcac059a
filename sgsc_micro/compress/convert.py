"""The walk from a user's exported graph to the canonical one, operator by operator."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import fx
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from sgsc_micro.compress import attention
from sgsc_micro.compress.attention import Probabilities, Scores
from sgsc_micro.compress.emitter import Emitter
from sgsc_micro.compress.operators import (
    ADD,
    BATCH_NORM,
    CONV,
    EMBEDDING,
    FLATTEN,
    GELU,
    LAYER_NORM,
    LINEAR,
    MATMUL,
    PAD,
    RESHAPE,
    SOFTMAX,
    TO_TOKENS,
    VIEW,
    aten,
    place_of,
    tensor_of,
)
from sgsc_micro.compress.rules import IDENTITIES, POOL_RULES, follows
from sgsc_micro.compress.views import Unsupported, View, Weighted

TOKENS = 256
"""Different tokens at most: they are int8."""

_VIEWS = {VIEW, RESHAPE, aten._unsafe_view.default}
_RESHAPES = _VIEWS | {FLATTEN}
_MOVES = _RESHAPES | {
    aten.unflatten.int,
    aten.transpose.int,
    aten.permute.default,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.select.int,
    aten.slice.Tensor,
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.chunk.default,
    aten.unbind.int,
}


class Converter:
    """One walk over the user's graph. A value is a tensor where it does not depend on the input, else a ``View``, or
    an attention's scores or probabilities. An operator that cannot be lowered becomes a problem, and the walk goes on.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        self.problems: list[str] = []
        self._module = module
        self._emitter = Emitter()
        self._values: dict[fx.Node, Any] = {}
        self._node: Any = None  # the user's, under way

    def run(self) -> fx.GraphModule | None:
        """The canonical module; None where there are ``problems``."""
        nodes = self._module.graph.nodes
        inputs = sum(node.op == "placeholder" for node in nodes)
        result = None
        for self._node in nodes:
            if self._node.op == "output":
                result = self._output(inputs, self._node.args[0])
                continue
            try:
                self._values[self._node] = self._value()
            except Unsupported as reason:
                self.problems.append(f"layer '{place_of(self._node)}': {self._node.target} {reason}")
                self._values[self._node] = _anything(self._emitter, self._node.meta["val"])
        return None if self.problems or result is None else self._emitter.finish(result)

    def _output(self, inputs: int, outputs: Any) -> fx.Node | None:
        values = [self._values[node] for node in outputs]
        if inputs != 1 or len(values) != 1 or not isinstance(values[0], View) or values[0].index.dim() not in (2, 3):
            self.problems.append(
                f"{inputs} inputs and {len(values)} outputs: one input and one output [N, classes] or "
                "[N, T, classes] are needed"
            )
            return None
        (view,) = values
        if image := _flattened_image(view):
            self.problems.append(f"the output is a flattened image {image}: end in a layer, or in one pixel")
            return None
        try:
            view = self._emitter.as_rows(view)
            if not view.is_whole() or view.shape != view.index.shape:
                raise Unsupported("a part of a tensor, or one that was moved")
            return self._emitter.node(view)
        except Unsupported as reason:
            self.problems.append(f"the output {reason}")
            return None

    def _value(self) -> Any:
        node = self._node
        if node.op == "placeholder":
            shape = node.meta["val"].shape
            return View.whole(self._emitter.placeholder(node.name, shape), shape)
        if node.op == "get_attr":
            return self._constant()
        arguments, keywords = fx.map_arg((node.args, node.kwargs), lambda used: self._values[used])
        values = [self._values[used] for used in node.all_input_nodes]
        if not any(isinstance(value, View | Scores | Probabilities | tuple) for value in values):
            return node.target(*arguments, **keywords)
        if node.target is operator.getitem:
            return values[0][arguments[1]]
        if node.target in IDENTITIES:
            return values[0]
        if node.target in _MOVES:
            return self._moved(*arguments)
        if node.target not in _CONVERTERS:
            raise Unsupported("is not known")
        return _CONVERTERS[node.target](self, *arguments, **keywords)

    def _constant(self) -> torch.Tensor:
        tensor = tensor_of(self._module, self._node)
        # A buffer may hold minus infinity: it is a mask.
        fine = tensor.isfinite() | (tensor == -torch.inf if "mask" in self._node.target else torch.tensor(False))
        if tensor.is_floating_point() and not fine.all():
            self.problems.append(f"{self._node.target} holds NaN or infinity")
        return tensor

    def _moved(self, value: Any, *arguments: Any) -> Any:
        node = self._node
        if not isinstance(value, View):
            if node.target in _RESHAPES and node.meta["val"].shape[-2:] == node.args[0].meta["val"].shape[-2:]:
                return value  # heads and cases in one axis, or in two
            raise Unsupported("moves an attention's scores")
        move = RESHAPE if node.target in _VIEWS else node.target  # an index has other strides than the user's tensor
        moved = move(value.index, *arguments, **node.kwargs)
        if isinstance(moved, torch.Tensor):
            return replace(value, index=moved)
        return tuple(replace(value, index=part) for part in moved)

    # One method an operator, or a family.

    def _layer(self, x: Any, weight: Any, bias: Any = None, *rest: Any) -> View:
        if not isinstance(x, View) or not all(
            isinstance(part, torch.Tensor) for part in (weight, bias) if part is not None
        ):
            raise Unsupported("has weights that are computed")
        bias = torch.zeros(len(weight)) if bias is None else bias
        if self._node.target == CONV:
            return self._weighted(_image(self._emitter, x), weight, bias, rest)
        view = self._emitter.as_rows(x)
        grid = view.rows()
        if grid is None or sorted(grid[1].tolist()) != list(range(view.shape[-1])):
            raise Unsupported("reads features that are not one tensor's [..., features]")
        rows, columns = grid
        weight = view.factor * torch.empty_like(weight).index_copy_(1, columns, weight)  # [C, F], as they lie
        if view.affine is not None:
            gain, shift = view.affine  # [F]
            weight, bias = weight * gain, bias + weight @ shift
        source = self._emitter.node(replace(view, factor=1.0, affine=None))
        shape = torch.Size((*view.shape[:-1], len(weight)))
        index = rows[:, None] * len(weight) + torch.arange(len(weight))  # [R, C]
        whole = self._weighted(source, weight, bias, rest)
        return View(whole.base, shape, index.reshape(self._node.meta["val"].shape))

    def _weighted(self, source: fx.Node, weight: torch.Tensor, bias: torch.Tensor, rest: tuple[Any, ...]) -> View:
        node = self._node
        layer = Weighted(place_of(node), node.target, source, weight, bias, rest, node.name)
        return View.whole(layer, node.meta["val"].shape)

    def _batch_norm(self, x: Any, gain: Any, shift: Any, mean: Any, variance: Any, _: float, epsilon: float) -> Any:
        if not follows(self._node, {CONV, LINEAR}) or not isinstance(x.base, Weighted) or not x.is_whole():
            raise Unsupported("does not stand directly after a conv2d or linear")
        layer = x.base
        gain = torch.ones(len(layer.bias)) if gain is None else gain  # [C]
        shift = torch.zeros(len(layer.bias)) if shift is None else shift  # [C]
        fuse = fuse_conv_bn_weights if layer.function == CONV else fuse_linear_bn_weights
        weight, bias = fuse(layer.weight, layer.bias, mean, variance, epsilon, gain, shift)
        return (replace(x, base=replace(layer, weight=weight, bias=bias, emitted={})), None, None)

    def _layer_norm(
        self, x: Any, extents: list[int], gain: Any = None, shift: Any = None, epsilon: float = 1e-5, *_: Any
    ) -> View:
        view = self._emitter.as_rows(x)
        grid = view.rows()
        if len(extents) != 1 or grid is None or sorted(grid[1].tolist()) != list(range(view.shape[-1])):
            raise Unsupported("is not over all features of one tensor's [..., features]")
        width = view.shape[-1]
        node = self._emitter.call(LAYER_NORM, self._emitter.node(view), [width], None, None, epsilon, shape=view.shape)
        gain = torch.ones(width) if gain is None else gain
        shift = torch.zeros(width) if shift is None else shift
        affine = tuple(torch.empty(width).index_copy_(0, grid[1], part) for part in (gain, shift))  # as they lie
        plain = bool((gain == 1).all() and (shift == 0).all())
        return View(node, view.shape, view.index, affine=None if plain else (affine[0], affine[1]))

    def _activation(self, x: Any, *limits: Any) -> View:
        if limits not in ((), (0, 6), (0.0, 6.0)):
            raise Unsupported(f"with the limits {limits} is not relu6")
        if not follows(self._node, {CONV, LINEAR, ADD}):
            raise Unsupported("does not stand directly after a conv2d, linear or add")
        return self._elementwise(x, *limits)

    def _elementwise(self, x: Any, *arguments: Any, **keywords: Any) -> View:
        source = self._emitter.node(_activations(x))
        base = self._emitter.call(self._node.target, source, *arguments, shape=x.shape, **keywords)
        return replace(x, base=base)

    def _add(self, a: Any, b: Any, **keywords: Any) -> Any:
        if isinstance(a, Scores) and isinstance(b, torch.Tensor):
            return attention.biased(a, b)
        if isinstance(a, torch.Tensor):
            a, b = b, a
        if keywords or not isinstance(a, View) or not isinstance(b, View | torch.Tensor):
            raise Unsupported("is not the sum of two activations")
        return self._with_constant(a, b) if isinstance(b, torch.Tensor) else self._sum(a, b)

    def _with_constant(self, x: View, constant: torch.Tensor) -> View:
        """The same for every case: of a position, say."""
        view = self._emitter.as_rows(x)
        if not view.is_whole() or view.shape != self._node.meta["val"].shape:
            raise Unsupported("adds a constant to a part of a tensor, or to one that was moved")
        spread = constant.expand(view.shape)  # [N, ..., F]
        if not (spread == spread[:1]).all():
            raise Unsupported("adds a constant that differs from case to case")
        node = self._emitter.node(view)
        return View.whole(self._emitter.call(ADD, node, self._emitter.table(spread[0]), shape=view.shape), view.shape)

    def _sum(self, a: View, b: View) -> View:
        if a.index.shape != b.index.shape:
            raise Unsupported(f"broadcasts {list(a.index.shape)} and {list(b.index.shape)}")
        first, second = _flattened_image(a), _flattened_image(b)
        if first != second:
            raise Unsupported(f"adds features of images {first} and {second}: add before flattening")
        if a.shape != b.shape:
            a, b = self._emitter.as_rows(a), self._emitter.as_rows(b)
        if a.shape != b.shape or not torch.equal(a.index, b.index):
            raise Unsupported("adds values that lie in different orders")
        return replace(a, base=self._emitter.call(ADD, self._emitter.node(a), self._emitter.node(b), shape=a.shape))

    def _pool(self, x: Any, *arguments: Any, **keywords: Any) -> View:
        if reason := POOL_RULES[self._node.target](self._node):
            raise Unsupported(reason)
        shape = self._node.meta["val"].shape
        source = _image(self._emitter, x)
        return View.whole(self._emitter.call(self._node.target, source, *arguments, shape=shape, **keywords), shape)

    def _pad(self, x: Any, widths: list[int], mode: str = "constant", value: float | None = None) -> View:
        if mode != "constant" or value or len(widths) != 4 or min(widths) < 0:
            raise Unsupported("is not of an image's sides, with zeros")
        shape = self._node.meta["val"].shape
        return View.whole(self._emitter.call(PAD, _image(self._emitter, x), widths, 0.0, shape=shape), shape)

    def _embedding(self, table: Any, tokens: Any, *_: Any) -> View:
        if not isinstance(table, torch.Tensor) or not isinstance(tokens, View) or not tokens.is_whole():
            raise Unsupported("is not of the input's tokens")
        if not isinstance(tokens.base, fx.Node) or tokens.base.op != "placeholder" or tokens.index.dim() != 2:
            raise Unsupported("is not of the input's tokens [N, T]")
        if len(table) > TOKENS:
            raise Unsupported(f"has {len(table)} rows: tokens are int8, {TOKENS} at most")
        numbers = self._emitter.call(TO_TOKENS, tokens.base, torch.int64, shape=tokens.shape)
        shape = torch.Size((*tokens.shape, table.shape[1]))
        return View.whole(self._emitter.call(EMBEDDING, self._emitter.table(table), numbers, shape=shape), shape)


def _activations(x: Any) -> View:
    if not isinstance(x, View):
        raise Unsupported("reads an attention's scores")
    return x


def _anything(emitter: Emitter, value: Any) -> Any:
    """What stands for the result of an operator that cannot be lowered."""
    if isinstance(value, tuple | list):
        return tuple(_anything(emitter, part) for part in value)
    return View.whole(emitter.placeholder("unknown", value.shape), value.shape)


def _image(emitter: Emitter, x: Any) -> fx.Node:
    view = _activations(x)
    if len(view.shape) != 4 or view.shape != view.index.shape or not view.is_whole():
        raise Unsupported("reads what is no image [N, C, H, W], or one that was moved")
    return emitter.node(view)


def _flattened_image(view: View) -> list[int]:
    """The shape [C, H, W] of the image that a view's features are a flattened form of; [] where they are no image's."""
    inner = list(view.shape[1:])
    return inner if len(inner) == 3 and inner[1] * inner[2] > 1 and view.index.dim() == 2 else []


def _matmul(walk: Converter, a: Any, b: Any) -> Any:
    return attention.matmul(walk._emitter, a, b)


def _inverse(walk: Converter, a: Any, b: Any) -> Any:
    return attention.scaled(a, 1 / b if isinstance(b, int | float) else b)


_CONVERTERS: dict[Any, Callable[..., Any]] = {
    CONV: Converter._layer,
    LINEAR: Converter._layer,
    ADD: Converter._add,
    BATCH_NORM: Converter._batch_norm,
    LAYER_NORM: Converter._layer_norm,
    EMBEDDING: Converter._embedding,
    GELU: Converter._elementwise,
    aten.relu.default: Converter._activation,
    aten.hardtanh.default: Converter._activation,
    **dict.fromkeys(POOL_RULES, Converter._pool),
    aten.pad.default: Converter._pad,
    PAD: lambda walk, x, widths, value=0.0: walk._pad(x, widths, value=value),
    MATMUL: _matmul,
    aten.bmm.default: _matmul,
    aten.mul.Tensor: lambda walk, a, b: attention.scaled(a, b),
    aten.div.Tensor: _inverse,
    aten.masked_fill.Scalar: lambda walk, a, mask, value: attention.masked(a, mask, value),
    aten.masked_fill.Tensor: lambda walk, a, mask, value: attention.masked(a, mask, value),
    SOFTMAX: lambda walk, a, *rest, **keywords: attention.softmax(walk._emitter, a, *rest, **keywords),
    aten._softmax.default: lambda walk, a, axis, _: attention.softmax(walk._emitter, a, axis),
    aten.scaled_dot_product_attention.default: lambda walk, *given, **keywords: attention.scaled_dot_product_attention(
        walk._emitter, *given, **keywords
    ),
}
