"""Executed instructions and modelled cycles of a firmware image on its emulated twin, exact, layer by layer.

The image is the one that a user would flash, unchanged: ``counter.c`` is in the emulator (:mod:`benchmarks.plugin`).
Interrupts are not counted.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.plugin import ImageCode, plugged
from sgsc_micro.firmware import FirmwareImage
from sgsc_micro.targets import Target

PLUGIN = Path(__file__).with_suffix(".c")
_SYSTICK_PERIOD = 1 << 24
_MULTIPLE = re.compile(r"^(ldm|stm|push|pop|vldm|vstm|vpush|vpop)")
_DOUBLE = re.compile(r"^(ldrd|strd)")


@dataclass(frozen=True)
class Count:
    """Of one run, or a part of it."""

    instructions: int
    cycles: int
    """Modelled: 1 an instruction, LDR 2 (1 directly behind another load or store), LDM and STM 1 + n, LDRD and STRD
    3, a taken branch 2 more; no wait states."""


@dataclass(frozen=True)
class Run:
    """One inference."""

    output: np.ndarray
    """int8 [bytes]."""
    total: Count
    layers: dict[str, Count]
    """By name; what ``network`` itself takes to call them is in the total alone."""
    interrupts: int
    """That the firmware's own measurement took to count this run."""
    systick_instructions: int
    """What it measured: the total, the call of ``model_run``, and those interrupts."""

    @property
    def agrees(self) -> bool:
        """Whether both counts, which share nothing, can be of the same run."""
        return 0 <= self.systick_instructions - self.total.instructions <= 16 + 8 * self.interrupts


class Counter:
    """Counts runs of one image; ``library`` is the C library that it was built from."""

    def __init__(self, target: Target, image: FirmwareImage, library: Path) -> None:
        """Errors: ``SgscError`` if the library's C has another form."""
        self._target, self._image = target, image
        self._code = ImageCode(image, library)

    @property
    def kernel_bytes(self) -> int:
        """Code of ``model.c``, literals included."""
        functions = self._code.functions
        return sum(symbol.bytes for symbol in functions if self._code.source(symbol.address).endswith("/model.c"))

    def run(self, inputs: np.ndarray) -> list[Run]:
        """int8 ``inputs`` [N, bytes], as stored, one after another."""
        with tempfile.TemporaryDirectory(prefix="sgsc-counter-") as name:
            code, out = Path(name) / "code", Path(name) / "out"
            code.write_text("".join(f"{line}\n" for line in self._costs()), encoding="utf-8")
            arguments = {"entry": self._code.entry, "code": code, "out": out}
            with plugged(self._target, self._image, PLUGIN, Path(name), **arguments) as device:
                results = [device.run(case, row.tobytes()) for case, row in enumerate(inputs)]
            counted = np.loadtxt(out, np.int64, ndmin=2)
        assert len(counted) == len(results), "the plugin and the link disagree on how often the network ran"
        twin = self._target.require_board().emulator
        assert twin is not None
        runs = []
        for result, row in zip(results, counted, strict=True):
            network, *layers = (Count(int(i), int(c)) for i, c in row.reshape(-1, 2))
            total = Count(int(row[0::2].sum()), int(row[1::2].sum()))
            by_name = dict(zip(self._code.layers, layers, strict=True))
            measured = round(result.count / twin.ticks_per_instruction)
            output = np.frombuffer(result.output, np.int8)
            runs.append(Run(output, total, by_name, result.count // _SYSTICK_PERIOD, measured))
        return runs

    def _costs(self) -> Iterator[str]:
        """A line of the plugin's ``code`` for every instruction but those of interrupts."""
        for i in self._code.instructions():
            cost, load, transfer = _cost(i.mnemonic, i.operands)
            yield f"{i.address} {i.bytes} {cost} {load:d} {transfer:d} {i.owner}"


def _cost(mnemonic: str, operands: str) -> tuple[int, bool, bool]:
    """Cycles at least, whether it is a load that may take one more, whether it is a load or store."""
    if _DOUBLE.match(mnemonic):
        return 3, False, True
    if _MULTIPLE.match(mnemonic):
        registers = operands[operands.index("{") + 1 : operands.index("}")].split(",")
        return 1 + sum(map(_registers, registers)), False, True
    load = mnemonic.startswith(("ldr", "vldr"))
    return 1, load, load or mnemonic.startswith(("str", "vstr"))


def _registers(text: str) -> int:
    """How many registers an element of a list names: "r4", or "s16-s31"."""
    first, _, last = text.strip().partition("-")
    return int(last[1:]) - int(first[1:]) + 1 if last else 1
