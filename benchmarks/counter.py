"""Executed instructions and modelled cycles of a firmware image on its emulated twin, exact, layer by layer.

The image is the one that a user would flash, unchanged: ``counter.c``, a plugin of QEMU, sees every instruction
executed between the entry of ``model_run`` and its return. Which layer an instruction belongs to is in the image's
debug information: the line of ``network`` that it was inlined into, or that called the function it is in. Interrupts
are not counted.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from elftools.elf.elffile import ELFFile

from sgsc_micro.codegen import WARNINGS
from sgsc_micro.device import Device, connect, emulate
from sgsc_micro.errors import SgscError
from sgsc_micro.firmware import FirmwareImage, tools
from sgsc_micro.targets import Target

PLUGIN = Path(__file__).with_suffix(".c")
BINUTILS = "arm-none-eabi-"
_SHARED, _OUTSIDE = -1, -2
_RUNTIME = ("bare_metal/", "runtime/")
"""What the firmware's own sources are called in its debug information."""
_INTERRUPTS = {"systick_handler"}
_SYSTICK_PERIOD = 1 << 24
_CALL = re.compile(r"^  (\w+)\(")
_INSTRUCTION = re.compile(r"^ *([0-9a-f]+):\t((?:[0-9a-f]{4} ?)+) *\t(\S+)(?:\t([^@;]*))?")
_FRAME_LINE = re.compile(r":(\d+)(?: \(discriminator \d+\))?$")
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
        self._lines = _lines_of_calls(library / "model.c")
        with image.elf.open("rb") as stream:
            elf = ELFFile(stream)
            symbols = [
                symbol
                for symbol in elf.get_section_by_name(".symtab").iter_symbols()
                if symbol["st_info"]["type"] == "STT_FUNC"
            ]
            self._functions = {symbol["st_value"] & ~1: (symbol.name, symbol["st_size"]) for symbol in symbols}
            self._sources = _sources(elf)

    @property
    def kernel_bytes(self) -> int:
        """Code of ``model.c``, literals included."""
        return sum(size for address, (_, size) in self._functions.items() if self._source(address).endswith("/model.c"))

    @property
    def function_bytes(self) -> dict[str, int]:
        """Code of every function, as C names it, literals included."""
        return {name.partition(".")[0]: size for name, size in self._functions.values()}

    def run(self, inputs: np.ndarray) -> list[Run]:
        """int8 ``inputs`` [N, bytes], as stored, one after another."""
        with tempfile.TemporaryDirectory(prefix="sgsc-counter-") as name, self._device(Path(name)) as device:
            results = [device.run(case, row.tobytes()) for case, row in enumerate(inputs)]
            counted = np.loadtxt(Path(name) / "out", np.int64, ndmin=2)
        assert len(counted) == len(results), "the plugin and the link disagree on how often the network ran"
        twin = self._target.require_board().emulator
        assert twin is not None
        runs = []
        for result, row in zip(results, counted, strict=True):
            network, *layers = (Count(int(i), int(c)) for i, c in row.reshape(-1, 2))
            total = Count(int(row[0::2].sum()), int(row[1::2].sum()))
            by_name = dict(zip(self._lines.values(), layers, strict=True))
            measured = round(result.count / twin.ticks_per_instruction)
            output = np.frombuffer(result.output, np.int8)
            runs.append(Run(output, total, by_name, result.count // _SYSTICK_PERIOD, measured))
        return runs

    @contextlib.contextmanager
    def _device(self, folder: Path) -> Iterator[Device]:
        """The twin with the plugin in it."""
        compiler = tools.require(tools.HOST_COMPILER)
        command = [compiler, "-std=c11", "-O2", *WARNINGS, "-shared", "-fPIC", str(PLUGIN), "-o", str(folder / "so")]
        subprocess.run(command, check=True)
        (folder / "code").write_text("".join(f"{line}\n" for line in self._code()), encoding="utf-8")
        (entry,) = (address for address, (name, _) in self._functions.items() if name == "model_run")
        plugin = f"file={folder / 'so'},entry={entry},code={folder / 'code'},out={folder / 'out'}"
        board = self._target.require_board()
        assert board.emulator is not None
        with emulate(board.emulator, self._image.binary, board.flash.origin, ("-plugin", plugin)) as port:
            with connect(self._target, self._image, port) as device:
                yield device

    def _source(self, address: int) -> str:
        """The source file that the function at ``address`` was compiled from; "" for the C library's assembly."""
        return next((name for low, high, name in self._sources if low <= address < high), "")

    def _code(self) -> Iterator[str]:
        """A line of the plugin's ``code`` for every instruction but those of interrupts."""
        handlers = [
            range(address, address + size) for address, (name, size) in self._functions.items() if name in _INTERRUPTS
        ]
        # The largest core's instructions are every core's: left to itself, objdump does not know Helium's.
        listing = _output([f"{BINUTILS}objdump", "-d", "-m", "armv8.1-m.main"], self._image)
        found = [match for match in map(_INSTRUCTION.match, listing.splitlines()) if match]
        instructions = {
            int(match[1], 16): match for match in found if not any(int(match[1], 16) in r for r in handlers)
        }
        owners = self._owners(list(instructions))
        for address, match in sorted(instructions.items()):
            size, mnemonic, operands = len(match[2].replace(" ", "")) // 2, match[3], match[4] or ""
            cost, load, transfer = _cost(mnemonic, operands)
            yield f"{address} {size} {cost} {load:d} {transfer:d} {owners[address]}"

    def _owners(self, addresses: list[int]) -> dict[int, int]:
        """What the instructions at ``addresses`` are counted for: 0 is ``network``, 1 and up are the layers."""
        numbers = {line: number for number, line in enumerate(self._lines, 1)}
        owners = {a: _OUTSIDE if self._source(a).startswith(_RUNTIME) else _SHARED for a in addresses}
        asked = "".join(f"{address:#x}\n" for address in addresses if owners[address] == _SHARED)
        text = _output([f"{BINUTILS}addr2line", "-a", "-i", "-f", "-e"], self._image, asked)
        for block in re.split(r"^0x", text, flags=re.MULTILINE)[1:]:
            address, *frames = block.splitlines()
            places = dict(zip(frames[0::2], frames[1::2], strict=True))  # by function, from the innermost outwards
            # What the compiler made without a line (a loop's bounds, the return) goes with what ran before it.
            if line := _FRAME_LINE.search(places.get("network", "")):
                owners[int(address, 16)] = numbers.get(int(line[1]), 0)
        return owners


def _output(command: list[str], image: FirmwareImage, text: str | None = None) -> str:
    tools.require(tools.CROSS_COMPILER)  # its package brings them
    return subprocess.run([*command, str(image.elf)], input=text, capture_output=True, text=True, check=True).stdout


def _lines_of_calls(model: Path) -> dict[int, str]:
    """Which layer's call stands on each line of ``network``; SgscError where that is not plain."""
    lines = model.read_text(encoding="utf-8").splitlines()
    begin = next((n for n, line in enumerate(lines) if line.startswith("static void network(")), len(lines))
    end = next((n for n in range(begin, len(lines)) if lines[n] == "}"), len(lines))
    calls = {n + 1: match[1] for n in range(begin, end) if (match := _CALL.match(lines[n]))}
    if not calls or len(set(calls.values())) < len(calls):
        raise SgscError(f"{model}: network calls {list(calls.values())}", hint="teach counter.py this form")
    return calls


def _sources(elf: ELFFile) -> list[tuple[int, int, str]]:
    """(first address, end, name) of what was compiled from each source file."""
    debug = elf.get_dwarf_info()
    names = {unit.cu_offset: unit.get_top_DIE().attributes["DW_AT_name"].value.decode() for unit in debug.iter_CUs()}
    entries = debug.get_aranges().entries
    return [(e.begin_addr, e.begin_addr + e.length, names[e.info_offset]) for e in entries]


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
