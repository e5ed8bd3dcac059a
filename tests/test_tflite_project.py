"""`sgsc build` with a .tflite file as source: from the command line to the emulated board, and bad projects."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tflite_micro", reason="models are written with the schema of tflite-micro's package")

from sgsc_micro import preserve, reference
from sgsc_micro.codegen import library
from sgsc_micro.importers import from_tflite
from sgsc_micro.verification import read_network
from tests.bars import INPUT, write_project
from tests.conftest import build_project, edit, fails, sgsc


@pytest.fixture(scope="session")
def bars_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bars")
    write_project(folder)
    return folder


@pytest.fixture
def project(bars_project: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bars_project, tmp_path / "project"))


def test_from_the_file_to_a_certificate_on_the_emulated_board(project: Path) -> None:
    done = build_project(project, target="qemu-m4")
    assert done.exit_code == 0, done.output
    build = project / "build" / "bars-qemu-m4"
    certificate = json.loads((build / "certificate.json").read_text())
    assert certificate["verdict"] == "passed"
    assert certificate["preservation"]["negative_flips"] == certificate["preservation"]["mismatches"] == []
    resources = certificate["resources"]
    assert resources["constant_bytes"] < 0.6 * resources["start_constant_bytes"]
    evidence = build / "evidence"
    assert {"network.tflite", "changes.npz", "journal.jsonl"} < {path.name for path in evidence.iterdir()}
    cases = preserve.load(evidence / "P.npz")
    assert np.array_equal(cases.reference, reference.run(from_tflite(project / "bars.tflite"), cases.inputs))
    inputs = np.load(project / "bars.npz")["inputs"][:5]
    np.save(project / "x.npy", inputs)
    assert (
        sgsc("run", build, "--on", "qemu-m4", "--input", project / "x.npy", "--output", project / "y.npy").exit_code
        == 0
    )
    reals = ((inputs.astype(np.float64) - INPUT.zero_point) * INPUT.scale).astype(np.float32)
    assert np.array_equal(np.load(project / "y.npy"), reference.run_integers(read_network(evidence), reals))
    page = (build / "report.html").read_text()
    assert "rejected" in page and "float reference" not in page
    again = build_project(project, target="qemu-m4")
    assert again.stdout.count("nothing to do") == 6


def test_int8_inputs_are_the_models_own_integers(project: Path) -> None:
    """The same data, as int8 and as the reals they stand for, give the same preserved cases."""
    assert build_project(project, "--until", "preserve").exit_code == 0
    found = preserve.load(project / "build" / "bars" / "preserve" / "P.npz")
    with np.load(project / "bars.npz") as file:
        reals = ((file["inputs"].astype(np.float64) - INPUT.zero_point) * INPUT.scale).astype(np.float32)
        np.savez(project / "bars.npz", inputs=reals, labels=file["labels"])
    assert build_project(project, "--until", "preserve").exit_code == 0
    assert preserve.load(project / "build" / "bars" / "preserve" / "P.npz").content_hash == found.content_hash


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("steps = 8", "epochs = 3", ("compress.epochs: unknown key where the source is a .tflite file",)),
        ("steps = 8", "gamma = 1.0", ("compress.gamma: unknown key where the source is a .tflite file",)),
        ('data = "bars.py"', 'data = "bars.py"\ncheckpoint = "a.pt"', ("model.checkpoint: unknown key",)),
        ('data = "bars.py"', "", ("model.data: Field required",)),
        ('data = "bars.py"', 'data = "other.py"', ("other.py is not there",)),
        ('source = "bars.tflite"', 'source = "missing.tflite"', ("missing.tflite is not there",)),
        ("steps = 8", "steps = -1", ("compress.steps", "greater than or equal to 0")),
    ],
)
def test_a_key_that_is_wrong_or_of_another_source_is_named(
    project: Path, old: str, new: str, words: tuple[str, ...]
) -> None:
    edit(project / "sgsc.toml", old, new)
    fails(build_project(project), "sgsc.toml", *words)


def test_a_file_that_is_no_model_is_named(project: Path) -> None:
    (project / "bars.tflite").write_bytes(b"no model at all")
    fails(build_project(project), "bars.tflite")


def test_inputs_of_another_shape_are_named_with_the_models(project: Path) -> None:
    edit(project / "bars.py", 'file["inputs"][r]', 'file["inputs"][r].reshape(-1, 1, 6, 6)')
    fails(build_project(project), "bars.py", "(1, 6, 6)", "bars.tflite takes (6, 6, 1)")


def test_an_altered_change_is_refused(project: Path) -> None:
    assert build_project(project).exit_code == 0
    build = project / "build" / "bars-host"
    content = bytearray((build / "evidence" / "changes.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (build / "evidence" / "changes.npz").write_bytes(bytes(content))
    fails(sgsc("verify", build, "--on", "host"), "evidence/changes.npz: missing, added or altered")


def test_a_changed_zephyr_module_makes_the_library_again(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = shutil.copytree(library.ZEPHYR_MODULE, tmp_path / "module")
    monkeypatch.setattr(library, "ZEPHYR_MODULE", module)
    assert build_project(project, "--until", "library").exit_code == 0
    edit(module / "zephyr" / "Kconfig", "config SGSC_MODEL", "# changed\nconfig SGSC_MODEL")
    assert build_project(project, "--until", "library").exit_code == 0
    assert "# changed" in (project / "build" / "bars-host" / "library" / "zephyr" / "Kconfig").read_text()
