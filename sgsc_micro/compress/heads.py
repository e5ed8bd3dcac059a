"""Attention in the canonical graph: whose heads can be removed, and the constants that their removal leaves.

Probabilities sum to 1, so what is added to every value is added to their mixture: sum p_j (v_j + b) = sum p_j v_j + b.
Values therefore need no bias where a linear layer reads what is mixed, and one of 0 bits is 0, and so is its mixture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from sgsc_micro.compress.operators import LINEAR, MASK, MATMUL, MOVES, SOFTMAX, Layer


@dataclass(frozen=True)
class Attention:
    """The names of the layers that one attention reads, each of ``heads`` times as many channels as a head has."""

    query: str
    key: str
    value: str
    heads: int
    mixture: str
    """The node of probabilities times values."""

    def by_head(self, channels: torch.Tensor) -> torch.Tensor:
        """Of a layer's channels [H * D], those of every head, [H, D]."""
        return channels.view(self.heads, -1)


def carry_biases_of_values(network: fx.GraphModule) -> None:
    """Move the bias of every attention's values, in place, into the linear layers that read what is mixed; the values
    then have none, nor learn one. Where something else reads either, nothing is moved."""
    for mixture in _mixtures(network):
        node = _origin(mixture.args[1])
        value, readers = _layer(network, node), _readers(mixture)
        layers = [layer for reader in readers if (layer := _layer(network, reader)) and layer.function == LINEAR]
        if value is None or _readers(node) != [mixture] or len(layers) < len(readers):
            continue
        with torch.no_grad():
            _, heads, positions, depth = mixture.meta["val"].shape
            mixed = value.bias.view(1, heads, 1, depth).expand(-1, -1, positions, -1)
            for reader, layer in zip(readers, layers, strict=True):
                features = _moved(mixed, mixture, reader.args[0]).flatten(0, -2)[0]  # of any position
                layer.bias += layer.weight @ features
            value.bias.zero_()
        value.bias.requires_grad_(False)


def attentions_of(network: fx.GraphModule) -> list[Attention]:
    """Those whose heads can be removed: their values have no bias, and nothing else reads their layers."""
    found = []
    for mixture in _mixtures(network):
        scores = _origin(mixture.args[0])
        nodes = [_origin(argument) for argument in (*scores.args, mixture.args[1])]
        layers = [layer for node in nodes if (layer := _layer(network, node))]
        alone = [_readers(node) for node in nodes] == [[scores], [scores], [mixture]]
        if len(layers) == 3 and alone and not layers[2].bias.requires_grad:
            query, key, value = (layer.name for layer in layers)
            found.append(Attention(query, key, value, mixture.meta["val"].shape[1], mixture.name))
    return found


def _mixtures(network: fx.GraphModule) -> list[fx.Node]:
    """Probabilities times values."""
    products = [node for node in network.graph.nodes if node.target == MATMUL]
    return [node for node in products if node.args[0].target == SOFTMAX]


def _origin(node: fx.Node) -> fx.Node:
    """What computed the values, or the scores that became probabilities."""
    while node.target in MOVES | {SOFTMAX, MASK}:
        node = node.args[0]
    return node


def _readers(node: fx.Node) -> list[fx.Node]:
    """What computes with the node's values, each once."""
    found = [[user] if user.target not in MOVES else _readers(user) for user in node.users]
    return list(dict.fromkeys(reader for readers in found for reader in readers))


def _layer(network: fx.GraphModule, node: fx.Node) -> Layer | None:
    module = network.get_submodule(str(node.target)) if node.op == "call_module" else None
    return module if isinstance(module, Layer) else None


def _moved(values: torch.Tensor, source: fx.Node, node: fx.Node) -> torch.Tensor:
    """What ``node`` gives where ``source`` gives ``values``: moves lie between."""
    if node is source:
        return values
    moved: torch.Tensor = node.target(_moved(values, source, node.args[0]), *node.args[1:])
    return moved
