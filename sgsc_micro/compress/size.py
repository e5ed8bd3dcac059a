"""What a network under compression costs, differentiably: bytes of flash as they are packed, or modelled instructions.

A price says what one output channel of a layer costs at each width, its input whole; between two widths it is linear.
The part of the input that is gone is not paid for: 2301.13142, eq. 5.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import fx

from sgsc_micro.compress.graph import ADD, FLATTEN, Layer
from sgsc_micro.compress.network import QuantisedLayer, QuantisedNetwork
from sgsc_micro.storage import MAX_BITS, channel_bits

Price = Callable[[QuantisedLayer, int], np.ndarray]
"""A layer and the pixels of its output to the cost of a channel at 0 to 8 bits, [9]; nothing at 0."""

CHANNEL_BITS = 32
"""Of a channel's bias and shift; the multiplier is the layer's, as scales are powers of two."""


def flash_bits(layer: QuantisedLayer, pixels: int) -> np.ndarray:
    """What the packer stores: words of fields, or a depthwise layer's stream."""
    stored = [channel_bits(bits, layer.taps, layer.is_depthwise) for bits in range(1, MAX_BITS + 1)]
    return np.array([0, *(bits + CHANNEL_BITS for bits in stored)], dtype=np.float64)


def cost(network: QuantisedNetwork, price: Price = flash_bits) -> torch.Tensor:
    """The whole network's, a scalar with a gradient for every width."""
    live: dict[fx.Node, torch.Tensor] = {}  # share of each channel that is there, [channels]
    total = torch.zeros(())
    for node in network.network.graph.nodes:
        sources = [live[arg] for arg in node.args if isinstance(arg, fx.Node) and arg in live]
        if node.op == "placeholder":
            live[node] = torch.ones(node.meta["val"].shape[1])
        elif node.op == "call_module" and isinstance(layer := network.network.get_submodule(node.target), Layer):
            pixels = int(np.prod(node.meta["val"].shape[2:]))
            bits, live[node] = _layer_cost(network.layers[layer.name], sources[0], price, pixels)
            total = total + bits
        elif node.target == ADD:
            live[node] = torch.maximum(*sources)
        elif node.target == FLATTEN:
            live[node] = sources[0].repeat_interleave(node.meta["val"].shape[1] // len(sources[0]))
        elif node.op != "output":
            live[node] = sources[0]
    return total


@torch.no_grad()
def at_eight_bits(network: QuantisedNetwork, price: Price = flash_bits) -> float:
    """The cost of the same network with every weight at 8 bits."""
    whole = copy.deepcopy(network)
    for layer in whole.layers.values():
        layer.quantiser.bits.fill_(MAX_BITS)
    return float(cost(whole, price))


def _layer_cost(
    layer: QuantisedLayer, live: torch.Tensor, price: Price, pixels: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cost of a layer whose input channels are ``live`` [in], and which of its output channels are, [C]."""
    bits = layer.quantiser.bits  # [C]
    group = live.view(layer.groups, -1)  # [groups, in per group]
    channels = len(bits) // layer.groups
    table = torch.from_numpy(price(layer, pixels)).float()  # [9]
    whole = bits.detach().floor().clamp(max=MAX_BITS - 1).long()  # [C]
    at_width = table[whole] + (bits - whole) * (table[whole + 1] - table[whole])  # [C]
    there = torch.minimum(bits.clamp(max=1), group.amax(1).repeat_interleave(channels))  # [C]
    return (at_width * group.mean(1).repeat_interleave(channels)).sum(), there
