"""Strategies, balance, near-duplicates and coverage, against oracles that look at every pair."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from sgsc_micro.compress.graph import canonical
from sgsc_micro.preserve import CaseSet, choose, gaps, holes, label_conflicts
from sgsc_micro.preserve.disjoint import NEAR_DUPLICATE, NearDuplicates
from sgsc_micro.preserve.strategies import Candidates, by_k_center, el2n
from sgsc_micro.sources.features import grad_cam, penultimate
from tests.small import program_of


def cases(inputs: np.ndarray, labels: np.ndarray, classes: int = 3, name: str = "train") -> CaseSet:
    """All right in the reference, by margins from 1 on."""
    answers = np.eye(classes, dtype=np.float32)[labels] * (1 + np.arange(len(labels)))[:, None]
    return CaseSet(np.array([f"{name}/{row}" for row in range(len(labels))]), inputs, labels, answers, "all")


def test_k_center_is_the_greedy_one_of_every_pair() -> None:
    points = np.random.default_rng(1).normal(size=(40, 5)) + 100  # far from the origin
    order = list(by_k_center(Candidates(np.zeros(40), np.zeros(40), points)))
    mean = points.mean(axis=0)
    expected = [min(range(40), key=lambda row: math.dist(points[row], mean))]
    while len(expected) < 40:
        left = [row for row in range(40) if row not in expected]
        expected.append(max(left, key=lambda row: min(math.dist(points[row], points[taken]) for taken in expected)))
    assert order == expected


def test_el2n_by_hand() -> None:
    outputs = np.array([[math.log(3), 0.0], [0.0, 0.0], [1000.0, 0.0]], dtype=np.float32)  # 3/4, 1/2, 1 for class 0
    scores = el2n(outputs, np.array([0, 1, 0]))
    np.testing.assert_allclose(scores, [math.hypot(1 / 4, 1 / 4), math.hypot(1 / 2, 1 / 2), 0], rtol=1e-5)
    assert el2n(outputs[None], np.array([[0, -1, 1]]))[0, 1] == 0  # no label there


def test_el2n_takes_what_is_hardest_and_still_right() -> None:
    pool = cases(np.arange(6.0)[:, None], np.array([0, 0, 0, 1, 1, 1]), 2)
    assert choose(pool, 2, "el2n").ids.tolist() == ["train/0", "train/3"]


def test_random_follows_its_seed() -> None:
    pool = cases(np.arange(60.0)[:, None], np.arange(60) % 3)
    first, again, other = (choose(pool, 12, "random", seed=seed).ids.tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_every_class_and_slice_is_taken_in_turn_and_the_heavy_first() -> None:
    slices = np.array(["day"] * 54 + ["night"] * 6)  # night: two of each class
    weights = np.ones(60)
    weights[[50, 59]] = 5
    pool = replace(cases(np.arange(60.0)[:, None], np.arange(60) % 3), slices=slices, weights=weights)
    chosen = choose(pool, 6, "margin")
    assert sorted(zip(chosen.labels.tolist(), chosen.slices.tolist())) == [
        (label, name) for label in range(3) for name in ("day", "night")
    ]
    assert {"train/50", "train/59"} <= set(chosen.ids)  # though the widest margins of their groups
    everything = choose(pool, 20, "margin")
    assert (everything.slices == "night").sum() == 6  # all there are; day fills up


def test_a_sequence_is_one_group_and_right_where_any_position_is() -> None:
    labels = np.array([[0, 1, -1], [1, 1, 0], [0, 0, 0], [-1, 1, 1]])
    outputs = np.zeros((4, 3, 2), dtype=np.float32)
    for row, position, label, margin in ((0, 0, 0, 9), (0, 1, 1, 2), (1, 0, 1, 7), (3, 1, 1, 1), (3, 2, 1, 8)):
        outputs[row, position, label] = margin
    outputs[1, 1:, 1], outputs[2, :, 1] = 5, 5  # case 1 is right at 0 and 1, case 2 nowhere
    outputs[1, 2, 1] = 5
    pool = CaseSet(np.array(list("abcd")), np.arange(4.0)[:, None], labels, outputs, "all")
    assert choose(pool, 3, "margin").ids.tolist() == ["a", "b", "d"]
    assert choose(pool, 1, "margin").ids.tolist() == ["d"]  # its smallest margin is 1


@pytest.mark.parametrize("width", [20, 200])  # fewer and more than are projected on
def test_near_duplicates_are_those_of_every_pair(width: int) -> None:
    random = np.random.default_rng(2)
    base = random.normal(size=(300, width)).astype(np.float32)
    queries = random.normal(size=(80, width)).astype(np.float32)
    for row in range(0, 80, 2):  # from well inside the distance to well outside it
        queries[row] = base[row] + (0.2 + 0.02 * row) * NEAR_DUPLICATE * math.sqrt(width) * _direction(random, width)
    train, other = cases(base, np.zeros(300, int)), cases(queries, np.zeros(80, int), name="test")
    near = NearDuplicates(train)
    spread = math.sqrt(((base.astype(np.float64) - base.mean(axis=0)) ** 2).sum(axis=1).mean())
    expected = {
        (f"test/{i}", f"train/{j}")
        for i in range(80)
        for j in range(300)
        if math.dist(queries[i].tolist(), base[j].tolist()) <= NEAR_DUPLICATE * spread
    }
    assert set(near.pairs(other, train)) == expected and 10 < len(expected) < 38


def test_a_set_finds_its_own_repetitions_once_and_the_conflicts_among_them() -> None:
    inputs = np.random.default_rng(3).normal(size=(50, 30)).astype(np.float32)
    inputs[40], inputs[41], inputs[42] = inputs[3], inputs[3] + 0.001, inputs[9]
    labels = np.zeros(50, int)
    labels[41] = 2
    train = cases(inputs, labels)
    pairs = {("train/3", "train/40"), ("train/3", "train/41"), ("train/40", "train/41"), ("train/9", "train/42")}
    found = NearDuplicates(train).pairs(train, train)
    assert set(found) == pairs and len(found) == 4
    assert label_conflicts(train) == [("train/3", "train/41"), ("train/40", "train/41")]


def test_a_planted_hole_and_missing_groups_are_found() -> None:
    inputs = np.random.default_rng(4).normal(size=(60, 3)).astype(np.float32)
    inputs[17] += 50
    inputs[23] += 80
    labels = np.arange(60) % 3
    train = replace(cases(inputs, labels, classes=4), slices=np.array(["a"] * 57 + ["b"] * 3))
    train.reference[23] = (0, 0, 0, 9)  # wrong in the reference: no use preserving it
    preserved = train.subset(np.flatnonzero((labels == 0) & (np.arange(60) < 30) & (inputs[:, 0] < 20)))
    found = holes(preserved.inputs, train.inputs, train)
    distances = [min(math.dist(x, y) for y in preserved.inputs.tolist()) for x in train.inputs.tolist()]
    assert found["worst"][0]["id"] == "train/17" and found["worst"][0]["class"] == 2
    assert "train/23" not in [case["id"] for case in found["worst"]]
    assert math.isclose(found["radius"]["100"], max(distances), rel_tol=1e-5)
    assert math.isclose(found["radius"]["50"], float(np.median(distances)), rel_tol=1e-5)
    assert gaps(preserved, train) == {"classes": {"1": 0, "2": 0, "3": 0}, "slices": {"b": 0}}


def test_features_are_what_the_last_layer_sees_and_grad_cam_is_by_the_paper() -> None:
    torch.manual_seed(0)
    convolution, last = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 3)
    network = nn.Sequential(convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)
    inputs = torch.randn(5, 1, 6, 6)
    labels = np.array([0, 1, 2, 0, 1])
    graph = canonical(program_of(network))
    with torch.no_grad():
        maps = convolution(inputs)  # [5, 4, 6, 6]
        pooled = maps.relu().mean((2, 3))
    np.testing.assert_allclose(penultimate(graph, inputs.numpy()), pooled, atol=1e-6)
    heat = grad_cam(graph, inputs.numpy(), labels)
    assert heat is not None
    for row, label in enumerate(labels):
        # d mean(relu(A)) / d A at a pixel is 1/36 where A > 0; alpha is its mean over pixels times the last weight
        alpha = last.weight[label].detach() * (maps[row] > 0).float().mean((1, 2)) / 36  # [4]
        expected = (alpha[:, None, None] * maps[row]).sum(0).relu().flatten()
        np.testing.assert_allclose(heat[row], expected / max(float(expected.norm()), 1e-12), atol=1e-5)


def _direction(random: np.random.Generator, size: int) -> np.ndarray:
    vector = random.normal(size=size)
    return vector / np.linalg.norm(vector)
