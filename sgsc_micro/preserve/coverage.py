"""What a preservation set holds, and what it does not cover: classes, slices, holes between its cases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from sgsc_micro.preserve.cases import CaseSet
from sgsc_micro.preserve.selection import classes_of, right_cases

FEW = 3
"""A class or slice with fewer cases is hardly covered."""
PERCENTILES = (50, 90, 99, 100)
WORST = 10
BLOCK = 4096


def counts(cases: CaseSet) -> dict[str, dict[str, int]]:
    """How many cases each class and each slice has; no classes where cases are sequences, no slices where none is
    named."""
    found: dict[str, dict[str, int]] = {"classes": {}, "slices": {}}
    labels = cases.labels if cases.labels.ndim == 1 else np.zeros(0, np.int64)
    for what, values in (("classes", labels), ("slices", cases.slices[cases.slices != ""])):
        names, times = np.unique(values, return_counts=True)
        found[what] = {str(name): int(count) for name, count in zip(names, times)}
    return found


def gaps(preserved: CaseSet, train: CaseSet) -> dict[str, dict[str, int]]:
    """Classes of the network and slices of ``train`` that have fewer than FEW preserved cases, with their number."""
    have, there = counts(preserved), counts(train)
    every = {"classes": [], "slices": list(there["slices"])}
    if train.labels.ndim == 1:
        every["classes"] = [str(label) for label in range(train.reference.shape[-1])]
    return {
        what: {name: have[what].get(name, 0) for name in names if have[what].get(name, 0) < FEW}
        for what, names in every.items()
    }


def holes(preserved: np.ndarray, train: np.ndarray, cases: CaseSet) -> dict[str, Any]:
    """How far the training cases ``cases``, features [N, F], are from the nearest preserved one, features [M, F].

    ``radius``: percentiles of that distance, the last one the radius of the k-center problem. ``worst``: the farthest
    of those that the reference gets right, farthest first.
    """
    distance = nearest(train, preserved)
    rows = np.flatnonzero(right_cases(cases))
    rows = rows[np.argsort(-distance[rows], kind="stable")][:WORST]
    classes = classes_of(cases)
    return {
        "radius": {str(percent): float(np.percentile(distance, percent)) for percent in PERCENTILES},
        "worst": [
            {"id": str(cases.ids[row]), "class": int(classes[row]), "distance": float(distance[row])} for row in rows
        ],
    }


def nearest(queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """The distance of every query, [Q, F], to the nearest of keys [K, F]: float64 [Q]."""
    center = keys.mean(axis=0, dtype=np.float64)
    moved = keys - center  # [K, F]
    lengths = (moved**2).sum(axis=1)

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, len(queries), BLOCK):
            block = queries[start : start + BLOCK] - center
            squares = (block**2).sum(axis=1)[:, None] + lengths - 2 * (block @ moved.T)  # [B, K]
            yield np.sqrt(squares.min(axis=1).clip(min=0))

    return np.concatenate(list(blocks()))
