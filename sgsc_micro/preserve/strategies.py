"""Strategies: rankings of the cases of one group, most wanted first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain

import numpy as np


@dataclass(frozen=True, eq=False)
class Candidates:
    """Cases among which a strategy ranks."""

    margins: np.ndarray  # float32 [N], the reference's
    errors: np.ndarray  # float32 [N], the reference's EL2N
    features: np.ndarray  # float32 [N, F]
    seed: int = 0

    def subset(self, rows: np.ndarray) -> Candidates:
        """Those of ``rows``."""
        return Candidates(self.margins[rows], self.errors[rows], self.features[rows], self.seed)


class Features(StrEnum):
    """What a case is described by where cases are compared."""

    PENULTIMATE = "penultimate"
    """What the network's last layer sees; its inputs where a source cannot say."""
    GRAD_CAM = "grad_cam"
    """Where the last convolution sees the label: a map of the image."""


Ranking = Callable[[Candidates], Iterator[int]]


@dataclass(frozen=True)
class Strategy:
    """A ranking, and what it compares cases by."""

    rank: Ranking
    features: Features | None = None


def by_margin(candidates: Candidates) -> Iterator[int]:
    """Those the reference decides most narrowly: the first that a coarser network would lose."""
    return iter(np.argsort(candidates.margins, kind="stable").tolist())


def by_error(candidates: Candidates) -> Iterator[int]:
    """Those of the largest EL2N score: what is hard and still right."""
    return iter(np.argsort(-candidates.errors, kind="stable").tolist())


def at_random(candidates: Candidates) -> Iterator[int]:
    """In an order that the seed alone decides."""
    return iter(np.random.default_rng(candidates.seed).permutation(len(candidates.margins)).tolist())


def by_k_center(candidates: Candidates) -> Iterator[int]:
    """Greedy k-center (Gonzalez 1985; for core-sets 1708.00489): the central case, then always the one farthest from
    all that were taken."""
    features = candidates.features.astype(np.float64)
    features -= features.mean(axis=0)
    squares = (features**2).sum(axis=1)  # [N]
    taken = int(squares.argmin())
    distance = np.full(len(features), np.inf)  # [N], squared, to the nearest taken case
    for _ in range(len(features)):
        yield taken
        distance = np.minimum(distance, squares + squares[taken] - 2 * (features @ features[taken]))
        distance[taken] = -np.inf
        taken = int(distance.argmax())


def hybrid(candidates: Candidates) -> Iterator[int]:
    """Half of each: the narrow decisions and the spread of the group, in turn."""
    taken: set[int] = set()
    for case in chain.from_iterable(zip(by_margin(candidates), by_k_center(candidates), strict=True)):
        if case not in taken:
            taken.add(case)
            yield case


STRATEGIES: dict[str, Strategy] = {
    "margin": Strategy(by_margin),
    "k_center": Strategy(by_k_center, Features.PENULTIMATE),
    "hybrid": Strategy(hybrid, Features.PENULTIMATE),
    "el2n": Strategy(by_error),
    "grad_cam": Strategy(by_k_center, Features.GRAD_CAM),
    "random": Strategy(at_random),
}


def el2n(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The norm of softmax(outputs) - one-hot(label), float32 [..., classes] and [...] to [...].

    EL2N of 2107.07075, which takes it early in training and averages over runs; here the frozen reference alone is
    asked, so it is close to a function of the margin. 0 where there is no label (a negative one).
    """
    shifted = outputs.astype(np.float64) - outputs.max(axis=-1, keepdims=True)
    shares = np.exp(shifted) / np.exp(shifted).sum(axis=-1, keepdims=True)
    wanted = labels[..., None] == np.arange(outputs.shape[-1])
    return np.where(labels < 0, 0.0, np.linalg.norm(shares - wanted, axis=-1)).astype(np.float32)
