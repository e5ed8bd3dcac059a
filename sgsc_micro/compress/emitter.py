"""The canonical graph as it grows: nodes with their shapes, layers and tables under names of our own."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from sgsc_micro.compress.operators import FLATTEN, LINEAR, PERMUTE, RESHAPE, VIEW, Layer, Table
from sgsc_micro.compress.views import Unsupported, View, Weighted, heads_of


class Emitter:
    """Builds a graph from views; what is asked for twice is built once."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self._root: dict[str, nn.Module | torch.Tensor] = {}  # by name in the graph
        self._names: set[str] = set()  # of layers, the user's
        self._rows: dict[tuple[fx.Node, torch.Size], fx.Node] = {}  # an image and the shape it was made rows of

    def finish(self, output: fx.Node) -> fx.GraphModule:
        """The module, without what nobody reads."""
        self.graph.output(output)
        self.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
        return fx.GraphModule(self._root, self.graph)

    def placeholder(self, name: str, shape: torch.Size) -> fx.Node:
        """The network's input."""
        return _shaped(self.graph.placeholder(name), shape)

    def call(self, function: Any, *arguments: Any, shape: torch.Size | tuple[int, ...], **keywords: Any) -> fx.Node:
        """An aten operator whose result has ``shape``."""
        return _shaped(self.graph.call_function(function, arguments, keywords), shape)

    def table(self, values: torch.Tensor) -> fx.Node:
        """A ``Table`` of the values."""
        name = self._keep("table", Table(values))
        return _shaped(self.graph.create_node("call_module", name, ()), values.shape)

    def constant(self, values: torch.Tensor) -> fx.Node:
        """Values that no quantiser touches: a mask."""
        return _shaped(self.graph.get_attr(self._keep("constant", values)), values.shape)

    def node(self, view: View) -> fx.Node:
        """The view's base, every channel of it. Raises Unsupported where a factor or a norm's weights are left over."""
        if view.affine is not None:
            raise Unsupported("reads a layer norm that has weights: only linear layers may")
        if view.factor != 1:
            raise Unsupported("reads a tensor that was scaled: only linear layers and attention may")
        if isinstance(view.base, fx.Node):
            return view.base
        return self._layer(view.base, view.shape, torch.arange(len(view.base.bias)), 1.0, "")

    def as_rows(self, view: View) -> View:
        """The same values seen in a base [N, F] or [N, T, F] whose last axis is the view's: an image is flattened, or
        its pixels become positions; positions are flattened."""
        n, *inner = view.shape
        width, last = view.index.shape[-1], view.shape[-1]
        if len(inner) in (2, 3) and width == view.shape.numel() // n and (len(inner) == 3 or width != last):
            shape = torch.Size((n, width))
            return View(self._image_rows(view, shape), shape, view.index)
        if len(inner) == 3 and width == inner[0]:
            channels, pixels = inner[0], inner[1] * inner[2]
            shape = torch.Size((n, pixels, channels))
            places = torch.arange(shape.numel()).view(shape).transpose(1, 2).flatten()  # by place in the image
            return View(self._image_rows(view, shape), shape, places[view.index])
        return view

    def heads(self, view: View, part: str, factor: float = 1.0) -> fx.Node:
        """A view [N, H, T, D] as a node of that shape, times ``factor``, from a layer of its own: ``part`` is its name
        within the layer that the user has."""
        found = heads_of(view)
        if found is None:
            raise Unsupported(f"has a {part} that is not [N, heads, T, D] of a layer's [N, T, features]")
        columns, heads = found
        n, t, _ = view.shape
        if isinstance(view.base, Weighted):
            flat = self._layer(view.base, view.shape, columns, factor * view.factor, f".{part}")
        elif factor == 1 and torch.equal(columns, torch.arange(view.shape[-1])):
            flat = self.node(view)
        else:
            raise Unsupported(f"has a {part} that does not come from a linear layer")
        depth = len(columns) // heads
        split = self.call(VIEW, flat, [-1, t, heads, depth], shape=(n, t, heads, depth))
        return self.call(PERMUTE, split, [0, 2, 1, 3], shape=(n, heads, t, depth))

    def _image_rows(self, view: View, shape: torch.Size) -> fx.Node:
        image = self.node(view)
        if (image, shape) not in self._rows:
            if len(shape) == 2:
                self._rows[image, shape] = self.call(FLATTEN, image, 1, shape=shape)
            else:
                n, channels, height, width = view.shape
                turned = self.call(PERMUTE, image, [0, 2, 3, 1], shape=(n, height, width, channels))
                self._rows[image, shape] = self.call(RESHAPE, turned, [-1, *shape[1:]], shape=shape)
        return self._rows[image, shape]

    def _layer(self, layer: Weighted, shape: torch.Size, rows: torch.Tensor, factor: float, part: str) -> fx.Node:
        """Some output channels of a layer, times ``factor``; ``shape`` is that of all of them."""
        key = (tuple(rows.tolist()), factor)
        if key not in layer.emitted:
            whole = torch.equal(rows, torch.arange(len(layer.bias)))
            name = layer.name if whole else layer.name + part
            if name in self._names:  # a module that is called twice
                name = f"{name}_{layer.node}"
            self._names.add(name)
            weight, bias = factor * layer.weight[rows], factor * layer.bias[rows]
            target = self._keep("layer", Layer(name, layer.function, weight, bias, *layer.rest))
            channels = {-1 if layer.function == LINEAR else 1: len(rows)}
            extents = [channels.get(axis, channels.get(axis - len(shape), extent)) for axis, extent in enumerate(shape)]
            node = self.graph.create_node("call_module", target, (layer.source,))
            layer.emitted[key] = _shaped(node, extents)
        return layer.emitted[key]

    def _keep(self, kind: str, what: nn.Module | torch.Tensor) -> str:
        name = f"{kind}_{sum(key.startswith(kind) for key in self._root)}"
        self._root[name] = what
        return name


def _shaped(node: fx.Node, shape: Any) -> fx.Node:
    node.meta["val"] = torch.empty(tuple(shape), device="meta")
    return node
