"""Named arrays in one file, ``.npz``: written whole, read without pickle."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sgsc_micro.errors import SgscError
from sgsc_micro.files import atomic_path, sha256_bytes


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the arrays, atomically; the same arrays give the same bytes."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def load_arrays(path: Path, hint: str) -> dict[str, np.ndarray]:
    """Every array of an .npz. Errors: ``SgscError`` naming the file, with ``hint``."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise SgscError(f"{path}: cannot be read as .npz: {error}", hint=hint) from error


def digest(array: np.ndarray) -> str:
    """Hex SHA-256 of type, shape and bytes."""
    return sha256_bytes(f"{array.dtype} {array.shape}".encode() + array.tobytes())
