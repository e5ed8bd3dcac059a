"""A layer's weights rounded to few bits: near the best there is, and at scales that cost nothing to store."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sgsc_micro.compress.rounding import Moments, choose_scales, limits, round_weights


def _problem(rng: np.random.Generator, groups: int, outputs: int, taps: int) -> tuple[Moments, np.ndarray]:
    rows = rng.normal(size=(groups, 200, taps)) @ rng.normal(size=(groups, taps, taps))
    weights = rng.normal(size=(groups, outputs, taps))
    second = rows.swapaxes(1, 2) @ rows / 200
    mean = np.zeros((groups, taps))
    return Moments(mean, np.zeros((groups, outputs)), second, weights @ second, 1.0), weights


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_rounding_comes_near_the_best_there_is(bits: int) -> None:
    """All roundings of four weights, tried; the outcome is no worse than the nearest and close to the best."""
    near = []
    for seed in range(30):
        moments, weights = _problem(np.random.default_rng(seed), 2, 3, 4)
        widths = np.full((2, 3), bits)
        scales = np.abs(weights).max(axis=2) / 2 ** (bits - 1)
        low, high = (int(limit.flat[0]) for limit in limits(widths))
        found = round_weights(moments, weights, widths, scales)
        assert low <= found.min() and found.max() <= high
        every = np.array(list(itertools.product(range(low, high + 1), repeat=4)))
        for group, output in np.ndindex(2, 3):
            scale, damped = scales[group, output], moments.damped[group]
            off = every * scale - weights[group, output]
            errors = np.einsum("nt,tu,nu->n", off, damped, off)
            nearest = np.clip(np.rint(weights[group, output] / scale), low, high) * scale - weights[group, output]
            mine = found[group, output] * scale - weights[group, output]
            near.append((mine @ damped @ mine / errors.min(), nearest @ damped @ nearest / errors.min()))
    mine, nearest = np.array(near).T
    assert mine.mean() < 1.3 and mine.mean() < 0.7 * nearest.mean()


def test_what_rounding_does_is_made_good_by_the_weights_after_it() -> None:
    """Less error than the nearest roundings have after each was set to its best beside the others, five times over."""
    errors = np.zeros(2)
    for seed in range(20):
        moments, weights = _problem(np.random.default_rng(seed), 1, 8, 12)
        widths, damped = np.full((1, 8), 3), moments.damped[0]
        scales = np.abs(weights).max(axis=2) / 4
        found = round_weights(moments, weights, widths, scales)[0]
        descended = np.clip(np.rint(weights / scales[..., None]), -4, 3)[0]
        for tap in list(range(12)) * 5:
            slope = ((descended * scales[0][:, None] - weights[0]) @ damped)[:, tap]
            best = np.rint(descended[:, tap] - slope / (damped[tap, tap] * scales[0]))
            descended[:, tap] = np.clip(best, -4, 3)
        for which, integers in enumerate((found, descended)):
            off = integers * scales[0][:, None] - weights[0]
            errors[which] += np.einsum("ot,tu,ou->", off, damped, off)
    assert errors[0] < 0.95 * errors[1]


def test_scales_that_are_powers_of_two_of_each_other_stay_so() -> None:
    moments, weights = _problem(np.random.default_rng(1), 1, 4, 6)
    for scales, powers in ((2.0 ** -np.arange(4, 8), True), (np.array([0.1, 0.07, 0.03, 0.11]), False)):
        found = choose_scales(moments, weights, np.full((1, 4), 4), scales[None])
        ratios = np.log2(found / found[0, 0])
        assert np.array_equal(ratios, np.rint(ratios)) == powers
