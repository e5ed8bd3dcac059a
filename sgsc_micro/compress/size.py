"""What a network under compression costs, differentiably: bytes of flash as they are packed, of RAM, or instructions.

A price says what one output channel of a layer costs at each width, its input whole; between two widths it is linear.
The part of the input that is gone is not paid for: 2301.13142, eq. 5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import fx

from sgsc_micro.compiler_flags import ANY_TARGET
from sgsc_micro.compress.network import QuantisedLayer, QuantisedNetwork
from sgsc_micro.compress.operators import ADD, EMBEDDING, FLATTEN, LAYER_NORM, LINEAR, MATMUL, Layer, Table
from sgsc_micro.costs import costs_of
from sgsc_micro.storage import MAX_BITS, channel_bits, plane_words, planes


@dataclass(frozen=True)
class Price:
    """What is paid for."""

    channel: Callable[[QuantisedLayer, int], Sequence[float]]
    """A layer and the pixels of its output to the cost of a channel at 0 to 8 bits, [9]; nothing at 0."""
    value: float = 0.0
    """Of one int8 in a table, whose width is not learned."""


CHANNEL_BITS = 32
"""Of a channel's bias and shift; the multiplier is the layer's, as scales are powers of two."""


def flash_bits(layer: QuantisedLayer, pixels: int) -> Sequence[float]:
    """What the packer stores: words of fields, or a depthwise layer's stream."""
    stored = (channel_bits(bits, layer.taps, layer.is_depthwise) for bits in range(1, MAX_BITS + 1))
    return [0, *(CHANNEL_BITS + bits for bits in stored)]


def activation_bytes(layer: QuantisedLayer, pixels: int) -> Sequence[float]:
    """A channel's plane of results: not the arena, which is the most that lives at once, but what makes it small."""
    return [0, *(MAX_BITS * [pixels])]


def instructions(layer: QuantisedLayer, pixels: int) -> Sequence[float]:
    """Of the dot products, four pixels at a time; a depthwise layer's do not depend on its widths."""
    if layer.is_depthwise:
        return [0, *(MAX_BITS * [layer.taps * pixels])]
    costs = costs_of(ANY_TARGET.instruction_set, ANY_TARGET.optimize)
    by_width = [
        costs.block("4x1", [(field, plane_words(field, layer.taps)) for field in planes(bits, layer.taps)])
        for bits in range(1, MAX_BITS + 1)
    ]
    return [0, *(pixels / 4 * block for block in by_width)]


PRICES = {"flash": Price(flash_bits, MAX_BITS), "ram": Price(activation_bytes), "instructions": Price(instructions)}
"""By the limits of a budget."""


def share(network: QuantisedNetwork, price: str) -> torch.Tensor:
    """The cost of the whole network, of that at 8 bits; a scalar with a gradient for every width."""
    widths = {name: layer.quantiser.bits for name, layer in network.layers.items()}
    whole = {name: torch.full_like(bits, MAX_BITS) for name, bits in widths.items()}
    with torch.no_grad():
        at_eight_bits = cost(network, whole, PRICES[price])
    return cost(network, widths, PRICES[price]) / at_eight_bits


@dataclass(frozen=True)
class Removal:
    """What can be removed by itself: a channel, or all the values of a head that are there."""

    channels: frozenset[tuple[str, int]]
    """Layer and channel."""
    saved: float
    """Of the prices, as shares of what the network costs."""


def removals(network: QuantisedNetwork, prices: Sequence[str]) -> list[Removal]:
    """Whatever saves something; of the last layer nothing, as its channels are the answer."""
    widths = {name: layer.quantiser.bits.detach().clone().requires_grad_() for name, layer in network.layers.items()}
    costs = {price: cost(network, widths, PRICES[price]).item() for price in prices}

    def total(widths: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.stack([cost(network, widths, PRICES[price]) / costs[price] for price in prices]).sum()

    whole = total(widths)
    gradients = torch.autograd.grad(whole, list(widths.values()))
    found = []
    for (name, bits), gradient in list(zip(widths.items(), gradients, strict=True))[:-1]:
        there = bits.nonzero().flatten().tolist()
        found += [Removal(frozenset({(name, n)}), float(gradient[n]) * MAX_BITS) for n in there]
    for attention in network.attentions:
        name, values = attention.value, widths[attention.value].detach()
        for head in attention.by_head(torch.arange(len(values))):
            there = head[values[head] > 0].tolist()
            without = {**widths, name: values.index_fill(0, head, 0)}
            found.append(Removal(frozenset((name, n) for n in there), (whole - total(without)).item()))
    return [removal for removal in found if removal.saved > 0]


def cost(network: QuantisedNetwork, widths: dict[str, torch.Tensor], price: Price = PRICES["flash"]) -> torch.Tensor:
    """Of the whole network with these ``widths`` [C] by layer, a scalar."""
    live: dict[fx.Node, torch.Tensor] = {}  # share of each channel that is there, [channels]
    asked, mixed = _heads(network, widths)
    total = torch.tensor(price.value * sum(table.values.numel() for table in network.tables()))
    for node in network.network.graph.nodes:
        sources = [live[arg] for arg in node.args if isinstance(arg, fx.Node) and arg in live]
        module = network.network.get_submodule(node.target) if node.op == "call_module" else None
        if isinstance(module, Layer):
            table = price.channel(network.layers[module.name], _pixels(module, node.meta["val"].shape))
            bits = widths[module.name]
            live[node], read = _live(module, bits, sources[0])
            total = total + (_interpolated(table, bits) * read * asked.get(module.name, 1)).sum()
        elif node.name in mixed:
            live[node] = mixed[node.name]
        elif node.op == "placeholder" or isinstance(module, Table) or node.target in _WHOLE:
            live[node] = torch.ones(_channels(node.meta["val"].shape, node.op == "placeholder"))
        elif node.target == ADD:
            live[node] = torch.maximum(*sources)
        elif node.target == FLATTEN:
            times = node.meta["val"].shape[1] // len(sources[0])
            positions = len(node.args[0].meta["val"].shape) == 3  # [N, T, F]; an image's pixels lie within a channel
            live[node] = sources[0].repeat(times) if positions else sources[0].repeat_interleave(times)
        elif sources:
            live[node] = sources[0]
    return total


_WHOLE = {EMBEDDING, LAYER_NORM, MATMUL}
"""What has all its channels, whatever its input has: the passes carry no constant through these."""


def _heads(network: QuantisedNetwork, widths: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], ...]:
    """How far the head of each channel is there, [C]: as far as one of its values is. By layer, of queries and keys,
    and by the node of a mixture of values."""
    asked, mixed = {}, {}
    for attention in network.attentions:
        there = attention.by_head(widths[attention.value]).amax(1).clamp(max=1)  # [H]
        for name in (attention.query, attention.key):
            asked[name] = there.repeat_interleave(len(widths[name]) // attention.heads)
        mixed[attention.mixture] = there.repeat_interleave(len(widths[attention.value]) // attention.heads)
    return asked, mixed


def _channels(shape: torch.Size, is_input: bool) -> int:
    """Of an image [N, C, H, W] that comes in, of features [..., F], or of heads [N, H, T, D] together."""
    if is_input:
        return shape[1] if len(shape) in (2, 4) else shape[-1]
    return shape[1] * shape[3] if len(shape) == 4 else shape[-1]


def _pixels(layer: Layer, shape: torch.Size) -> int:
    """For how many pixels, or positions, a layer's output channel is computed."""
    return int(np.prod(shape[1:-1] if layer.function == LINEAR else shape[2:]))


def _live(layer: Layer, bits: torch.Tensor, live: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Which output channels are there, and what part of its input each reads, [C], where inputs ``live`` [in] are."""
    group = live.view(layer.groups, -1)  # [groups, in per group]
    channels = len(bits) // layer.groups
    there = torch.minimum(bits.clamp(max=1), group.amax(1).repeat_interleave(channels))
    return there, group.mean(1).repeat_interleave(channels)


def _interpolated(table: Sequence[float], bits: torch.Tensor) -> torch.Tensor:
    """A price [9] at widths [C], linear between whole ones."""
    prices = torch.tensor(table, dtype=torch.float32)
    whole = bits.detach().floor().clamp(max=MAX_BITS - 1).long()
    return prices[whole] + (bits - whole) * (prices[whole + 1] - prices[whole])
