"""A set of cases with the frozen reference's outputs, and its file: whole, hashed, and checked when it is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sgsc_micro.arrays import load_arrays, save_arrays
from sgsc_micro.errors import SgscError
from sgsc_micro.files import sha256_bytes

_NUMBERS = {"inputs": "<f4", "labels": "<i8", "reference": "<f4", "weights": "<f4"}
_PER_CASE = ("ids", "slices", *_NUMBERS)
NO_LABEL = -1
"""A position of a sequence that nothing is asked of."""
UNLABELLED = "labels are the reference's"
"""The strategy of cases that nobody has labelled."""


@dataclass(frozen=True, eq=False)
class CaseSet:
    """N cases of one decision each, or of T: a sequence's positions. A malformed set cannot be made: the constructor
    raises SgscError naming the field and the cases."""

    ids: np.ndarray  # str [N], unique
    inputs: np.ndarray  # float32 [N, *shape], as the user's network takes them
    labels: np.ndarray  # int64 [N] or [N, T], 0 <= label < classes, NO_LABEL at positions that do not count
    reference: np.ndarray  # float32 [N, classes] or [N, T, classes], what the frozen reference answers
    strategy: str  # how the cases were chosen, or "user"
    slices: np.ndarray = None  # type: ignore[assignment]  # str [N], the group each case belongs to; "" where none
    weights: np.ndarray = None  # type: ignore[assignment]  # float32 [N], how critical each case is; above 0, usually 1

    def __post_init__(self) -> None:
        if self.slices is None:
            object.__setattr__(self, "slices", np.full(len(self.ids), ""))
        if self.weights is None:
            object.__setattr__(self, "weights", np.ones(len(self.ids)))
        for field in ("ids", "slices"):
            object.__setattr__(self, field, np.asarray(getattr(self, field), dtype=np.str_))
        for field, dtype in _NUMBERS.items():
            object.__setattr__(self, field, np.ascontiguousarray(getattr(self, field), dtype=dtype))
        count = len(self.inputs) if self.inputs.ndim else 0
        if count == 0:
            raise SgscError("inputs: the set is empty", hint="give at least one case")
        expected = {"inputs": self.inputs.ndim >= 2, "labels": self.labels.ndim in (1, 2) and len(self.labels) == count}
        expected["reference"] = self.reference.shape[:-1] == self.labels.shape
        expected |= {field: getattr(self, field).shape == (count,) for field in ("ids", "slices", "weights")}
        for field, fits in expected.items():
            if not fits:
                raise SgscError(
                    f"{field}: shape {getattr(self, field).shape} does not fit {count} cases",
                    hint="expected inputs [N, ...], labels [N], reference [N, classes], ids, slices and weights [N]; "
                    "for sequences labels [N, T] and reference [N, T, classes]",
                )
        if len(np.unique(self.ids)) < count:
            names, times = np.unique(self.ids, return_counts=True)
            raise SgscError(f"ids: not unique: {some(names[times > 1])}", hint="give every case a name of its own")
        for field in ("inputs", "reference", "weights"):
            finite = np.isfinite(getattr(self, field)).reshape(count, -1).all(axis=1)
            if not finite.all():
                raise SgscError(
                    f"{field}: NaN or infinity in cases {some(self.ids[~finite])}", hint="remove or mend them"
                )
        weightless = self.weights <= 0
        if weightless.any():
            raise SgscError(
                f"weights: not above 0 in cases {some(self.ids[weightless])}", hint="leave out what does not matter"
            )
        classes, least = self.reference.shape[-1], NO_LABEL if self.labels.ndim == 2 else 0
        outside = ((self.labels < least) | (self.labels >= classes)).reshape(count, -1).any(axis=1)
        if outside.any():
            raise SgscError(
                f"labels: outside 0..{classes - 1} in cases {some(self.ids[outside])}",
                hint="labels are class numbers of the network's outputs",
            )

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, rows: np.ndarray) -> CaseSet:
        """The cases of ``rows``: numbers, or True where wanted [N]."""
        return replace(self, **{field: getattr(self, field)[rows] for field in _PER_CASE})

    @property
    def content_hash(self) -> str:
        """Hex SHA-256 over every field: dtype, shape and bytes, little-endian, in a fixed order."""
        head = {"ids": self.ids.tolist(), "slices": self.slices.tolist(), "strategy": self.strategy}
        shapes = {field: [dtype, list(getattr(self, field).shape)] for field, dtype in _NUMBERS.items()}
        canonical = json.dumps({**head, **shapes}, sort_keys=True).encode()
        return sha256_bytes(canonical + b"\0" + b"".join(getattr(self, field).tobytes() for field in _NUMBERS))


def save(cases: CaseSet, path: Path) -> None:
    """Write the set and its hash as .npz, atomically; the same set gives the same bytes."""
    numbers = {field: getattr(cases, field) for field in _NUMBERS}
    head = {
        "ids": cases.ids,
        "slices": cases.slices,
        "strategy": np.asarray(cases.strategy),
        "content_hash": np.asarray(cases.content_hash),
    }
    save_arrays(path, head | numbers)


def load(path: Path) -> CaseSet:
    """Read a set written by ``save``; SgscError names the file and the field where it is not whole."""
    arrays = _arrays(path, (*_PER_CASE, "strategy", "content_hash"))
    fields = {field: arrays[field] for field in _PER_CASE}
    cases = _case_set(path, strategy=str(arrays["strategy"]), **fields)
    if cases.content_hash != str(arrays["content_hash"]):
        raise SgscError(
            f"{path}: content_hash: does not match the contents", hint="the file was altered; build it again"
        )
    return cases


def load_user_cases(
    path: Path,
    shape: tuple[int, ...],
    reference: Callable[[np.ndarray], np.ndarray],
    label: Callable[[np.ndarray], np.ndarray] | None = None,
) -> CaseSet:
    """Read a user's own .npz of ``inputs`` [N, *shape] and ``labels`` [N], and ask the reference for its outputs.

    ``ids``, ``slices`` and ``weights`` [N] are taken where the file has them. ``reference`` maps float32 [N, *shape] to
    float32 [N, classes]; ``label`` makes labels of these where the file has none, and the strategy is ``UNLABELLED``.
    """
    arrays = _arrays(path, ("inputs",) if label else ("inputs", "labels"))
    inputs = arrays["inputs"]
    if inputs.shape[1:] != shape or len(inputs) == 0 or not np.issubdtype(inputs.dtype, np.number):
        raise SgscError(
            f"{path}: inputs: shape {inputs.shape}, {inputs.dtype}",
            hint=f"expected numbers [N, {', '.join(map(str, shape))}], N >= 1",
        )
    inputs = inputs.astype(np.float32)
    answers = reference(inputs)
    strategy = "user"
    if label and "labels" not in arrays:
        arrays["labels"], strategy = label(answers), UNLABELLED
    if not np.issubdtype(arrays["labels"].dtype, np.integer):
        raise SgscError(f"{path}: labels: {arrays['labels'].dtype}", hint="labels are class numbers, integers")
    fields = {"ids": np.array([f"cases/{path.stem}/{number}" for number in range(len(inputs))])}
    fields |= {field: arrays[field] for field in ("ids", "labels", "slices", "weights") if field in arrays}
    return _case_set(path, **fields, inputs=inputs, reference=answers, strategy=strategy)


def merge(sets: list[CaseSet]) -> CaseSet:
    """One set out of several; the strategies' names are joined. SgscError where there is none, or ids are doubled."""
    if not sets:
        raise SgscError("preserve: no cases: size is 0 and no file is named", hint="set size or cases in [preserve]")
    arrays = {field: np.concatenate([getattr(part, field) for part in sets]) for field in _PER_CASE}
    return CaseSet(**arrays, strategy=" + ".join(part.strategy for part in sets))


def _arrays(path: Path, fields: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The arrays of an .npz, without pickle; the named ones must be there."""
    arrays = load_arrays(path, hint="write it with numpy.savez")
    if missing := [field for field in fields if field not in arrays]:
        raise SgscError(f"{path}: {', '.join(missing)}: missing", hint=f"the file needs {', '.join(fields)}")
    return arrays


def _case_set(path: Path, **fields: Any) -> CaseSet:
    try:
        return CaseSet(**fields)
    except SgscError as error:
        raise SgscError(f"{path}: {error.message}", hint=error.hint) from error


def some(ids: np.ndarray) -> str:
    """The first few of many names."""
    return ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
