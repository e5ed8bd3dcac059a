"""Guarded self-compression: a step trains weights and widths, and the guarded loop judges what came of it.

After M. Zbeeb et al., "Optimizing Deep Neural Networks using Safety-Guided Self Compression", arXiv 2505.00350.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from sgsc_micro import importers
from sgsc_micro.compress import loop, training
from sgsc_micro.compress.blame import raised_floors
from sgsc_micro.compress.graph import as_taken, canonical, check_tokens
from sgsc_micro.compress.journal import Journal, Line
from sgsc_micro.compress.loop import Raised
from sgsc_micro.compress.network import QuantisedNetwork, calibrated
from sgsc_micro.compress.proposals import next_proposal
from sgsc_micro.compress.training import Augment, Lessons, Proposal
from sgsc_micro.errors import SgscError
from sgsc_micro.files import sha256_bytes
from sgsc_micro.footprint import Footprint
from sgsc_micro.preserve import CaseSet, Verdict
from sgsc_micro.project import Budget, CompressionConfig, Policy

if TYPE_CHECKING:
    import tvm

CALIBRATED = 4096  # inputs that the ranges of activations are taken from
PRESERVED = 0.1  # of the loss is the preserved cases', at least


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
    budget: Budget

    def propose(self, lines: list[Line], accepted: QuantisedNetwork) -> Proposal | None:
        """See :func:`sgsc_micro.compress.proposals.next_proposal`."""
        return next_proposal(
            lines, accepted, self.config, self.budget, lambda network: training.harms(network, self.lessons)
        )

    def settings(self, proposal: Proposal) -> Line:
        """What it pressed with, and what decides the rest."""
        epochs = self.config.epochs if proposal.step else 0
        return {
            "gamma": proposal.gamma,
            "seed": self.config.seed,
            "epochs": epochs,
            "goals": proposal.goals,
            "removed": proposal.removed,
        }

    def carry_out(self, proposal: Proposal, accepted: QuantisedNetwork) -> QuantisedNetwork:
        """A copy, trained: what was accepted is never touched, and to restore it is to let go."""
        candidate = copy.deepcopy(accepted)
        if proposal.step > 0:
            training.train(candidate, self._lessons(proposal), proposal, self.config)
        return candidate

    def _lessons(self, proposal: Proposal) -> Lessons:
        """Cases that steps were refused for weigh twice as much for every one of these, within limits."""
        times = torch.tensor([proposal.lost.get(case, 0) for case in self.cases.ids.tolist()])
        weights = self.lessons.weights.clone()
        weights[-len(times) :] *= 2.0**times
        return replace(self.lessons, weights=torch.minimum(weights, self.lessons.heaviest))

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
    measure: Callable[[tvm.IRModule], Footprint],
    workdir: Path,
    config: CompressionConfig | None = None,
    policy: Policy | None = None,
    progress: Callable[[Line], None] = lambda line: None,
    augment: Augment | None = None,
    budget: Budget | None = None,
    calibration: CaseSet | None = None,
) -> CompressionResult:
    """Learn how few bits every channel needs, never accepting a step that breaks ``preserve``.

    inputs float32 [N, *shape], labels int64 [N]: the training side; the preserved cases are added to it.
    ``measure`` says what a module takes; ``progress`` gets every line of the journal in ``workdir``; ``augment`` makes
    a batch look otherwise, for training alone; within ``budget`` what the guard would still allow is left;
    ``calibration`` is C, which ``policy.max_flip_rate`` is tested on.
    Called again with the same arguments, a run that was killed goes on, to the bytes it would have had.

    Raises SgscError naming layers that cannot be lowered, NaN, the cases that even 8 bits break, a budget that was not
    met, or a journal of another run; the last accepted network stays in ``workdir``.
    """
    config, policy, budget = config or CompressionConfig(), policy or Policy(), budget or Budget()
    if isinstance(network, nn.Module):
        network = torch.export.export(network.eval(), (as_taken(network, inputs[:1]),))
    float_network = canonical(network)
    check_tokens(float_network, inputs, "compress: training inputs")
    lessons = _lessons(float_network, inputs, labels, preserve, augment)
    if lessons.are_sequences or policy.max_divergence is not None or policy.min_agreement is not None:
        lessons = replace(lessons, doubts=config.distillation)  # more is asked of the outputs than who leads
    start = calibrated(float_network, lessons.inputs[:CALIBRATED])
    journal = Journal(workdir, _identity(start, lessons, preserve, config, policy, budget))
    method = SelfCompression(lessons, preserve, config, start, budget)
    accepted, found = loop.run(
        method, start, loop.Guard(preserve, policy, measure, budget, calibration), journal, progress
    )
    program = accepted.export(preserve.inputs.shape[1:])
    start_bytes = next(line["bytes"] for line in journal.lines)
    return CompressionResult(program, found.module, accepted.widths(), found.footprint.flash, start_bytes, journal.path)


def _lessons(
    reference: torch.nn.Module, inputs: np.ndarray, labels: np.ndarray, preserve: CaseSet, augment: Augment | None
) -> Lessons:
    """The training side and the preserved cases, trained on as well; they count for ``PRESERVED`` of it."""
    if len(inputs) != len(labels) or any(
        own.shape[1:] != of_cases.shape[1:] for own, of_cases in ((inputs, preserve.inputs), (labels, preserve.labels))
    ):
        raise SgscError(
            f"compress: training inputs {inputs.shape} and labels {labels.shape} beside cases {preserve.inputs.shape} "
            f"and {preserve.labels.shape}",
            hint="expected inputs [N, *shape] and labels [N], or [N, T], of the cases' own shapes",
        )
    if not np.isfinite(inputs).all():
        rows = np.flatnonzero(~np.isfinite(inputs).reshape(len(inputs), -1).all(axis=1))
        raise SgscError(f"compress: NaN or infinity in training rows {rows[:5].tolist()}", hint="clean the data first")
    x = np.concatenate([inputs, preserve.inputs]).astype(np.float32)
    y = np.concatenate([labels, preserve.labels]).astype(np.int64)
    heavier = max(1.0, PRESERVED * len(labels) / float(preserve.weights.sum()))
    repeats = round(heavier)
    weights = np.concatenate([np.ones(len(labels)), heavier / repeats * preserve.weights]).astype(np.float32)
    tensors = map(torch.from_numpy, (x, y, weights, training.HEAVIEST * weights))
    return Lessons(reference, *tensors, len(preserve), augment, repeats)  # type: ignore[call-arg]


def _identity(
    network: QuantisedNetwork,
    lessons: Lessons,
    preserve: CaseSet,
    config: CompressionConfig,
    policy: Policy,
    budget: Budget,
) -> Line:
    """What must be the same for a journal to go on."""

    def digest(tensors: list[torch.Tensor]) -> str:
        return sha256_bytes(b"".join(tensor.detach().numpy().tobytes() for tensor in tensors))

    return {
        "network": digest(list(network.state_dict().values())),
        "training": digest([lessons.inputs, lessons.labels, lessons.weights, lessons.visits()]),
        "preserve": preserve.content_hash,
        "config": config.model_dump(),
        "policy": policy.model_dump(),
        "budget": budget.model_dump(),
    }
