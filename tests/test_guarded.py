"""The guarded loop: what is accepted, what is restored, and where a killed run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import tvm
from tvm import relax

from sgsc_micro import reference
from sgsc_micro.compress import (
    CompressionResult,
    compress,
    journal,
    loop,
    proposals,
    size,
    training,
)
from sgsc_micro.compress.network import QuantisedNetwork
from sgsc_micro.compress.training import Proposal
from sgsc_micro.errors import SgscError
from sgsc_micro.footprint import Footprint
from sgsc_micro.importers import from_torch
from sgsc_micro.ir import bindings_of, constant_of, is_constant, shape_of
from sgsc_micro.preserve import CaseSet, judge
from sgsc_micro.project import Budget, CompressionConfig, Policy, Strategy
from sgsc_micro.storage import channel_words, width_of
from tests.small import SHAPE, quantised

CONFIG = CompressionConfig(steps=3, settle=1, epochs=2, batch=32, bits_learning_rate=0.2)


def stored(module: tvm.IRModule) -> Footprint:
    """Of flash the bytes of the packed weights alone, and nothing else."""
    values = [call.args[0] for _, call in bindings_of(module["main"]) if isinstance(call, relax.Call)]
    weights = [constant_of(value) for value in values if is_constant(value) and len(shape_of(value)) > 1]
    flash = sum(4 * channel_words(int(bits), layer[0].size) for layer in weights for bits in width_of(layer))
    return Footprint(flash, ram=0, instructions=0)


def run(task: Any, folder: Path, **changes: Any) -> CompressionResult:
    network, inputs, labels, cases = task
    return compress(
        network, inputs, labels, cases, **{"measure": stored, "workdir": folder, "config": CONFIG, **changes}
    )


def no_harms(network: QuantisedNetwork) -> Any:
    raise AssertionError("no channel is to be removed")


def journal_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()[1:]]


def integers_of(result: CompressionResult) -> list[bytes]:
    return [tensor.detach().numpy().tobytes() for tensor in result.program.state_dict.values()]


@pytest.fixture(scope="module")
def undisturbed(task: Any, tmp_path_factory: pytest.TempPathFactory) -> CompressionResult:
    return run(task, tmp_path_factory.mktemp("undisturbed"))


def test_a_run_shrinks_and_keeps_every_case(task: Any, undisturbed: CompressionResult) -> None:
    assert undisturbed.stored_bytes < undisturbed.start_bytes
    assert judge(task[3], reference.run(undisturbed.module, task[3].inputs)).flips == ()
    lines = journal_of(undisturbed.journal.parent)
    pressed = [line["bytes"] for line in lines if line["accepted"] and line["phase"] != "settle"]
    assert pressed == sorted(pressed, reverse=True)


def test_a_destructive_step_is_rejected_and_nothing_of_it_stays(
    task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, starts = training.train, []

    def planted(network: QuantisedNetwork, lessons: Any, proposal: Proposal, config: Any) -> None:
        starts.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        if proposal.step == 1:
            network.layers["dense"].weight.data[1].neg_()  # class 1 is lost, the others stay
        else:
            honest(network, lessons, proposal, config)

    monkeypatch.setattr(training, "train", planted)
    result = run(task, tmp_path)
    bad = journal_of(tmp_path)[1]
    assert not bad["accepted"] and bad["restored"] == 0 and bad["flips"]
    assert 1 in task[3].labels[[int(case) for case in bad["flips"]]]
    assert "1" in bad["raised"]["dense"]  # it knows who did it
    assert all(torch.equal(tensor, starts[1][name]) for name, tensor in starts[0].items())
    assert judge(task[3], reference.run(result.module, task[3].inputs)).passed
    assert any(line["accepted"] for line in journal_of(tmp_path)[2:])


@pytest.mark.parametrize("moment", ["in training", "after the state", "in the middle of the line"])
def test_a_killed_run_goes_on_to_the_same_bytes(
    task: Any, undisturbed: CompressionResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    folder = tmp_path
    honest = training.train

    def die(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if moment == "in training":
            patch.setattr(training, "train", lambda *args: die() if args[2].step == 2 else honest(*args))
        else:
            syncs = iter([lambda file: None, lambda file: None, die])  # one a line; the third is that of step 2
            patch.setattr(journal, "os", SimpleNamespace(fsync=lambda file: next(syncs)(file)))
        run(task, folder)
    lines = (folder / "journal.jsonl").read_bytes()
    last = len(lines.splitlines()[-1]) + 1
    cut = {"after the state": last, "in the middle of the line": last // 2}.get(moment, 0)
    (folder / "journal.jsonl").write_bytes(lines[: len(lines) - cut])
    resumed = run(task, folder)
    assert integers_of(resumed) == integers_of(undisturbed)
    timeless = [
        [{**line, "seconds": 0} for line in journal_of(place)] for place in (folder, undisturbed.journal.parent)
    ]
    assert timeless[0] == timeless[1]


def test_an_impossible_policy_names_the_cases(task: Any, tmp_path: Path) -> None:
    with pytest.raises(SgscError, match=r"even 8 bits break the preserved cases 0, 1, 2"):
        run(task, tmp_path, policy=Policy(max_divergence=1e-9))
    assert not any(line["accepted"] for line in journal_of(tmp_path))


def test_a_journal_of_another_run_is_refused(task: Any, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(task, tmp_path, progress=lambda line: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(SgscError, match=r"belongs to another run: policy changed"):
        run(task, tmp_path, policy=Policy(max_flips=3))


def test_training_data_that_are_not_numbers_are_named(task: Any, tmp_path: Path) -> None:
    network, inputs, labels, cases = task
    broken = inputs.copy()
    broken[17, 0, 0, 0] = np.nan
    with pytest.raises(SgscError, match=r"rows \[17\]"):
        compress(network, broken, labels, cases, stored, tmp_path)


def test_floors_come_from_the_journal_and_a_step_aims_higher_where_p_broke(task: Any) -> None:
    network = quantised(task)
    line = {"phase": "start", "passed": True, "accepted": True, "flips": [], "diverged": [], "raised": {}}
    line |= {"bytes": 100, "ram": 0, "instructions": 0}
    broke = {
        **line,
        "phase": "press",
        "passed": False,
        "accepted": False,
        "flips": ["3"],
        "raised": {"dense": {"1": 5}},
    }
    proposal = proposals.next_proposal([line, broke], network, CONFIG, Budget(), no_harms)
    assert proposal is not None and proposal.phase == "press"
    assert proposal.floors["dense"].tolist() == [0, 5, 0]
    share = size.share(network, "flash").item()
    assert proposal.goals == {"flash": pytest.approx(share * proposals.HALF**proposals.TIMID)}
    ended = proposals.next_proposal([line] + [broke] * proposals.PATIENCE, network, CONFIG, Budget(), no_harms)
    assert ended is not None and ended.phase == "settle"


def test_a_candidate_without_integers_is_a_rejected_step(
    task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, calls = QuantisedNetwork.export, iter(range(100))

    def refusing(network: QuantisedNetwork, shape: tuple[int, ...]) -> torch.export.ExportedProgram:
        if next(calls) == 1:
            raise SgscError("no integers for it")
        return honest(network, shape)

    monkeypatch.setattr(QuantisedNetwork, "export", refusing)
    result = run(task, tmp_path)
    refused = journal_of(tmp_path)[1]
    assert (refused["accepted"], refused["reason"], refused["restored"]) == (False, "no integers for it", 0)
    assert judge(task[3], reference.run(result.module, task[3].inputs)).passed


def test_pruning_removes_whole_channels_and_leaves_the_others_at_eight_bits(task: Any, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"strategy": Strategy.PRUNE, "steps": 6})
    result = run(task, tmp_path, config=config)
    lines = journal_of(tmp_path)
    removed = [line["removed"] for line in lines if line["accepted"] and line["removed"]]
    gone = {(name, channel) for line in removed for name, channels in line.items() for channel in channels}
    assert gone and all(result.widths[name][channel] == 0 for name, channel in gone)
    kept = [bits for name, widths in result.widths.items() for c, bits in enumerate(widths) if (name, c) not in gone]
    assert min(kept) >= 6  # weights need not fill their eight bits
    assert not any(name == "dense" for name, _ in gone)  # the answer's channels stay
    assert judge(task[3], reference.run(result.module, task[3].inputs)).passed


def test_learned_bits_alone_remove_no_channel(task: Any, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"strategy": Strategy.BITS, "gamma": 30.0, "bits_learning_rate": 2.0})
    run(task, tmp_path, config=config, policy=Policy(max_flips=12))
    state = np.load(max(tmp_path.glob("accepted-*.npz")))
    bits = np.concatenate([state[name] for name in state.files if name.endswith("quantiser.bits")])
    assert bits.min() == 1 and (bits < 2).sum() > 4


def test_pressing_ends_within_the_budget(task: Any, undisturbed: CompressionResult, tmp_path: Path) -> None:
    half = undisturbed.start_bytes // 2
    config = CONFIG.model_copy(update={"steps": 12, "gamma": 10.0, "bits_learning_rate": 0.5})
    result = run(task, tmp_path, policy=Policy(max_flips=12), budget=Budget(flash=half), config=config)
    assert half / 2 < result.stored_bytes <= half
    lines = journal_of(tmp_path)
    reached = next(number for number, line in enumerate(lines) if line["accepted"] and line["bytes"] <= half)
    assert all(line["phase"] == "settle" for line in lines[reached + 1 :])


def test_a_budget_that_was_not_met_is_an_error_and_loses_nothing(task: Any, tmp_path: Path) -> None:
    with pytest.raises(SgscError, match=r"the budget is not met: flash [\d,]+ of 4"):
        run(task, tmp_path, budget=Budget(flash=4))
    last = [line for line in journal_of(tmp_path) if line["accepted"]][-1]
    network = quantised(task)
    with np.load(tmp_path / f"accepted-{last['step']:04d}.npz") as state:
        network.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    kept = from_torch(network.export(SHAPE))
    assert stored(kept).flash == last["bytes"] < stored(from_torch(quantised(task).export(SHAPE))).flash
    assert judge(task[3], reference.run(kept, task[3].inputs)).passed


def test_cases_that_a_step_was_refused_for_weigh_more_in_the_next(
    task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []

    def forgetful(network: QuantisedNetwork, lessons: Any, proposal: Proposal, config: Any) -> None:
        seen.append(lessons.weights.numpy()[-len(task[3]) :])
        network.layers["dense"].weight.data[1].neg_()

    monkeypatch.setattr(training, "train", forgetful)
    run(task, tmp_path, config=CONFIG.model_copy(update={"steps": 7, "settle": 0}))
    lost = np.isin(task[3].ids, journal_of(tmp_path)[1]["flips"])
    assert lost.any() and not lost.all()
    for step, weights in enumerate(seen):
        assert np.allclose(weights / seen[0], np.where(lost, min(2.0**step, training.HEAVIEST), 1)), step
    assert len(seen) > np.log2(training.HEAVIEST) + 1  # far enough to see them stop


def test_preserved_cases_are_trained_on_as_they_are_and_others_augmented(
    task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    honest = QuantisedNetwork.forward

    def recording(network: QuantisedNetwork, x: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            seen.append(x.clone())
        return honest(network, x)

    monkeypatch.setattr(QuantisedNetwork, "forward", recording)
    config = CONFIG.model_copy(update={"steps": 1, "settle": 0})
    run(
        task, tmp_path, config=config, augment=lambda x, generator: torch.full_like(x, 7.0), policy=Policy(max_flips=12)
    )
    batches = torch.cat([batch for batch in seen if len(batch) > 6])
    others, preserved = torch.from_numpy(task[1][12:]), torch.from_numpy(task[3].inputs)

    def found(cases: torch.Tensor) -> int:
        return sum(int((batches == case).flatten(1).all(1).any()) for case in cases)

    assert found(preserved) == len(preserved) and found(others) == 0


def test_the_network_is_chosen_along_the_path_by_what_c_shows(
    task: Any, undisturbed: CompressionResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C breaks from the second accepted network on, so the first is the answer, however small the others are."""
    network, inputs, labels, cases = task
    seen = CaseSet(cases.ids, cases.inputs, cases.labels, cases.reference, "all")
    honest, judged = loop.judge, iter(range(100))

    def judging(these: CaseSet, outputs: np.ndarray, policy: Policy | None = None) -> Any:
        if these is seen and next(judged) > 0:
            outputs = -outputs
        return honest(these, outputs, policy)

    monkeypatch.setattr(loop, "judge", judging)
    result = run(task, tmp_path, policy=Policy(max_flip_rate=0.3), calibration=seen)
    assert sum(line["accepted"] for line in journal_of(tmp_path)) > 1
    assert result.stored_bytes == undisturbed.start_bytes
    with pytest.raises(SgscError, match=r"no rate of 10\.00% can be shown"):  # 12 cases show no better than 22 %
        run(task, tmp_path / "again", policy=Policy(max_flip_rate=0.1), calibration=cases)
