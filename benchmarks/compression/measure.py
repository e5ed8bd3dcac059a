"""What every task measures, the same way: rows of method, value, bytes, flips, bound, minutes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import tvm
from rich.console import Console
from torch import nn

from benchmarks.compression.data import Part, Splits
from sgsc_micro import importers, kernels, preserve, reference
from sgsc_micro.arrays import load_arrays
from sgsc_micro.codegen import footprint
from sgsc_micro.compress import compress, training
from sgsc_micro.compress.graph import as_taken, canonical
from sgsc_micro.compress.journal import Line
from sgsc_micro.compress.network import calibrated
from sgsc_micro.compress.training import SETTLE, Augment, Lessons, Proposal
from sgsc_micro.errors import SgscError
from sgsc_micro.kernels.constants import POOLS
from sgsc_micro.passes import optimise
from sgsc_micro.preserve import CaseSet
from sgsc_micro.project import Budget, CompressionConfig, Policy

CONFIDENCE = 0.95
NO_GUARD = 100.0  # nats
WAY = ", step "
"""In the name of a row: a smaller network on the way to the one before the comma, as it was accepted."""
console = Console(highlight=False)


@dataclass(frozen=True)
class Row:
    """One network. ``value`` is the metric on T, ``bytes`` all constants as stored, ``weight_bytes`` the weights among
    them; flips are negative ones."""

    task: str
    method: str
    metric: str
    value: float
    bytes: int
    weight_bytes: int
    flips_P: int
    flips_T: int
    bound: float
    minutes: float
    seed: int


@dataclass(frozen=True)
class Task:
    """A float network, its data, and what becomes of it."""

    name: str
    metric: str  # "accuracy" or "loss"
    splits: Splits
    network: nn.Module  # trained
    float_minutes: float
    preserved: int
    config: CompressionConfig
    policy: Policy
    budgets: tuple[int, ...]  # bytes that a guarded run stops at, each a run
    unguarded: int  # the budget of the run without a guard
    augment: Augment | None = None


@dataclass(frozen=True)
class Run:
    """How a guarded row came about."""

    module: tvm.IRModule
    journal: list[Line]


def rows_of(task: Task, folder: Path, wanted: list[str] | None = None) -> Iterator[tuple[Row, Run | None]]:
    """Every method on one task, or those whose names begin as ``wanted``; journals stay in ``folder``."""
    program = torch.export.export(task.network.eval(), (as_taken(task.network, task.splits.train.inputs[:1]),))
    bench = _Bench(task, program, folder)
    methods: dict[str, Callable[[str], Iterator[tuple[Row, Run | None]]]] = {"float": bench.float_row}
    methods |= {f"uniform {bits} bits": partial(bench.uniform_row, bits=bits) for bits in (8, 4)}
    free = Policy(max_flips=task.splits.train.labels.size, max_loss_rise=NO_GUARD)
    runs = [("unguarded", free, task.unguarded), *(("guarded", task.policy, budget) for budget in task.budgets)]
    for kind, policy, budget in runs:
        methods[f"{kind}, {budget / 1000:g} kB"] = partial(bench.learned_rows, policy=policy, budget=budget)
    for name, method in methods.items():
        if wanted is None or name.startswith(tuple(wanted)):
            yield from method(name)


class _Bench:
    """A task's sets, and its rows one by one."""

    def __init__(self, task: Task, program: torch.export.ExportedProgram, folder: Path) -> None:
        self.task, self.program, self.folder = task, program, folder
        self.float_network = canonical(program)
        train = task.splits.train
        everything = self._cases("train", train)
        chosen = preserve.choose(everything, task.preserved)
        self.P = chosen
        self.C, self.T = self._cases("calibration", task.splits.calibration), self._cases("test", task.splits.test)
        self.free = train.rows(~np.isin(everything.ids, chosen.ids))

    def float_row(self, method: str) -> Iterator[tuple[Row, None]]:
        """The reference itself."""
        count = sum(parameter.numel() for parameter in self.task.network.parameters())
        yield self._row(method, self.T.reference, (4 * count, 4 * count), 0, 0, 0.0, self.task.float_minutes), None

    def uniform_row(self, method: str, bits: int) -> Iterator[tuple[Row, None]]:
        """Every weight at so many bits, trained as the learned ones are while their bits stand still; no guard."""
        began, config = time.monotonic(), self.task.config
        inputs, labels = (np.concatenate(pair) for pair in zip(self._pair(self.free), self._pair(self.P), strict=True))
        lessons = Lessons(
            self.float_network,
            torch.from_numpy(inputs),
            torch.from_numpy(labels),
            torch.ones(len(labels)),
            torch.ones(len(labels)),
            0,
            self.task.augment,
        )
        network = calibrated(self.float_network, lessons.inputs[:4096])
        for layer in network.layers.values():
            layer.quantiser.bits.data.fill_(bits)
        widths = {name: torch.full((len(layer.bias),), float(bits)) for name, layer in network.layers.items()}
        for step in range(config.settle):
            training.train(network, lessons, Proposal(step, SETTLE, 0.0, widths, widths), config)
            console.log(f"{self.task.name}, {method}: step {step}")
        module = importers.from_torch(network.export(inputs.shape[1:]))
        yield self._compressed(method, module, (time.monotonic() - began) / 60), None

    def learned_rows(self, method: str, policy: Policy, budget: int) -> Iterator[tuple[Row, Run | None]]:
        """Learned bits, pressed until ``budget`` bytes are stored: what came of it, or as far as it came, and what was
        accepted before; no row where not even 8 bits were. The time of a run that was killed is its steps'."""
        folder = self.folder / file_name(self.task.name, method)
        arguments = (self.program, *self._pair(self.free), self.P, lambda module: footprint(optimise(module)), folder)
        try:
            compress(
                *arguments,
                self.task.config,
                policy,
                lambda line: console.log(f"{self.task.name}, {method}: {short(line)}"),
                self.task.augment,
                Budget(flash=budget),
            )
        except SgscError as error:  # a budget that is not met, or a P that cannot be held; else there is no journal
            console.log(f"{self.task.name}, {method}: {error}")
        journal = [json.loads(line) for line in (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()[1:]]
        accepted = [line for line in journal if line["accepted"]]
        for line in [*(line for line in accepted[:-1] if line["phase"] != SETTLE), *accepted[-1:]]:
            network = calibrated(self.float_network, torch.from_numpy(self.free.inputs[:1]))
            state = load_arrays(folder / f"accepted-{line['step']:04d}.npz", hint="remove the folder")
            network.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
            module = importers.from_torch(network.export(self.P.inputs.shape[1:]))
            minutes = sum(before["seconds"] for before in journal if before["step"] <= line["step"]) / 60
            if line is accepted[-1]:
                yield self._compressed(method, module, minutes), Run(module, journal)
            else:
                yield self._compressed(f"{method}{WAY}{line['step']}", module, minutes), None

    def _compressed(self, method: str, module: tvm.IRModule, minutes: float) -> Row:
        """In exact integers over all three sets."""
        flips = {}
        outputs = {name: reference.run(module, getattr(self, name).inputs) for name in "PCT"}
        for name, found in outputs.items():
            flips[name] = len(preserve.judge(getattr(self, name), found).flips)
        bound = preserve.upper_bound(flips["C"], len(self.C), CONFIDENCE)
        return self._row(method, outputs["T"], measured(module), flips["P"], flips["T"], bound, minutes)

    def _row(
        self, method: str, on_test: np.ndarray, sizes: tuple[int, int], p: int, t: int, bound: float, minutes: float
    ) -> Row:
        value = metric(self.task.metric, on_test, self.T.labels)
        row = Row(self.task.name, method, self.task.metric, value, *sizes, p, t, bound, minutes, self.task.config.seed)
        console.log(asdict(row))
        return row

    def _cases(self, name: str, part: Part) -> CaseSet:
        ids = np.array([f"{name}/{number}" for number in range(len(part.labels))])
        with torch.no_grad():
            batches = torch.from_numpy(part.inputs).split(512)
            answers = torch.cat([self.float_network(batch) for batch in batches]).float().numpy()
        return CaseSet(ids, part.inputs, part.labels, answers, "all")

    @staticmethod
    def _pair(part: Part | CaseSet) -> tuple[np.ndarray, np.ndarray]:
        return part.inputs, part.labels


def file_name(task: str, method: str) -> str:
    """Of what a row leaves beside it."""
    return f"{task}-{method.replace(', ', '-').replace(' ', '-')}"


def measured(module: tvm.IRModule) -> tuple[int, int]:
    """Bytes of all constants, and of the packed weights among them."""
    optimised = optimise(module)
    entries = kernels.lower(optimised).constants.entries
    weights = sum(entry.count * np.dtype(POOLS[entry.pool]).itemsize for entry in entries if entry.what == "weights")
    return footprint(optimised).flash, weights


def metric(name: str, outputs: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy, or mean cross-entropy in nats, of outputs [N, ..., classes] for labels [N, ...]."""
    if name == "accuracy":
        return float((outputs.argmax(-1) == labels).mean())
    shifted = outputs - outputs.max(-1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return float(-np.take_along_axis(logs, labels[..., None], -1).mean())


def short(line: dict[str, object]) -> str:
    """A line of the journal for a person."""
    keys = ("step", "phase", "accepted", "reason", "bytes", "seconds")
    return " ".join(f"{key} {line[key]}" for key in keys if line[key] != "")
