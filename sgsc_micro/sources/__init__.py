"""Where a project's network comes from: how the stages ask for it, whatever file it lies in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sgsc_micro.project import Project, TFLiteProject, TorchProject

if TYPE_CHECKING:
    import numpy as np
    import tvm

    from sgsc_micro.footprint import Footprint
    from sgsc_micro.preserve import CaseSet, Features
    from sgsc_micro.user_code import Split, UserCode

TORCH_NETWORK = "network.pt2"
TFLITE_NETWORK, TFLITE_CHANGES = "network.tflite", "changes.npz"


class Source(Protocol):
    """A network and its data, as the stages see them."""

    @property
    def code(self) -> UserCode:
        """The file with ``data()``."""

    @property
    def files(self) -> tuple[str, ...]:
        """Of a compressed network, as ``compress`` leaves it in a folder and :func:`read_network` reads it."""

    def prepare(self, note: Callable[[str], None]) -> dict[str, Any]:
        """Have the reference network ready, known to lower; what tells it from any other, as JSON's types."""

    def save(self, folder: Path) -> None:
        """Write the reference network."""

    def answer(self, inputs: np.ndarray) -> np.ndarray:
        """The reference network's outputs float32 [N, classes] for float32 [N, ...]."""

    def features(self, inputs: np.ndarray, labels: np.ndarray, kind: Features) -> np.ndarray | None:
        """What describes cases float32 [N, ...] of labels [N] as [N, F]; None where this source cannot say."""

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
        """Compress what ``save`` wrote to ``reference`` into ``folder``; its bytes, and those at 8 bits."""


def source_of(project: Project) -> Source:
    """The source that a project names."""
    if isinstance(project, TFLiteProject):
        from sgsc_micro.sources.tflite import TFLiteSource

        return TFLiteSource(project)
    from sgsc_micro.sources.torch import TorchSource

    assert isinstance(project, TorchProject)
    return TorchSource(project)


def read_network(folder: Path) -> tvm.IRModule:
    """The compressed network that a stage left in ``folder``, as Relax QDQ."""
    if (folder / TFLITE_NETWORK).exists():
        from sgsc_micro.sources.tflite import read_tflite_network

        return read_tflite_network(folder)
    from sgsc_micro.importers import from_torch, load_torch

    return from_torch(load_torch(folder / TORCH_NETWORK))
