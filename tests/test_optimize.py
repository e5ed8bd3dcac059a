"""The size-speed choice: the same bytes whatever is chosen, code that is smaller or faster, and where it is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sgsc_micro import reference
from sgsc_micro.codegen import HostLibrary, to_stored, write_library
from sgsc_micro.compiler_flags import Objective, Optimize
from sgsc_micro.device import connect
from sgsc_micro.firmware import build_firmware
from sgsc_micro.passes import optimise
from sgsc_micro.targets import load_target
from tests.conftest import fails, sgsc
from tests.graphs import GraphBuilder, random_graph
from tests.tflite_networks import mobilenet

LAYERS = ["conv", "depthwise", "residual", "max_pool", "mean", "dense", "softmax"]
SHAPE = (8, 8, 3)


def test_the_same_bytes_from_smaller_and_from_faster_code(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    module = GraphBuilder(rng).build(SHAPE, LAYERS, [3, 4, 8])
    x = rng.normal(0, 2, (3, SHAPE[2], *SHAPE[:2])).astype(np.float32)
    target = load_target("qemu-m4")
    code, instructions = {}, {}
    for choice in Optimize:
        library = tmp_path / choice / "library"
        manifest = write_library(optimise(module, objective=Objective(target.instruction_set, choice)), library, "net")
        stored = to_stored(manifest, x)
        expected = reference.run_integers(module, x).reshape(len(x), -1)
        assert np.array_equal(HostLibrary(library).run(stored), expected)
        image = build_firmware(target, library, tmp_path / choice / "firmware")
        with connect(target, image) as device:
            runs = [device.run(case, row.tobytes()) for case, row in enumerate(stored)]
        assert np.array_equal(np.stack([np.frombuffer(run.output, np.int8) for run in runs]), expected)
        code[choice], instructions[choice] = image.sizes.code, runs[0].count
    assert code["size"] < code["balanced"] <= code["speed"]
    assert instructions["size"] > instructions["balanced"] >= instructions["speed"]


@pytest.mark.parametrize("seed", [3, 23])  # of 23 gcc 12 says at -O3 that an array is shorter than it is
def test_fast_code_compiles_without_a_warning(seed: int, tmp_path: Path) -> None:
    module = optimise(random_graph(seed)[0], objective=Objective("dsp", Optimize.SPEED))
    write_library(module, tmp_path / "library", "net")
    build_firmware(load_target("qemu-m4"), tmp_path / "library", tmp_path / "firmware")


def test_what_was_chosen_is_in_the_library_and_another_choice_builds_it_anew(tmp_path: Path) -> None:
    (tmp_path / "net.tflite").write_bytes(mobilenet(0, 16, 2, 2))

    def build(*options: str) -> tuple[str, dict[str, Any]]:
        done = sgsc("compile", tmp_path / "net.tflite", "--target", "host", "-o", tmp_path / "out", *options)
        assert done.exit_code == 0, done.output
        return done.stdout, json.loads((tmp_path / "out" / "library" / "manifest.json").read_text())

    _, balanced = build()
    again, _ = build("--optimize", "balanced")
    anew, size = build("--optimize", "size")
    assert (balanced["optimize"], size["optimize"]) == ("balanced", "size")
    assert "nothing to do" in again and "nothing to do" not in anew.splitlines()[0]
    assert (tmp_path / "out" / "library" / "model.c").read_text().count("#define SGSC_OPTIMIZE 0 ") == 1
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "| code favours | size |" in readme and "cc -Os " in readme


def test_a_choice_that_there_is_not_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.tflite").write_bytes(b"")
    done = sgsc("compile", tmp_path / "net.tflite", "--target", "host", "-o", tmp_path / "out", "--optimize", "fast")
    assert done.exit_code == 2 and "'fast' is not one of 'size', 'balanced', 'speed'" in done.stderr


@pytest.mark.parametrize("name", ["digits.py", "net.tflite"])
def test_a_wrong_choice_in_a_project_is_named_with_its_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "sgsc.toml").write_text(f'name = "x"\n[model]\nsource = "{name}"\n[library]\noptimize = "fast"\n')
    done = sgsc("build", "--project", tmp_path, "--target", "host")
    fails(done, "sgsc.toml:5: library.optimize", "'size', 'balanced' or 'speed'")
