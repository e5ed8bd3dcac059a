"""One proposal's training: task loss, distillation from the frozen reference, and the price of every bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from sgsc_micro.compress.network import QuantisedNetwork
from sgsc_micro.compress.quantisers import ActivationQuantiser
from sgsc_micro.project import CompressionConfig

MOVING = 0.6  # share of a proposal's epochs in which the bits move; then the weights make the best of what is left


@dataclass(frozen=True)
class Proposal:
    """What a step tries. Together with the accepted state it decides every byte of the outcome."""

    step: int
    phase: str  # start: at 8 bits; press: bits and ranges move; settle: they stand still
    gamma: float
    floors: dict[str, torch.Tensor]  # layer -> width [C] below which no channel may go


def train(
    network: QuantisedNetwork,
    reference: Callable[[torch.Tensor], torch.Tensor],
    inputs: torch.Tensor,
    labels: torch.Tensor,
    proposal: Proposal,
    config: CompressionConfig,
) -> None:
    """Train ``network`` in place on inputs [N, *shape] and labels [N]; the same arguments give the same weights.

    Inputs are mixed in pairs (1710.09412): the reference answers for what no label exists, so it teaches more than the
    training set holds.
    """
    generator = torch.Generator().manual_seed(config.seed * 10_007 + proposal.step)
    optimizer = torch.optim.Adam(_groups(network, config))
    batches = -(-len(labels) // config.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs * batches)
    quantisers = {name: layer.quantiser for name, layer in network.layers.items()}
    for name, quantiser in quantisers.items():
        quantiser.project(proposal.floors[name])
    full_size = 8 * sum(layer.weight.numel() for layer in network.layers.values())
    for epoch in range(config.epochs):
        for quantiser in quantisers.values():
            quantiser.requires_grad_(proposal.phase == "press" and epoch < MOVING * config.epochs)
        for rows in torch.randperm(len(labels), generator=generator).split(config.batch):
            partners = rows[torch.randperm(len(rows), generator=generator)]
            share = 1 - torch.rand(len(rows), generator=generator) / 2  # [B], 0.5 to 1
            view = share.view(-1, *[1] * (inputs.dim() - 1))
            mixed = view * inputs[rows] + (1 - view) * inputs[partners]  # [B, *shape]
            with torch.no_grad():
                taught = reference(mixed).softmax(1)  # [B, classes]
            logits = network(mixed)  # [B, classes]
            one_hot = F.one_hot(labels, logits.shape[1]).float()
            wanted = share[:, None] * one_hot[rows] + (1 - share[:, None]) * one_hot[partners]  # [B, classes]
            target = config.distillation * taught + (1 - config.distillation) * wanted
            loss = F.cross_entropy(logits, target) + proposal.gamma * network.size_bits() / full_size
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            for name, quantiser in quantisers.items():
                quantiser.project(proposal.floors[name])


def _groups(network: QuantisedNetwork, config: CompressionConfig) -> list[dict[str, object]]:
    """Widths and exponents apart from weights and from activation scales; none with weight decay."""
    layers = network.layers.values()
    scales = [module.log_scale for module in network.modules() if isinstance(module, ActivationQuantiser)]
    return [
        {"params": [p for layer in layers for p in (layer.weight, layer.bias)], "lr": config.learning_rate},
        {"params": [p for layer in layers for p in layer.quantiser.parameters()], "lr": config.bits_learning_rate},
        {"params": scales, "lr": config.scale_learning_rate},
    ]
