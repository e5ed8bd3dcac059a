"""``sgsc preserve``: what is chosen, shown, checked and added, as a person runs it."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from sgsc_micro.errors import SgscError
from sgsc_micro.preserve import load
from sgsc_micro.project import name_cases
from tests.conftest import edit, fails, sgsc

DATA = """
from types import SimpleNamespace

import numpy as np
from torch import nn

def data():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    inputs = rng.normal(0, 0.3, (180, 1, 4, 4)).astype(np.float32)
    for row in range(180):
        inputs[row, 0, row % 3] += 2
    slices = np.array(["day"] * 50 + ["night"] * 10)
    parts = [SimpleNamespace(inputs=inputs[at : at + 60], labels=labels, slices=slices) for at in (0, 60, 120)]
    return SimpleNamespace(train=parts[0], calibration=parts[1], test=parts[2])

def network():
    return nn.Sequential(nn.Conv2d(1, 3, (1, 4)), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3))
"""

WEIGHTS = """
import sys
import torch
from small import network
net = network()
with torch.no_grad():
    for parameter in net.parameters():
        parameter.zero_()
    net[0].weight[0] = 0.25
    net[3].weight[:, :3] = torch.eye(3)  # a row of the image is the class
torch.save(net.state_dict(), sys.argv[1])
"""

TOML = """name = "small"

[model]
source = "small.py"
checkpoint = "small.pt"
train = "train.py"

[preserve]
size = 12 # few
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in (("small.py", DATA), ("train.py", WEIGHTS), ("sgsc.toml", TOML)):
        (tmp_path / name).write_text(text)
    return tmp_path


def preserve(project: Path, command: str, *options: str | Path) -> Result:
    return sgsc("preserve", command, "--project", project, "--output", project / "build", *options)


def image(row: int, value: float = 2.0, noise: int = 0) -> np.ndarray:
    """Of the class ``row``, as bright as ``value``."""
    found = np.random.default_rng(noise).normal(0, 0.3, (1, 4, 4)).astype(np.float32)
    found[0, row] += value
    return found


def test_build_says_what_was_chosen_and_balances_classes_and_slices(project: Path) -> None:
    done = preserve(project, "build")
    assert done.exit_code == 0, done.output
    chosen = load(project / "build" / "small" / "preserve" / "P.npz")
    assert np.bincount(chosen.labels).tolist() == [4, 4, 4]
    assert (chosen.slices == "night").sum() == 6
    for words in ("12, hybrid", chosen.content_hash, "0: 4, 1: 4, 2: 4", "day: 6, night: 6"):
        assert words in done.stdout
    shown = sgsc("preserve", "show", project / "build" / "small")
    narrowest = chosen.ids[np.argsort(np.sort(chosen.reference)[:, -1] - np.sort(chosen.reference)[:, -2])[0]]
    assert shown.exit_code == 0 and narrowest in shown.stdout and "within" in shown.stdout
    alone = sgsc("preserve", "show", project / "build" / "small" / "preserve" / "C.npz")
    assert "60, all" in alone.stdout and "in the folder of a build alone" in alone.stdout


def test_a_class_without_cases_is_told(project: Path) -> None:
    np.savez(project / "own.npz", inputs=np.stack([image(row, noise=row) for row in (0, 0, 0, 1)]), labels=[0, 0, 0, 1])
    edit(project / "sgsc.toml", "size = 12", 'size = 0\ncases = "own.npz"')
    done = preserve(project, "build")
    assert "few or no cases of classes 1 (1), 2 (0)" in done.stdout
    assert "few or no cases of slices day (0), night (0)" in done.stdout


def test_check_passes_warns_of_conflicts_and_names_a_build_that_rests_on_another_set(project: Path) -> None:
    edit(project / "small.py", "    slices =", "    inputs[5], labels[5] = inputs[0] + 0.01, 2\n    slices =")
    done = preserve(project, "check")
    assert done.exit_code == 0, done.output
    assert "train/0 = train/5" in done.stdout and "ok: 12 cases" in done.stdout
    evidence = project / "build" / "small-host" / "evidence"
    evidence.mkdir(parents=True)
    (evidence / "P.npz").write_bytes((project / "build" / "small" / "preserve" / "C.npz").read_bytes())
    fails(preserve(project, "check"), "small-host", "rests on the set", "build the project again")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("labels = np.arange(60) % 3", "labels = (np.arange(60) + 1) % 3", ("wrong in 60 of 60", "100%", "train/0")),
        ("labels = np.arange(60) % 3", "labels = np.arange(60) % 4", ("labels: outside 0..2", "train/3")),
        ("for at in (0, 60, 120)", "for at in (0, 60, 60)", ("C overlaps T", "calibration/0 = test/0")),
        ("slices=slices)", "slices=slices[:5])", ("data().train: slices (5,)",)),
        ("slices=slices)", "weights=np.zeros(60))", ("data().train: weights not above 0 in rows [0, 1",)),
    ],
)
def test_bad_data_ends_a_check_with_its_cases(project: Path, old: str, new: str, words: tuple[str, ...]) -> None:
    edit(project / "small.py", old, new)
    fails(preserve(project, "check"), *words)


def test_a_preserved_set_that_the_reference_gets_wrong_is_refused(project: Path) -> None:
    np.savez(project / "own.npz", inputs=np.stack([image(row, noise=row) for row in (0, 1, 2)]), labels=[1, 2, 2])
    edit(project / "sgsc.toml", "size = 12", 'size = 0\ncases = "own.npz"')
    fails(preserve(project, "build"), "P: the reference is wrong in 2 of 3 cases", "cases/own/0, cases/own/1")


def test_update_proposes_the_odd_ones_and_writes_a_new_version(project: Path) -> None:
    odd = image(1, 20.0, noise=7) + image(0, 19.0, noise=7)  # far from all, and nearly class 0
    np.savez(project / "field.npz", inputs=np.stack([image(2, noise=8), odd, odd + 0.01, image(0, noise=9)]))
    assert preserve(project, "build").exit_code == 0
    before = load(project / "build" / "small" / "preserve" / "P.npz")
    text = (project / "sgsc.toml").read_text()
    options = ("--from", project / "field.npz", "--count", "1")
    refused = sgsc("preserve", "update", "--project", project, "--output", project / "build", *options)
    assert (project / "sgsc.toml").read_text() == text and not (project / "preserve").exists(), refused.output
    done = preserve(project, "update", *options, "--yes", "--reason", "seen on site")
    assert done.exit_code == 0, done.output
    assert "field/field/1" in done.stdout and "1 nearly repeat another" in done.stdout
    assert "labels are the reference's" in done.stdout
    with np.load(project / "preserve" / "cases-v2.npz") as file:
        assert file["ids"].tolist() == ["field/field/1"] and file["labels"].tolist() == [1]
        (entry,) = json.loads(str(file["history"]))
    assert entry["parent"] == before.content_hash and entry["reason"] == "seen on site" and entry["version"] == 2
    after = tomllib.loads((project / "sgsc.toml").read_text())
    assert after["preserve"] == {"size": 12, "cases": "preserve/cases-v2.npz"}
    assert "size = 12 # few" in (project / "sgsc.toml").read_text()

    again = preserve(project, "build")
    now = load(project / "build" / "small" / "preserve" / "P.npz")
    assert "field/field/1" in now.ids and now.content_hash != before.content_hash and "version    2" in again.stdout
    assert preserve(project, "update", "--from", project / "field.npz", "--yes").exit_code == 0
    third = load(project / "build" / "small" / "preserve" / "P.npz")
    assert third.content_hash == now.content_hash  # until the next build
    assert (project / "preserve" / "cases-v2.npz").exists()
    with np.load(project / "preserve" / "cases-v3.npz") as file:
        assert file["ids"].tolist()[0] == "field/field/1" and len(file["ids"]) == 3
        assert [entry["version"] for entry in json.loads(str(file["history"]))] == [2, 3]


def test_field_data_that_is_known_or_broken_changes_nothing(project: Path) -> None:
    assert preserve(project, "build").exit_code == 0
    test = load(project / "build" / "small" / "preserve" / "T.npz")
    for arrays, words in (
        ({"inputs": test.inputs[:3]}, ("nothing to propose", "3 nearly in T already")),
        ({"inputs": np.zeros((2, 1, 4, 5))}, ("field.npz: inputs: shape (2, 1, 4, 5)",)),
        ({"inputs": np.full((2, 1, 4, 4), np.nan)}, ("field.npz: inputs: NaN",)),
        (
            {"inputs": np.stack([image(0, 30)]), "labels": [2]},
            ("nothing to propose", "1 the reference"),
        ),
        ({"inputs": np.stack([image(0, 30)]), "labels": [7]}, ("field.npz: labels: outside 0..2",)),
        ({"images": np.zeros(3)}, ("field.npz: inputs: missing",)),
    ):
        np.savez(project / "field.npz", **arrays)
        fails(preserve(project, "update", "--from", project / "field.npz", "--yes"), *words)
    (project / "field.npz").write_bytes(b"")
    fails(preserve(project, "update", "--from", project / "field.npz", "--yes"), "field.npz: cannot be read")
    assert "cases" not in (project / "sgsc.toml").read_text() and not (project / "preserve").exists()


@pytest.mark.parametrize(
    "text",
    [
        'name = "x"\n',
        "[preserve]\nsize = 3\n[policy]\nmax_flips = 1\n",
        '[preserve]\ncases = "a.npz" # mine\nsize = 3\n',
        'preserve.cases = "a.npz"\n',
    ],
)
def test_only_the_line_of_the_cases_changes(tmp_path: Path, text: str) -> None:
    path = tmp_path / "sgsc.toml"
    path.write_text(text)
    wanted = tomllib.loads(text)
    wanted.setdefault("preserve", {})["cases"] = "b.npz"
    try:
        name_cases(path, Path("b.npz"))
    except SgscError as error:  # not laid out in lines of a table: told what to write, and left as it was
        assert "preserve.cases" in text and 'cases = "b.npz"' in error.hint and path.read_text() == text
        return
    assert tomllib.loads(path.read_text()) == wanted
    assert ("# mine" in text) == ("# mine" in path.read_text())


def test_grad_cam_needs_a_convolution(project: Path) -> None:
    edit(project / "sgsc.toml", "size = 12", 'size = 12\nstrategy = "grad_cam"')
    done = preserve(project, "build")
    assert done.exit_code == 0 and "12, grad_cam" in done.stdout, done.output
    edit(
        project / "small.py",
        "nn.Sequential(nn.Conv2d(1, 3, (1, 4)), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3))",
        "nn.Sequential(nn.Flatten(), nn.Linear(16, 3))",
    )
    (project / "small.pt").unlink()
    edit(
        project / "train.py",
        "    net[0].weight[0] = 0.25\n    net[3].weight[:, :3] = torch.eye(3)",
        "    net[1].weight[:, :12] = torch.eye(3).repeat_interleave(4, 1)",
    )
    fails(preserve(project, "build"), "strategy 'grad_cam' needs a torch network with a convolution")
