"""The record of a guarded run: one JSON line a step, on disk before the next begins, and the accepted states."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from sgsc_micro.arrays import load_arrays, save_arrays
from sgsc_micro.errors import SgscError
from sgsc_micro.files import write_text

Line = dict[str, Any]


class Journal:
    """The lines of ``journal.jsonl`` in ``folder``, the first of which says what the run is about.

    A killed run leaves whole lines and at most half a last one, which is dropped. The state of an accepted step is
    written before its line: every accepted line has its state.
    """

    def __init__(self, folder: Path, identity: Line) -> None:
        self.path = folder / "journal.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        whole = self.path.read_bytes().rpartition(b"\n")[0] if self.path.exists() else b""
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
        except ValueError as error:
            raise SgscError(f"{self.path}: not a journal: {error}", hint="remove the folder to start afresh") from error
        if lines and lines[0] != identity:
            changed = [key for key in identity if lines[0].get(key) != identity[key]]
            raise SgscError(
                f"{self.path}: belongs to another run: {', '.join(changed)} changed",
                hint="remove the folder to start afresh",
            )
        self.lines: list[Line] = lines[1:]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in (lines or [identity])))

    @property
    def accepted(self) -> Line | None:
        """The line of the last accepted step."""
        return next((line for line in reversed(self.lines) if line["accepted"]), None)

    def load_state(self, step: int) -> dict[str, np.ndarray]:
        """The state of an accepted step."""
        return load_arrays(self._state_path(step), hint="remove the folder to start afresh")

    def append(self, line: Line, state: dict[str, np.ndarray]) -> None:
        """Record a step, and keep ``state`` where it was accepted."""
        if line["accepted"]:
            save_arrays(self._state_path(line["step"]), state)
        with open(self.path, "ab") as file:
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.lines.append(line)

    def _state_path(self, step: int) -> Path:
        return self.path.parent / f"accepted-{step:04d}.npz"
