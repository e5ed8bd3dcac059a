"""The C library on this machine: compiled with every warning an error, fed through a pipe."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from sgsc_micro.codegen.library import SOURCES, host_main
from sgsc_micro.compiler_flags import Optimize
from sgsc_micro.errors import SgscError
from sgsc_micro.files import read_json

WARNINGS = ("-std=c11", "-Wall", "-Wextra", "-Wconversion", "-Werror")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g")
_TIMEOUT_SECONDS = 600


def read_manifest(library: Path) -> dict[str, Any]:
    """The manifest of a library folder. Errors: ``SgscError`` where there is none."""
    manifest: dict[str, Any] = read_json(library / "manifest.json")
    return manifest


class HostLibrary:
    """A compiled library folder; ``run`` takes and gives the same bytes as the target."""

    def __init__(self, library: Path, flags: tuple[str, ...] = ()) -> None:
        """Compile as the library asks, or with other ``flags``.

        Errors: ``SgscError`` where there is no compiler, or it refuses the library.
        """
        self.manifest = read_manifest(library)
        flags = flags or (Optimize(self.manifest["optimize"]).flag,)
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            raise SgscError("no host C compiler found", hint="apt-get install gcc")
        self._folder = tempfile.TemporaryDirectory(prefix="sgsc-host-")
        main = Path(self._folder.name) / "main.c"
        main.write_text(host_main(), encoding="utf-8")
        self._program = main.with_suffix("")
        sources = [str(library / source) for source in SOURCES]
        command = [compiler, *WARNINGS, *flags, f"-I{library}", *sources, str(main), "-o", str(self._program)]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        if finished.returncode:
            raise SgscError(
                f"{library}: the host compiler refuses the library:\n{finished.stderr}", hint="report this as a bug"
            )

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """int8 outputs [N, output bytes] for int8 ``inputs`` [N, input bytes] as stored."""
        size = self.manifest["input"]["bytes"]
        if inputs.dtype != np.int8 or inputs.shape[1:] != (size,):
            raise SgscError(
                f"host library: inputs are {inputs.dtype} {inputs.shape[1:]}, the model takes int8 ({size},)"
            )
        finished = subprocess.run(
            [str(self._program)], input=inputs.tobytes(), capture_output=True, check=False, timeout=_TIMEOUT_SECONDS
        )
        if finished.returncode:
            raise SgscError(
                f"host library: failed with {finished.returncode}: {finished.stderr.decode(errors='replace')}"
            )
        return np.frombuffer(finished.stdout, np.int8).reshape(len(inputs), self.manifest["output"]["bytes"])
