"""``sgsc run``: a batch of inputs through a build's network, wherever it runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sgsc_micro.artifacts import check_artifacts
from sgsc_micro.codegen import HostLibrary, arranged, from_stored, read_manifest, to_stored
from sgsc_micro.device import connect
from sgsc_micro.errors import SgscError
from sgsc_micro.files import atomic_path
from sgsc_micro.firmware import read_image
from sgsc_micro.targets import Target
from sgsc_micro.verify import replay_on_device, replay_on_host


def run_batch(folder: Path, target: Target, source: Path, sink: Path, port: str | None) -> int:
    """Outputs [N, ...] of the .npy at ``source`` into ``sink``; N. int8 for int8 inputs, else float32.

    Errors: ``SgscError`` for a file that is no array, or inputs of another shape than the network's.
    """
    check_artifacts(folder, target)
    manifest, inputs = read_manifest(folder / "library"), load_inputs(source)
    stored = to_stored(manifest, inputs)
    if target.board is None:
        outcomes = replay_on_host(HostLibrary(folder / "library"), stored)
    else:
        with connect(target, read_image(folder / "firmware"), port) as device:
            outcomes = replay_on_device(device, stored, lambda done: None)
    raw = np.stack([outcome.output for outcome in outcomes])
    outputs = arranged(manifest, raw) if inputs.dtype == np.int8 else from_stored(manifest, raw)
    with atomic_path(sink) as temporary, open(temporary, "wb") as file:
        np.save(file, outputs)
    return len(outputs)


def load_inputs(path: Path) -> np.ndarray:
    """Inputs [N, ...] of a .npy: int8 as they are, else float32. Errors: ``SgscError`` naming the file."""
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SgscError(f"{path}: cannot be read as .npy: {error}", hint="write it with numpy.save") from error
    if not isinstance(array, np.ndarray) or array.ndim == 0 or len(array) == 0:
        raise SgscError(f"{path}: holds no inputs", hint="expected an array [N, ...], N >= 1")
    if not np.issubdtype(array.dtype, np.number):
        raise SgscError(f"{path}: {array.dtype}", hint="expected float32, or int8 that is quantised already")
    return array if array.dtype == np.int8 else array.astype(np.float32)
