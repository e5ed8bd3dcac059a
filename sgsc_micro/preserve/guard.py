"""The guard's verdict on a candidate: flips, slices, loss, agreement and divergence, always against the reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sgsc_micro.errors import SgscError
from sgsc_micro.preserve.cases import NO_LABEL, CaseSet
from sgsc_micro.project import Policy


@dataclass(frozen=True)
class Change:
    """Of a metric: the reference's and the candidate's."""

    reference: float
    candidate: float


@dataclass(frozen=True, eq=False)
class Verdict:
    """What a candidate did to the set. A case of several decisions flips where any of them does."""

    flips: tuple[str, ...]  # ids of negative flips: the reference right, the candidate wrong
    flipped: np.ndarray  # bool [N] or [N, T], the decisions that did
    diverged: tuple[str, ...]  # ids whose outputs left the policy's limit
    margins: np.ndarray  # float32 [N], the candidate's smallest where the reference is right, or anywhere if nowhere
    divergence: float  # largest absolute difference of any output
    slices: dict[str, Change]  # the share of decisions that are right, by slice; none where cases belong to none
    loss: Change  # mean cross-entropy of a decision, in nats, outputs taken as logits
    agreement: float  # share of decisions that are the reference's
    violations: tuple[str, ...]  # what the policy does not allow, a phrase each

    @property
    def passed(self) -> bool:
        """Whether the policy allows all of it."""
        return not self.violations


def margins(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The label's output minus the best other one: outputs [..., classes], labels [...] to float32 [...]; infinite
    where there is no label."""
    others = outputs.astype(np.float32)  # a copy
    at = labels.clip(min=0)[..., None]
    own = np.take_along_axis(others, at, axis=-1)[..., 0]
    np.put_along_axis(others, at, -np.inf, axis=-1)
    return np.where(labels == NO_LABEL, np.float32(np.inf), own - others.max(axis=-1))


def decisions(outputs: np.ndarray) -> np.ndarray:
    """The class of the largest output, the lowest index where several are largest: [..., classes] to [...]."""
    return np.asarray(outputs.argmax(axis=-1))


def smallest_margins(cases: CaseSet, outputs: np.ndarray) -> np.ndarray:
    """Of every case, float32 [N]: over the decisions that the reference gets right, or over all where it gets none."""
    found = margins(outputs, cases.labels).reshape(len(cases), -1)
    right = (decisions(cases.reference) == cases.labels).reshape(len(cases), -1)
    narrow = np.where(right | ~right.any(axis=1, keepdims=True), found, np.float32(np.inf)).min(axis=1)
    return np.where(np.isinf(narrow), np.float32(0), narrow)  # a case without labels


def judge(cases: CaseSet, outputs: np.ndarray, policy: Policy | None = None) -> Verdict:
    """Compare a candidate's outputs float32 [N, ..., classes] with the reference's under the policy.

    Raises SgscError where the shapes differ, an output is not finite, or the policy names a slice that is not there.
    """
    policy = (policy or Policy()).resolved(cases.labels.ndim == 2)
    if outputs.shape != cases.reference.shape:
        raise SgscError(
            f"guard: outputs {outputs.shape} for a set of {cases.reference.shape}",
            hint="the candidate must have the reference's classes",
        )
    broken = ~np.isfinite(outputs).reshape(len(cases), -1).all(axis=1)
    if broken.any():
        raise SgscError(
            f"guard: NaN or infinite outputs for cases {', '.join(cases.ids[broken])}", hint="check the weights"
        )
    counted = cases.labels != NO_LABEL
    before, after = decisions(cases.reference), decisions(outputs)
    right, still = counted & (before == cases.labels), counted & (after == cases.labels)
    lost = right & ~still
    flipped = _by_case(lost).any(axis=1)
    distance = _by_case(np.abs(outputs - cases.reference)).max(axis=1)
    limit = np.inf if policy.max_divergence is None else policy.max_divergence
    slices = {
        str(name): Change(_share(right[rows], counted[rows]), _share(still[rows], counted[rows]))
        for name in np.unique(cases.slices)
        if name
        for rows in [cases.slices == name]
    }
    loss = Change(*(_loss(values, cases.labels) for values in (cases.reference, outputs)))
    agreement = _share(counted & (before == after), counted)
    far = distance > limit
    return Verdict(
        flips=tuple(cases.ids[flipped].tolist()),
        flipped=lost,
        diverged=tuple(cases.ids[far].tolist()),
        margins=smallest_margins(cases, outputs),
        divergence=float(distance.max()),
        slices=slices,
        loss=loss,
        agreement=agreement,
        violations=tuple(_violations(policy, int(flipped.sum()), int(far.sum()), slices, loss, agreement)),
    )


def _violations(
    policy: Policy, flips: int, diverged: int, slices: dict[str, Change], loss: Change, agreement: float
) -> Iterator[str]:
    if unknown := sorted(set(policy.slices) - set(slices)):
        raise SgscError(
            f"policy: no slice {', '.join(unknown)} in the set",
            hint=f"its slices are {', '.join(slices)}" if slices else "its cases belong to no slices",
        )
    if policy.max_flips is not None and flips > policy.max_flips:
        yield f"{flips} negative flips, {policy.max_flips} allowed"
    if diverged:
        yield f"{diverged} cases further than {policy.max_divergence:g} from the reference"
    for name, change in slices.items():
        tolerance = policy.slices.get(name, policy.slice_tolerance)
        if tolerance is not None and change.reference - change.candidate > tolerance:
            yield f"slice {name}: {change.reference:.1%} right before, {change.candidate:.1%} now"
    if policy.max_loss_rise is not None and loss.candidate - loss.reference > policy.max_loss_rise:
        yield f"loss {loss.reference:.4f} before, {loss.candidate:.4f} now"
    if policy.min_agreement is not None and agreement < policy.min_agreement:
        yield f"{agreement:.2%} of the decisions are the reference's, {policy.min_agreement:.2%} asked for"


def _by_case(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1)


def _share(chosen: np.ndarray, counted: np.ndarray) -> float:
    return float(chosen.sum() / max(1, counted.sum()))


def _loss(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Mean cross-entropy of the decisions that have labels, in nats."""
    shifted = outputs.astype(np.float64) - outputs.max(axis=-1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    own = np.take_along_axis(logs, labels.clip(min=0)[..., None], axis=-1)[..., 0]
    counted = labels != NO_LABEL
    return float(-(own * counted).sum() / max(1, counted.sum()))
