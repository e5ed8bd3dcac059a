"""One proposal's training: task loss, distillation from the frozen reference, and the price of every bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch.nn import functional as F

from sgsc_micro.compress import size
from sgsc_micro.compress.loop import PRESS
from sgsc_micro.compress.network import QuantisedNetwork
from sgsc_micro.compress.quantisers import ActivationQuantiser
from sgsc_micro.preserve import NO_LABEL
from sgsc_micro.project import CompressionConfig

SETTLE = "settle"
"""The phase in which bits stand still and margins are won back."""
HEAVIEST = 16.0  # times its own weight is what a preserved case that keeps getting lost can weigh, all told
WINNING_BACK, GENTLY = 4, 0.1  # passes at most over P when a proposal ends with a case lost; of the learning rates
LEAD = 3  # of a right answer before the next, in steps of the output, that is too small to count
MOVING = 0.6  # share of a proposal's epochs in which the bits move; then the weights make the best of what is left

BFLOAT16 = torch.cpu._is_avx512_bf16_supported()
"""Whether products of bfloat16, which holds integers of 8 bits, are quicker here; no verdict depends on it."""

Augment = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
"""A batch of inputs [B, *shape] to another look of the same, drawn with the generator."""


@dataclass(frozen=True)
class Lessons:
    """What a network is trained on, and who teaches it."""

    reference: Callable[[torch.Tensor], torch.Tensor]
    inputs: torch.Tensor  # float32 [N, *shape]
    labels: torch.Tensor  # int64 [N], or [N, T] of a sequence's positions
    weights: torch.Tensor  # float32 [N], how much each counts whenever it is seen
    heaviest: torch.Tensor  # float32 [N], how much it can count after it was lost again and again
    preserved: int  # so many at the end are the preserved cases: they are taken as they are
    augment: Augment | None = None
    repeats: int = 1
    """How often an epoch shows a preserved case: one that weighs too much would be all that its batch teaches."""
    doubts: float = 0.0
    """Share of the reference's distribution in what a preserved case teaches; at 0 the label is all. The narrow ones
    stay narrow where the reference's doubts are taught, and fall to the first rounding."""

    @property
    def are_sequences(self) -> bool:
        """Whether a case is several decisions; its inputs are tokens, which cannot be mixed."""
        return self.labels.dim() == 2

    def visits(self) -> torch.Tensor:
        """The rows that an epoch shows, int64 [V]."""
        rows = torch.arange(len(self.labels))
        again = rows[len(rows) - self.preserved :].repeat(self.repeats - 1)
        return torch.cat([rows, again])


Widths = dict[str, torch.Tensor]
"""Layer -> [C]."""


@dataclass(frozen=True)
class Proposal:
    """What a step tries. Together with the accepted state it decides every byte of the outcome."""

    step: int
    phase: str  # start: at 8 bits; press: bits and ranges move, or channels go; settle: they stand still
    gamma: float
    floors: Widths  # below which no width may go
    ceilings: Widths  # and above which
    goals: dict[str, float] = field(default_factory=dict)  # price -> share of it at 8 bits that is small enough
    removed: dict[str, list[int]] = field(default_factory=dict)  # layer -> channels that go in this step
    lost: dict[str, int] = field(default_factory=dict)  # preserved case -> how many steps were refused because of it

    @property
    def learns_bits(self) -> bool:
        """Whether widths move with the gradient."""
        return self.phase == PRESS and not self.removed


def train(network: QuantisedNetwork, lessons: Lessons, proposal: Proposal, config: CompressionConfig) -> None:
    """Train ``network`` in place; the same arguments give the same weights."""
    generator = torch.Generator().manual_seed(config.seed * 10_007 + proposal.step)
    optimizer = torch.optim.Adam(_groups(network, config))
    visits = lessons.visits()
    batches = -(-len(visits) // config.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs * batches)
    quantisers = {name: layer.quantiser for name, layer in network.layers.items()}
    for name, quantiser in quantisers.items():
        quantiser.project(proposal.floors[name], proposal.ceilings[name])
    weights = lessons.weights.clone()
    for epoch in range(config.epochs):
        _weigh_lost_cases(network, lessons, weights)
        weights = torch.minimum(weights, lessons.heaviest)
        moving = proposal.learns_bits and epoch < MOVING * config.epochs
        for quantiser in quantisers.values():
            quantiser.requires_grad_(moving)
        for rows in visits[torch.randperm(len(visits), generator=generator)].split(config.batch):
            with torch.autocast("cpu", torch.bfloat16, enabled=BFLOAT16):
                loss = _task_loss(network, lessons, rows, weights[rows], config, generator)
            if moving:
                for price, goal in proposal.goals.items():
                    loss = loss + proposal.gamma * (size.share(network, price) - goal).clamp(min=0)
            _descend(loss, optimizer)
            schedule.step()
            if moving:
                for name, quantiser in quantisers.items():
                    quantiser.project(proposal.floors[name], proposal.ceilings[name])
    if not lessons.are_sequences:  # of which no decision has to stay
        _win_back(network, lessons, weights, optimizer, config, generator)


def _win_back(
    network: QuantisedNetwork,
    lessons: Lessons,
    weights: torch.Tensor,
    optimizer: torch.optim.Optimizer,
    config: CompressionConfig,
    generator: torch.Generator,
) -> None:
    """While a preserved case is lost, pass gently over all of them among as many others: it is mostly the last of some
    hundred, by next to nothing, and the proposal would be refused for it."""
    for group in optimizer.param_groups:
        group["lr"] = GENTLY * group["initial_lr"]
    preserved = lessons.visits()[len(lessons.labels) - lessons.preserved :]
    for _ in range(WINNING_BACK):
        if not _weigh_lost_cases(network, lessons, weights):
            return
        weights = torch.minimum(weights, lessons.heaviest)
        others = torch.randperm(len(lessons.labels) - lessons.preserved, generator=generator)[: len(preserved)]
        rows = torch.cat([preserved, others])
        for batch in rows[torch.randperm(len(rows), generator=generator)].split(config.batch):
            with torch.autocast("cpu", torch.bfloat16, enabled=BFLOAT16):
                loss = _task_loss(network, lessons, batch, weights[batch], config, generator)
            _descend(loss, optimizer)


def _descend(loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@torch.no_grad()
def _weigh_lost_cases(network: QuantisedNetwork, lessons: Lessons, weights: torch.Tensor) -> bool:
    """Double the weights [N] of the preserved cases that the reference gets right and the network wrong, if any; a
    lead of ``LEAD`` steps or less counts as wrong, since in exact integers an output can be another by as much: behind
    ResNet8's first layer one activation in a thousand is another by a step, and behind every layer more are."""
    if lessons.preserved == 0:
        return False
    inputs, labels = lessons.inputs[-lessons.preserved :], lessons.labels[-lessons.preserved :]
    right = lessons.reference(inputs).argmax(-1) == labels  # [P] or [P, T]
    outputs, column = network(inputs), labels.clamp(min=0)[..., None]
    leads = outputs.gather(-1, column) - outputs.scatter(-1, column, -torch.inf).amax(-1, keepdim=True)
    lost = right & (leads[..., 0] < (LEAD + 0.5) * network.output_step())
    if lessons.are_sequences:
        lost = lost.any(1)
    weights[-lessons.preserved :] *= 1 + lost.float()
    return bool(lost.any())


def harms(network: QuantisedNetwork, lessons: Lessons, count: int = 2048) -> Widths:
    """By how much the loss over ``count`` inputs would change, to first order, without a channel's weights and bias:
    |sum of w dL/dw| (1611.06440)."""
    visits = lessons.visits()
    rows = visits[:: len(visits) // min(count, len(visits))][:count]
    plain, generator = replace(lessons, augment=None), torch.Generator().manual_seed(0)
    labels_alone = CompressionConfig(distillation=0.0, mixing=0.0)
    loss = _task_loss(network, plain, rows, lessons.weights[rows], labels_alone, generator)
    parts = {name: [p for p in (layer.weight, layer.bias) if p.requires_grad] for name, layer in network.layers.items()}
    gradients = iter(torch.autograd.grad(loss, [part for of_layer in parts.values() for part in of_layer]))
    found: Widths = {}
    for name, of_layer in parts.items():
        products = [(part * next(gradients)).reshape(len(part), -1).sum(1) for part in of_layer]  # [C] each
        found[name] = torch.stack(products).sum(0).abs().detach()
    return found


def _task_loss(
    network: QuantisedNetwork,
    lessons: Lessons,
    rows: torch.Tensor,
    weights: torch.Tensor,
    config: CompressionConfig,
    generator: torch.Generator,
) -> torch.Tensor:
    """Cross-entropy with what the labels say and what the reference says, over a batch.

    Images are mixed in pairs (1710.09412): the reference answers for what no label exists, so it teaches more than the
    training set holds. Preserved cases are neither augmented nor mixed.
    """
    mixed = config.mixing > 0 and not lessons.are_sequences
    inputs, labels = lessons.inputs[rows], lessons.labels[rows]
    kept = rows >= len(lessons.labels) - lessons.preserved  # [B]
    if lessons.augment:
        inputs = torch.where(_beside(kept, inputs), inputs, lessons.augment(inputs, generator))
    if mixed:
        partners = torch.randperm(len(rows), generator=generator)
        share = torch.where(kept, 1, 1 - config.mixing * torch.rand(len(rows), generator=generator))  # [B]
        view = _beside(share, inputs)
        inputs = view * inputs + (1 - view) * inputs[partners]  # [B, *shape]
    with torch.no_grad():
        taught = lessons.reference(inputs).float().softmax(-1)  # [B, (T,) classes]
    logits = network(inputs).float()
    counted = labels != NO_LABEL  # [B] or [B, T]
    known = F.one_hot(labels.clamp(min=0), logits.shape[-1]).float()  # [B, (T,) classes]
    if mixed:
        known = share[:, None] * known + (1 - share[:, None]) * known[partners]
    doubts = _beside(torch.where(kept, lessons.doubts, config.distillation), taught)
    target = doubts * taught + (1 - doubts) * known
    losses = -(target * logits.log_softmax(-1)).sum(-1)  # [B] or [B, T]
    weights = _beside(weights, labels) * counted
    return (losses * weights).sum() / weights.sum()


def _beside(of_cases: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
    """[B] to [B, 1, ...], as many axes as the batch has."""
    return of_cases.view(-1, *[1] * (batch.dim() - 1))


def _groups(network: QuantisedNetwork, config: CompressionConfig) -> list[dict[str, object]]:
    """Widths and exponents apart from weights and from activation scales; none with weight decay."""
    layers = network.layers.values()
    scales = [module.log_scale for module in network.modules() if isinstance(module, ActivationQuantiser)]
    values = [p for layer in layers for p in (layer.weight, layer.bias)] + [table.values for table in network.tables()]
    return [
        {"params": values, "lr": config.learning_rate},
        {"params": [p for layer in layers for p in layer.quantiser.parameters()], "lr": config.bits_learning_rate},
        {"params": scales, "lr": config.scale_learning_rate},
    ]
