"""Bad input at the command line: one message that names the thing and what to try, exit code 1, nothing lost."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from sgsc_micro.files import locked
from sgsc_micro.firmware import read_image
from sgsc_micro.project import example_dir, line_of
from sgsc_micro.stages import run_stage
from sgsc_micro.terminal import project_folder
from tests.conftest import ROOT, build_project, edit, fails, sgsc

TINY = """
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

def data():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    inputs = rng.normal(0, 0.3, (180, 1, 4, 4)).astype(np.float32)
    for row in range(180):
        inputs[row, 0, row % 3] += 2
    parts = [SimpleNamespace(inputs=inputs[at : at + 60], labels=labels) for at in (0, 60, 120)]
    return SimpleNamespace(train=parts[0], calibration=parts[1], test=parts[2])

def network():
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
"""

RESULT = "    return SimpleNamespace(train"
"""The line of data() that gives the splits."""

TRAIN = """
import sys
import torch
from tiny import data, network
torch.manual_seed(0)
net, split = network(), data().train
x, y = torch.from_numpy(split.inputs), torch.from_numpy(split.labels)
optimizer = torch.optim.Adam(net.parameters(), 0.02)
for _ in range(60):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(net(x), y).backward()
    optimizer.step()
torch.save(net.state_dict(), sys.argv[1])
"""

TOML = """
name = "tiny"

[model]
source = "tiny.py"
checkpoint = "tiny.pt"
train = "train.py"

[preserve]
size = 12

[compress]
steps = 2
settle = 1
epochs = 2
"""


@pytest.fixture
def untrained(tmp_path: Path) -> Path:
    """A project small enough to build in seconds, without its checkpoint."""
    for name, text in (("tiny.py", TINY), ("train.py", TRAIN), ("sgsc.toml", TOML)):
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What train.py writes, trained once."""
    folder = tmp_path_factory.mktemp("trained")
    for name, text in (("tiny.py", TINY), ("train.py", TRAIN)):
        (folder / name).write_text(text)
    subprocess.run([sys.executable, "train.py", "tiny.pt"], cwd=folder, check=True)
    return folder / "tiny.pt"


@pytest.fixture
def project(untrained: Path, checkpoint: Path) -> Path:
    """The same, trained."""
    shutil.copy(checkpoint, untrained)
    return untrained


def test_a_whole_build_on_the_host(untrained: Path) -> None:
    project = untrained
    edit(project / "sgsc.toml", "[compress]", '[library]\noptimize = "speed"\n\n[compress]')
    done = build_project(project)
    assert done.exit_code == 0, done.stderr
    assert "PASSED on host" in done.stdout
    certificate = json.loads((project / "build" / "tiny-host" / "certificate.json").read_text())
    assert certificate["resources"]["optimize"] == "speed"
    assert {path.name for path in (project / "build" / "tiny-host").iterdir()} == {
        "library",
        "evidence",
        "certificate.json",
        "README.md",
        "report.html",
    }


def test_resume_goes_on_with_what_was_begun_and_starts_nothing_anew(project: Path) -> None:
    fails(build_project(project, "--until", "compress", "--resume"), "tiny: nothing to resume")
    assert build_project(project, "--until", "preserve").exit_code == 0
    assert build_project(project, "--until", "compress", "--resume").exit_code == 0  # killed before it, say
    journal = (project / "build" / "tiny" / "compress" / "journal.jsonl").read_bytes()
    edit(project / "sgsc.toml", "epochs = 2", "epochs = 1")
    changed = build_project(project, "--until", "compress", "--resume")
    fails(changed, "compress: made from other settings", "without --resume")
    assert (project / "build" / "tiny" / "compress" / "journal.jsonl").read_bytes() == journal


def test_what_a_killed_write_left_is_no_part_of_a_stage(tmp_path: Path) -> None:
    folder, partial = tmp_path / "stage", tmp_path / "stage.partial"
    kill = "import os, signal; from pathlib import Path; from sgsc_micro.files import atomic_path\n"
    kill += "with atomic_path(Path('stage.partial/state-0003.npz')) as file: file.touch(); os.kill(os.getpid(), 9)"

    def dying(place: Path) -> None:
        (place / ".kept").touch()
        subprocess.run([sys.executable, "-c", kill], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, check=False)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage(folder, {"seed": 0}, dying)
    assert any(path.name.startswith(".state-0003.") for path in partial.iterdir())  # else nothing is tested
    assert run_stage(folder, {"seed": 0}, lambda place: None)
    assert {path.name for path in folder.iterdir()} == {".kept", "stage.json"}


def test_an_unknown_target_lists_the_near_ones() -> None:
    fails(sgsc("build", "--target", "stm23"), "no target 'stm23'", "did you mean stm32")


def test_no_project_here_says_what_to_write_and_offers_init(tmp_path: Path) -> None:
    fails(sgsc("build", "--target", "host", cwd=tmp_path), "sgsc.toml: not found", "sgsc init", "checkpoint")


def test_the_checkouts_own_root_builds_the_example_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.chdir(ROOT):
        assert project_folder(None) == example_dir("digits")
    assert "building the digits example" in capsys.readouterr().out


def test_init_writes_a_project_and_never_over_one(tmp_path: Path) -> None:
    assert sgsc("init", tmp_path / "new").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["digits.py", "sgsc.toml", "train.py"]
    fails(sgsc("init", tmp_path / "new"), "there already")


def test_an_unknown_key_is_named_with_its_line(project: Path) -> None:
    edit(project / "sgsc.toml", "steps = 2", "steps = 2\ngama = 3")
    line = (project / "sgsc.toml").read_text().splitlines().index("gama = 3") + 1
    fails(build_project(project), f"sgsc.toml:{line}: compress.gama: unknown key")


@pytest.mark.parametrize(
    ("text", "keys", "line"),
    [
        ("a = 1\n[b]\nc = 2", ["b", "c"], 3),
        ("[b]\nc = 1\n[d]\nc = 2", ["d", "c"], 4),
        ("b.c = 1", ["b", "c"], 1),
        ("[ b ]\n  'c' = 1", ["b", "c"], 2),
        ("[b]", ["b"], 1),
        ("[b]\nc = 1", ["b", "d"], None),
    ],
)
def test_the_line_of_a_key(text: str, keys: list[str], line: int | None) -> None:
    assert line_of(text, keys) == line


def test_a_wrong_value_and_broken_toml_are_named(project: Path) -> None:
    edit(project / "sgsc.toml", "steps = 2", "steps = -2")
    fails(build_project(project), "compress.steps", "greater than or equal to 0")
    edit(project / "sgsc.toml", "steps = -2", "steps = ")
    fails(build_project(project), "not TOML", "line")


def test_a_layer_that_cannot_be_lowered_is_named_before_anything_is_trained(untrained: Path) -> None:
    project = untrained
    edit(project / "tiny.py", "nn.ReLU()", "nn.SiLU()")
    fails(build_project(project), "silu", "1")
    assert not (project / "tiny.pt").exists()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("    rng = ", "    raise RuntimeError('no data today')\n    rng = ", ("data() failed", "no data today")),
        ("    return nn.", "    sys.exit(3)\n    return nn.", ("network() failed",)),
        ("    return nn.", "    return 5\n    return nn.", ("network() gives int",)),
        ("nn.Linear(64, 3)", "nn.Linear(65, 3)", ("cannot be exported for inputs (1, 1, 4, 4)",)),
        (RESULT, f"    parts[1].inputs = inputs[:60, :, :3]\n{RESULT}", ("different shapes",)),
        (RESULT, f"    parts[1].inputs = np.array(['a'] * 60)\n{RESULT}", ("data().calibration", "numbers [N, ...]")),
        (RESULT, f"    parts[1] = None\n{RESULT}", ("data() has no calibration",)),
        ("import torch", "import torch\nimport nothing_of_this_name", ("nothing_of_this_name", "import cleanly")),
    ],
)  # fmt: skip
def test_a_users_file_that_fails_is_named(untrained: Path, old: str, new: str, words: tuple[str, ...]) -> None:
    edit(untrained / "tiny.py", old, new)
    if "sys." in new:
        edit(untrained / "tiny.py", "import numpy", "import sys\nimport numpy")
    fails(build_project(untrained), "tiny.py", *words)
    assert not (untrained / "tiny.pt").exists()


def test_a_training_script_that_writes_nothing_is_named(untrained: Path) -> None:
    (untrained / "train.py").write_text("")
    fails(build_project(untrained), "train.py", "wrote no checkpoint")


def test_a_changed_network_is_never_taken_for_the_old_one(project: Path) -> None:
    """The same weights, another network, in a file that the project file does not name."""
    (project / "parts").mkdir()
    (project / "parts" / "activation.py").write_text("from torch.nn import ReLU as Activation\n")
    edit(project / "tiny.py", "from torch import nn", "from torch import nn\nfrom parts.activation import Activation")
    edit(project / "tiny.py", "nn.ReLU()", "Activation()")
    assert build_project(project, "--until", "reference").exit_code == 0
    first = (project / "build" / "tiny" / "reference" / "stage.json").read_bytes()
    (project / "parts" / "activation.py").write_text("from torch.nn import ReLU6 as Activation\n")
    sys.modules.pop("parts.activation")
    assert build_project(project, "--until", "reference").exit_code == 0
    assert (project / "build" / "tiny" / "reference" / "stage.json").read_bytes() != first


def test_a_certificate_never_lies_beside_a_newer_library(project: Path) -> None:
    assert build_project(project).exit_code == 0
    edit(project / "sgsc.toml", "steps = 2", "steps = 1")
    assert build_project(project, "--until", "library").exit_code == 0
    assert not (project / "build" / "tiny-host" / "certificate.json").exists()
    assert not (project / "build" / "tiny-host" / "report.html").exists()


def test_two_builds_at_once_in_one_folder_are_refused(project: Path) -> None:
    with locked(project / "build" / "tiny"):
        fails(build_project(project), "another sgsc is at work here")


def test_a_folder_that_cannot_be_written_is_one_line(project: Path) -> None:
    (project / "file").write_text("")
    fails(sgsc("build", "--project", project, "--target", "host", "--output", project / "file"), "file")


def test_sets_that_overlap_are_refused_with_their_cases(project: Path) -> None:
    edit(project / "tiny.py", "for at in (0, 60, 120)", "for at in (0, 60, 0)")
    fails(build_project(project), "test/", "train/")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"inputs": np.zeros((0, 1, 4, 4)), "labels": np.zeros(0, int)}, ("inputs: shape (0, 1, 4, 4)",)),
        (
            {"inputs": np.zeros((3, 1, 5, 4)), "labels": np.zeros(3, int)},
            ("inputs: shape (3, 1, 5, 4)", "[N, 1, 4, 4]"),
        ),
        ({"inputs": np.full((3, 1, 4, 4), np.nan), "labels": np.zeros(3, int)}, ("NaN", "own/0")),
        ({"inputs": np.zeros((3, 1, 4, 4)), "labels": np.full(3, 7)}, ("labels: outside 0..2",)),
        ({"inputs": np.zeros((3, 1, 4, 4))}, ("labels: missing",)),
    ],
)
def test_a_users_own_set_that_is_not_right_is_refused(
    project: Path, arrays: dict[str, np.ndarray], words: tuple[str, ...]
) -> None:
    np.savez(project / "own.npz", **arrays)
    edit(project / "sgsc.toml", "size = 12", 'size = 12\ncases = "own.npz"')
    fails(build_project(project, "--until", "preserve"), "own.npz", *words)


def test_a_users_own_set_is_guarded_and_replayed(project: Path) -> None:
    rng = np.random.default_rng(5)
    inputs = rng.normal(0, 0.3, (3, 1, 4, 4)).astype(np.float32)
    inputs[np.arange(3), 0, np.arange(3)] += 2
    np.savez(project / "own.npz", inputs=inputs, labels=np.arange(3))
    edit(project / "sgsc.toml", "size = 12", 'size = 0\ncases = "own.npz"')
    done = build_project(project)
    assert done.exit_code == 0 and "P (3 cases)" in done.stdout


def test_nan_weights_and_nan_data_are_named(project: Path) -> None:
    weights = torch.load(project / "tiny.pt")
    weights["3.bias"][0] = torch.nan
    torch.save(weights, project / "tiny.pt")
    fails(build_project(project), "tiny.pt", "3.bias", "NaN")
    (project / "tiny.pt").unlink()
    edit(project / "tiny.py", "    parts = ", "    inputs[7] = np.nan\n    parts = ")
    fails(build_project(project), "data().train", "NaN", "7")


def test_a_checkpoint_of_another_network_is_named(project: Path) -> None:
    edit(project / "tiny.py", "Conv2d(1, 4, 3, padding=1)", "Conv2d(1, 4, 1)")
    fails(build_project(project), "tiny.pt", "does not fit network()")


def test_a_training_script_that_fails_shows_its_words_and_leaves_no_checkpoint(untrained: Path) -> None:
    project = untrained
    (project / "train.py").write_text("raise RuntimeError('no luck')\n")
    fails(build_project(project), "train.py", "no luck")
    assert not list(project.glob("*.pt")) and not list(project.glob(".*.pt"))


@pytest.fixture
def boards(tmp_path: Path) -> Path:
    """Boards of one's own: mine.toml, what it inherits beside it, which inherits one that ships; and a smaller one."""
    folder = tmp_path / "boards"
    folder.mkdir()
    texts = {
        "_lab": 'inherits = "nucleo-f446re"\nboard.stack_bytes = 2048\n',
        "mine": 'inherits = "_lab"\nboard.ram.bytes = 0x4000\n',
        "small": 'inherits = "mine"\nboard.flash.bytes = 2048\n',
        "lost": 'inherits = "_lob"\n',
    }
    for name, text in texts.items():
        (folder / f"{name}.toml").write_text(f'description = "Board {name}"\n{text}')
    return folder


def test_a_board_of_one_s_own_is_a_file_and_says_what_does_not_fit_it(project: Path, boards: Path) -> None:
    done = build_project(project, "--until", "firmware", target=str(boards / "mine.toml"))
    assert done.exit_code == 0, done.output
    image = read_image(project / "build" / "tiny-mine" / "firmware")
    assert image.sizes.stack == 2048 and image.sizes.ram_total <= 0x4000
    done = build_project(project, target=str(boards / "small.toml"))
    fails(done, "does not fit small: flash is", "bytes too small", "of 2,048; code", "make the code smaller")
    assert not (project / "build" / "tiny-small" / "firmware").exists()
    done = build_project(project, target=str(boards / "lost.toml"))
    fails(done, "lost.toml: inherits: no target '_lob'", "did you mean _lab")


@pytest.mark.parametrize(
    ("program", "package"), [("arm-none-eabi-gcc", "gcc-arm-none-eabi"), ("qemu-system-arm", "qemu-system-arm")]
)
def test_a_missing_program_is_named_with_its_package(
    digits: Path, tmp_path: Path, program: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("arm-none-eabi-gcc", "qemu-system-arm", "cmake", "ninja", "cc", "gcc", "as", "ld", "sh", "env"):
        found = shutil.which(name)
        if found and name != program:
            (programs / name).symlink_to(found)
    monkeypatch.setenv("PATH", str(programs))
    doctor = sgsc("doctor")
    assert doctor.exit_code == 1
    assert any(program in line and package in line and "missing" in line for line in doctor.stdout.splitlines())
    if program == "qemu-system-arm":
        fails(sgsc("verify", digits / "build" / "digits-qemu-m4", "--on", "qemu-m4"), program, package)
    else:
        folder = Path(shutil.copytree(digits, tmp_path / "digits"))
        shutil.rmtree(folder / "build" / "digits-stm32" / "firmware")
        arguments = ("--project", folder / "project", "--target", "stm32", "--output", folder / "build")
        fails(sgsc("build", *arguments, "--until", "firmware"), program, package)


def test_inputs_that_do_not_fit_are_refused_and_nothing_is_written(digits: Path, tmp_path: Path) -> None:
    build = digits / "build" / "digits-stm32"
    for inputs, word in ((np.zeros((2, 8, 8)), "shape"), (np.full((1, 1, 8, 8), np.inf), "NaN")):
        np.save(tmp_path / "x.npy", inputs)
        fails(sgsc("run", build, "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy"), word)
    (tmp_path / "x.npy").write_bytes(b"no array")
    fails(sgsc("run", build, "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy"), "x.npy")
    assert not (tmp_path / "y.npy").exists()


def test_a_killed_build_goes_on_to_the_same_bytes(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    undisturbed = Path(shutil.copytree(project, tmp_path_factory.mktemp("undisturbed") / "project"))
    edit(project / "sgsc.toml", "steps = 2", "steps = 4")
    edit(undisturbed / "sgsc.toml", "steps = 2", "steps = 4")
    assert build_project(undisturbed, "--until", "library").exit_code == 0
    command = [sys.executable, "-m", "sgsc_micro", "build", "--project", str(project), "--target", "host"]
    journal = project / "build" / "tiny" / "compress.partial" / "journal.jsonl"
    with subprocess.Popen([*command, "--output", str(project / "build")], cwd=ROOT, stdout=subprocess.DEVNULL) as build:
        until = time.monotonic() + 120
        while not (journal.exists() and journal.read_bytes().count(b"\n") >= 3):
            assert time.monotonic() < until and build.poll() is None, "the build ended before it could be killed"
            time.sleep(0.02)
        build.send_signal(signal.SIGKILL)
    assert not (project / "build" / "tiny" / "compress").exists()
    done = build_project(project, "--until", "library")
    assert done.exit_code == 0, done.stderr
    library, other = project / "build" / "tiny-host" / "library", undisturbed / "build" / "tiny-host" / "library"
    for name in ("model.c", "weights.c", "manifest.json"):
        assert (library / name).read_bytes() == (other / name).read_bytes()
    assert not (project / "build" / "tiny" / "compress.partial").exists()
