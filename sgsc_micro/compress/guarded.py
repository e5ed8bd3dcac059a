"""Guarded self-compression: a step trains weights and widths, and the guarded loop judges what came of it.

After M. Zbeeb et al., "Optimizing Deep Neural Networks using Safety-Guided Self Compression", arXiv 2505.00350.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from sgsc_micro import importers
from sgsc_micro.compress import loop, size, training
from sgsc_micro.compress.graph import canonical
from sgsc_micro.compress.journal import Journal, Line
from sgsc_micro.compress.loop import Raised
from sgsc_micro.compress.network import QuantisedNetwork, calibrated
from sgsc_micro.compress.training import Augment, Lessons, Proposal
from sgsc_micro.errors import SgscError
from sgsc_micro.files import sha256_bytes
from sgsc_micro.preserve import CaseSet, Verdict
from sgsc_micro.project import CompressionConfig, Policy
from sgsc_micro.storage import MAX_BITS

if TYPE_CHECKING:
    import tvm

PRESS, EASE = 1.25, 0.7  # gamma after a step was accepted, and after one broke P
PATIENCE = 6  # pressing ends after so many steps in a row that brought nothing
RESCUES = 3  # trainings at 8 bits before P counts as impossible
CALIBRATED = 4096  # inputs that the ranges of activations are taken from
PRESERVED = 0.1  # of the loss is the preserved cases', at least
BELOW = 0.98  # of a budget is aimed at
BLAME = 0.5  # the channels that did so much of the harm get a floor


@dataclass(frozen=True)
class CompressionResult:
    """The last accepted state, never another."""

    program: torch.export.ExportedProgram  # integers, batch 1
    module: tvm.IRModule  # the same as Relax QDQ
    widths: dict[str, list[int]]  # layer -> bits of every output channel
    stored_bytes: int
    start_bytes: int  # the same network at 8 bits
    journal: Path


@dataclass(frozen=True)
class SelfCompression:
    """Learned bits as a method of the guarded loop: the states are networks under training."""

    lessons: Lessons
    cases: CaseSet
    config: CompressionConfig
    start: QuantisedNetwork
    budget: int | None

    def propose(self, lines: list[Line], accepted: QuantisedNetwork) -> Proposal | None:
        """See :func:`next_proposal`."""
        return next_proposal(lines, accepted, self.config, self.budget)

    def settings(self, proposal: Proposal) -> Line:
        """What it pressed with, and what decides the rest."""
        epochs = self.config.epochs if proposal.step else 0
        return {"gamma": proposal.gamma, "seed": self.config.seed, "epochs": epochs}

    def carry_out(self, proposal: Proposal, accepted: QuantisedNetwork) -> QuantisedNetwork:
        """A copy, trained: what was accepted is never touched, and to restore it is to let go."""
        candidate = copy.deepcopy(accepted)
        if proposal.step > 0:
            training.train(candidate, self.lessons, proposal, self.config)
        return candidate

    def export(self, state: QuantisedNetwork) -> tvm.IRModule:
        """As Relax QDQ."""
        return importers.from_torch(state.export(self.cases.inputs.shape[1:]))

    def blame(
        self, proposal: Proposal, candidate: QuantisedNetwork, accepted: QuantisedNetwork, verdict: Verdict
    ) -> Raised:
        """See :func:`raised_floors`."""
        return raised_floors(candidate, accepted, self.cases, verdict, proposal)

    def to_arrays(self, state: QuantisedNetwork) -> dict[str, np.ndarray]:
        """The state_dict."""
        return {name: tensor.numpy() for name, tensor in state.state_dict().items()}

    def from_arrays(self, arrays: dict[str, np.ndarray]) -> QuantisedNetwork:
        """A network like the one at the start."""
        network = copy.deepcopy(self.start)
        network.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
        return network


def compress(
    network: nn.Module | torch.export.ExportedProgram,
    inputs: np.ndarray,
    labels: np.ndarray,
    preserve: CaseSet,
    stored_bytes: Callable[[tvm.IRModule], int],
    workdir: Path,
    config: CompressionConfig | None = None,
    policy: Policy | None = None,
    progress: Callable[[Line], None] = lambda line: None,
    augment: Augment | None = None,
    budget: int | None = None,
) -> CompressionResult:
    """Learn how few bits every channel needs, never accepting a step that breaks ``preserve``.

    inputs float32 [N, *shape], labels int64 [N]: the training side; the preserved cases are added to it.
    ``stored_bytes`` counts what a module takes in flash; ``progress`` gets every line of the journal in ``workdir``;
    ``augment`` makes a batch look otherwise, for training alone; ``budget`` bytes are enough: what the guard would
    allow beyond them is left.
    Called again with the same arguments, a run that was killed goes on, to the bytes it would have had.

    Raises SgscError naming layers that cannot be lowered, NaN, the cases that even 8 bits break, a budget that was not
    met, or a journal of another run; the last accepted network stays in ``workdir``.
    """
    config, policy = config or CompressionConfig(), policy or Policy()
    if isinstance(network, nn.Module):
        network = torch.export.export(network.eval(), (torch.from_numpy(inputs[:1]),))
    float_network = canonical(network)
    lessons = _lessons(float_network, inputs, labels, preserve, augment)
    start = calibrated(float_network, lessons.inputs[:CALIBRATED])
    journal = Journal(workdir, _identity(start, lessons, preserve, config, policy, budget))
    method = SelfCompression(lessons, preserve, config, start, budget)
    accepted, found = loop.run(method, start, loop.Guard(preserve, policy, stored_bytes), journal, progress)
    if budget is not None and found.stored_bytes > budget:
        raise SgscError(
            f"compress: {found.stored_bytes:,} bytes are accepted, {budget:,} were wanted",
            hint="more steps or epochs, a larger budget, or a policy that allows more",
        )
    program = accepted.export(preserve.inputs.shape[1:])
    start_bytes = next(line["bytes"] for line in journal.lines)
    return CompressionResult(program, found.module, accepted.widths(), found.stored_bytes, start_bytes, journal.path)


def next_proposal(
    lines: list[Line], accepted: QuantisedNetwork, config: CompressionConfig, budget: int | None = None
) -> Proposal | None:
    """What to try after these journal lines, or None at the end; a resumed run goes the same way.

    Raises SgscError naming the cases where P cannot be held even at 8 bits.
    """
    gamma, idle, pressed, settled = config.gamma, 0, 0, 0
    floors = {name: torch.zeros(len(layer.bias)) for name, layer in accepted.layers.items()}
    for line in lines:
        if line["phase"] == "settle":
            settled += 1
        if line["phase"] != loop.PRESS:
            continue
        pressed += 1
        idle = 0 if line["accepted"] else idle + 1
        gamma *= PRESS if line["passed"] else EASE
        for name, channels in line["raised"].items():
            for channel, floor in channels.items():
                floors[name][int(channel)] = floor
    step = len(lines)
    if not any(line["accepted"] for line in lines):
        if step > RESCUES:
            raise loop.impossible(lines)
        return Proposal(step, loop.START, 0.0, floors)
    goal = 0.0
    if budget is not None:
        goal = _goal(accepted, next(line["bytes"] for line in reversed(lines) if line["accepted"]), budget)
    if pressed < config.steps and idle < PATIENCE and (budget is None or goal > 0):
        return Proposal(step, loop.PRESS, gamma, floors, goal)
    return Proposal(step, "settle", 0.0, floors) if settled < config.settle else None


def _goal(accepted: QuantisedNetwork, stored_bytes: int, budget: int) -> float:
    """The budget as the size model counts it, a share of the size at 8 bits; a little less, so that it is met; 0 where
    it is."""
    if stored_bytes <= budget:
        return 0.0
    with torch.no_grad():
        share = float(size.cost(accepted)) / size.at_eight_bits(accepted)
    return BELOW * share * budget / stored_bytes


def raised_floors(
    candidate: QuantisedNetwork, accepted: QuantisedNetwork, cases: CaseSet, verdict: Verdict, proposal: Proposal
) -> Raised:
    """Layer -> channel -> the width below which it may no longer go: the channels that did most of the harm.

    Harm is, to first order, how far a channel's change of weights lowered the margins of the violated cases:
    -sum over cases of d margin / d q (q_candidate - q_accepted).
    """
    rows = np.flatnonzero(np.isin(cases.ids, verdict.flips + verdict.diverged))
    changes: dict[str, torch.Tensor] = {}  # layer -> the candidate's quantised weights

    hooks = [
        layer.quantiser.register_forward_hook(lambda _, __, output, name=name: changes.__setitem__(name, output))
        for name, layer in candidate.layers.items()
    ]
    logits = candidate(torch.from_numpy(cases.inputs[rows]))  # [V, classes]
    for hook in hooks:
        hook.remove()
    label = torch.from_numpy(cases.labels[rows])[:, None]  # [V, 1]
    margin = logits.gather(1, label)[:, 0] - logits.scatter(1, label, -torch.inf).amax(1)  # [V]
    gradients = torch.autograd.grad(margin.sum(), list(changes.values()))
    harm: list[tuple[float, str, int]] = []
    for (name, weights), gradient in zip(changes.items(), gradients, strict=True):
        layer = accepted.layers[name]
        change = weights.detach() - layer.quantiser(layer.weight).detach()  # [C, taps...]
        lost = -(gradient * change).flatten(1).sum(1)  # [C]
        harm += [(float(loss), name, channel) for channel, loss in enumerate(lost) if loss > 0]
    harm.sort(reverse=True)
    left = BLAME * sum(loss for loss, _, _ in harm)
    widths = accepted.widths()
    raised: Raised = {}
    for loss, name, channel in harm:
        if left <= 0:
            break
        left -= loss
        floor = max(widths[name][channel], int(proposal.floors[name][channel]) + 1)
        raised.setdefault(name, {})[str(channel)] = min(MAX_BITS, floor)
    return raised


def _lessons(
    reference: torch.nn.Module, inputs: np.ndarray, labels: np.ndarray, preserve: CaseSet, augment: Augment | None
) -> Lessons:
    """The training side and the preserved cases, trained on as well; they count for ``PRESERVED`` of it."""
    if inputs.shape[1:] != preserve.inputs.shape[1:] or labels.shape != inputs.shape[:1]:
        raise SgscError(
            f"compress: training inputs {inputs.shape} and labels {labels.shape} beside cases {preserve.inputs.shape}",
            hint="expected inputs [N, *shape] and labels [N] of the cases' own shape",
        )
    if not np.isfinite(inputs).all():
        rows = np.flatnonzero(~np.isfinite(inputs).reshape(len(inputs), -1).all(axis=1))
        raise SgscError(f"compress: NaN or infinity in training rows {rows[:5].tolist()}", hint="clean the data first")
    x = np.concatenate([inputs, preserve.inputs]).astype(np.float32)
    y = np.concatenate([labels, preserve.labels]).astype(np.int64)
    heavier = max(1.0, PRESERVED * len(labels) / float(preserve.weights.sum()))
    weights = np.concatenate([np.ones(len(labels)), heavier * preserve.weights]).astype(np.float32)
    tensors = map(torch.from_numpy, (x, y, weights))
    return Lessons(reference, *tensors, len(preserve), augment)  # type: ignore[call-arg]


def _identity(
    network: QuantisedNetwork,
    lessons: Lessons,
    preserve: CaseSet,
    config: CompressionConfig,
    policy: Policy,
    budget: int | None,
) -> Line:
    """What must be the same for a journal to go on."""

    def digest(tensors: list[torch.Tensor]) -> str:
        return sha256_bytes(b"".join(tensor.detach().numpy().tobytes() for tensor in tensors))

    return {
        "network": digest(list(network.state_dict().values())),
        "training": digest([lessons.inputs, lessons.labels, lessons.weights]),
        "preserve": preserve.content_hash,
        "config": config.model_dump(),
        "policy": policy.model_dump(),
        "budget": budget,
    }
