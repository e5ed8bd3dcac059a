"""The network under compression: quantisers at every activation and weight, and its export in integers."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # registers torch.ops.quantized_decomposed
from torch import fx, nn

from sgsc_micro.compress.heads import attentions_of
from sgsc_micro.compress.operators import (
    ACTIVATIONS,
    EMBEDDING,
    MASK,
    MATMUL,
    SOFTMAX,
    TO_TOKENS,
    VALUE_PRESERVING,
    Layer,
    Table,
)
from sgsc_micro.compress.quantisers import ActivationQuantiser, WeightQuantiser, least_error_range
from sgsc_micro.errors import SgscError
from sgsc_micro.storage import width_of

BIAS_BITS = 24  # of a bias at its accumulator's scale, at most: the rest of int32 is the weights' and the shift's
NARROWEST = 2.0**-16  # range of an activation, of what its accumulator could reach: finer, and int32 would overflow
quantized = torch.ops.quantized_decomposed


class QuantisedLayer(Layer):
    """A layer whose weights pass a quantiser."""

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer.name, layer.function, layer.weight, layer.bias, *layer.rest)
        self.bias.requires_grad_(layer.bias.requires_grad)
        self.quantiser = WeightQuantiser(self.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x float32 [N, in, ...] to [N, C, ...], with quantised weights."""
        return self.function(x, self.quantiser(self.weight), self.bias, *self.rest)

    @property
    def taps(self) -> int:
        """Weights of one output channel."""
        return int(self.weight[0].numel())

    @property
    def is_depthwise(self) -> bool:
        """Whether every output channel reads one input channel, each another."""
        return self.groups > 1 and self.groups == len(self.weight) and self.weight.shape[1] == 1

    def is_finite(self) -> bool:
        """Whether training left numbers."""
        return all(bool(parameter.isfinite().all()) for parameter in self.parameters())

    @torch.no_grad()
    def integers(self) -> torch.Tensor:
        """The weights' integers, [C, taps...]."""
        return self.quantiser.integers(self.weight)


class QuantisedNetwork(nn.Module):
    """The canonical float network with a quantiser on every layer's weights and after every activation.

    Attached by ``calibrated``; trained as any module; ``size.cost`` is differentiable, ``export`` is exact.
    """

    def __init__(self, network: fx.GraphModule, ranges: dict[fx.Node, tuple[float, float]]) -> None:
        super().__init__()
        self.network = network
        self.attentions = attentions_of(network)
        self.layers: dict[str, QuantisedLayer] = {}  # by the user's names, in the order of execution
        for node in network.graph.nodes:
            if node.op == "call_module" and isinstance(layer := network.get_submodule(node.target), Layer):
                quantised_layer = QuantisedLayer(layer)
                self.layers[layer.name] = quantised_layer
                setattr(network, node.target, quantised_layer)
        _insert_activation_quantisers(network, ranges)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x float32 [N, *shape] to logits [N, classes], or tokens [N, T] to [N, T, classes]."""
        return self.network(x)

    def tables(self) -> list[Table]:
        """Embeddings and positions: int8 per tensor, whatever the layers' widths."""
        return [module for module in self.network.modules() if isinstance(module, Table)]

    def output_step(self) -> torch.Tensor:
        """The scale of the outputs, a scalar."""
        (output,) = (node for node in self.network.graph.nodes if node.op == "output")
        quantiser = self.network.get_submodule(output.args[0].target)
        assert isinstance(quantiser, ActivationQuantiser)
        return quantiser.scale()

    def widths(self) -> dict[str, list[int]]:
        """Layer to the width of every output channel: what its integers need."""
        return {name: width_of(layer.integers().numpy()).tolist() for name, layer in self.layers.items()}

    def export(self, shape: tuple[int, ...]) -> torch.export.ExportedProgram:
        """The network in integers for one input of ``shape``: quantized_decomposed operators over int8 and int32.

        Raises SgscError naming the layers that training left without numbers.
        """
        broken = [name for name, layer in self.layers.items() if not layer.is_finite()]
        broken += ["a table" for table in self.tables() if not table.values.isfinite().all()]
        if broken:
            raise SgscError(f"NaN or infinity in {', '.join(broken)} after training", hint="lower the learning rates")
        frozen = copy.deepcopy(self.network)
        for node in list(frozen.graph.nodes):
            module = self.network.get_submodule(node.target) if node.op == "call_module" else None
            if isinstance(module, QuantisedLayer):
                source = self.network.get_submodule(node.args[0].target)
                assert isinstance(source, ActivationQuantiser)
                setattr(frozen, node.target, FrozenLayer(module, source.scale()))
            elif isinstance(module, ActivationQuantiser):
                setattr(frozen, node.target, FrozenActivation(module))
            elif isinstance(module, Table):
                (user,) = node.users  # its quantiser, which other nodes call as well
                setattr(frozen, node.target, FrozenTable(module, self.network.get_submodule(user.target)))
                user.replace_all_uses_with(node)
                frozen.graph.erase_node(user)
        frozen.recompile()
        return torch.export.export(frozen.eval(), (torch.zeros(1, *shape),))


def calibrated(network: fx.GraphModule, inputs: torch.Tensor) -> QuantisedNetwork:
    """A quantised copy of the canonical float network, its activation ranges those of ``inputs`` [N, *shape]."""
    network = copy.deepcopy(network)
    observer = _RangeObserver(network)
    with torch.no_grad():
        observer.run(inputs)
    return QuantisedNetwork(network, observer.ranges)


class FrozenLayer(nn.Module):
    """A layer in integers: weights int8 at 2^e, bias int32 at s_x 2^e, both per output channel."""

    def __init__(self, layer: QuantisedLayer, input_scale: torch.Tensor) -> None:
        super().__init__()
        self.function, self.rest = layer.function, layer.rest
        real_bias = layer.bias.detach().double() / input_scale.double()  # [C]
        # Weights so small beside their bias that it would not fit an int32 get a coarser scale: dead channels, mostly.
        finest = (real_bias.abs() / 2**BIAS_BITS).log2().ceil()  # [C], -inf without a bias
        coarser = (finest - layer.quantiser.scale().detach().log2()).clamp(min=0).float()  # [C]
        scale = layer.quantiser.scale().detach() * 2**coarser  # [C]
        bias = (real_bias / scale).round()  # [C]
        shrink = 2 ** coarser.view(-1, *[1] * (layer.weight.dim() - 1))
        self.register_buffer("weight", (layer.integers() / shrink).round().to(torch.int8))  # [C, taps...]
        self.register_buffer("bias", bias.to(torch.int32))  # [C]
        self.register_buffer("weight_scale", scale)
        self.register_buffer("bias_scale", input_scale * scale)
        self.register_buffer("zeros", torch.zeros(len(scale), dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x float32 [N, in, ...] to [N, C, ...]."""
        decode = quantized.dequantize_per_channel
        weight = decode(self.weight, self.weight_scale, self.zeros, 0, -128, 127, torch.int8)
        bias = decode(self.bias, self.bias_scale, self.zeros, 0, -(2**31), 2**31 - 1, torch.int32)
        return self.function(x, weight, bias, *self.rest)


class FrozenActivation(nn.Module):
    """An activation in int8."""

    def __init__(self, quantiser: ActivationQuantiser) -> None:
        super().__init__()
        self.scale = quantiser.scale().item()
        self.zero_point = int(quantiser.zero_point)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x of any shape to its quantised values."""
        parameters = (self.scale, self.zero_point, -128, 127, torch.int8)
        return quantized.dequantize_per_tensor(quantized.quantize_per_tensor(x, *parameters), *parameters)


class FrozenTable(nn.Module):
    """A table in int8, at one scale."""

    def __init__(self, table: Table, quantiser: ActivationQuantiser) -> None:
        super().__init__()
        self.scale, self.zero_point = quantiser.scale().item(), int(quantiser.zero_point)
        integers = (table.values.detach() / self.scale + self.zero_point).round().clamp(-128, 127)
        self.register_buffer("values", integers.to(torch.int8))  # [rows, F]

    def forward(self) -> torch.Tensor:
        """The values float32 [rows, F]."""
        return quantized.dequantize_per_tensor(self.values, self.scale, self.zero_point, -128, 127, torch.int8)


class _RangeObserver(fx.Interpreter):
    """Runs the float network and chooses a range for every node: the one that int8 has the least squared error in.

    A range may be no narrower than ``NARROWEST`` of what the accumulator could reach. That of a relu that lets nothing
    through is zero, and what it holds back would not fit 32 bits at a scale to match.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.ranges: dict[fx.Node, tuple[float, float]] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, torch.Tensor) and value.is_floating_point() and n.target != MASK:
            if n.op == "call_module" and isinstance(self.fetch_attr(str(n.target)), Table):
                high = float(value.abs().max())
                self.ranges[n] = (-high, high)  # symmetric, as weights are
            else:
                low, high = least_error_range(value)
                self.ranges[n] = (low, max(high, low + NARROWEST * self._reach(n)))
        return value

    def _reach(self, n: fx.Node) -> float:
        """The largest magnitude that the node's accumulator can take, its inputs being anywhere in their ranges."""
        if n.target in ACTIVATIONS:
            return self._reach(n.args[0])  # type: ignore[arg-type]
        inputs = [max(map(abs, self.ranges[source])) for source in n.args if source in self.ranges]
        if n.target == MATMUL:
            return inputs[0] * inputs[1] * n.args[0].meta["val"].shape[-1]  # type: ignore[union-attr]
        if n.op != "call_module":
            return sum(inputs)
        layer = self.fetch_attr(str(n.target))
        return float((inputs[0] * layer.weight.abs().flatten(1).sum(1) + layer.bias.abs()).max())


def _insert_activation_quantisers(network: fx.GraphModule, ranges: dict[fx.Node, tuple[float, float]]) -> None:
    """A quantiser after every activation; operators that only move values use the one of their input again."""
    graph = network.graph
    chosen: dict[fx.Node, str] = {}  # node -> name of the quantiser of its value
    for node in list(graph.nodes):
        if node.op in ("output", "get_attr") or node.target in (MASK, TO_TOKENS) or _is_fused(node):
            continue
        if node.target in VALUE_PRESERVING:
            name = chosen[node.args[0]]
        else:
            name = f"activation_{len(set(chosen.values()))}"
            network.add_submodule(name, _fixed(node) or ActivationQuantiser(*ranges[node]))
        with graph.inserting_after(node):
            call = graph.call_module(name, (node,))
        call.meta = dict(node.meta)
        node.replace_all_uses_with(call, delete_user_cb=lambda user, call=call: user is not call)
        chosen[call] = name
    network.recompile()


def _fixed(node: fx.Node) -> ActivationQuantiser | None:
    """The quantiser of tokens and of probabilities: their values are known. None for any other node."""
    if node.target == SOFTMAX:
        return ActivationQuantiser.fixed(1 / 256, -128)
    tokens = [reader for user in node.users if user.target == TO_TOKENS for reader in user.users]
    if not tokens:
        return None
    rows = max(reader.args[0].meta["val"].shape[0] for reader in tokens if reader.target == EMBEDDING)
    return ActivationQuantiser.fixed(1.0, 0 if rows <= 128 else -128)


def _is_fused(node: fx.Node) -> bool:
    """Whether the node's value is only the input of the relu that belongs to it."""
    return len(node.users) == 1 and next(iter(node.users)).target in ACTIVATIONS
