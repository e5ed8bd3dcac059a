"""Which cases to preserve, and the proof that the three sets do not touch.

A strategy ranks the cases of one class, most wanted first; ``choose`` takes the classes in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice, zip_longest

import numpy as np
from scipy.spatial.distance import cdist

from sgsc_micro.errors import SgscError
from sgsc_micro.preserve.cases import CaseSet
from sgsc_micro.preserve.guard import decisions, smallest_margins

# Two cases are near-duplicates when they lie closer than this fraction of the data's root-mean-square distance from
# its mean. A copy after noise, re-encoding or a change of brightness does; two images of one class do not (the
# closest two of scikit-learn's 1,797 digits lie at 0.15).
NEAR_DUPLICATE = 0.05


@dataclass(frozen=True, eq=False)
class Candidates:
    """The cases of one class among which a strategy ranks."""

    margins: np.ndarray  # float32 [N], the reference's
    features: np.ndarray  # float32 [N, F]


Strategy = Callable[[Candidates], Iterator[int]]


def by_margin(candidates: Candidates) -> Iterator[int]:
    """Those the reference decides most narrowly: the first that a coarser network would lose."""
    return iter(np.argsort(candidates.margins, kind="stable").tolist())


def by_k_center(candidates: Candidates) -> Iterator[int]:
    """Greedy k-center (Gonzalez 1985; for core-sets 1708.00489): the central case, then always the one farthest from
    all that were taken."""
    features = candidates.features.astype(np.float64)
    center = np.linalg.norm(features - features.mean(axis=0), axis=1)
    taken = int(center.argmin())
    distance = np.full(len(features), np.inf)  # [N], to the nearest taken case
    for _ in range(len(features)):
        yield taken
        distance = np.minimum(distance, np.linalg.norm(features - features[taken], axis=1))
        distance[taken] = -np.inf
        taken = int(distance.argmax())


def hybrid(candidates: Candidates) -> Iterator[int]:
    """Half of each: the narrow decisions and the spread of the class, in turn."""
    taken: set[int] = set()
    for case in chain.from_iterable(zip(by_margin(candidates), by_k_center(candidates), strict=True)):
        if case not in taken:
            taken.add(case)
            yield case


STRATEGIES: dict[str, Strategy] = {"margin": by_margin, "k_center": by_k_center, "hybrid": hybrid}


def choose(
    inputs: np.ndarray,
    labels: np.ndarray,
    reference: np.ndarray,
    size: int,
    strategy: str = "hybrid",
    features: np.ndarray | None = None,
) -> CaseSet:
    """Choose ``size`` cases of the training side, class-balanced, among those the reference gets right.

    inputs [N, *shape], labels [N], reference [N, classes], features [N, F] (the inputs where None). A case the
    reference gets wrong cannot flip, so it preserves nothing. Ids are ``train/<row>``.
    """
    if strategy not in STRATEGIES:
        raise SgscError(f"preserve: no strategy '{strategy}'", hint=f"there are {', '.join(STRATEGIES)}")
    ids = np.array([f"train/{row}" for row in range(len(inputs))])
    pool = CaseSet(ids, inputs, labels, reference, strategy)  # a check of all that follows
    right = (decisions(pool.reference) == pool.labels).reshape(len(pool), -1).any(axis=1)
    if not 0 < size <= right.sum():
        raise SgscError(
            f"preserve: size {size}, but the reference gets {right.sum()} of {len(pool)} training cases right",
            hint="ask for fewer cases, or train the network further",
        )
    described = (pool.inputs if features is None else features).reshape(len(pool), -1)  # [N, F]
    confidence = smallest_margins(pool, pool.reference)
    rankings = []
    groups = pool.labels if pool.labels.ndim == 1 else np.zeros(len(pool), int)  # sequences have no class
    for group in np.unique(groups[right]):
        members = np.flatnonzero(right & (groups == group))
        ranked = STRATEGIES[strategy](Candidates(confidence[members], described[members]))
        rankings.append(members[np.fromiter(islice(ranked, size), dtype=np.int64)].tolist())
    in_turn = (row for round_ in zip_longest(*rankings) for row in round_ if row is not None)
    rows = np.sort(np.fromiter(islice(in_turn, size), dtype=np.int64))
    return pool.subset(rows)


_APART = (("P", "C"), ("P", "T"), ("C", "T"), ("C", "train"), ("T", "train"), ("C", "C"), ("T", "T"))


def check_disjoint(preserve: CaseSet, calibration: CaseSet, test: CaseSet, train: CaseSet) -> None:
    """Raise SgscError where two sets share a case or nearly do; P alone may come from the training side.

    C and T may not repeat themselves either: a case counted twice is no second i.i.d. case, and the bound would lie.
    """
    center = train.inputs.mean(axis=0, dtype=np.float64)
    scale = np.sqrt(((train.inputs - center) ** 2).reshape(len(train), -1).sum(axis=1).mean())
    sets = {"P": preserve, "C": calibration, "T": test, "train": train}
    for one, other in _APART:
        pairs = _close_pairs(sets[one], sets[other], float(NEAR_DUPLICATE * scale))
        if pairs:
            named = ", ".join(f"{a} = {b}" for a, b in pairs[:5])
            raise SgscError(
                f"{one} overlaps {other} in {len(pairs)} cases: {named}{', ...' if len(pairs) > 5 else ''}",
                hint="take these cases, or their near-duplicates, out of one of the two sets",
            )


def _close_pairs(one: CaseSet, other: CaseSet, distance: float) -> list[tuple[str, str]]:
    """Ids of the pairs no farther apart than ``distance``, in blocks of rows so that large sets fit in memory."""
    queries, keys = (cases.inputs.reshape(len(cases), -1).astype(np.float64) for cases in (one, other))
    rows = max(1, 2**22 // len(keys))
    pairs = []
    for start in range(0, len(queries), rows):
        block = cdist(queries[start : start + rows], keys)
        close = [(start + i, j) for i, j in np.argwhere(block <= distance)]
        pairs += [(str(one.ids[i]), str(other.ids[j])) for i, j in close if one is not other or i < j]
    return pairs
