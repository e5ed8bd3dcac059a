"""Which cases to preserve: a strategy ranks those of one class and slice, and the groups are taken in turn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import numpy as np

from sgsc_micro.errors import SgscError
from sgsc_micro.preserve.cases import CaseSet, some
from sgsc_micro.preserve.guard import decisions, smallest_margins
from sgsc_micro.preserve.strategies import STRATEGIES, Candidates, Ranking, Strategy, el2n

LEAST_RIGHT = 0.5
"""Share of cases that the reference must get right: below it, a guard that compares with it guards little."""


def strategy_of(name: str) -> Strategy:
    """The strategy of a name. Errors: ``SgscError`` listing those there are."""
    if name not in STRATEGIES:
        raise SgscError(f"preserve: no strategy '{name}'", hint=f"there are {', '.join(STRATEGIES)}")
    return STRATEGIES[name]


def choose(
    pool: CaseSet, size: int, strategy: str = "hybrid", features: np.ndarray | None = None, seed: int = 0
) -> CaseSet:
    """Choose ``size`` cases of the training side, balanced over classes and slices, heavier ones first within a group.

    features [N, ...] are what the strategy compares by (the inputs where None). A case the reference gets wrong
    cannot flip, so it preserves nothing; a sequence is right where any of its positions is.
    """
    chosen = strategy_of(strategy)
    right = right_cases(pool)
    if not 0 < size <= right.sum():
        raise SgscError(
            f"preserve: size {size}, but the reference gets {right.sum()} of {len(pool)} training cases right",
            hint="ask for fewer cases, or train the network further",
        )
    described = (pool.inputs if features is None else features).reshape(len(pool), -1)  # [N, F]
    errors = el2n(pool.reference, pool.labels).reshape(len(pool), -1).max(axis=1)
    everyone = Candidates(smallest_margins(pool, pool.reference), errors, described, seed)
    rankings = [_heaviest_first(everyone, pool.weights, rows, chosen.rank) for rows in groups_of(pool, right)]
    rows = np.sort(np.fromiter(islice(_in_turn(rankings), size), dtype=np.int64))
    return replace(pool.subset(rows), strategy=strategy)


def right_cases(cases: CaseSet) -> np.ndarray:
    """Those with a decision that the reference gets right: bool [N]."""
    return np.asarray((decisions(cases.reference) == cases.labels).reshape(len(cases), -1).any(axis=1))


def check_reference(cases: CaseSet, what: str) -> None:
    """Errors: ``SgscError`` where the reference is wrong on most of ``cases``, with the share and some of them."""
    right = right_cases(cases)
    if right.mean() < LEAST_RIGHT:
        raise SgscError(
            f"{what}: the reference is wrong in {(~right).sum()} of {len(cases)} cases ({(~right).mean():.0%}): "
            f"{some(cases.ids[~right])}",
            hint="train the network further, or check that the labels are the numbers of its outputs",
        )


def classes_of(cases: CaseSet) -> np.ndarray:
    """The class of every case, int64 [N]; 0 for all where they are sequences, which have none."""
    return cases.labels if cases.labels.ndim == 1 else np.zeros(len(cases), np.int64)


def groups_of(cases: CaseSet, among: np.ndarray) -> list[np.ndarray]:
    """Rows of every class and slice, among those where ``among`` [N] is true."""
    _, slices = np.unique(cases.slices, return_inverse=True)
    keys = np.stack([classes_of(cases), slices], axis=1)[among]
    _, group = np.unique(keys, axis=0, return_inverse=True)
    rows = np.flatnonzero(among)
    return [rows[group.reshape(-1) == number] for number in range(int(group.max(initial=-1)) + 1)]


def _heaviest_first(everyone: Candidates, weights: np.ndarray, group: np.ndarray, rank: Ranking) -> Iterator[int]:
    """Rows of a group in the strategy's order: first those of the largest weight, then of the next, and so on."""
    for weight in np.unique(weights[group])[::-1]:
        rows = group[weights[group] == weight]
        for row in rank(everyone.subset(rows)):
            yield int(rows[row])


def _in_turn(rankings: list[Iterator[int]]) -> Iterator[int]:
    """One of each, round after round, until all have ended; no further than is asked for."""
    while rankings:
        left = []
        for ranking in rankings:
            for row in islice(ranking, 1):
                yield row
                left.append(ranking)
        rankings = left
