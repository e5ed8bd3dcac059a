"""A build onto many boards, stage by stage: gates, and what is gone on with after a stop, an interrupt or a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from sgsc_micro import boards_cli
from sgsc_micro.verify import read_certificate
from tests.board import Board
from tests.conftest import fails, results, sgsc

flashes = pytest.mark.skipif(find_spec("stm32loader") is None, reason="stm32loader is not installed")


def write_rollout(folder: Path, build: Path, *stages: str) -> Path:
    file = folder / "rollout.toml"
    tables = "".join(f"[[stages]]\n{stage}\n" for stage in stages)
    file.write_text(f'build = "{os.path.relpath(build, folder)}"\nmethod = "stm32loader"\n{tables}')
    return file


@flashes
def test_a_rollout_goes_from_the_canary_to_all(
    board_build: Path, plug: Callable[[int], list[Board]], tmp_path: Path
) -> None:
    fleet = plug(4)
    binary = (board_build / "firmware" / "firmware.bin").read_bytes()
    canary, share, rest = 'name = "canary"\nboards = ["S2"]', 'name = "share"\nshare = 0.5', 'name = "all"\nshare = 1.0'
    done = sgsc("rollout", write_rollout(tmp_path, board_build, canary, share, rest))
    assert done.exit_code == 0, done.output
    assert "PASSED on 4 of 4" in done.stdout
    report = json.loads((tmp_path / "rollout" / "report.json").read_text())
    assert report["verdict"] == "passed"
    taken = {stage["name"]: [board["board"] for board in stage["boards"]] for stage in report["stages"]}
    assert taken == {"canary": ["S2"], "share": ["S0"], "all": ["S1", "S3"]}
    for number, board in enumerate(fleet):
        assert board.flash[: len(binary)] == binary and board.boots == 1
        assert read_certificate(tmp_path / "rollout" / f"certificate-S{number}.json")["target"]["ran_on"] == board.port


@flashes
def test_a_failed_gate_stops_and_the_same_command_goes_on(
    board_build: Path, plug: Callable[[int], list[Board]], tmp_path: Path
) -> None:
    first, second, third = plug(3)
    second.rom.protected = True
    file = write_rollout(
        tmp_path, board_build, 'name = "canary"\nboards = ["S0", "S1"]', f'name = "all"\nboards = ["{third.port}"]'
    )
    started = time.monotonic()
    done = sgsc("rollout", file)
    fails(done, "stopped at stage canary, 1 of 2 boards failed: S1", "read-out protection is on", "--unprotect")
    assert time.monotonic() < started + 15
    assert first.boots == 1 and third.rom.received == 0
    assert json.loads((tmp_path / "rollout" / "report.json").read_text())["verdict"] == "failed"
    second.rom.protected = False
    second.reset(boot0=True)
    done = sgsc("rollout", file)
    assert done.exit_code == 0, done.output
    assert (first.boots, second.boots, third.boots) == (1, 1, 1)


@flashes
def test_gates(board_build: Path, plug: Callable[[int], list[Board]], tmp_path: Path) -> None:
    """One of two may fail; a board that is too slow does not pass; a gate that nobody passed stays shut."""
    plug(1)
    lenient = write_rollout(tmp_path, board_build, 'name = "a"\nboards = ["S0", "S9"]\nmax_failed = 1')
    done = sgsc("rollout", lenient)
    assert done.exit_code == 0 and "PASSED on 1 of 2" in done.stdout, done.output
    assert "S9" in done.stdout and "no serial port" in done.stdout
    slow = write_rollout(tmp_path, board_build, 'name = "a"\nboards = ["S0"]\nmax_cost = 10')
    fails(sgsc("rollout", slow), "S0: its slowest case took", "max_cost is 10")
    nobody = write_rollout(tmp_path, board_build, 'name = "b"\nboards = ["S9"]\nmax_failed = 3')
    fails(sgsc("rollout", nobody), "stopped at stage b, 1 of 1", "S9")


@flashes
def test_an_interrupted_rollout_goes_on_where_it_was(
    board_build: Path, plug: Callable[[int], list[Board]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = plug(2)
    file = write_rollout(tmp_path, board_build, 'name = "canary"\nboards = ["S0"]', 'name = "all"\nshare = 1.0')
    with monkeypatch.context() as patch:

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(boards_cli, "show_board", interrupted)
        fails(sgsc("rollout", file), "interrupted")
    assert json.loads((tmp_path / "rollout" / "report.json").read_text())["verdict"] == "open"
    assert [board.boots for board in fleet] == [1, 0]
    assert sgsc("rollout", file).exit_code == 0
    assert [board.boots for board in fleet] == [1, 1]


@pytest.mark.slow
@flashes
def test_a_killed_rollout_goes_on_where_it_was(
    board_build: Path, plug: Callable[[int], list[Board]], tmp_path: Path
) -> None:
    canary, hanging = plug(2)
    hanging.rom.cut_at = hanging.rom.received + 2000  # it is being written when the program is killed
    stages = [f'name = "{name}"\nboards = ["{board.port}"]' for name, board in (("a", canary), ("b", hanging))]
    file = write_rollout(tmp_path, board_build, *stages)
    process = subprocess.Popen([sys.executable, "-m", "sgsc_micro", "rollout", str(file)])
    try:
        deadline = time.monotonic() + 120
        while hanging.rom.received < 1000 and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    finally:
        process.wait(10)
    assert process.returncode == -signal.SIGKILL and set(results(tmp_path / "rollout")) == {canary.port}
    hanging.reset(boot0=True)
    done = sgsc("rollout", file)
    assert done.exit_code == 0, done.output
    assert (canary.boots, hanging.boots) == (1, 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("build = ", ("not TOML",)),
        ('build = "x"\nstages = []', ("stages", "at least 1")),
        ('build = "x"\n[[stages]]\nname = "a"', ("stages.0", "either boards or a share")),
        ('build = "x"\n[[stages]]\nname = "a"\nboards = ["1"]\nshare = 1', ("stages.0", "either boards or a share")),
        ('build = "x"\n[[stages]]\nname = "a"\nshare = 2', ("stages.0.share", "less than or equal to 1")),
        ('build = "x"\n[[stages]]\nname = "a"\nshare = 1\ngate = 2', ("stages.0.gate", "Extra inputs")),
        ('build = "x"\n[[stages]]\nname = "a"\nboards = ["1", "1"]', ("boards named twice: 1",)),
        ('build = "x"\n[[stages]]\nname = "a"\nshare = 1', ("no build here",)),
    ],
)
def test_a_rollout_file_that_is_wrong_is_named(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(text)
    fails(sgsc("rollout", file), str(tmp_path), *words)


def test_a_rollout_of_another_image_is_not_gone_on_with(board_build: Path, tmp_path: Path) -> None:
    file = write_rollout(tmp_path, board_build, 'name = "a"\nboards = ["S0"]')
    assert sgsc("rollout", file).exit_code == 1  # no such board
    report = tmp_path / "rollout" / "report.json"
    value = json.loads(report.read_text())
    report.write_text(json.dumps({**value, "firmware": "0" * 64}))
    fails(sgsc("rollout", file), "another image (000000000000", "remove the folder")
    report.write_text("{}")
    fails(sgsc("rollout", file), "not a report", "remove it")
