"""What a proposal's training shows the network, how often, and how much it counts."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sgsc_micro.compress import compress, guarded, training
from sgsc_micro.compress.training import SETTLE, Lessons, Proposal
from sgsc_micro.footprint import Footprint
from sgsc_micro.project import CompressionConfig, Policy
from tests.small import quantised

TIMES = 10  # the training side of ``task``, so often


class Watched:
    """A reference that remembers what it was asked."""

    def __init__(self, reference: Any) -> None:
        self.reference, self.seen = reference, torch.empty(0)

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        self.seen = torch.cat([self.seen, inputs.flatten(1)])
        answers: torch.Tensor = self.reference(inputs)
        return answers

    def count(self, inputs: torch.Tensor) -> list[int]:
        """How often each of ``inputs`` was asked as it is."""
        return [int((self.seen == row).all(1).sum()) for row in inputs.flatten(1)]


@pytest.fixture
def lessons(task: Any) -> Lessons:
    network, inputs, labels, cases = task
    free, answers = np.tile(inputs[12:], (TIMES, 1, 1, 1)), np.tile(labels[12:], TIMES)
    free = free + np.linspace(0, 0.1, len(free), dtype=np.float32)[:, None, None, None]  # no two alike
    return guarded._lessons(Watched(network), free, answers, cases, None)  # type: ignore[arg-type]


def seen_in(task: Any, lessons: Lessons, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Watched:
    """What one epoch asks the reference."""
    monkeypatch.setattr(training, "_weigh_lost_cases", lambda *_: None)  # asks as well
    network = quantised(task)
    widths = {name: layer.quantiser.bits.detach().clone() for name, layer in network.layers.items()}
    config = CompressionConfig(epochs=1, batch=32, **changes)
    training.train(network, lessons, Proposal(1, SETTLE, 0.0, widths, widths), config)
    assert isinstance(lessons.reference, Watched)
    return lessons.reference


def test_preserved_cases_are_a_tenth_of_the_loss_by_being_shown_again(task: Any, lessons: Lessons) -> None:
    preserved = lessons.visits() >= len(lessons.labels) - 12
    weights = lessons.weights[lessons.visits()]
    assert float(weights[preserved].sum() / weights[~preserved].sum()) == pytest.approx(guarded.PRESERVED)
    assert float(weights.max()) < 1.2  # no case is most of its batch
    assert (np.bincount(lessons.visits().numpy()) == [1] * (78 * TIMES) + [lessons.repeats] * 12).all()


def test_an_epoch_shows_every_input_once_and_the_preserved_ones_again(
    task: Any, lessons: Lessons, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = seen_in(task, lessons, monkeypatch, mixing=0.0)
    assert len(found.seen) == len(lessons.visits())
    assert found.count(lessons.inputs) == [1] * (78 * TIMES) + [lessons.repeats] * 12
    assert lessons.repeats > 1


def test_inputs_are_mixed_and_augmented_but_for_the_preserved_ones(
    task: Any, lessons: Lessons, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = seen_in(task, lessons, monkeypatch, mixing=0.5)
    assert found.count(lessons.inputs[-12:]) == [lessons.repeats] * 12
    mixed = found.count(lessons.inputs[:-12])
    assert sum(mixed) < 0.2 * len(mixed)
    turned = Lessons(
        Watched(task[0]),
        lessons.inputs,
        lessons.labels,
        lessons.weights,
        lessons.heaviest,
        12,
        lambda images, generator: images.flip(-1) + 1,
        lessons.repeats,
    )
    found = seen_in(task, turned, monkeypatch, mixing=0.0)
    assert found.count(lessons.inputs) == [0] * (78 * TIMES) + [lessons.repeats] * 12


def test_a_case_lost_again_and_again_weighs_sixteen_times_as_much_and_no_more(
    task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, inputs, labels, cases = task
    heaviest: list[float] = []
    plain = training._task_loss

    def watched(*arguments: Any) -> torch.Tensor:
        heaviest.append(float(arguments[3].max()))
        return plain(*arguments)

    monkeypatch.setattr(training, "_task_loss", watched)
    lessons = guarded._lessons(network, inputs, labels, cases, None)
    wrong = quantised(task)
    wrong.layers["dense"].weight.data.neg_()
    widths = {name: layer.quantiser.bits.detach().clone() for name, layer in wrong.layers.items()}
    config = CompressionConfig(epochs=7, batch=len(lessons.visits()), learning_rate=1e-9, scale_learning_rate=1e-9)
    training.train(wrong, lessons, Proposal(1, SETTLE, 0.0, widths, widths), config)
    assert heaviest == [min(2.0**epoch, training.HEAVIEST) for epoch in range(1, 8 + training.WINNING_BACK)]


@pytest.mark.parametrize(
    ("policy", "doubts"), [(Policy(), 0.0), (Policy(max_divergence=50.0), 0.7), (Policy(min_agreement=0.1), 0.7)]
)
def test_the_references_doubts_are_taught_where_the_policy_asks_for_its_outputs(
    task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: Policy, doubts: float
) -> None:
    seen: list[float] = []
    monkeypatch.setattr(training, "train", lambda network, lessons, *_: seen.append(lessons.doubts))
    config = CompressionConfig(steps=0, settle=1, distillation=0.7)
    compress(*task, lambda module: Footprint(1, 1, 1), tmp_path, config, policy)
    assert seen == [doubts]


def test_a_narrow_preserved_case_becomes_a_wide_one(task: Any) -> None:
    """One that the reference itself gets right by next to nothing."""
    network, inputs, labels, cases = task
    reference = quantised(task)  # by another name
    with torch.no_grad():
        answers = reference(torch.from_numpy(cases.inputs))
        column = torch.from_numpy(cases.labels)[:, None]
        leads = (answers.gather(1, column) - answers.scatter(1, column, -torch.inf).amax(1, keepdim=True))[:, 0]
        narrow = int(leads.argmin())
        second = int(answers.scatter(1, column, -torch.inf)[narrow].argmax())
        reference.layers["dense"].bias[second] += leads[narrow] - 0.01
    lessons = guarded._lessons(reference, inputs, labels, cases, None)  # type: ignore[arg-type]
    lead = {}
    for doubts in (0.0, 0.9):
        student = copy.deepcopy(reference)
        widths = {name: layer.quantiser.bits.detach().clone() for name, layer in student.layers.items()}
        taught = replace(lessons, doubts=doubts)
        training.train(student, taught, Proposal(1, SETTLE, 0.0, widths, widths), CompressionConfig(distillation=0.9))
        with torch.no_grad():
            found = student(torch.from_numpy(cases.inputs))[narrow]
        lead[doubts] = float(found[cases.labels[narrow]] - found[second])
    assert lead[0.0] > 2 * lead[0.9]


def won_back(task: Any, network: Any) -> None:
    """After a proposal's epochs."""
    lessons = guarded._lessons(task[0], *task[1:], None)
    config = CompressionConfig(learning_rate=0.02)
    optimizer = torch.optim.Adam(training._groups(network, config))
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    training._win_back(network, lessons, lessons.weights, optimizer, config, torch.Generator().manual_seed(0))


def test_a_case_that_is_lost_by_little_at_the_end_is_won_back_and_else_nothing_moves(task: Any) -> None:
    _, _, _, cases = task
    inputs, labels = torch.from_numpy(cases.inputs), torch.from_numpy(cases.labels)
    network = quantised(task)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    won_back(task, network)
    assert all(torch.equal(*pair) for pair in zip(network.parameters(), before, strict=True))
    with torch.no_grad():
        answers = network(inputs)
        others = answers.scatter(1, labels[:, None], -torch.inf)
        margins = answers.gather(1, labels[:, None])[:, 0] - others.amax(1)
        narrowest = int(margins.argmin())
        network.layers["dense"].bias[others[narrowest].argmax()] += margins[narrowest] + 0.1
        assert not (network(inputs).argmax(1) == labels).all()
    won_back(task, network)
    with torch.no_grad():
        assert (network(inputs).argmax(1) == labels).all()
