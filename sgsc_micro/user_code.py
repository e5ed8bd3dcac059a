"""The user's own Python: network, data, training script. Imported from their file, checked, never edited."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np
import torch

from sgsc_micro.errors import SgscError
from sgsc_micro.files import atomic_path, sha256_bytes
from sgsc_micro.project import Project

SPLITS = ("train", "calibration", "test")


@dataclass(frozen=True)
class Split:
    """inputs float32 [N, ...], labels int64 [N]."""

    inputs: np.ndarray
    labels: np.ndarray


class UserCode:
    """What sgsc.toml's [model] names. Every fault in it is a ``SgscError`` naming the file."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._source = project.path(project.model.source)
        self.checkpoint = project.path(project.model.checkpoint)

    @cached_property
    def data_hash(self) -> str:
        """Of every byte, shape and type of every split."""
        arrays = [array for split in self.data.values() for array in (split.inputs, split.labels)]
        digests = (f"{array.dtype} {array.shape} {sha256_bytes(array.tobytes())}" for array in arrays)
        return sha256_bytes(" ".join(digests).encode())

    @cached_property
    def data(self) -> dict[str, Split]:
        """The three splits of ``data()``, checked."""
        value = self._call("data")
        splits = {}
        for name in SPLITS:
            part = getattr(value, name, None)
            if part is None or not hasattr(part, "inputs") or not hasattr(part, "labels"):
                raise SgscError(
                    f"{self._source}: data() has no {name}",
                    hint=f"return an object with {', '.join(SPLITS)}, each with inputs and labels",
                )
            splits[name] = self._checked(name, np.asarray(part.inputs), np.asarray(part.labels))
        shapes = {name: split.inputs.shape[1:] for name, split in splits.items()}
        if len(set(shapes.values())) > 1:
            raise SgscError(
                f"{self._source}: data(): inputs of different shapes: {shapes}", hint="give all splits one shape"
            )
        return splits

    def network(self) -> torch.nn.Module:
        """The untrained network."""
        network = self._call("network")
        if not isinstance(network, torch.nn.Module):
            raise SgscError(
                f"{self._source}: network() gives {type(network).__name__}", hint="return a torch.nn.Module"
            )
        return network

    def trained_network(self) -> torch.nn.Module:
        """The network with the checkpoint's weights, in eval mode."""
        network = self.network()
        try:
            network.load_state_dict(torch.load(self.checkpoint, weights_only=True))
        except Exception as error:  # torch.load raises what pickle, zipfile and torch like
            raise SgscError(
                f"{self.checkpoint}: does not fit network() of {self._source}: {error}",
                hint="save network().state_dict() with torch.save, or remove the file to train again",
            ) from error
        for name, tensor in network.state_dict().items():
            if not torch.isfinite(tensor).all():
                raise SgscError(
                    f"{self.checkpoint}: {name} holds NaN or infinite weights", hint="train the network again"
                )
        return network.eval()

    def export(self, network: torch.nn.Module) -> torch.export.ExportedProgram:
        """The network for one input, as torch.export gives it. Errors: ``SgscError`` with torch's reason."""
        example = torch.from_numpy(self.data["train"].inputs[:1])
        try:
            return torch.export.export(network, (example,))
        except Exception as error:  # torch.export raises whatever the network's own code or its tracing raises
            reason = str(error).strip().splitlines()[0]
            raise SgscError(
                f"{self._source}: network() cannot be exported for inputs {tuple(example.shape)}: {reason}",
                hint="it must run on data()'s inputs, and its control flow must not depend on values",
            ) from error

    def train(self, progress: Callable[[str], None]) -> None:
        """Have the project's script write the checkpoint; ``progress`` gets its lines.

        Errors: ``SgscError`` where no script is named, or with the last lines of one that failed.
        """
        if self._project.model.train is None:
            raise SgscError(f"{self.checkpoint}: not found", hint="train it, or name a script as train in [model]")
        script = self._project.path(self._project.model.train)
        with atomic_path(self.checkpoint) as temporary:
            command = [sys.executable, script.name, str(temporary.resolve())]
            with subprocess.Popen(
                command, cwd=script.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            ) as process:
                lines = []
                for line in process.stdout or ():
                    lines.append(line.rstrip())
                    progress(lines[-1])
            if process.returncode:
                raise SgscError(f"{script}: failed with {process.returncode}:\n" + "\n".join(lines[-10:]))
            if not temporary.is_file():
                raise SgscError(f"{script}: wrote no checkpoint", hint="it must write to the path it is given")

    def _checked(self, name: str, inputs: np.ndarray, labels: np.ndarray) -> Split:
        numeric = np.issubdtype(inputs.dtype, np.number) and np.issubdtype(labels.dtype, np.integer)
        if inputs.ndim < 2 or len(inputs) == 0 or labels.shape != inputs.shape[:1] or not numeric:
            raise SgscError(
                f"{self._source}: data().{name}: inputs {inputs.shape} {inputs.dtype}, "
                f"labels {labels.shape} {labels.dtype}",
                hint="expected numbers [N, ...] and integer labels [N], N >= 1",
            )
        if not np.isfinite(inputs).all():
            rows = np.flatnonzero(~np.isfinite(inputs).reshape(len(inputs), -1).all(axis=1))
            raise SgscError(
                f"{self._source}: data().{name}: NaN or infinity in rows {rows[:5].tolist()}", hint="clean the data"
            )
        return Split(inputs.astype(np.float32), labels.astype(np.int64))

    def _call(self, function: str) -> Any:
        if not hasattr(self._module, function):
            raise SgscError(f"{self._source}: has no {function}()", hint="docs/project.md says what it needs")
        try:
            return getattr(self._module, function)()
        except (Exception, SystemExit) as error:
            raise SgscError(
                f"{self._source}: {function}() failed: {type(error).__name__}: {error}", hint="it must run by itself"
            ) from error

    @cached_property
    def _module(self) -> ModuleType:
        """The user's file as a module; files beside it can be imported by it."""
        specification = importlib.util.spec_from_file_location(self._source.stem, self._source)
        if specification is None or specification.loader is None:
            raise SgscError(f"{self._source}: is not a Python file")
        module = importlib.util.module_from_spec(specification)
        sys.modules[self._source.stem] = module  # dataclasses look their module up
        sys.path.insert(0, str(self._source.parent.resolve()))
        try:
            specification.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            raise SgscError(
                f"{self._source}: {type(error).__name__}: {error}", hint="it must import cleanly"
            ) from error
        finally:
            sys.path.pop(0)
        return module
