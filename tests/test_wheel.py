"""What ships: a wheel in an empty folder, outside of the checkout, has its targets, templates and example."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's own files, alone: its dependencies are those of this environment, so that no network is needed."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    install = ["-m", "pip", "install", "--no-deps", "--no-index", "--target", str(folder / "site"), str(wheel)]
    subprocess.run([sys.executable, *install], check=True, capture_output=True)
    return folder / "site"


def _run(installed: Path, folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_lists_its_targets(installed: Path, tmp_path: Path) -> None:
    where = _run(installed, tmp_path, "-c", "import sgsc_micro; print(sgsc_micro.__file__)")
    assert where.startswith(str(installed))
    assert "nucleo-f446re" in _run(installed, tmp_path, "-m", "sgsc_micro", "targets")


def test_the_wheel_compiles_its_example_to_c_and_to_firmware(installed: Path, digits: Path, tmp_path: Path) -> None:
    _run(installed, tmp_path, "-m", "sgsc_micro", "init", "example")
    shutil.copy(digits / "project" / "digits.pt", tmp_path / "example")
    settings = tmp_path / "example" / "sgsc.toml"
    settings.write_text(settings.read_text() + "\n[compress]\nsteps = 0\nsettle = 0\n")
    _run(installed, tmp_path, "-m", "sgsc_micro", "build", "--project", "example", "--target", "stm32",
         "--until", "firmware")  # fmt: skip
    assert (tmp_path / "build" / "digits-stm32" / "library" / "model.c").is_file()
    assert (tmp_path / "build" / "digits-stm32" / "firmware" / "firmware.bin").is_file()
