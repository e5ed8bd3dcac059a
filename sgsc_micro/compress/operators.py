"""What a canonical float graph is made of: aten operators, and modules that hold its weights."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

aten = torch.ops.aten
CONV, LINEAR, ADD, EMBEDDING = aten.conv2d.default, aten.linear.default, aten.add.Tensor, aten.embedding.default
FLATTEN, VIEW, RESHAPE = aten.flatten.using_ints, aten.view.default, aten.reshape.default
PERMUTE, PAD = aten.permute.default, aten.constant_pad_nd.default
TO_TOKENS = aten.to.dtype
MATMUL, MASK, SOFTMAX = aten.matmul.default, aten.masked_fill.Scalar, aten.softmax.int
LAYER_NORM, GELU = aten.layer_norm.default, aten.gelu.default
BATCH_NORM = aten._native_batch_norm_legit_no_training.default
ACTIVATIONS = {aten.relu.default, aten.hardtanh.default}
MOVES = {VIEW, RESHAPE, PERMUTE, FLATTEN, aten.transpose.int}
VALUE_PRESERVING = {aten.max_pool2d.default, EMBEDDING, PAD, *MOVES}
"""What gives values of its first argument, or 0: they have its quantiser."""


class Layer(nn.Module):
    """One convolution or linear layer with its own weights and bias."""

    def __init__(
        self, name: str, function: Callable[..., torch.Tensor], weight: torch.Tensor, bias: torch.Tensor, *rest: Any
    ) -> None:
        super().__init__()
        self.name = name  # the user's; in the graph it is layer_0, layer_1, ..., which nothing of theirs can be
        self.function = function
        self.weight = nn.Parameter(weight.detach().clone())  # [C, taps...]
        self.bias = nn.Parameter(bias.detach().clone())  # [C]; of values 0 and not learned (heads.py)
        self.rest = rest  # stride, padding, dilation, groups

    @property
    def groups(self) -> int:
        """How many groups the input channels fall into."""
        return int(self.rest[3]) if len(self.rest) > 3 else 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x float32 [N, in, ...] or, for a linear layer, [N, ..., in]; the outputs [C] take the place of the inputs."""
        return self.function(x, self.weight, self.bias, *self.rest)


class Table(nn.Module):
    """Values that do not depend on the input: the rows of an embedding, or one for every position."""

    def __init__(self, values: torch.Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values.detach().clone())  # [rows, F]

    def forward(self) -> torch.Tensor:
        """The values float32 [rows, F]."""
        return self.values


def layers_of(module: fx.GraphModule) -> dict[str, Layer]:
    """The user's name to layer, in the order of execution."""
    called = (module.get_submodule(node.target) for node in module.graph.nodes if node.op == "call_module")
    return {layer.name: layer for layer in called if isinstance(layer, Layer)}


def place_of(node: fx.Node) -> str:
    """The path of the user's module that the node comes from, or the node's own name where it is the root."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0] if stack and stack[-1][0] else node.name)


def tensor_of(module: fx.GraphModule, node: Any) -> torch.Tensor:
    """What a ``get_attr`` node stands for."""
    tensor: torch.Tensor = operator.attrgetter(node.target)(module)
    return tensor.detach()


def arguments_of(node: Any) -> dict[str, Any]:
    """A call's arguments by the names of its schema, defaults filled in."""
    names = node.target._schema.arguments
    given = dict(zip((argument.name for argument in names), node.args, strict=False))
    return {argument.name: argument.default_value for argument in names} | given | dict(node.kwargs)
