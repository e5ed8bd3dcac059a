"""An int8 network in a .tflite file: the network itself is the reference, and nothing is trained.

A compressed one is kept as the file and what changed in it: the constants of its layers, by name.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from sgsc_micro import reference as exact
from sgsc_micro.arrays import load_arrays, save_arrays
from sgsc_micro.compress import compress_trained
from sgsc_micro.compress.layers import from_arrays, to_arrays, with_constants
from sgsc_micro.errors import SgscError
from sgsc_micro.files import sha256_file
from sgsc_micro.footprint import Footprint
from sgsc_micro.importers import from_tflite
from sgsc_micro.ir import bindings_of, constant_of, shape_of
from sgsc_micro.preserve import CaseSet, Features
from sgsc_micro.project import TFLiteProject
from sgsc_micro.sources import TFLITE_CHANGES, TFLITE_NETWORK
from sgsc_micro.stages import code_hash
from sgsc_micro.user_code import Split, UserCode


class TFLiteSource:
    """See :class:`sgsc_micro.sources.Source`."""

    files = (TFLITE_NETWORK, TFLITE_CHANGES)

    def __init__(self, project: TFLiteProject) -> None:
        self._project = project
        self._path = project.path(project.model.source)
        self._data = project.path(project.model.data)
        self._network = from_tflite(self._path)
        self.code = UserCode(self._data, self._decode)

    def prepare(self, note: Callable[[str], None]) -> dict[str, Any]:
        """Nothing to train; the file and the data."""
        wanted = shape_of(self._network["main"].params[0])[1:]
        found = self.code.data["train"].inputs.shape[1:]
        if found != wanted:
            raise SgscError(
                f"{self._data}: data(): inputs of shape {found}; {self._path.name} takes {wanted}",
                hint="give inputs as the model takes them, channels last",
            )
        return {
            "file": sha256_file(self._path),
            "data": self.code.data_hash,
            "code": code_hash("importers", "reference", "ir.py", "fixed_point.py"),
        }

    def save(self, folder: Path) -> None:
        """The file."""
        shutil.copyfile(self._path, folder / TFLITE_NETWORK)

    def answer(self, inputs: np.ndarray) -> np.ndarray:
        """In exact integers, dequantised."""
        return exact.run(self._network, inputs)

    def features(self, inputs: np.ndarray, labels: np.ndarray, kind: Features) -> np.ndarray | None:
        """None: the integer network has no gradients, and its layers are not looked into."""
        return None

    def compress(
        self,
        reference: Path,
        training: Split,
        cases: CaseSet,
        calibration: CaseSet,
        measure: Callable[[tvm.IRModule], Footprint],
        folder: Path,
        progress: Callable[[dict[str, Any]], None],
    ) -> dict[str, int]:
        """Post-training compression."""
        result = compress_trained(
            from_tflite(reference / TFLITE_NETWORK),
            training.inputs,
            cases,
            measure,
            folder,
            self._project.compress,
            self._project.policy,
            progress,
            self._project.budget,
            calibration,
        )
        shutil.copyfile(reference / TFLITE_NETWORK, folder / TFLITE_NETWORK)
        save_arrays(folder / TFLITE_CHANGES, to_arrays(result.constants))
        return {"stored_bytes": result.stored_bytes, "start_bytes": result.start_bytes}

    def _decode(self, inputs: np.ndarray) -> np.ndarray:
        """int8 inputs are the model's own integers; any others are real already."""
        if inputs.dtype != np.int8:
            return inputs
        calls = (value for _, value in bindings_of(self._network["main"]))
        entry = next(call for call in calls if call.op.name == "relax.quantize")
        scale, zero_point = (constant_of(argument) for argument in entry.args[1:3])
        return (inputs.astype(np.float64) - int(zero_point)) * float(scale)


def read_tflite_network(folder: Path) -> tvm.IRModule:
    """What ``TFLiteSource.compress`` left in ``folder``, as Relax QDQ."""
    arrays = load_arrays(folder / TFLITE_CHANGES, hint="build the project again")
    return with_constants(from_tflite(folder / TFLITE_NETWORK), from_arrays(arrays))
