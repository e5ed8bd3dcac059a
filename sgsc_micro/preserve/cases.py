"""A set of cases with the frozen reference's outputs, and its file: whole, hashed, and checked when it is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sgsc_micro.arrays import load_arrays, save_arrays
from sgsc_micro.errors import SgscError
from sgsc_micro.files import sha256_bytes

_NUMBERS = {"inputs": "<f4", "labels": "<i8", "reference": "<f4"}


@dataclass(frozen=True, eq=False)
class CaseSet:
    """N cases. A malformed one cannot be made: the constructor raises SgscError naming the field and the cases."""

    ids: np.ndarray  # str [N], unique
    inputs: np.ndarray  # float32 [N, *shape], as the user's network takes them
    labels: np.ndarray  # int64 [N], 0 <= label < classes
    reference: np.ndarray  # float32 [N, classes], what the frozen reference answers
    strategy: str  # how the cases were chosen, or "user"

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", np.asarray(self.ids, dtype=np.str_))
        for field, dtype in _NUMBERS.items():
            object.__setattr__(self, field, np.ascontiguousarray(getattr(self, field), dtype=dtype))
        count = len(self.inputs) if self.inputs.ndim else 0
        if count == 0:
            raise SgscError("inputs: the set is empty", hint="give at least one case")
        expected = {"inputs": self.inputs.ndim >= 2, "labels": self.labels.shape == (count,)}
        expected["reference"] = self.reference.ndim == 2 and len(self.reference) == count
        expected["ids"] = self.ids.shape == (count,)
        for field, fits in expected.items():
            if not fits:
                raise SgscError(
                    f"{field}: shape {getattr(self, field).shape} does not fit {count} cases",
                    hint="expected inputs [N, ...], labels [N], reference [N, classes], ids [N]",
                )
        if len(np.unique(self.ids)) < count:
            names, times = np.unique(self.ids, return_counts=True)
            raise SgscError(f"ids: not unique: {_some(names[times > 1])}", hint="give every case a name of its own")
        for field in ("inputs", "reference"):
            finite = np.isfinite(getattr(self, field)).reshape(count, -1).all(axis=1)
            if not finite.all():
                raise SgscError(
                    f"{field}: NaN or infinity in cases {_some(self.ids[~finite])}", hint="remove or mend them"
                )
        outside = (self.labels < 0) | (self.labels >= self.reference.shape[1])
        if outside.any():
            raise SgscError(
                f"labels: outside 0..{self.reference.shape[1] - 1} in cases {_some(self.ids[outside])}",
                hint="labels are class numbers of the network's outputs",
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def content_hash(self) -> str:
        """Hex SHA-256 over every field: dtype, shape and bytes, little-endian, in a fixed order."""
        head = {"ids": self.ids.tolist(), "strategy": self.strategy}
        shapes = {field: [dtype, list(getattr(self, field).shape)] for field, dtype in _NUMBERS.items()}
        canonical = json.dumps({**head, **shapes}, sort_keys=True).encode()
        return sha256_bytes(canonical + b"\0" + b"".join(getattr(self, field).tobytes() for field in _NUMBERS))


def save(cases: CaseSet, path: Path) -> None:
    """Write the set and its hash as .npz, atomically; the same set gives the same bytes."""
    numbers = {field: getattr(cases, field) for field in _NUMBERS}
    head = {
        "ids": cases.ids,
        "strategy": np.asarray(cases.strategy),
        "content_hash": np.asarray(cases.content_hash),
    }
    save_arrays(path, head | numbers)


def load(path: Path) -> CaseSet:
    """Read a set written by ``save``; SgscError names the file and the field where it is not whole."""
    arrays = _arrays(path, ("ids", "inputs", "labels", "reference", "strategy", "content_hash"))
    cases = _case_set(
        path, arrays["ids"], arrays["inputs"], arrays["labels"], arrays["reference"], str(arrays["strategy"])
    )
    if cases.content_hash != str(arrays["content_hash"]):
        raise SgscError(
            f"{path}: content_hash: does not match the contents", hint="the file was altered; build it again"
        )
    return cases


def load_user_cases(path: Path, shape: tuple[int, ...], reference: Callable[[np.ndarray], np.ndarray]) -> CaseSet:
    """Read a user's own .npz of ``inputs`` [N, *shape] and ``labels`` [N], and ask the reference for its outputs.

    ``reference`` maps float32 [N, *shape] to float32 [N, classes].
    """
    arrays = _arrays(path, ("inputs", "labels"))
    inputs, labels = arrays["inputs"], arrays["labels"]
    if inputs.shape[1:] != shape or len(inputs) == 0:
        raise SgscError(
            f"{path}: inputs: shape {inputs.shape}", hint=f"expected [N, {', '.join(map(str, shape))}], N >= 1"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise SgscError(f"{path}: labels: {labels.dtype}", hint="labels are class numbers, integers")
    ids = np.array([f"cases/{path.stem}/{number}" for number in range(len(inputs))])
    inputs = inputs.astype(np.float32)
    return _case_set(path, ids, inputs, labels, reference(inputs), "user")


def merge(sets: list[CaseSet]) -> CaseSet:
    """One set out of several; the strategies' names are joined. SgscError where there is none, or ids are doubled."""
    if not sets:
        raise SgscError("preserve: no cases: size is 0 and no file is named", hint="set size or cases in [preserve]")
    arrays = {field: np.concatenate([getattr(part, field) for part in sets]) for field in ("ids", *_NUMBERS)}
    return CaseSet(**arrays, strategy=" + ".join(part.strategy for part in sets))


def _arrays(path: Path, fields: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The named arrays of an .npz, without pickle."""
    arrays = load_arrays(path, hint="write it with numpy.savez")
    if missing := [field for field in fields if field not in arrays]:
        raise SgscError(f"{path}: {', '.join(missing)}: missing", hint=f"the file needs {', '.join(fields)}")
    return {field: arrays[field] for field in fields}


def _case_set(path: Path, *fields: np.ndarray | str) -> CaseSet:
    try:
        return CaseSet(*fields)  # type: ignore[arg-type]
    except SgscError as error:
        raise SgscError(f"{path}: {error.message}", hint=error.hint) from error


def _some(ids: np.ndarray) -> str:
    """The first few of many names."""
    return ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
