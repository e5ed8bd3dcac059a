"""Scripts of what a line may carry against the device's C, under sanitizers, beside a second reading of docs/link.md.

    python -m tests.fuzz_link --seconds 600

tests/fuzz_link.c says what is checked. Where clang and its libFuzzer are there, they take half of the time.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sgsc_micro.codegen.host import WARNINGS
from tests.dummy_library import write_library
from tests.host_device import RUNTIME

SOURCE = Path(__file__).with_suffix(".c")
SANITIZERS = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
LIBFUZZER = ("-fsanitize=fuzzer", "-DLIBFUZZER")
KEPT = Path("build/fuzz")
"""Where libFuzzer leaves a script that fails."""
INPUT_BYTES = 700  # two WRITEs, and READs that meet its end


def build(folder: Path, compiler: str = "cc", options: tuple[str, ...] = (), runtime: Path = RUNTIME) -> Path:
    """The program, in ``folder``; the device's C is that of ``runtime``."""
    library = write_library(folder / "library", size=INPUT_BYTES, arena=INPUT_BYTES + 9).folder
    program = folder / f"fuzz_link_{Path(compiler).name}"
    sources = [SOURCE, runtime / "link.c", library / "weights.c", library / "model.c"]
    command = [compiler, *SANITIZERS, *WARNINGS, "-Wno-conversion", "-std=gnu11", *options]
    command += [f"-I{runtime}", f"-I{library}", *map(str, sources), "-o", str(program)]
    subprocess.run(command, check=True)
    return program


def play(program: Path, first: int, count: int, seconds: float) -> subprocess.CompletedProcess[str]:
    """The scripts of the seeds from ``first`` on. Its output: counts by name; of refusals one for each error code."""
    command = [str(part) for part in (program, first, count, int(seconds))]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def main() -> int:
    """0: no finding."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=600)
    seconds, found = parser.parse_args().seconds, 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if clang := shutil.which("clang"):
            seconds //= 2
            KEPT.mkdir(parents=True, exist_ok=True)
            program = build(folder, clang, LIBFUZZER)
            options = [f"-max_total_time={seconds}", "-max_len=1500", f"-artifact_prefix={KEPT}/"]
            found |= subprocess.run([program, *options], check=False).returncode
        else:
            print("no clang: no libFuzzer; random scripts alone", file=sys.stderr)
        done = play(build(folder), time.time_ns(), 1 << 62, seconds)
        print(done.stdout + done.stderr, end="")
        return int(bool(found | done.returncode))


if __name__ == "__main__":
    sys.exit(main())
