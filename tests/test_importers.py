"""torch to the one form: the imported network means what torch's own fake quantisation means, layout and all."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.ao.quantization.fx._decomposed  # registers torch.ops.quantized_decomposed
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from sgsc_micro import reference
from sgsc_micro.codegen import HostLibrary, from_stored, to_stored, write_library
from sgsc_micro.errors import SgscError
from sgsc_micro.importers import from_torch
from sgsc_micro.passes import optimise

quantized = torch.ops.quantized_decomposed


class QuantisedNet(nn.Module):
    """Non-square images, three channels in, a residual, a pooling, a flatten: as PT2E would write it."""

    def __init__(self, seed: int, ending: str) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)
        self.ending = ending
        self.stem, self.body = self._weights(6, 3, 3, 2), self._weights(6, 6, 3, 3)
        self.head = self._weights(5, 6 * 2 * 3 if ending == "flatten" else 6)
        for name, (values, scales) in {"stem": self.stem, "body": self.body, "head": self.head}.items():
            self.register_buffer(f"{name}_q", values)
            self.register_buffer(f"{name}_s", scales)
            self.register_buffer(f"{name}_z", torch.zeros(len(values), dtype=torch.int64))

    def _weights(self, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
        values = torch.randint(-7, 8, shape, generator=self.generator, dtype=torch.int8)
        return values, 2.0 ** torch.randint(-5, -2, shape[:1], generator=self.generator)

    def _dequantized(self, name: str) -> torch.Tensor:
        parts = (getattr(self, f"{name}_{part}") for part in "qsz")
        return quantized.dequantize_per_channel(*parts, 0, -128, 127, torch.int8)

    @staticmethod
    def _int8(x: torch.Tensor, scale: float, zero_point: int) -> torch.Tensor:
        q = quantized.quantize_per_tensor(x, scale, zero_point, -128, 127, torch.int8)
        return quantized.dequantize_per_tensor(q, scale, zero_point, -128, 127, torch.int8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self._int8(x, 0.03, 5)  # [N, 3, 5, 7]
        x = self._int8(F.relu(F.conv2d(x, self._dequantized("stem"), padding=(1, 0))), 0.05, -128)  # [N, 6, 5, 6]
        y = self._int8(F.conv2d(x, self._dequantized("body"), padding=1), 0.1, 3)
        x = self._int8(F.relu(x + y), 0.1, -128)
        x = self._int8(F.max_pool2d(x, 2), 0.1, -128)  # [N, 6, 2, 3]
        if self.ending == "flatten":
            x = torch.flatten(x, 1)
        elif self.ending == "mean":
            x = self._int8(x.mean((2, 3)), 0.08, -128)
        else:
            x = self._int8(F.adaptive_avg_pool2d(x, 1), 0.08, -128).flatten(1)
        return self._int8(F.linear(x, self._dequantized("head")), 0.2, 0)


@given(seed=st.integers(0, 1000), ending=st.sampled_from(["flatten", "mean", "adaptive"]))
@settings(max_examples=10, deadline=None)
def test_an_imported_network_is_within_rounding_of_torchs(
    seed: int, ending: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    network = QuantisedNet(seed, ending).eval()
    x = torch.randn(4, 3, 5, 7, generator=torch.Generator().manual_seed(seed))
    module = from_torch(torch.export.export(network, (x[:1],)))
    found = reference.run(module, x.numpy())
    expected = network(x).numpy()
    # Torch adds floats and rounds half to even: a step may differ in every layer, a layout mistake differs everywhere.
    steps = np.abs(found - expected) / 0.2
    assert steps.max() <= 6 and steps.mean() <= 1
    folder = tmp_path_factory.mktemp("library")
    manifest = write_library(optimise(module), folder, "imported")
    outputs = from_stored(manifest, HostLibrary(folder).run(to_stored(manifest, x.numpy())))
    assert np.array_equal(outputs, found)


def _int8(x: torch.Tensor, scale: float = 0.05, zero_point: int = 0) -> torch.Tensor:
    return QuantisedNet._int8(x, scale, zero_point)


class _Bare(nn.Module):
    """A network given as a function of its input and of 4x4 identity weights."""

    def __init__(self, body: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("q", 8 * torch.eye(4, dtype=torch.int8))
        self.register_buffer("s", torch.full((4,), 0.125))
        self.register_buffer("z", torch.zeros(4, dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = quantized.dequantize_per_channel(self.q, self.s, self.z, 0, -128, 127, torch.int8)
        return self.body(_int8(x), weights)


def _same(body: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], shape: tuple[int, ...]) -> None:
    """Where nothing is rounded twice, torch and the reference agree to the last bit."""
    x = torch.linspace(-3, 3, 2 * math.prod(shape)).reshape(2, *shape)
    network = _Bare(body)
    module = from_torch(torch.export.export(network, (x[:1],)))
    assert np.allclose(reference.run(module, x.numpy()), network(x).numpy(), atol=1e-6)


def test_features_in_different_orders_are_not_added_up() -> None:
    def mixed(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        flat = torch.flatten(x, 1)  # [N, 4] of [N, 2, 1, 2]
        return _int8(flat + _int8(F.linear(flat, weights)))

    with pytest.raises(SgscError, match="features in different orders"):
        from_torch(torch.export.export(_Bare(mixed), (torch.zeros(1, 2, 1, 2),)))


@pytest.mark.parametrize("shape", [(4, 1, 1), (2, 2), (4,)])
def test_inputs_of_any_rank_become_features(shape: tuple[int, ...]) -> None:
    _same(lambda x, weights: _int8(F.linear(torch.flatten(x, 1), weights), 0.05, 3), shape)


def test_a_network_may_end_in_a_global_pooling_that_is_flattened() -> None:
    _same(lambda x, _: torch.flatten(_int8(F.adaptive_avg_pool2d(x, 1), 0.05), 1), (3, 1, 1))


def test_an_operator_without_a_meaning_is_named() -> None:
    class Sine(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return QuantisedNet._int8(torch.sin(QuantisedNet._int8(x, 0.1, 0)), 0.1, 0)

    with pytest.raises(SgscError, match=r"relax\.sin cannot be lowered"):
        from_torch(torch.export.export(Sine(), (torch.zeros(1, 4),)))


class FloatBiases(QuantisedNet):
    """As PT2E's quantisers leave it: biases in float."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, "mean")
        self.biases = nn.ParameterList(
            torch.randn(len(values), generator=self.generator) for values, _ in (self.stem, self.head)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self._int8(x, 0.03, 5)
        x = self._int8(F.relu(F.conv2d(x, self._dequantized("stem"), self.biases[0])), 0.05, -128)
        x = self._int8(x.mean((2, 3)), 0.05, -128)
        return self._int8(F.linear(x, self._dequantized("head"), self.biases[1]), 0.1, 0)


@pytest.mark.parametrize("seed", range(3))
def test_a_bias_in_float_is_rounded_to_its_accumulator(seed: int) -> None:
    network = FloatBiases(seed).eval()
    x = torch.randn(20, 3, 5, 7, generator=torch.Generator().manual_seed(seed))
    module = from_torch(torch.export.export(network, (x[:1],)))
    steps = np.abs(reference.run(module, x.numpy()) - network(x).detach().numpy()) / 0.1
    assert steps.max() <= 2 and steps.mean() <= 0.3
    with torch.no_grad():  # what the biases do is far more than rounding does
        for bias in network.biases:
            bias.zero_()
        assert np.abs(reference.run(module, x.numpy()) - network(x).numpy()).max() / 0.1 > 5
