"""Executed instructions of the micro-kernels of weighted layers: a model fitted to counts on emulated cores.

``kernels/costs.json`` ships with the package, written by ``benchmarks/tune.py``. For each block of output pixels and
each group of channels a layer's rows are widened (``widen``: a + b * taps), their sums taken where fields are offset
binary (``sum``: a + b * pairs), and a micro-kernel called (``call``). Each head is ``head``, and each block of channels
behind it ``blocks``, a + b * words by shape and field width; without weights ``none``; in several planes all of theirs,
and ``planes``, a + b * planes, which is below 0: results are stored once. ``code`` is the bytes of the dot products.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from sgsc_micro.compiler_flags import Optimize
from sgsc_micro.errors import SgscError

COSTS = Path(__file__).parent / "kernels" / "costs.json"

Line = tuple[float, float]
"""a and b of a + b * x."""


@dataclass(frozen=True)
class Shape:
    """Of a micro-kernel: rows and channels of a block, the field widths it knows, whether the channels share lanes."""

    rows: int
    channels: int
    fields: tuple[int, ...]
    shared: bool = False


_ALL = (1, 2, 3, 4, 5, 6, 8)
SHAPES = {
    "4x2": Shape(4, 2, (1, 2, 8), shared=True),
    "4x1": Shape(4, 1, _ALL),
    "1x4s": Shape(1, 4, (1, 2, 4, 8), shared=True),
    "1x4": Shape(1, 4, _ALL),
    "1x1": Shape(1, 1, _ALL),
}
"""By the name that the dot products end with in C."""
PLANES = "planes"
"""What stands for sums of several planes among the shapes."""


class Costs(BaseModel):
    """What one instruction set takes, compiled for one goal; by shape, or by rows at once."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    blocks: dict[str, dict[int, Line]]
    none: dict[str, float]
    planes: dict[str, Line]
    call: dict[int, float]
    head: dict[int, float]
    sum: dict[int, Line]
    widen: dict[int, Line]
    code: dict[str, dict[int, int]]

    def block(self, shape: str, planes: Sequence[tuple[int, int]]) -> float:
        """One block of channels, its results stored: of planes of (field width, words of a channel)."""
        if not planes:
            return self.none[shape]
        each = sum(at(self.blocks[shape][bits], words) for bits, words in planes)
        return each if len(planes) == 1 else each + at(self.planes[shape], len(planes))


class _Set(BaseModel):
    model_config = ConfigDict(extra="forbid")
    core: str
    goals: dict[Optimize, Costs]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")
    compiler: str
    instruction_sets: dict[str, _Set]


def at(line: Line, x: float) -> float:
    """The line's value."""
    return line[0] + line[1] * x


@cache
def costs_of(instruction_set: str, optimize: Optimize, path: Path = COSTS) -> Costs:
    """The model. Errors: ``SgscError`` where the file is broken, or knows no such instruction set."""
    try:
        sets = _File.model_validate_json(path.read_text(encoding="utf-8")).instruction_sets
        return sets[instruction_set].goals[optimize]
    except (OSError, ValidationError, KeyError) as error:
        raise SgscError(f"{path}: no costs of {instruction_set}, {optimize}: {error}", hint="make tune") from error
