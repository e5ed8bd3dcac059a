"""``sgsc compile``: a model that is quantised already, to a C library and an image. No compression, no certificate."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from sgsc_micro.artifacts import make_firmware, make_library, write_readme
from sgsc_micro.batch import load_inputs
from sgsc_micro.compiler_flags import Optimize
from sgsc_micro.files import sha256_file
from sgsc_micro.targets import Target
from sgsc_micro.verification import Progress

STAGES = ("library", "firmware")


@dataclass(frozen=True)
class Compilation:
    """One model file for one target, into ``folder``."""

    model: Path
    target: Target
    folder: Path
    progress: Progress
    optimize: Optimize = Optimize.BALANCED
    """Code size against speed."""
    selftest: Path | None = None
    """A .npy of inputs to embed as cases of ``model_selftest``."""

    def run(self) -> None:
        """Both stages; one whose inputs have not changed is not run again.

        Errors: ``SgscError`` for a file that cannot be read or taken, or a network that does not fit the board.
        """
        from sgsc_micro.importers import load_model

        network = load_model(self.model)
        source = {"model": sha256_file(self.model)}
        cases = load_inputs(self.selftest) if self.selftest else None
        stages = {
            "library": lambda: make_library(
                self.folder, self.target, self.model.stem, source, lambda: network, self.optimize, cases
            ),
            "firmware": lambda: make_firmware(self.folder, self.target),
        }
        for name in STAGES:
            began = time.monotonic()
            fresh = stages[name]()
            self.progress(name, {"finished": round(time.monotonic() - began, 1), "fresh": fresh})
        write_readme(self.folder, self.target)
