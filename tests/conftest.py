"""What several test files share: one real build of the digits example, and small projects to break."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from filelock import FileLock
from serial.tools import list_ports
from serial.tools.list_ports_common import ListPortInfo
from torch import nn

from sgsc_micro.artifacts import built_for
from sgsc_micro.cli import main
from sgsc_micro.device import Device
from sgsc_micro.device.flash import boot_rom
from sgsc_micro.preserve import CaseSet
from sgsc_micro.project import example_dir
from tests.board import Board
from tests.small import make_task

ROOT = Path(__file__).resolve().parent.parent
TARGETS = ("qemu-m4", "stm32")


def sgsc(*arguments: str | Path, cwd: Path = ROOT) -> Result:
    """Run the command line as a user does, in this process: torch and TVM are loaded once."""
    with contextlib.chdir(cwd):
        return CliRunner().invoke(main, [str(argument) for argument in arguments])


def build_project(project: Path, *options: str, target: str = "host") -> Result:
    """Build a project folder into its own ``build/``."""
    return sgsc("build", "--project", project, "--target", target, "--output", project / "build", *options)


def edit(path: Path, old: str, new: str) -> None:
    """Replace what has to be in a file."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def fails(done: Result, *words: str) -> None:
    """A command ended in an error that says all these words."""
    assert done.exit_code == 1, done.output
    assert isinstance(done.exception, SystemExit)  # not a traceback
    for word in words:
        assert word in done.stderr, done.stderr


def results(folder: Path) -> dict[str, dict[str, object]]:
    """What the report in ``folder`` says of every board."""
    stages = json.loads((folder / "report.json").read_text())["stages"]
    return {board["board"]: board for stage in stages for board in stage["boards"]}


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder with a copy of the digits project and ``build/``, where it was built for both targets, really: by the
    worker that needs it first, for all of them."""
    own = tmp_path_factory.getbasetemp()
    folder = (own if worker_id == "master" else own.parent) / "digits"
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            shutil.copytree(
                example_dir("digits"), folder / "project", ignore=shutil.ignore_patterns("*.pt", "__pycache__")
            )
            for target in TARGETS:
                built = sgsc("build", "--project", folder / "project", "--target", target, "--output", folder / "build")
                (folder / f"{target}.txt").write_text(built.output, encoding="utf-8")
    for target in TARGETS:
        output = (folder / f"{target}.txt").read_text(encoding="utf-8")
        assert "PASSED" in output, output
    return folder


BOARD = """
description = "A NUCLEO on a pty, which has no parity"
inherits = "nucleo-f446re"
board.flashers.stm32loader.parity = "none"
"""


@pytest.fixture(scope="session")
def board_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished build of a small network for a board on a pty, 9 cases to preserve."""
    pytest.importorskip("tflite_micro", reason="models are written with the schema of tflite-micro's package")
    from tests.bars import write_project

    folder = tmp_path_factory.mktemp("bars")
    write_project(folder)
    edit(folder / "sgsc.toml", "size = 30", "size = 9")
    edit(folder / "sgsc.toml", "steps = 8", "steps = 0")
    (folder / "board.toml").write_text(BOARD)
    done = build_project(folder, target=str(folder / "board.toml"))
    assert done.exit_code == 0, done.output
    return folder / "build" / "bars-board"


@pytest.fixture
def plug(board_build: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], list[Board]]]:
    """Plugs so many boards in, in their boot ROM, under the serial numbers S0, S1, ..."""
    plugged: list[ListPortInfo] = []
    monkeypatch.setattr(list_ports, "comports", lambda: plugged)
    for name, seconds in (("ANSWER_SECONDS", 0.5), ("ERASE_SECONDS", 0.5), ("SYNC_SECONDS", 0.2)):
        monkeypatch.setattr(boot_rom, name, seconds)  # nobody is as slow here as the limits allow for
    monkeypatch.setitem(Device.__init__.__kwdefaults__, "answer_seconds", 2.0)
    with contextlib.ExitStack() as stack:

        def plug(count: int) -> list[Board]:
            made = [stack.enter_context(Board(built_for(board_build))) for _ in range(count)]
            for number, board in enumerate(made):
                info = ListPortInfo(board.port)
                info.vid, info.pid, info.serial_number = 0x0483, 0x374B, f"S{number}"
                plugged.append(info)
            return made

        yield plug


@pytest.fixture(scope="session")
def task() -> tuple[nn.Module, np.ndarray, np.ndarray, CaseSet]:
    """A trained network, 90 noisy bars of 3 directions, and 12 preserved cases."""
    return make_task()
