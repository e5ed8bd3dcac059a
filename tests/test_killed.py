"""``kill -9`` at any moment, then the same command: the same bytes as an undisturbed run."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

KILLS = 3


def main(method: str, folder: Path) -> None:
    """One run in this process, or what is left of it."""
    from sgsc_micro.codegen import footprint
    from sgsc_micro.compress import compress, compress_trained
    from sgsc_micro.importers import from_tflite
    from sgsc_micro.passes import optimise
    from sgsc_micro.project import CompressionConfig, PostTrainingConfig
    from tests.bars import make_bars
    from tests.small import make_task

    def measure(module: object) -> object:
        return footprint(optimise(module))

    def say(line: dict[str, object]) -> None:
        print(line["step"], flush=True)

    if method == "training":
        config = CompressionConfig(steps=6, settle=2, epochs=2, batch=32, bits_learning_rate=0.2)
        compress(*make_task(), measure, folder, config, progress=say)
    else:
        bars = make_bars(folder)
        cases = bars.cases(folder, slice(0, 40))
        network = from_tflite(bars.write(folder))
        compress_trained(network, bars.reals[60:], cases, measure, folder, PostTrainingConfig(steps=12), progress=say)


def start(method: str, folder: Path) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-W", "ignore", "-m", "tests.test_killed", method, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def outcome(folder: Path) -> tuple[list[dict[str, object]], bytes]:
    """The journal without its times, and the file of the last accepted state."""
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("seconds", None)
    accepted = max(line["step"] for line in lines[1:] if line["accepted"])
    return lines, (folder / f"accepted-{accepted:04d}.npz").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["training", pytest.param("post-training", marks=pytest.mark.long)])
def test_a_run_that_is_killed_again_and_again_ends_in_the_same_bytes(method: str, tmp_path: Path) -> None:
    undisturbed = start(method, tmp_path / "undisturbed")
    steps = len(undisturbed.communicate(timeout=300)[0].splitlines())
    assert undisturbed.returncode == 0 and steps > KILLS
    draw, killed = random.Random(0), 0
    while True:
        run = start(method, tmp_path / "killed")
        assert run.stdout is not None
        if killed == KILLS:
            run.communicate(timeout=300)
            break
        run.stdout.readline()  # a step is done; the next one, its state or its line is not
        time.sleep(draw.uniform(0, 0.4))
        run.send_signal(signal.SIGKILL)
        run.communicate()
        killed += run.returncode == -signal.SIGKILL
        if run.returncode == 0:
            break
    assert killed >= 2 and run.returncode == 0
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "undisturbed")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
