"""The C library in other people's hands: the README's ten lines, CMake, the self-test."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from sgsc_micro.codegen import WARNINGS, HostLibrary, to_stored, write_library
from sgsc_micro.errors import SgscError
from sgsc_micro.passes import optimise
from tests.graphs import GraphBuilder

SHAPE = (5, 4, 3)


@pytest.fixture
def library(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A library with three embedded cases, and their inputs."""
    rng = np.random.default_rng(0)
    module = GraphBuilder(rng).build(SHAPE, ["conv", "residual", "softmax"], [8])
    x = rng.normal(0, 3, (3, SHAPE[2], *SHAPE[:2])).astype(np.float32)
    write_library(optimise(module), tmp_path / "library", "net", selftest=x)
    return tmp_path / "library", x


def _run(*command: str | Path, cwd: Path) -> str:
    finished = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def _answer_to_zeros(folder: Path) -> list[int]:
    host = HostLibrary(folder)
    return host.run(np.zeros((1, host.manifest["input"]["bytes"]), np.int8))[0].tolist()


def test_the_readmes_program_compiles_as_the_readme_says(library: tuple[Path, np.ndarray]) -> None:
    folder, _ = library
    text = (folder / "README.md").read_text(encoding="utf-8")
    program = re.search(r"```c\n(.*?)```", text, re.DOTALL)
    command = re.search(r"^    cc (.*)$", text, re.MULTILINE)
    assert program and command
    (folder / "main.c").write_text(program[1], encoding="utf-8")
    _run("cc", "-Wall", "-Wextra", "-Werror", *command[1].split(), cwd=folder)
    assert [int(line) for line in _run(folder / "main", cwd=folder).split()] == _answer_to_zeros(folder)


@pytest.mark.parametrize("taken", ["find_package(sgsc_model CONFIG REQUIRED PATHS {})", "add_subdirectory({} model)"])
def test_cmake_takes_the_library(taken: str, library: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    folder, _ = library
    project = tmp_path / "app"
    project.mkdir()
    (project / "main.c").write_text('#include "model.h"\nint main(void) { return model_selftest(); }\n')
    (project / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(app C)\n"
        f"{taken.format(folder)}\nadd_executable(app main.c)\ntarget_link_libraries(app PRIVATE sgsc::model)\n"
    )
    options = ("-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON")
    _run("cmake", "-S", project, "-B", project / "build", "-G", "Ninja", *options, cwd=project)
    _run("cmake", "--build", project / "build", cwd=project)
    _run(project / "build" / "app", cwd=project)
    commands = json.loads((project / "build" / "compile_commands.json").read_text())
    levels = {Path(c["file"]).name: re.findall(r" (-O\S+)", c["command"])[-1] for c in commands}
    assert (levels["model.c"], levels["main.c"]) == ("-O2", "-O3")
    assert all("-fno-schedule-insns" in c["command"] for c in commands if c["file"].endswith("model.c"))


def _selftest(folder: Path) -> int:
    main = folder.parent / "selftest_main.c"
    main.write_text('#include <stdio.h>\n#include "model.h"\nint main(void) { printf("%d", model_selftest()); }\n')
    sources = sorted(folder.glob("*.c"))
    _run("cc", *WARNINGS, f"-I{folder}", *sources, main, "-o", folder.parent / "selftest", cwd=folder)
    return int(_run(folder.parent / "selftest", cwd=folder))


def test_the_selftest_passes_and_sees_one_wrong_weight(library: tuple[Path, np.ndarray]) -> None:
    folder, x = library
    assert _selftest(folder) == 0
    weights = folder / "weights.c"
    text = weights.read_text(encoding="utf-8")
    first = re.search(r"0x[0-9A-F]{8}u", text)
    assert first
    weights.write_text(text.replace(first[0], f"0x{int(first[0][2:-1], 16) ^ 0x80:08X}u", 1), encoding="utf-8")
    host = HostLibrary(folder)
    stored = to_stored(host.manifest, x)
    case = re.findall(r"\.output = \{\s*(.*?)\s*\}", (folder / "selftest.c").read_text(), re.DOTALL)
    expected = [[int(value) for value in re.findall(r"-?\d+", row)] for row in case]
    changed = int((host.run(stored) != np.array(expected)).any(axis=1).sum())
    assert _selftest(folder) == changed > 0


def test_a_library_without_cases_has_no_selftest(tmp_path: Path) -> None:
    module = GraphBuilder(np.random.default_rng(1)).build(SHAPE, ["conv"], [8])
    write_library(optimise(module), tmp_path, "net")
    assert not (tmp_path / "selftest.c").exists()
    assert "selftest" not in (tmp_path / "model.h").read_text() + (tmp_path / "README.md").read_text()


def test_selftest_inputs_of_another_shape_are_an_error(tmp_path: Path) -> None:
    module = GraphBuilder(np.random.default_rng(1)).build(SHAPE, ["conv"], [8])
    with pytest.raises(SgscError, match=r"inputs have shape \[2, 7\]"):
        write_library(optimise(module), tmp_path, "net", selftest=np.zeros((2, 7), np.float32))


def test_int8_rows_may_be_flat(library: tuple[Path, np.ndarray]) -> None:
    manifest = HostLibrary(library[0]).manifest
    shaped = np.random.default_rng(2).integers(-128, 128, (4, *manifest["input"]["shape"])).astype(np.int8)
    assert np.array_equal(to_stored(manifest, shaped.reshape(4, -1)), to_stored(manifest, shaped))
    with pytest.raises(SgscError, match="inputs have shape"):
        to_stored(manifest, shaped.reshape(4, -1).astype(np.float32))
