"""The proof that the three sets do not touch, and near-duplicates in general."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sgsc_micro.errors import SgscError
from sgsc_micro.preserve.cases import CaseSet

# Two cases are near-duplicates when they lie closer than this fraction of the data's root-mean-square distance from
# its mean. A copy after noise, re-encoding or a change of brightness does; two images of one class do not (the
# closest two of scikit-learn's 1,797 digits lie at 0.15).
NEAR_DUPLICATE = 0.05
PROJECTED = 48  # dimensions of the first look
BLOCK = 2**24  # distances at once

_APART = (("P", "C"), ("P", "T"), ("C", "T"), ("C", "train"), ("T", "train"), ("C", "C"), ("T", "T"))


def check_disjoint(preserve: CaseSet, calibration: CaseSet, test: CaseSet, train: CaseSet) -> None:
    """Raise SgscError where two sets share a case or nearly do; P alone may come from the training side.

    C and T may not repeat themselves either: a case counted twice is no second i.i.d. case, and the bound would lie.
    """
    sets = {"P": preserve, "C": calibration, "T": test, "train": train}
    near = NearDuplicates(train)
    for one, other in _APART:
        pairs = near.pairs(sets[one], sets[other])
        if pairs:
            named = ", ".join(f"{a} = {b}" for a, b in pairs[:5])
            raise SgscError(
                f"{one} overlaps {other} in {len(pairs)} cases: {named}{', ...' if len(pairs) > 5 else ''}",
                hint="take these cases, or their near-duplicates, out of one of the two sets",
            )


def label_conflicts(train: CaseSet) -> list[tuple[str, str]]:
    """Ids of the near-duplicates within a set that have different labels."""
    labels = dict(zip(train.ids.tolist(), train.labels.tolist(), strict=True))
    return [(a, b) for a, b in NearDuplicates(train).pairs(train, train) if labels[a] != labels[b]]


class NearDuplicates:
    """Finds them by the scale of one set, in one linear map for all.

    An orthogonal projection never lengthens a distance, so two cases that are far apart in it are far apart; the few
    that are near in it, along the principal directions of the data, are measured exactly.
    """

    def __init__(self, scale: CaseSet) -> None:
        rows = _flat(scale)
        self._center = rows.mean(axis=0, dtype=np.float64).astype(np.float32)  # [F]
        sample = rows[:: max(1, len(rows) // 2000)] - self._center  # [S, F]
        squared = sum(float(((block - self._center).astype(np.float64) ** 2).sum()) for block in _blocks(rows))
        self.distance = float(NEAR_DUPLICATE * np.sqrt(squared / len(rows)))
        self._axes = np.linalg.svd(sample, full_matrices=False)[2][:PROJECTED].T  # [F, K], orthonormal

    def pairs(self, one: CaseSet, other: CaseSet) -> list[tuple[str, str]]:
        """Ids of the pairs no farther apart than ``distance``; of a set with itself, each pair once."""
        queries, keys = self._projected(one), self._projected(other)  # [Q, K], [N, K]
        lengths = (keys**2).sum(axis=1)  # [N]
        # float32 loses about 1e-6 of the squared lengths: that much more is looked at exactly
        slack = 1e-5 * float(max(lengths.max(), (queries**2).sum(axis=1).max()))
        limit = self.distance**2 + slack
        rows = max(1, BLOCK // len(keys))
        found = []
        for start in range(0, len(queries), rows):
            first = start if one is other else 0
            block = queries[start : start + rows]
            squares = (block**2).sum(axis=1)[:, None] + lengths[first:] - 2 * (block @ keys[first:].T)  # [B, N]
            near = np.argwhere(squares <= limit) + np.array([start, first])
            if one is other:
                near = near[near[:, 0] < near[:, 1]]
            found += [near[self._within(_flat(one), _flat(other), near)]]
        return [(str(one.ids[i]), str(other.ids[j])) for i, j in np.concatenate(found)]

    def _within(self, queries: np.ndarray, keys: np.ndarray, pairs: np.ndarray) -> np.ndarray:
        """Whether pairs [M, 2] of rows are within the distance, exactly: bool [M]."""
        close = [
            np.linalg.norm(queries[part[:, 0]].astype(np.float64) - keys[part[:, 1]], axis=1) <= self.distance
            for part in _blocks(pairs)
        ]
        return np.concatenate(close) if close else np.zeros(0, dtype=bool)

    def _projected(self, cases: CaseSet) -> np.ndarray:
        """float32 [N, K]."""
        return np.concatenate([(block - self._center) @ self._axes for block in _blocks(_flat(cases))])


def _flat(cases: CaseSet) -> np.ndarray:
    return cases.inputs.reshape(len(cases), -1)


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """A few thousand at a time."""
    for start in range(0, len(rows), 4096):
        yield rows[start : start + 4096]
