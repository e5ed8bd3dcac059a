"""The compressor: quantisers and size against plain formulas, the graph it takes, what it exports."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sgsc_micro import importers, reference
from sgsc_micro.codegen import footprint
from sgsc_micro.compress import check_supported, size
from sgsc_micro.compress.graph import canonical, layers_of
from sgsc_micro.compress.network import QuantisedNetwork, calibrated
from sgsc_micro.compress.quantisers import ActivationQuantiser, WeightQuantiser
from sgsc_micro.errors import SgscError
from sgsc_micro.passes import optimise
from sgsc_micro.passes.graph import read_graph
from sgsc_micro.passes.operators import Pad
from tests.small import SHAPE, program_of, quantised


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


def test_projection_keeps_floors_and_ceilings() -> None:
    quantiser = WeightQuantiser(torch.ones(4, 2))
    quantiser.bits.data = torch.tensor([-1.0, 2.0, 9.0, 5.0])
    quantiser.project(torch.tensor([0.0, 3.0, 0.0, 0.0]), torch.tensor([8.0, 8.0, 8.0, 0.0]))
    assert quantiser.bits.tolist() == [0, 3, 8, 0]


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
        ([nn.ZeroPad2d((0, -1, 0, 0))], "aten.pad.default is not of an image's sides, with zeros"),
        ([nn.ConstantPad2d(1, 0.5)], "with zeros"),
        ([nn.ReflectionPad2d(1)], "layer '1': aten.pad.default is not"),
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


def test_sides_of_zeros_are_the_convolutions_own_and_cost_nothing() -> None:
    network = nn.Sequential(
        nn.ZeroPad2d((0, 1, 2, 0)),
        nn.Conv2d(1, 4, 3, 2),
        nn.ReLU(),
        nn.ZeroPad2d((1, 0, 0, 0)),
        nn.MaxPool2d(2, 1),
        nn.Flatten(),
        nn.LazyLinear(3),
    )
    inputs = torch.rand(40, *SHAPE) + 0.5  # so that zero is not the least value
    network(inputs[:1])
    quantised_network = calibrated(canonical(program_of(network)), inputs)
    module = importers.from_torch(quantised_network.export(SHAPE))
    found = reference.run(module, inputs.numpy())
    with torch.no_grad():
        exact = network(inputs).numpy()
        trained = quantised_network(inputs).numpy()
    steps = np.abs(exact).max() / 100
    assert np.abs(found - trained).max() < 2 * steps and np.abs(found - exact).max() < 4 * steps
    left = [node for node in read_graph(optimise(module)).nodes if isinstance(node.operator, Pad)]
    assert len(left) == 1  # the pooling's


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
    assert footprint(optimise(module)).flash > 0


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
    assert footprint(optimise(module)).flash > 0  # the proof that no accumulator overflows


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
    # words of 32 bits, and 32 bits of bias and shift; half a bit costs half of what one does
    conv = 0.5 * (32 + 32) + (32 + 32) + (3 * 32 + 32)
    # depthwise is a stream of bits; it reads one channel each, 0 and 1/2 of the first two are there, and so of its own
    depthwise = 0.5 * (4 + 9 * 3 + 32) + (4 + 9 * 4 + 32)
    dense = (3 * 32 + 32) + (5 * 32 + 32) + (8 * 32 + 32)  # 36 taps; 6 bits lie as 4 and 2
    dense *= (0 + 0.5 + 1 + 1) / 4  # the sum lives where either summand does
    widths = {name: layer.quantiser.bits for name, layer in network.layers.items()}
    assert size.cost(network, widths).item() == pytest.approx(conv + depthwise + dense)


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
