"""``sgsc.toml`` as one typed, validated value. Every room takes its own table of it; unknown keys are errors."""

from __future__ import annotations

import json
import re
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sgsc_micro.compiler_flags import Optimize
from sgsc_micro.errors import SgscError
from sgsc_micro.files import data_dir, write_text
from sgsc_micro.footprint import Footprint

FILE_NAME = "sgsc.toml"
LIMITS = ("flash", "ram", "instructions")
"""What of a footprint can have a limit."""

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]

SEQUENCE_LOSS_RISE = 0.05
"""Nats a token."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TorchModel(_Table):
    """A float network to train on; paths are relative to sgsc.toml."""

    source: Path
    """A Python file with ``network()``, a torch.nn.Module, and ``data()``: splits train, calibration and test."""
    checkpoint: Path
    """The network's state_dict, as torch.save writes it."""
    train: Path | None = None
    """A script that writes the checkpoint to the path it is given; run where there is none."""


class TFLiteModel(_Table):
    """An int8 network to take as it is."""

    source: Path
    """The .tflite file."""
    data: Path
    """A Python file with ``data()``: real inputs, or int8 ones that are the model's own integers."""


class Preserve(_Table):
    """The cases that must keep working: chosen from the training side, the user's own, or both."""

    size: Count = 150
    strategy: str = "hybrid"
    seed: Count = 0
    """Of the strategy ``random``."""
    cases: Path | None = None
    """A user's own .npz of ``inputs`` [N, ...] and ``labels`` [N]."""


class Policy(_Table):
    """What a candidate may do to the preservation set, always compared with the reference."""

    max_flips: Count | None = None
    """Cases with a decision that the reference gets right and the candidate wrong. None: 0; where cases are sequences,
    of which every position is a decision, as many as the loss allows."""
    max_divergence: Positive | None = None
    """Of any output, in the outputs' own unit; none: not asked."""
    slice_tolerance: Share | None = None
    """By how much the share of right decisions of any slice may fall; none: not asked."""
    slices: dict[str, Share] = {}
    """The same for slices by name."""
    max_loss_rise: Annotated[float, Field(ge=0)] | None = None
    """Of the mean cross-entropy of a decision, in nats, outputs taken as logits. None: not asked; of sequences
    SEQUENCE_LOSS_RISE."""
    max_flip_rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Of unseen data, at 95 %: the result is the last network of the path that C shows to keep it. None: the
    last of all, and C says what its rate is."""
    min_agreement: Share | None = None
    """Share of decisions that must be the reference's, right or wrong; none: not asked."""

    def resolved(self, sequences: bool) -> Policy:
        """With the defaults that depend on what a case is."""
        if not sequences:
            return self if self.max_flips is not None else self.model_copy(update={"max_flips": 0})
        rise = SEQUENCE_LOSS_RISE if self.max_loss_rise is None else self.max_loss_rise
        return self.model_copy(update={"max_loss_rise": rise})


class Budget(_Table):
    """What is small enough: pressing ends there. None at all: as small as the guard lets it be."""

    target: str | None = None
    """Whose packing, arena and instruction set count; none: those of a Cortex-M4."""
    flash: Positive | None = None
    """Bytes of constants: packed weights, biases, shifts, tables; code is not compressed."""
    ram: Positive | None = None
    """Bytes of the arena."""
    instructions: Positive | None = None
    """Of the weighted layers, modelled, an inference: what latency depends on."""

    @property
    def limits(self) -> dict[str, float]:
        """Those that are set, by name."""
        return {name: value for name in LIMITS if (value := getattr(self, name)) is not None}

    def excess(self, footprint: Footprint) -> float:
        """How far the footprint is beyond the limits, as shares of them, summed; where there are none, its flash."""
        if not self.limits:
            return footprint.flash
        return sum(max(0.0, getattr(footprint, name) / limit - 1) for name, limit in self.limits.items())


class Library(_Table):
    """What the C library favours, and what it carries beside the network."""

    optimize: Optimize = Optimize.BALANCED
    """Code size against speed."""
    selftest: Count = 0
    """Preserved cases for ``model_selftest()``, those of the narrowest margins first."""


class Strategy(StrEnum):
    """What a channel can be."""

    BITS = "bits"
    """Of 1 to 8 learned bits; none is removed."""
    PRUNE = "prune"
    """Whole, at 8 bits, or gone."""
    HYBRID = "hybrid"
    """Of 0 to 8 learned bits; at 0 it is gone."""


class CompressionConfig(_Table):
    """How hard and how long to press. The defaults suit networks of 10 to 100 thousand weights."""

    strategy: Strategy = Strategy.HYBRID
    steps: Count = 12
    """Proposals that press on the size."""
    settle: Count = 5
    """Proposals after them, with the bits as they are, that win margins back."""
    epochs: Annotated[int, Field(ge=1)] = 5
    """Per proposal."""
    batch: Annotated[int, Field(ge=1)] = 64
    learning_rate: Positive = 2e-3
    """Of the weights; it falls to zero within every proposal."""
    bits_learning_rate: Positive = 0.05
    """Of widths and ranges."""
    scale_learning_rate: Positive = 2e-3
    """Of the logarithms of the activation scales."""
    gamma: Positive = 2.0
    """What the whole network at 8 bits costs beyond what a step aims at, in units of the task loss."""
    distillation: Share = 0.5
    """Share of the loss that asks for the reference's distribution and not for the label."""
    mixing: Share = 0.5
    """Share of another input that is mixed into one, at most; 0 for a network that does not even fit its inputs."""
    seed: Count = 0


class PostTrainingConfig(_Table):
    """How long to search where nothing is trained."""

    steps: Count = 80
    """Proposals."""
    share: Share = 0.0
    """Of the bytes at 8 bits: the search ends where no more are left; 0: it goes on until nothing can be lowered."""
    samples: Annotated[int, Field(ge=1)] = 512
    """Inputs of the training side, beside the preserved cases, that the network is rebuilt for."""


class Project(_Table):
    """What every sgsc.toml has."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    model: TorchModel | TFLiteModel
    preserve: Preserve = Preserve()
    policy: Policy = Policy()
    budget: Budget = Budget()
    compress: CompressionConfig | PostTrainingConfig
    library: Library = Library()
    folder: Path = Field(default=Path(), exclude=True)
    """Where sgsc.toml lies."""

    def path(self, relative: Path) -> Path:
        """A path of the project file, seen from where the command runs."""
        return self.folder / relative


class TorchProject(Project):
    """One whose source is a Python file."""

    model: TorchModel
    compress: CompressionConfig = CompressionConfig()


class TFLiteProject(Project):
    """One whose source is a .tflite file."""

    model: TFLiteModel
    compress: PostTrainingConfig = PostTrainingConfig()


def load_project(folder: Path) -> Project:
    """The project in ``folder``.

    Errors: ``SgscError`` where there is no sgsc.toml, or naming the key and its line.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise SgscError(
            f"{path}: not found",
            hint="`sgsc init` writes a project to start from; it needs a name, and [model] with source and checkpoint",
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SgscError(f"{path}: not UTF-8: {error}") from error
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SgscError(f"{path}: not TOML: {error}") from error
    kind = _kind(values)
    try:
        project = kind.model_validate({**values, "folder": folder})
    except ValidationError as error:
        faults = [_fault(path, text, fault, kind) for fault in error.errors()]
        raise SgscError("\n".join(faults), hint="docs/project.md lists the keys") from error
    model = project.model
    others = [model.data] if isinstance(model, TFLiteModel) else [model.train]
    for relative in (model.source, *others, project.preserve.cases):
        if relative is not None and not project.path(relative).is_file():
            raise SgscError(f"{path}: {relative} is not there", hint="paths are relative to sgsc.toml")
    return project


def name_cases(path: Path, cases: Path) -> None:
    """Make ``cases`` the ``[preserve] cases`` of the sgsc.toml at ``path``, in one line of it.

    Errors: ``SgscError`` with the line to write, where the file is laid out so that a line cannot be replaced.
    """
    text = path.read_text(encoding="utf-8")
    line, wanted = f"cases = {json.dumps(cases.as_posix())}", tomllib.loads(text)
    wanted["preserve"] = {**wanted.get("preserve", {}), "cases": cases.as_posix()}
    lines = text.splitlines()
    if at := line_of(text, ["preserve", "cases"]):
        comment = re.search(r"\s+#[^\"']*$", lines[at - 1])
        lines[at - 1] = line + (comment[0] if comment else "")
    elif at := line_of(text, ["preserve"]):
        lines.insert(at, line)
    else:
        lines += ["", "[preserve]", line]
    edited = "\n".join(lines) + "\n"
    try:
        whole = tomllib.loads(edited) == wanted
    except tomllib.TOMLDecodeError:
        whole = False
    if not whole:
        raise SgscError(f"{path}: does not name {cases} yet", hint=f"write in its [preserve]: {line}")
    write_text(path, edited)


def example_dir(name: str) -> Path:
    """The folder of an example project that ships."""
    return data_dir("examples") / name


def _kind(values: dict[str, Any]) -> type[TorchProject] | type[TFLiteProject]:
    """By the source's name: each takes keys of its own."""
    model = values.get("model")
    source = str(model.get("source", "")) if isinstance(model, dict) else ""
    return TFLiteProject if source.endswith(".tflite") else TorchProject


def _fault(path: Path, text: str, fault: Any, kind: type[Project]) -> str:
    keys = [str(key) for key in fault["loc"]]
    line = line_of(text, keys)
    place = f"{path}:{line}" if line else str(path)
    problem = fault["msg"]
    if fault["type"] == "extra_forbidden":
        problem = f"unknown key where the source is a {'.tflite' if kind is TFLiteProject else 'Python'} file"
    return f"{place}: {'.'.join(keys)}: {problem}"


def line_of(text: str, keys: list[str]) -> int | None:
    """The line, from 1, of ``table.key`` in a TOML text; None where it is not written there.

    >>> line_of("name = 'x'\\n[compress]\\ngama = 1", ["compress", "gama"])
    3
    """
    table: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[+\s*([^\]]+?)\s*\]", line):
            table = [part.strip() for part in header[1].split(".")]
            if table == keys:
                return number
        elif (key := re.match(r"\s*[\"']?([\w.-]+)[\"']?\s*=", line)) and [*table, *key[1].split(".")] == keys:
            return number
    return None
