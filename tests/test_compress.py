"""The compressor: quantisers and size against plain formulas, the graph it takes, and a guard that guards."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import tvm
from torch import nn
from tvm import relax

from sgsc_micro import importers, reference
from sgsc_micro.codegen import stored_bytes
from sgsc_micro.compress import (
    CompressionResult,
    check_supported,
    compress,
    guarded,
    journal,
    training,
)
from sgsc_micro.compress.graph import canonical, layers_of
from sgsc_micro.compress.network import CHANNEL_OVERHEAD_BITS, QuantisedNetwork, calibrated
from sgsc_micro.compress.quantisers import ActivationQuantiser, WeightQuantiser
from sgsc_micro.compress.training import Proposal
from sgsc_micro.errors import SgscError
from sgsc_micro.ir import bindings_of, constant_of, is_constant, shape_of
from sgsc_micro.passes import optimise
from sgsc_micro.preserve import CaseSet, judge
from sgsc_micro.project import CompressionConfig, Policy
from sgsc_micro.storage import channel_words, width_of

SHAPE = (1, 6, 6)


class Small(nn.Module):
    """Every operator that can be lowered, in-place ones among them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.relu = nn.ReLU(inplace=True)
        self.clip = nn.ReLU6()
        self.pool = nn.MaxPool2d(2)
        self.drop = nn.Dropout(0.5)
        self.dense = nn.Linear(4 * 9, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.norm(self.conv(x)))  # [N, 4, 6, 6]
        y = self.clip(self.depthwise(x))  # [N, 4, 6, 6]
        y += x
        return self.dense(self.drop(self.pool(y).reshape(len(x), -1)))  # [N, 3]


@pytest.fixture(scope="module")
def task() -> tuple[nn.Module, np.ndarray, np.ndarray, CaseSet]:
    """A trained network, 90 noisy bars of 3 directions, and 12 preserved cases."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    bars = np.zeros((3, *SHAPE), dtype=np.float32)
    bars[0, 0, 2], bars[1, 0, :, 2], bars[2, 0] = 1, 1, np.eye(6)
    labels = np.arange(90) % 3
    inputs = bars[labels] + 0.25 * random.normal(size=(90, *SHAPE)).astype(np.float32)
    network = Small()
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(40):
        loss = nn.functional.cross_entropy(network(torch.from_numpy(inputs)), torch.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        answers = network(torch.from_numpy(inputs[:12])).numpy()
    assert (answers.argmax(1) == labels[:12]).all()
    return network, inputs, labels, CaseSet(np.arange(12).astype(str), inputs[:12], labels[:12], answers, "user")


def program_of(network: nn.Module, *shape: int) -> torch.export.ExportedProgram:
    return torch.export.export(network.eval(), (torch.zeros(1, *(shape or SHAPE)),))


def quantised(task: tuple[nn.Module, np.ndarray, np.ndarray, CaseSet]) -> QuantisedNetwork:
    return calibrated(canonical(program_of(task[0])), torch.from_numpy(task[1]))


def set_bits(network: QuantisedNetwork, layer: str, bits: list[float]) -> None:
    network.layers[layer].quantiser.bits.data = torch.tensor(bits)


# Quantisers


@pytest.mark.parametrize("bits", [0.0, 0.4, 1.0, 1.7, 2.0, 3.3, 5.0, 8.0])
@pytest.mark.parametrize("reach", [-2.0, 0.3, 1.0])
def test_the_weight_quantiser_is_the_papers_formula(bits: float, reach: float) -> None:
    x = np.random.default_rng(0).normal(size=(2, 40)).astype(np.float32)
    quantiser = WeightQuantiser(torch.from_numpy(x))
    quantiser.bits.data.fill_(bits)
    quantiser.reach.data.fill_(reach)
    e = np.round(np.float32(reach) - np.float32(bits) + 1)
    integers = np.round(np.clip(x / 2**e, -(np.float32(2) ** (bits - 1)), np.float32(2) ** (bits - 1) - 1))
    weight = torch.from_numpy(x)
    assert np.array_equal(quantiser.integers(weight).detach().numpy(), integers)
    assert np.array_equal(quantiser(weight).detach().numpy(), integers * 2**e)
    assert integers.min() >= -(2 ** np.ceil(bits) / 2) and integers.max() <= 2 ** np.ceil(bits) / 2 - (bits > 0)


def test_rounding_passes_the_gradient_and_clamping_stops_it() -> None:
    x = torch.tensor([[0.3, 0.9, -0.2, 5.0]], requires_grad=True)
    quantiser = WeightQuantiser(torch.tensor([[1.0]]))
    quantiser(x).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [[1, 1, 1, 0]]


def test_the_gradient_of_bits_and_reach_is_that_of_the_formula() -> None:
    """Against central differences of the same formula with rounding replaced by its straight-through value."""
    x = torch.tensor([[0.3, -0.9, 5.0, -7.0]], dtype=torch.float64)
    quantiser = WeightQuantiser(x).double()
    quantiser.bits.data.fill_(3.0)
    quantiser.reach.data.fill_(0.0)
    quantiser(x).sum().backward()
    error = (quantiser.integers(x).detach() - torch.clamp(x / 0.25, -4, 3))[0]  # rounding, constant to autograd

    def smooth(bits: float, reach: float) -> float:
        e = reach - bits + 1
        return float((2**e * (torch.clamp(x[0] / 2**e, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) + error)).sum())

    step = 1e-5
    assert quantiser.bits.grad.item() == pytest.approx(
        (smooth(3 + step, 0) - smooth(3 - step, 0)) / (2 * step), rel=1e-4
    )
    assert quantiser.reach.grad.item() == pytest.approx((smooth(3, step) - smooth(3, -step)) / (2 * step), rel=1e-4)


def test_a_channel_at_zero_bits_is_all_zero_and_still_has_a_gradient() -> None:
    weight = torch.tensor([[0.5, -0.7, 0.6]])
    quantiser = WeightQuantiser(weight)
    quantiser.bits.data.zero_()
    (quantiser(weight) * torch.tensor([1.0, -1.0, 1.0])).sum().backward()
    assert not quantiser(weight).any()
    assert quantiser.bits.grad is not None and quantiser.bits.grad.abs().item() > 0


def test_projection_keeps_the_floor_and_eight_bits() -> None:
    quantiser = WeightQuantiser(torch.ones(3, 2))
    quantiser.bits.data = torch.tensor([-1.0, 2.0, 9.0])
    quantiser.project(torch.tensor([0.0, 3.0, 0.0]))
    assert quantiser.bits.tolist() == [0, 3, 8]


def test_activations_are_int8_with_an_exact_zero() -> None:
    quantiser = ActivationQuantiser(-0.7, 2.1)
    x = torch.linspace(-2, 3, 301)
    scale, zero = quantiser.scale().item(), int(quantiser.zero_point)
    wanted = (np.round(np.clip(x.numpy() / np.float32(scale) + zero, -128, 127)) - zero) * np.float32(scale)
    np.testing.assert_allclose(quantiser(x).detach().numpy(), wanted, atol=1e-6)
    assert quantiser(torch.zeros(1)).item() == 0
    assert -128 <= zero <= 127


# The graph


def test_batch_norm_is_folded_exactly_and_nothing_else_changes(task: Any) -> None:
    network, inputs = task[0], torch.from_numpy(task[1])
    before = copy.deepcopy(network.state_dict())
    folded = canonical(program_of(network))
    torch.testing.assert_close(folded(inputs), network(inputs), atol=1e-5, rtol=1e-5)
    assert list(layers_of(folded)) == ["conv", "depthwise", "dense"]
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_every_layer_that_cannot_be_lowered_is_named_at_once() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 2, 3),
        nn.SiLU(),
        nn.Conv2d(2, 2, 3),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2, 3),
        nn.Softmax(1),
    )
    with pytest.raises(SgscError) as caught:
        check_supported(program_of(network))
    for part in ("'1': aten.silu", "'4': aten.relu.default does not stand directly after", "'7': aten"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([nn.MaxPool2d(2, ceil_mode=True)], "layer '1': aten.max_pool2d.default has ceil_mode or dilation"),
        ([nn.MaxPool2d(2, dilation=2)], "has ceil_mode or dilation"),
        ([nn.AvgPool2d(2, divisor_override=3)], "layer '1': aten.avg_pool2d.default has padding"),
        ([nn.AvgPool2d(2, padding=1)], "aten.avg_pool2d.default has padding"),
        ([nn.Flatten()], r"the output is a flattened image \[2, 6, 6\]"),
    ],
)
def test_arguments_that_change_the_meaning_are_refused(layers: list[nn.Module], words: str) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), *layers)
    if not isinstance(layers[0], nn.Flatten):
        network.extend([nn.Flatten(), nn.LazyLinear(3)])
    network(torch.zeros(1, *SHAPE))
    with pytest.raises(SgscError, match=words):
        check_supported(program_of(network))


def test_features_of_different_images_are_not_added_up() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(36, 36)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            flat = torch.flatten(x, 1)
            return flat + self.linear(flat)

    with pytest.raises(SgscError, match=r"adds features of images \[1, 6, 6\] and \[\]"):
        check_supported(program_of(Mixed()))


def test_dropout_between_a_layer_and_its_norm_and_names_like_ours_change_nothing() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Dropout(), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(32, 3))
    network.add_module("activation_0", nn.Linear(3, 3))
    x = torch.randn(4, *SHAPE)
    expected = network.eval()(x)
    float_network = canonical(program_of(network))
    assert torch.allclose(float_network(x), expected, atol=1e-5)
    found = reference.run(importers.from_torch(calibrated(float_network, x).export(SHAPE)), x.numpy())
    assert np.abs(found - expected.detach().numpy()).max() < 0.05 * expected.abs().max()


def test_a_norm_behind_a_linear_layer_is_folded_wherever_it_stands() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.norm, self.other = nn.Linear(5, 3), nn.BatchNorm1d(3), nn.Linear(5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.one(x)) + self.other(x)

    x = torch.randn(4, 5)
    for network in (Normed().eval(), nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3)).eval()):
        torch.testing.assert_close(canonical(program_of(network, 5))(x), network(x), atol=1e-5, rtol=1e-5)


def test_a_block_with_weights_of_its_own_beside_its_layers_is_exported() -> None:
    class Block(nn.Module):  # its own layer is named "0", the one in it "0.inner"
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.weight = nn.Linear(5, 5), nn.Parameter(torch.randn(5, 5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(torch.relu(self.inner(x)), self.weight)

    torch.manual_seed(0)
    network, x = nn.Sequential(Block(), nn.ReLU(), nn.Linear(5, 3)), torch.randn(8, 5)
    trained = calibrated(canonical(program_of(network, 5)), x)
    assert list(trained.layers) == ["0.inner", "0", "2"]
    found, expected = reference.run(importers.from_torch(trained.export((5,))), x.numpy()), network(x).detach().numpy()
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize("bias", [-10.0, -1e4])
def test_a_relu_that_lets_nothing_through_fits_32_bits(bias: float) -> None:
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(8, 5)
    nn.init.constant_(network[0].bias, bias)
    module = importers.from_torch(calibrated(canonical(program_of(network, 5)), x).export((5,)))
    found, expected = reference.run(module, x.numpy()), network(x).detach().numpy()
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
    assert stored_bytes(optimise(module)) > 0


def test_a_candidate_that_is_not_numbers_is_named(task: Any) -> None:
    network = quantised(task)
    network.layers["dense"].bias.data[1] = torch.nan
    with pytest.raises(SgscError, match="NaN or infinity in dense after training"):
        network.export(SHAPE)


def test_dead_channels_can_be_exported() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3))
    with torch.no_grad():
        network[0].weight[1], network[0].bias[1] = 0, 1.0  # a constant
        network[0].weight[2] *= 1e-7  # as good as one
        network[3].weight[2], network[3].bias[2] = 0, -0.5
    x = torch.randn(8, *SHAPE)
    module = importers.from_torch(calibrated(canonical(program_of(network)), x).export(SHAPE))
    found, expected = reference.run(module, x.numpy()), network(x).detach().numpy()
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
    assert stored_bytes(optimise(module)) > 0  # the proof that no accumulator overflows


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


def test_weights_that_are_not_numbers_are_named(task: Any) -> None:
    network = copy.deepcopy(task[0])
    network.dense.weight.data[1, 2] = torch.nan
    with pytest.raises(SgscError, match=r"dense\.weight holds NaN"):
        check_supported(program_of(network))


def test_a_layer_called_twice_is_two_layers() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.dense(torch.relu(self.dense(x)))

    network, x = Twice(), torch.randn(5, 3)
    folded = canonical(program_of(network, 3))
    assert len(layers_of(folded)) == 2
    torch.testing.assert_close(folded(x), network(x))


# Size and export


def test_size_is_the_sum_that_a_person_gets(task: Any) -> None:
    network = quantised(task)
    set_bits(network, "conv", [0.0, 0.5, 2.0, 8.0])
    set_bits(network, "depthwise", [3.0, 3.0, 0.0, 4.0])
    set_bits(network, "dense", [2.0, 4.0, 6.0])
    conv = 9 * 10.5 + CHANNEL_OVERHEAD_BITS * 2.5
    # depthwise reads one channel each, 0 and 1/2 of the first two are there, and so of its own
    depthwise = 9 * (3 * 0 + 3 * 0.5 + 0 + 4 * 1) + CHANNEL_OVERHEAD_BITS * (0 + 0.5 + 0 + 1)
    dense = 9 * (0 + 0.5 + 1 + 1) * 12 + CHANNEL_OVERHEAD_BITS * 3  # the sum lives where either summand does
    assert network.size_bits().item() == pytest.approx(conv + depthwise + dense)


def test_the_exported_integers_are_what_was_trained(task: Any) -> None:
    network = quantised(task)
    set_bits(network, "conv", [0.0, 3.0, 2.0, 8.0])
    set_bits(network, "dense", [4.2, 4.0, 1.0])
    widths = network.widths()
    assert widths["conv"][0] == 0 and widths["conv"][2] <= 2 and widths["dense"][2] <= 1
    outputs = reference.run(importers.from_torch(network.export(SHAPE)), task[1])
    step = network.get_submodule("network.activation_4").scale().item()
    with torch.no_grad():
        trained = network(torch.from_numpy(task[1])).numpy()
    assert np.abs(outputs - trained).max() <= 2.5 * step  # roundings of ties inside


# The guarded loop

CONFIG = CompressionConfig(steps=3, settle=1, epochs=2, batch=32, bits_learning_rate=0.2)


def stored(module: tvm.IRModule) -> int:
    """Bytes of the packed weights alone."""
    values = [call.args[0] for _, call in bindings_of(module["main"]) if isinstance(call, relax.Call)]
    weights = [constant_of(value) for value in values if is_constant(value) and len(shape_of(value)) > 1]
    return sum(4 * channel_words(int(bits), layer[0].size) for layer in weights for bits in width_of(layer))


def run(task: Any, folder: Path, **changes: Any) -> CompressionResult:
    network, inputs, labels, cases = task
    return compress(
        network, inputs, labels, cases, **{"stored_bytes": stored, "workdir": folder, "config": CONFIG, **changes}
    )


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

    def planted(network: QuantisedNetwork, float_network: Any, x: Any, y: Any, proposal: Proposal, config: Any) -> None:
        starts.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        if proposal.step == 1:
            network.layers["dense"].weight.data[1].neg_()  # class 1 is lost, the others stay
        else:
            honest(network, float_network, x, y, proposal, config)

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
            patch.setattr(training, "train", lambda *args: die() if args[4].step == 2 else honest(*args))
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


def test_floors_come_from_the_journal_and_gamma_eases_where_p_broke(task: Any) -> None:
    network = quantised(task)
    line = {"phase": "start", "passed": True, "accepted": True, "flips": [], "diverged": [], "raised": {}}
    broke = {
        **line,
        "phase": "press",
        "passed": False,
        "accepted": False,
        "flips": ["3"],
        "raised": {"dense": {"1": 5}},
    }
    proposal = guarded.next_proposal([line, broke], network, CONFIG)
    assert proposal is not None and proposal.phase == "press"
    assert proposal.floors["dense"].tolist() == [0, 5, 0]
    assert proposal.gamma == pytest.approx(CONFIG.gamma * guarded.EASE)
    ended = guarded.next_proposal([line] + [broke] * guarded.PATIENCE, network, CONFIG)
    assert ended is not None and ended.phase == "settle"
