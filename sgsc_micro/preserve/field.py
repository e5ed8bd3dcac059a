"""Additions from field data: what is unlike all that is known is proposed; what is confirmed is a new version."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sgsc_micro.arrays import load_arrays, save_arrays
from sgsc_micro.errors import SgscError
from sgsc_micro.preserve.cases import UNLABELLED, CaseSet, load_user_cases, merge
from sgsc_micro.preserve.coverage import nearest
from sgsc_micro.preserve.disjoint import NearDuplicates
from sgsc_micro.preserve.guard import decisions, smallest_margins
from sgsc_micro.preserve.selection import right_cases

HISTORY = "history"
"""JSON in a file of cases: versions, oldest first, each with version, parent, added, source, reason, labels."""


@dataclass(frozen=True, eq=False)
class Proposal:
    """Field cases worth preserving, most anomalous first."""

    cases: CaseSet
    scores: np.ndarray  # float64 [N], 0 to 1
    distances: np.ndarray  # float64 [N], in features, to the nearest preserved or training case
    left_out: dict[str, int]
    """Why field cases cannot be proposed, and how many."""


def read_field(path: Path, shape: tuple[int, ...], reference: Callable[[np.ndarray], np.ndarray]) -> CaseSet:
    """The cases of an .npz of ``inputs`` and, if it has them, ``labels``, ``slices`` and ``weights``. Without labels
    the reference's decisions stand for them. Errors as those of ``load_user_cases``."""
    cases = load_user_cases(path, shape, reference, label=decisions)
    return replace(cases, ids=np.array([f"field/{path.stem}/{row}" for row in range(len(cases))]))


def propose(
    field: CaseSet,
    sets: dict[str, CaseSet],
    features: Callable[[CaseSet], np.ndarray],
    count: int,
) -> Proposal:
    """The ``count`` most anomalous of ``field``, given the sets P, C, T and train.

    The score is the mean of two ranks among the field cases: by distance from all that is preserved or trained on,
    and by narrowness of the reference's margin. Left out: what the reference gets wrong, what is known already, what
    would touch C or T, and repetitions.
    """
    left = right_cases(field)
    left_out = {"the reference gets them wrong": int((~left).sum())}
    near = NearDuplicates(sets["train"])
    for name, reason in (("P", "preserved"), ("train", "trained on"), ("C", "in C"), ("T", "in T")):
        known = np.isin(field.ids, [mine for mine, _ in near.pairs(field, sets[name])])
        left_out[f"nearly {reason} already"] = int((left & known).sum())
        left &= ~known
    again = np.isin(field.ids, [later for _, later in near.pairs(field, field)])
    left_out["nearly repeat another"] = int((left & again).sum())
    left &= ~again
    rows = np.flatnonzero(left)
    known_features = np.concatenate([features(sets[name]) for name in ("P", "train")])
    distances = nearest(features(field), known_features)[rows]
    scores = (_ranks(distances) + _ranks(-smallest_margins(field, field.reference)[rows])) / 2
    order = np.argsort(-scores, kind="stable")[:count]
    if not len(order):
        raise SgscError(
            "nothing to propose: " + ", ".join(f"{number} {reason}" for reason, number in left_out.items() if number),
            hint="the set covers this field data already",
        )
    return Proposal(field.subset(rows[order]), scores[order], distances[order], left_out)


def write_version(
    proposal: Proposal, own: CaseSet | None, history: list[dict[str, Any]], parent: str, path: Path, why: dict[str, str]
) -> dict[str, Any]:
    """Write the user's own cases and the proposed ones as a new file; the entry of its history. Nothing is overwritten.

    ``parent`` is the hash of the set P before; ``why`` has source and reason.
    """
    if path.exists():
        raise SgscError(
            f"{path}: there already",
            hint="a version is never overwritten: name it as cases in [preserve], or move it away",
        )
    cases = merge([part for part in (own, proposal.cases) if part is not None])
    entry = {
        "version": version_of(history) + 1,
        "parent": parent,
        "added": proposal.cases.ids.tolist(),
        "labels": "the reference's decisions" if proposal.cases.strategy == UNLABELLED else "given",
        **why,
    }
    fields = ("ids", "inputs", "labels", "slices", "weights")
    arrays = {field: getattr(cases, field) for field in fields}
    save_arrays(path, arrays | {HISTORY: np.asarray(json.dumps([*history, entry]))})
    return entry


def history_of(path: Path) -> list[dict[str, Any]]:
    """The versions that a file of cases tells of; none where it is the first."""
    arrays = load_arrays(path, hint="write it with numpy.savez")
    try:
        return list(json.loads(str(arrays[HISTORY]))) if HISTORY in arrays else []
    except ValueError as error:
        raise SgscError(f"{path}: {HISTORY}: not JSON: {error}", hint="take the array out of the file") from error


def version_of(history: list[dict[str, Any]]) -> int:
    """Of the set that has this history; the first is 1."""
    return int(history[-1]["version"]) if history else 1


def next_path(own: Path | None, version: int) -> Path:
    """Where a new version goes, seen from the project: beside the user's own file, or into ``preserve/``."""
    before = own or Path("preserve") / "cases.npz"
    stem = re.sub(r"-v\d+$", "", before.stem)
    return before.with_name(f"{stem}-v{version}.npz")


def _ranks(values: np.ndarray) -> np.ndarray:
    """0 for the smallest to 1 for the largest, ties by order: [N]."""
    ranks = np.empty(len(values))
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values)) / max(1, len(values) - 1)
    return ranks
