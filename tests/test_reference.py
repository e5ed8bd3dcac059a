"""The NumPy reference against oracles of other makes: rational arithmetic, torch's convolutions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sgsc_micro.errors import SgscError
from sgsc_micro.passes.requantise import Multiplier
from sgsc_micro.reference import arithmetic, run
from tests.graphs import random_graph

RATIOS = st.floats(min_value=2.0**-20, max_value=64.0)


@given(RATIOS, st.integers(-(2**20), 2**20))
def test_requantising_is_rounding_half_up_of_the_real_product(ratio: float, accumulator: int) -> None:
    q = int(arithmetic.requantise(np.array([accumulator]), np.array([ratio]), 0, -(2**31), 2**31 - 1)[0])
    exact = Fraction(ratio) * accumulator
    assert abs(q - exact) <= Fraction(1, 2) + abs(exact) / 2**29  # half a step, and the multiplier's own rounding


@pytest.mark.parametrize("ratio", [0.5, 0.25, 0.125, 1.0, 2.0**-12, 2.0**-20])
def test_powers_of_two_are_exact_and_round_half_up(ratio: float) -> None:
    accumulators = np.arange(-4096, 4097)
    expected = np.floor(accumulators * ratio + 0.5)
    assert np.array_equal(arithmetic.requantise(accumulators, np.array([ratio]), 0, -5000, 5000), expected)


@given(RATIOS)
def test_both_implementations_choose_the_same_multiplier(ratio: float) -> None:
    ours = Multiplier.of(ratio)
    assert (ours.m, ours.shift, ours.left) == arithmetic.multiplier(ratio)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("stride,dilation,padding", [(1, 1, (1, 1, 1, 1)), (2, 1, (0, 1, 2, 0)), (1, 2, (0, 0, 0, 0))])
def test_convolution_is_torchs(groups: int, stride: int, dilation: int, padding: tuple[int, int, int, int]) -> None:
    rng = np.random.default_rng(groups)
    x = rng.integers(-255, 256, (2, 9, 7, 4))
    w = rng.integers(-128, 128, (8, 3, 2, 4 // groups))
    top, left, bottom, right = padding
    padded = np.pad(x, [(0, 0), (top, bottom), (left, right), (0, 0)]).transpose(0, 3, 1, 2)
    expected = torch.conv2d(
        torch.tensor(padded, dtype=torch.float64),
        torch.tensor(w.transpose(0, 3, 1, 2), dtype=torch.float64),
        stride=stride,
        dilation=dilation,
        groups=groups,
    )
    found = arithmetic.conv2d(x, w, strides=[stride] * 2, padding=list(padding), dilation=[dilation] * 2, groups=groups)
    assert np.array_equal(found, expected.numpy().transpose(0, 2, 3, 1))


def test_an_accumulator_beyond_int32_is_an_error_and_not_an_answer() -> None:
    with pytest.raises(SgscError, match="int32"):
        arithmetic.requantise(np.array([2**31]), np.array([0.1]), 0, -128, 127)


def test_nan_inputs_are_refused() -> None:
    module, x = random_graph(0)
    x[0] = np.nan
    with pytest.raises(SgscError, match="NaN"):
        run(module, x)
