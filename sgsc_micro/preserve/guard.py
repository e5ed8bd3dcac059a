"""The guard's verdict on a candidate, and the bound on what unseen data may do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import beta

from sgsc_micro.errors import SgscError
from sgsc_micro.preserve.cases import CaseSet
from sgsc_micro.project import Policy


@dataclass(frozen=True, eq=False)
class Verdict:
    """What a candidate did to the set, always compared with the frozen reference."""

    flips: tuple[str, ...]  # ids of negative flips: the reference right, the candidate wrong
    diverged: tuple[str, ...]  # ids whose outputs left the policy's limit
    margins: np.ndarray  # float32 [N], the candidate's
    divergence: float  # largest absolute difference of any output
    passed: bool


def margins(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The label's output minus the best other one: outputs [N, classes], labels [N] to float32 [N]."""
    rows = np.arange(len(labels))
    others = outputs.astype(np.float32)  # a copy
    others[rows, labels] = -np.inf
    return np.asarray(outputs[rows, labels] - others.max(axis=1))


def decisions(outputs: np.ndarray) -> np.ndarray:
    """The class of the largest output, the lowest index where several are largest: [N, classes] to [N]."""
    return np.asarray(outputs.argmax(axis=1))


def judge(cases: CaseSet, outputs: np.ndarray, policy: Policy | None = None) -> Verdict:
    """Compare a candidate's outputs float32 [N, classes] with the reference's under the policy.

    Raises SgscError where the shapes differ or an output is not finite.
    """
    policy = policy or Policy()
    if outputs.shape != cases.reference.shape:
        raise SgscError(
            f"guard: outputs {outputs.shape} for a set of {cases.reference.shape}",
            hint="the candidate must have the reference's classes",
        )
    broken = ~np.isfinite(outputs).all(axis=1)
    if broken.any():
        raise SgscError(
            f"guard: NaN or infinite outputs for cases {', '.join(cases.ids[broken])}", hint="check the weights"
        )
    right = decisions(cases.reference) == cases.labels
    flipped = right & (decisions(outputs) != cases.labels)
    distance = np.abs(outputs - cases.reference).max(axis=1)
    limit = np.inf if policy.max_divergence is None else policy.max_divergence
    return Verdict(
        flips=tuple(cases.ids[flipped].tolist()),
        diverged=tuple(cases.ids[distance > limit].tolist()),
        margins=margins(outputs, cases.labels),
        divergence=float(distance.max()),
        passed=bool(flipped.sum() <= policy.max_flips and (distance <= limit).all()),
    )


def upper_bound(flips: int, n: int, confidence: float = 0.95) -> float:
    """One-sided Clopper-Pearson bound on the flip rate, for ``flips`` seen in ``n`` i.i.d. cases of a frozen model.

    >>> round(upper_bound(0, 400), 5)  # 1 - 0.05 ** (1 / 400)
    0.00746
    """
    if not 0 <= flips <= n or n == 0 or not 0 < confidence < 1:
        raise SgscError(
            f"bound: {flips} flips in {n} cases at confidence {confidence}",
            hint="it needs 0 <= flips <= n, n > 0 and a confidence between 0 and 1",
        )
    return 1.0 if flips == n else float(beta.ppf(confidence, flips + 1, n - flips))
