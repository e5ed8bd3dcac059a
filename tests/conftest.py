"""What several test files share: one real build of the digits example, and small projects to break."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from torch import nn

from sgsc_micro.cli import main
from sgsc_micro.preserve import CaseSet
from sgsc_micro.project import example_dir
from tests.small import make_task

ROOT = Path(__file__).resolve().parent.parent


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


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the digits project and ``build/``, where it was built for both targets, really."""
    folder = tmp_path_factory.mktemp("digits")
    shutil.copytree(example_dir("digits"), folder / "project", ignore=shutil.ignore_patterns("*.pt", "__pycache__"))
    for target in ("qemu-m4", "stm32"):
        built = sgsc("build", "--project", folder / "project", "--target", target, "--output", folder / "build")
        assert built.exit_code == 0, built.output
        (folder / f"{target}.txt").write_text(built.stdout, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def task() -> tuple[nn.Module, np.ndarray, np.ndarray, CaseSet]:
    """A trained network, 90 noisy bars of 3 directions, and 12 preserved cases."""
    return make_task()
