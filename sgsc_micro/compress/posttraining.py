"""Post-training compression under the guard: no training, only an integer network and inputs that it is for.

A step lowers the widths of the channels where that promises least harm a byte, and rebuilds the network at the new
widths (:mod:`sgsc_micro.compress.reconstruction`). After a step that was accepted the next one takes twice as many
channels; after one that was refused, half as many; a channel refused alone is held.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tvm
from threadpoolctl import threadpool_limits

from sgsc_micro.arrays import digest
from sgsc_micro.compress import loop
from sgsc_micro.compress.journal import Journal, Line
from sgsc_micro.compress.layers import Constants, from_arrays, to_arrays, with_constants
from sgsc_micro.compress.loop import Raised
from sgsc_micro.compress.reconstruction import Reconstruction, Widths, round_layer
from sgsc_micro.files import sha256_bytes
from sgsc_micro.footprint import Footprint
from sgsc_micro.preserve import CaseSet, Verdict
from sgsc_micro.project import Budget, Policy, PostTrainingConfig
from sgsc_micro.storage import MAX_BITS, channel_bits

THREADS = 1
"""Of BLAS: how a sum is split over threads changes its last bit, and the same input must give the same bytes."""
PATIENCE = 16
"""The search ends after so many refusals in a row."""
HEAVIER, HEAVIEST = 8.0, 256.0
"""A preserved case counts so many times more after each refused step that broke it, and at most so much."""

Network = dict[str, Constants]
"""The state: layer -> its constants."""


@dataclass(frozen=True)
class PostTrainingResult:
    """The last accepted state, never another: ``with_constants(network, constants)``."""

    constants: Network
    stored_bytes: int
    start_bytes: int  # the network as it came
    journal: Path


@dataclass(frozen=True)
class Lowering:
    """A step: channels that get fewer bits, and which inputs the rebuilding heeds most."""

    step: int
    phase: str
    lowered: dict[str, dict[str, int]]  # layer -> channel -> bits
    weights: np.ndarray  # float64 [N], of the inputs


def compress_trained(
    network: tvm.IRModule,
    inputs: np.ndarray,
    preserve: CaseSet,
    measure: Callable[[tvm.IRModule], Footprint],
    workdir: Path,
    config: PostTrainingConfig | None = None,
    policy: Policy | None = None,
    progress: Callable[[Line], None] = lambda line: None,
    budget: Budget | None = None,
    calibration: CaseSet | None = None,
) -> PostTrainingResult:
    """Store the weights of an integer network in fewer bits, never accepting a step that breaks ``preserve``.

    ``network`` in the one form; inputs float32 [N, *shape]: what it is for, without labels; the preserved cases are
    added. ``measure`` says what a module takes; ``progress`` gets every line of the journal in
    ``workdir``. Called again with the same arguments, a run that was killed goes on, to the bytes it would have had.

    Raises SgscError for cases that the network itself breaks, a budget that was not met, or a journal of another run.
    """
    config, policy, budget = config or PostTrainingConfig(), policy or Policy(), budget or Budget()
    x = np.concatenate([_sample(inputs, config.samples), preserve.inputs]).astype(np.float32)
    with threadpool_limits(THREADS):
        reconstruction = Reconstruction(network, x)
        start = {layer.name: layer.constants for layer in reconstruction.layers}
        journal = Journal(workdir, _identity(network, start, x, preserve, config, policy, budget))
        method = PostTraining(reconstruction, preserve, config, budget, harms(reconstruction))
        accepted, found = loop.run(
            method, start, loop.Guard(preserve, policy, measure, budget, calibration), journal, progress
        )
    return PostTrainingResult(accepted, found.footprint.flash, journal.lines[0]["bytes"], journal.path)


@dataclass(frozen=True)
class PostTraining:
    """Fewer bits without training, as a method of the guarded loop."""

    reconstruction: Reconstruction
    cases: CaseSet
    config: PostTrainingConfig
    budget: Budget
    harms: dict[str, np.ndarray]

    def propose(self, lines: list[Line], accepted: Network) -> Lowering | None:
        """The channels that promise least harm a byte; None where it is small enough, or nothing is left to try."""
        weights = self._weights(lines)
        if not lines:
            return Lowering(0, loop.START, {}, weights)
        if not any(line["accepted"] for line in lines):
            raise loop.impossible(lines)
        count = sum(len(layer.bias) for layer in accepted.values())
        size, idle, held = count, 0, set()
        for line in lines[1:]:
            channels = [(layer, int(channel)) for layer, part in line["lowered"].items() for channel in part]
            size = min(2 * size, count) if line["accepted"] else max(1, len(channels) // 2)
            idle = 0 if line["accepted"] else idle + 1
            if not line["accepted"] and len(channels) == 1:
                held.update(channels)
        last = loop.footprint_of(next(line for line in reversed(lines) if line["accepted"]))
        small = last.flash <= self.config.share * lines[0]["bytes"] or loop.is_enough(self.budget, last)
        chosen = self._ranked(accepted, held)[:size]
        if small or not chosen or len(lines) > self.config.steps or idle >= PATIENCE:
            return None
        lowered: dict[str, dict[str, int]] = {}
        for layer, channel, bits in chosen:
            lowered.setdefault(layer, {})[str(channel)] = bits
        return Lowering(len(lines), loop.PRESS, lowered, weights)

    def settings(self, proposal: Lowering) -> Line:
        """The channels by name, with their new widths."""
        return {"lowered": proposal.lowered}

    def carry_out(self, proposal: Lowering, accepted: Network) -> Network:
        """The frozen network rebuilt at the new widths."""
        widths: Widths = {name: layer.widths for name, layer in accepted.items()}
        for name, channels in proposal.lowered.items():
            widths[name][[int(channel) for channel in channels]] = list(channels.values())
        return self.reconstruction.rebuilt(widths, proposal.weights)

    def export(self, state: Network) -> tvm.IRModule:
        """As Relax QDQ."""
        return with_constants(self.reconstruction.module, state)

    def blame(self, proposal: Lowering, candidate: Network, accepted: Network, verdict: Verdict) -> Raised:
        """A channel that was alone, at the width it has; of several, nobody knows which."""
        if sum(map(len, proposal.lowered.values())) > 1:
            return {}
        return {
            layer: {channel: int(accepted[layer].widths[int(channel)]) for channel in channels}
            for layer, channels in proposal.lowered.items()
        }

    def to_arrays(self, state: Network) -> dict[str, np.ndarray]:
        """See :func:`sgsc_micro.compress.layers.to_arrays`."""
        return to_arrays(state)

    def from_arrays(self, arrays: dict[str, np.ndarray]) -> Network:
        """The inverse."""
        return from_arrays(arrays)

    def _weights(self, lines: list[Line]) -> np.ndarray:
        """Of every input: the preserved cases are the last, and the heavier the more often steps broke them."""
        broken = np.zeros(len(self.cases))
        for line in lines:
            broken += np.isin(self.cases.ids, [*line["flips"], *line["diverged"]])
        free = np.ones(len(self.reconstruction.inputs) - len(self.cases))
        return np.concatenate([free, np.minimum(HEAVIER**broken, HEAVIEST)])

    def _ranked(self, accepted: Network, held: set[tuple[str, int]]) -> list[tuple[str, int, int]]:
        """(layer, channel, new width) of every channel that can be lowered, least harm a byte first."""
        found: list[tuple[float, str, int, int]] = []
        depthwise = {layer.name for layer in self.reconstruction.layers if layer.is_depthwise}
        for name, layer in accepted.items():
            sizes = np.array([channel_bits(bits, layer.taps, name in depthwise) for bits in range(MAX_BITS + 1)])
            for channel, bits in enumerate(layer.widths.tolist()):
                saved = sizes[bits] - sizes[:bits]  # [bits]
                if (name, channel) in held or not (saved > 0).any():
                    continue
                harm = self.harms[name][channel, :bits] - self.harms[name][channel, bits]
                price = np.where(saved > 0, harm / np.maximum(saved, 1), np.inf)
                best = bits - 1 - int(np.argmin(price[::-1]))  # of equal prices the widest
                found.append((float(price[best]), name, channel, best))
        found.sort(key=lambda candidate: candidate[0])
        return [(name, channel, bits) for _, name, channel, bits in found]


def harms(reconstruction: Reconstruction) -> dict[str, np.ndarray]:
    """Layer -> [O, 9]: what each width of a channel adds to the layer's outputs, as a share of their variance."""
    found: dict[str, np.ndarray] = {}
    for layer, moments in reconstruction.moments():
        old = layer.constants
        real = old.weights.reshape(len(old.bias), -1) * old.channel_scales[:, None]
        harm = np.zeros((len(old.bias), MAX_BITS + 1))
        for bits in range(MAX_BITS):
            new = round_layer(layer, moments, np.minimum(old.widths, bits))
            deviation = new.weights.reshape(real.shape) * new.channel_scales[:, None] - real
            grouped = deviation.reshape(*moments.outputs.shape, -1)
            harm[:, bits] = moments.error(grouped).reshape(-1) / max(moments.power, np.finfo(np.float64).tiny)
        found[layer.name] = harm
    return found


def _sample(inputs: np.ndarray, count: int) -> np.ndarray:
    """So many of the inputs at most, evenly."""
    count = min(count, len(inputs))
    return inputs[np.arange(count) * len(inputs) // max(count, 1)]


def _identity(
    network: tvm.IRModule,
    constants: Network,
    inputs: np.ndarray,
    preserve: CaseSet,
    config: PostTrainingConfig,
    policy: Policy,
    budget: Budget,
) -> Line:
    """What must be the same for a journal to go on."""
    parts = [network.script(), *map(digest, to_arrays(constants).values())]
    return {
        "network": sha256_bytes("\n".join(parts).encode()),
        "inputs": digest(inputs),
        "preserve": preserve.content_hash,
        "config": config.model_dump(),
        "policy": policy.model_dump(),
        "budget": budget.model_dump(),
    }
