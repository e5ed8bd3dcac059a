"""The user's own Python file: imported, its functions called, what they give checked. Never edited."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
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
    """inputs float32 [N, ...], labels int64 [N]."""

    inputs: np.ndarray
    labels: np.ndarray


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
            splits[name] = self._checked(name, np.asarray(part.inputs), np.asarray(part.labels))
        shapes = {name: split.inputs.shape[1:] for name, split in splits.items()}
        if len(set(shapes.values())) > 1:
            raise SgscError(
                f"{self._path}: data(): inputs of different shapes: {shapes}", hint="give all splits one shape"
            )
        return splits

    @cached_property
    def data_hash(self) -> str:
        """Of every byte, shape and type of every split."""
        arrays = [array for split in self.data.values() for array in (split.inputs, split.labels)]
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

    def _checked(self, name: str, inputs: np.ndarray, labels: np.ndarray) -> Split:
        numeric = np.issubdtype(inputs.dtype, np.number) and np.issubdtype(labels.dtype, np.integer)
        if inputs.ndim < 2 or len(inputs) == 0 or labels.shape != inputs.shape[:1] or not numeric:
            raise SgscError(
                f"{self._path}: data().{name}: inputs {inputs.shape} {inputs.dtype}, "
                f"labels {labels.shape} {labels.dtype}",
                hint="expected numbers [N, ...] and integer labels [N], N >= 1",
            )
        if not np.isfinite(inputs).all():
            rows = np.flatnonzero(~np.isfinite(inputs).reshape(len(inputs), -1).all(axis=1))
            raise SgscError(
                f"{self._path}: data().{name}: NaN or infinity in rows {rows[:5].tolist()}", hint="clean the data"
            )
        return Split(self._decode(inputs).astype(np.float32), labels.astype(np.int64))

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
