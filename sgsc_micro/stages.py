"""Stages whose results are whole or absent: skipped while nothing has changed, resumed where they were killed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sgsc_micro.errors import SgscError
from sgsc_micro.files import remove_leftovers, sha256_bytes, sha256_file, sha256_files, write_json

RECORD = "stage.json"
_PACKAGE = Path(__file__).resolve().parent


def run_stage(folder: Path, inputs: dict[str, Any], work: Callable[[Path], None], resume: bool = False) -> bool:
    """Make ``folder`` by ``work(partial folder)``, unless it is there, whole, and made from the same ``inputs``.

    A partial folder left by a killed run with the same inputs is handed to ``work`` again, to go on from. True where
    work was done.

    Errors: ``SgscError`` with ``resume``, where what is there was made from other inputs, and would be thrown away.
    """
    key = sha256_bytes(json.dumps(inputs, sort_keys=True).encode())
    if _is_current(folder, key):
        return False
    partial = folder.with_name(f"{folder.name}.partial")
    remove_leftovers(partial)
    if _read(partial / RECORD).get("key") != key:
        if resume and (begun := [place for place in (partial, folder) if _read(place / RECORD).get("key", key) != key]):
            raise SgscError(
                f"{begun[0]}: made from other settings, data or code: it cannot be resumed",
                hint="undo the change, or build without --resume to start anew",
            )
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_json(partial / RECORD, {"key": key})
    work(partial)
    outputs = {path.relative_to(partial).as_posix(): sha256_file(path) for path in _files(partial)}
    write_json(partial / RECORD, {"key": key, "inputs": inputs, "outputs": outputs})
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return True


def altered_files(folder: Path) -> list[str]:
    """Files of a finished stage that are missing, added or altered; its record where that is not whole."""
    outputs = _read(folder / RECORD).get("outputs")
    if not isinstance(outputs, dict):
        return [RECORD]
    found = {path.relative_to(folder).as_posix(): sha256_file(path) for path in _files(folder)}
    return sorted(name for name in {*outputs, *found} if outputs.get(name) != found.get(name))


def record_hash(folder: Path) -> str:
    """What a finished stage is known by: its record holds the hashes of all that went in and came out."""
    return sha256_file(folder / RECORD)


def code_hash(*rooms: str) -> str:
    """Of the sources of rooms (folders or files of the package): a stage is made again when its code changes."""
    files = [
        path for room in rooms for path in ([_PACKAGE / room] if room.endswith(".py") else _sources(_PACKAGE / room))
    ]
    return sha256_files(files)


def _sources(room: Path) -> list[Path]:
    return sorted(path for path in room.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def _is_current(folder: Path, key: str) -> bool:
    return _read(folder / RECORD).get("key") == key and not altered_files(folder)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != RECORD)


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
