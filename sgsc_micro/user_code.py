"""The user's own Python file: imported, its functions called, what they give checked. Never edited."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from sgsc_micro.arrays import digest
from sgsc_micro.errors import SgscError
from sgsc_micro.files import sha256_bytes

SPLITS = ("train", "calibration", "test")


@dataclass(frozen=True)
class Split:
    """inputs float32 [N, ...], labels int64 [N], or [N, T] of sequences; slices str [N] and weights float32 [N]."""

    inputs: np.ndarray
    labels: np.ndarray
    slices: np.ndarray
    weights: np.ndarray

    def subset(self, rows: np.ndarray) -> Split:
        """The cases of ``rows``: numbers, or True where wanted [N]."""
        return Split(*(getattr(self, field.name)[rows] for field in fields(self)))


class UserCode:
    """A Python file of the project. Every fault in it is a ``SgscError`` naming the file."""

    def __init__(self, path: Path, decode: Callable[[np.ndarray], np.ndarray] = lambda inputs: inputs) -> None:
        """``decode`` makes the network's real inputs of what ``data()`` gives."""
        self._path = path
        self._decode = decode

    @cached_property
    def data(self) -> dict[str, Split]:
        """The three splits of ``data()``, checked."""
        value = self.call("data")
        splits = {}
        for name in SPLITS:
            part = getattr(value, name, None)
            if part is None or not hasattr(part, "inputs") or not hasattr(part, "labels"):
                raise SgscError(
                    f"{self._path}: data() has no {name}",
                    hint=f"return an object with {', '.join(SPLITS)}, each with inputs and labels",
                )
            splits[name] = self._checked(name, part)
        shapes = {name: split.inputs.shape[1:] for name, split in splits.items()}
        if len(set(shapes.values())) > 1:
            raise SgscError(
                f"{self._path}: data(): inputs of different shapes: {shapes}", hint="give all splits one shape"
            )
        return splits

    @cached_property
    def data_hash(self) -> str:
        """Of every byte, shape and type of every split."""
        arrays = [getattr(split, field.name) for split in self.data.values() for field in fields(split)]
        return sha256_bytes(" ".join(map(digest, arrays)).encode())

    def call(self, function: str) -> Any:
        """What a function of the file gives."""
        if not hasattr(self._module, function):
            raise SgscError(f"{self._path}: has no {function}()", hint="docs/project.md says what it needs")
        try:
            return getattr(self._module, function)()
        except (Exception, SystemExit) as error:
            raise SgscError(
                f"{self._path}: {function}() failed: {type(error).__name__}: {error}", hint="it must run by itself"
            ) from error

    def function(self, name: str) -> Callable[..., Any] | None:
        """One that the file need not have."""
        return getattr(self._module, name, None)

    def _checked(self, name: str, part: Any) -> Split:
        inputs, labels = np.asarray(part.inputs), np.asarray(part.labels)
        numeric = np.issubdtype(inputs.dtype, np.number) and np.issubdtype(labels.dtype, np.integer)
        fits = labels.ndim in (1, 2) and labels.shape[:1] == inputs.shape[:1]
        if inputs.ndim < 2 or len(inputs) == 0 or not fits or not numeric:
            raise SgscError(
                f"{self._path}: data().{name}: inputs {inputs.shape} {inputs.dtype}, "
                f"labels {labels.shape} {labels.dtype}",
                hint="expected numbers [N, ...] and integer labels [N], or [N, T] of sequences, N >= 1",
            )
        slices = np.asarray(_given(part, "slices", np.full(len(inputs), "")))
        weights = np.asarray(_given(part, "weights", np.ones(len(inputs))))
        for field, array, kinds in (("slices", slices, "U"), ("weights", weights, "fiu")):
            if array.shape != inputs.shape[:1] or array.dtype.kind not in kinds:
                raise SgscError(
                    f"{self._path}: data().{name}: {field} {array.shape} {array.dtype} for {len(inputs)} cases",
                    hint="slices are names [N], weights numbers above 0 [N]; leave them out where there are none",
                )
        if not np.isfinite(inputs).all():
            rows = np.flatnonzero(~np.isfinite(inputs).reshape(len(inputs), -1).all(axis=1))
            raise SgscError(
                f"{self._path}: data().{name}: NaN or infinity in rows {rows[:5].tolist()}", hint="clean the data"
            )
        if not ((weights > 0) & np.isfinite(weights)).all():
            rows = np.flatnonzero(~((weights > 0) & np.isfinite(weights)))
            raise SgscError(
                f"{self._path}: data().{name}: weights not above 0 in rows {rows[:5].tolist()}",
                hint="leave out the cases that do not matter",
            )
        return Split(
            self._decode(inputs).astype(np.float32), labels.astype(np.int64), slices, weights.astype(np.float32)
        )

    @cached_property
    def _module(self) -> ModuleType:
        """The file as a module; files beside it can be imported by it."""
        specification = importlib.util.spec_from_file_location(self._path.stem, self._path)
        if specification is None or specification.loader is None:
            raise SgscError(f"{self._path}: is not a Python file")
        module = importlib.util.module_from_spec(specification)
        sys.modules[self._path.stem] = module  # dataclasses look their module up
        sys.path.insert(0, str(self._path.parent.resolve()))
        try:
            specification.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            raise SgscError(f"{self._path}: {type(error).__name__}: {error}", hint="it must import cleanly") from error
        finally:
            sys.path.pop(0)
        return module


def _given(part: Any, field: str, default: np.ndarray) -> Any:
    """An optional array of a split."""
    value = getattr(part, field, None)
    return default if value is None else value
