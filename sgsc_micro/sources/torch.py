"""A float network in the user's own torch code: trained where need be, and compressed by training on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tvm

from sgsc_micro.arrays import digest
from sgsc_micro.compress import check_supported, compress
from sgsc_micro.compress.graph import as_taken, canonical, check_tokens
from sgsc_micro.errors import SgscError
from sgsc_micro.files import atomic_path, sha256_file
from sgsc_micro.footprint import Footprint
from sgsc_micro.preserve import CaseSet, Features
from sgsc_micro.project import TorchProject
from sgsc_micro.sources import TORCH_NETWORK
from sgsc_micro.sources.features import grad_cam, penultimate
from sgsc_micro.user_code import Split, UserCode

THREADS = 2
"""Of torch: how a sum is split over threads changes its last bit, and the same seed must give the same bytes."""


class TorchSource:
    """See :class:`sgsc_micro.sources.Source`. Every fault in the user's files is a ``SgscError`` naming the file."""

    files = (TORCH_NETWORK,)

    def __init__(self, project: TorchProject) -> None:
        torch.set_num_threads(THREADS)
        self._project = project
        self._path = project.path(project.model.source)
        self._checkpoint = project.path(project.model.checkpoint)
        self.code = UserCode(self._path)

    def prepare(self, note: Callable[[str], None]) -> dict[str, Any]:
        """Train the network where there is no checkpoint; its graph, weights and data."""
        if not self._checkpoint.is_file():
            check_supported(self._export(self._untrained().eval()))
            self._train(note)
        network = canonical(self._program)
        for name, split in self.code.data.items():
            check_tokens(network, split.inputs, f"{self._path}: data().{name}")
        return {
            "graph": str(self._program.graph),
            "state": {name: digest(tensor.numpy(force=True)) for name, tensor in self._program.state_dict.items()},
            "torch": torch.__version__,
            "data": self.code.data_hash,
            "augment": sha256_file(self._path) if self.code.function("augment") else None,
        }

    def save(self, folder: Path) -> None:
        """As torch.export writes it."""
        torch.export.save(self._program, folder / TORCH_NETWORK)

    def answer(self, inputs: np.ndarray) -> np.ndarray:
        """In floats."""
        with torch.no_grad():
            batches = as_taken(self._trained, np.asarray(inputs)).split(256)
            return torch.cat([self._trained(batch) for batch in batches]).numpy()

    def features(self, inputs: np.ndarray, labels: np.ndarray, kind: Features) -> np.ndarray | None:
        """Of the float network; no Grad-CAM where it has no convolution or decides more than once a case."""
        graph = canonical(self._program)
        if kind is Features.PENULTIMATE:
            return penultimate(graph, inputs)
        return grad_cam(graph, inputs, labels)

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
        """Guarded self-compression."""
        result = compress(
            torch.export.load(reference / TORCH_NETWORK),
            training.inputs,
            training.labels,
            cases,
            measure,
            folder,
            self._project.compress,
            self._project.policy,
            progress,
            self.code.function("augment"),
            self._project.budget,
            calibration,
        )
        torch.export.save(result.program, folder / TORCH_NETWORK)
        return {"stored_bytes": result.stored_bytes, "start_bytes": result.start_bytes}

    @cached_property
    def _program(self) -> torch.export.ExportedProgram:
        return self._export(self._trained)

    @cached_property
    def _trained(self) -> torch.nn.Module:
        """The network with the checkpoint's weights, in eval mode."""
        network = self._untrained()
        try:
            network.load_state_dict(torch.load(self._checkpoint, weights_only=True))
        except Exception as error:  # torch.load raises what pickle, zipfile and torch like
            raise SgscError(
                f"{self._checkpoint}: does not fit network() of {self._path}: {error}",
                hint="save network().state_dict() with torch.save, or remove the file to train again",
            ) from error
        for name, tensor in network.state_dict().items():
            if not torch.isfinite(tensor).all():
                raise SgscError(
                    f"{self._checkpoint}: {name} holds NaN or infinite weights", hint="train the network again"
                )
        return network.eval()

    def _untrained(self) -> torch.nn.Module:
        network = self.code.call("network")
        if not isinstance(network, torch.nn.Module):
            raise SgscError(f"{self._path}: network() gives {type(network).__name__}", hint="return a torch.nn.Module")
        return network

    def _export(self, network: torch.nn.Module) -> torch.export.ExportedProgram:
        """The network for one input, as torch.export gives it. Errors: ``SgscError`` with torch's reason."""
        example = as_taken(network, self.code.data["train"].inputs[:1])
        try:
            return torch.export.export(network, (example,))
        except Exception as error:  # torch.export raises whatever the network's own code or its tracing raises
            reason = str(error).strip().splitlines()[0]
            raise SgscError(
                f"{self._path}: network() cannot be exported for inputs {tuple(example.shape)}: {reason}",
                hint="it must run on data()'s inputs, and its control flow must not depend on values",
            ) from error

    def _train(self, note: Callable[[str], None]) -> None:
        """Have the project's script write the checkpoint; ``note`` gets its lines.

        Errors: ``SgscError`` where no script is named, or with the last lines of one that failed.
        """
        if self._project.model.train is None:
            raise SgscError(f"{self._checkpoint}: not found", hint="train it, or name a script as train in [model]")
        script = self._project.path(self._project.model.train)
        with atomic_path(self._checkpoint) as temporary:
            command = [sys.executable, script.name, str(temporary.resolve())]
            with subprocess.Popen(
                command, cwd=script.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            ) as process:
                lines = []
                for line in process.stdout or ():
                    lines.append(line.rstrip())
                    note(lines[-1])
            if process.returncode:
                raise SgscError(f"{script}: failed with {process.returncode}:\n" + "\n".join(lines[-10:]))
            if not temporary.is_file():
                raise SgscError(f"{script}: wrote no checkpoint", hint="it must write to the path it is given")
