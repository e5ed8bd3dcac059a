"""A torch.export program made ready for quantisers: checked, batch norm folded, layers as modules of one kind.

The user's class is never edited; what is trained is the exported graph.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from sgsc_micro.errors import SgscError

aten = torch.ops.aten
CONV, LINEAR, ADD = aten.conv2d.default, aten.linear.default, aten.add.Tensor
FLATTEN = aten.flatten.using_ints
BATCH_NORM = aten._native_batch_norm_legit_no_training.default
ACTIVATIONS = {aten.relu.default, aten.hardtanh.default}
VALUE_PRESERVING = {aten.max_pool2d.default, FLATTEN}
_RESHAPES = {aten.view.default, aten._unsafe_view.default, aten.reshape.default, FLATTEN}
_IDENTITIES = {aten.clone.default, aten.dropout.default, aten.alias.default}


class Layer(nn.Module):
    """One convolution or linear layer with its own weights and bias."""

    def __init__(
        self, name: str, function: Callable[..., torch.Tensor], weight: torch.Tensor, bias: torch.Tensor, *rest: Any
    ) -> None:
        super().__init__()
        self.name = name  # the user's; in the graph it is layer_0, layer_1, ..., which nothing of theirs can be
        self.function = function
        self.weight = nn.Parameter(weight.detach().clone())  # [C, taps...]
        self.bias = nn.Parameter(bias.detach().clone())  # [C]
        self.rest = rest  # stride, padding, dilation, groups

    @property
    def groups(self) -> int:
        """How many groups the input channels fall into."""
        return int(self.rest[3]) if len(self.rest) > 3 else 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x float32 [N, in, ...] to [N, C, ...], before any activation."""
        return self.function(x, self.weight, self.bias, *self.rest)


def check_supported(program: torch.export.ExportedProgram) -> None:
    """Raise one SgscError that names every layer and operator that cannot be lowered, and every weight that is NaN."""
    problems = list(_problems(_functional(program)))
    if problems:
        raise SgscError(
            "the network cannot be lowered: " + "; ".join(problems),
            hint="conv2d, linear, batch norm, relu, relu6, add, max and average pooling, flatten and dropout can be",
        )


def canonical(program: torch.export.ExportedProgram) -> fx.GraphModule:
    """The float network as ``Layer`` modules, activations, additions, poolings and flatten, for any batch size.

    Batch norm is folded into the layer before it. Errors are those of ``check_supported``.
    """
    check_supported(program)
    module = _functional(program)
    graph = module.graph
    layers: dict[str, nn.Module] = {}  # by name in the graph
    names: set[str] = set()
    for node in list(graph.nodes):
        if node.target in _IDENTITIES:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    for node in list(graph.nodes):
        if node.target in _RESHAPES:
            with graph.inserting_after(node):
                _replace(node, graph.call_function(FLATTEN, (node.args[0], 1)))
        elif node.target in (CONV, LINEAR):
            name = _place(node)
            name = name if name not in names else f"{name}_{node.name}"  # a module that is called twice
            names.add(name)
            layer, last = _folded(module, node, name)
            target = f"layer_{len(layers)}"
            layers[target] = layer
            with graph.inserting_after(last):
                _replace(last, graph.create_node("call_module", target, (node.args[0],)))
    graph.owning_module = None  # which lacks the layers that the nodes now name
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    return fx.GraphModule(layers, graph)


def layers_of(module: fx.GraphModule) -> dict[str, Layer]:
    """The user's name to layer, in the order of execution."""
    called = (module.get_submodule(node.target) for node in module.graph.nodes if node.op == "call_module")
    return {layer.name: layer for layer in called if isinstance(layer, Layer)}


def _functional(program: torch.export.ExportedProgram) -> fx.GraphModule:
    """The program without in-place operators, its inputs unguarded so that it takes any batch size."""
    module = program.run_decompositions({}).module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    return module


def _replace(node: fx.Node, new: fx.Node) -> None:
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)


def _place(node: fx.Node) -> str:
    """The path of the user's module that the node comes from, or the node's own name where it is the root."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0] if stack and stack[-1][0] else node.name)


def _tensor(module: fx.GraphModule, node: Any) -> torch.Tensor:
    tensor: torch.Tensor = operator.attrgetter(node.target)(module)
    return tensor.detach()


def _folded(module: fx.GraphModule, node: Any, name: str) -> tuple[Layer, fx.Node]:
    """A convolution or linear node and the batch norm after it as one ``Layer``, and the last node it stands for."""
    weight = _tensor(module, node.args[1])  # [C, taps...]
    bias = _tensor(module, node.args[2]) if len(node.args) > 2 and node.args[2] else torch.zeros(len(weight))  # [C]
    norm = next(iter(node.users))
    if norm.target != BATCH_NORM:
        return Layer(name, node.target, weight, bias, *node.args[3:]), node
    scale = _tensor(module, norm.args[1]) if norm.args[1] else torch.ones(len(weight))  # [C]
    shift = _tensor(module, norm.args[2]) if norm.args[2] else torch.zeros(len(weight))  # [C]
    mean, variance = _tensor(module, norm.args[3]), _tensor(module, norm.args[4])  # [C]
    fuse = fuse_conv_bn_weights if node.target == CONV else fuse_linear_bn_weights
    weight, bias = fuse(weight, bias, mean, variance, norm.args[6], scale, shift)
    return Layer(name, node.target, weight, bias, *node.args[3:]), next(iter(norm.users))


def _problems(module: fx.GraphModule) -> Iterator[str]:
    """What stands in the way, one sentence each."""
    nodes = module.graph.nodes
    inputs = [node for node in nodes if node.op == "placeholder"]
    outputs = next(node for node in nodes if node.op == "output").args[0]
    if len(outputs) == 1 and _feature_order(outputs[0]):
        yield f"the output is a flattened image {list(_feature_order(outputs[0]))}: end in a layer, or in one pixel"
    if len(inputs) != 1 or not (len(outputs) == 1 and _rank(outputs[0]) == 2):
        yield f"{len(inputs)} inputs and {len(outputs)} outputs: one input and one output [N, classes] are needed"
    for node in nodes:
        if node.op == "get_attr":
            tensor = _tensor(module, node)
            if tensor.is_floating_point() and not tensor.isfinite().all():
                yield f"{node.target} holds NaN or infinity"
        elif node.op == "call_function":
            reason = _RULES[node.target](node) if node.target in _RULES else "is not known"
            if reason:
                yield f"layer '{_place(node)}': {node.target} {reason}"


def _rank(node: Any) -> int:
    return len(node.meta["val"].shape)


def _feature_order(node: Any) -> tuple[int, ...]:
    """The shape [C, H, W] of the image that a node's features are a flattened form of; () where they are no image's."""
    if node.target in _RESHAPES and _rank(node.args[0]) == 4:
        channels, height, width = node.args[0].meta["val"].shape[1:]
        return (channels, height, width) if height * width > 1 else ()
    keeps_order = node.target in {ADD, *ACTIVATIONS, *_RESHAPES, *_IDENTITIES}
    return _feature_order(node.args[0]) if keeps_order else ()


def _arguments(node: Any) -> dict[str, Any]:
    """A call's arguments by the names of its schema, defaults filled in."""
    names = node.target._schema.arguments
    given = dict(zip((argument.name for argument in names), node.args, strict=False))
    return {argument.name: argument.default_value for argument in names} | given | dict(node.kwargs)


def _is_parameter(value: Any) -> bool:
    return isinstance(value, fx.Node) and value.op == "get_attr"


def _follows(node: Any, wanted: set[Any]) -> bool:
    """Whether the node's input comes straight, and for this node alone, from one of the wanted operators."""
    source = node.args[0]
    while isinstance(source, fx.Node) and len(source.users) == 1:
        if source.target in wanted:
            return True
        if source.target not in {BATCH_NORM, operator.getitem, *_IDENTITIES}:
            return False
        source = source.args[0]
    return False


def _fine(node: Any) -> str:
    return ""


def _layer_rule(node: Any) -> str:
    tensors = [value for value in node.args[1:3] if value is not None]
    if not all(map(_is_parameter, tensors)) or _is_parameter(node.args[0]):
        return "has weights that are computed"
    return "" if node.target == CONV or _rank(node.args[0]) == 2 else "acts on more than [N, features]"


def _activation_rule(node: Any) -> str:
    if node.args[1:] not in ((), (0, 6), (0.0, 6.0)):
        return f"with the limits {node.args[1:]} is not relu6"
    return "" if _follows(node, {CONV, LINEAR, ADD}) else "does not stand directly after a conv2d, linear or add"


def _add_rule(node: Any) -> str:
    pair = node.args[:2]
    if node.kwargs or not all(isinstance(value, fx.Node) and not _is_parameter(value) for value in pair):
        return "is not the sum of two activations"
    a, b = (value.meta["val"].shape for value in pair)
    if a != b:
        return f"broadcasts {list(a)} and {list(b)}"
    first, second = (list(_feature_order(value)) for value in pair)
    return "" if first == second else f"adds features of images {first} and {second}: add before flattening"


def _norm_rule(node: Any) -> str:
    return "" if _follows(node, {CONV, LINEAR}) else "does not stand directly after a conv2d or linear"


def _max_pool_rule(node: Any) -> str:
    given = _arguments(node)
    return "has ceil_mode or dilation" if given["ceil_mode"] or set(given["dilation"]) != {1} else ""


def _avg_pool_rule(node: Any) -> str:
    given = _arguments(node)
    if given["ceil_mode"] or any(given["padding"]) or given["divisor_override"] is not None:
        return "has padding, ceil_mode or divisor_override"
    return ""


def _to_one_pixel(node: Any) -> str:
    extent = node.args[1]
    return "" if extent in (1, [1], [1, 1]) else f"to {extent} is not to one pixel"


def _mean_rule(node: Any) -> str:
    rank = _rank(node.args[0])
    axes = sorted(axis % rank for axis in node.args[1])
    return "" if (rank, axes) == (4, [2, 3]) else "is not over height and width"


def _reshape_rule(node: Any) -> str:
    before, after = node.args[0].meta["val"].shape, node.meta["val"].shape
    return "" if len(after) == 2 and after[0] == before[0] else f"to {list(after)} is not a flatten to [N, features]"


_RULES: dict[Any, Callable[[Any], str]] = {
    CONV: _layer_rule,
    LINEAR: _layer_rule,
    ADD: _add_rule,
    BATCH_NORM: _norm_rule,
    operator.getitem: _fine,
    **dict.fromkeys(ACTIVATIONS, _activation_rule),
    **dict.fromkeys(_IDENTITIES, _fine),
    **dict.fromkeys(_RESHAPES, _reshape_rule),
    aten.max_pool2d.default: _max_pool_rule,
    aten.avg_pool2d.default: _avg_pool_rule,
    aten.adaptive_avg_pool2d.default: _to_one_pixel,
    aten.mean.dim: _mean_rule,
}
