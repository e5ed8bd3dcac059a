"""A firmware image under a plugin of QEMU, and which layer each of its instructions belongs to.

The image is the one that a user would flash, unchanged: the plugin sees every instruction executed between the entry of
``model_run`` and its return. Which layer an instruction belongs to is in the image's debug information: the line of
``network`` that it was inlined into, or that called the function it is in. Interrupts belong to none.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from elftools.elf.elffile import ELFFile

from sgsc_micro.codegen import WARNINGS
from sgsc_micro.device import Device, connect, emulate
from sgsc_micro.errors import SgscError
from sgsc_micro.firmware import FirmwareImage, tools
from sgsc_micro.targets import Target

BINUTILS = "arm-none-eabi-"
SHARED, OUTSIDE = -1, -2
"""Owners: of what belongs to the layer that ran before it; of what ends a run."""
_RUNTIME = ("bare_metal/", "runtime/")
"""What the firmware's own sources are called in its debug information."""
_INTERRUPTS = {"systick_handler"}
_CALL = re.compile(r"^  (\w+)\(")
_INSTRUCTION = re.compile(r"^ *([0-9a-f]+):\t((?:[0-9a-f]{4} ?)+) *\t(\S+)(?:\t([^@;]*))?")
_FRAME_LINE = re.compile(r":(\d+)(?: \(discriminator \d+\))?$")


@dataclass(frozen=True)
class Symbol:
    """A function or an object of an image."""

    name: str
    kind: str
    """``STT_FUNC`` or ``STT_OBJECT``."""
    section: str
    address: int
    bytes: int


@dataclass(frozen=True)
class Instruction:
    """As objdump shows it; ``owner`` is 0 for ``network``, 1 and up for its layers in order, or one of the above."""

    address: int
    bytes: int
    mnemonic: str
    operands: str
    owner: int


class ImageCode:
    """What an image consists of; ``library`` is the C library that it was built from."""

    def __init__(self, image: FirmwareImage, library: Path) -> None:
        """Errors: ``SgscError`` if the library's C has another form."""
        self._image = image
        self._lines = _lines_of_calls(library / "model.c")
        with image.elf.open("rb") as stream:
            elf = ELFFile(stream)
            self.sections = {s.name: range(s["sh_addr"], s["sh_addr"] + s["sh_size"]) for s in elf.iter_sections()}
            self.symbols = _symbols(elf)
            self._sources = _sources(elf)

    @property
    def layers(self) -> list[str]:
        """In the order in which they are called: owners 1 and up."""
        return list(self._lines.values())

    @property
    def functions(self) -> list[Symbol]:
        """All of the image."""
        return [symbol for symbol in self.symbols if symbol.kind == "STT_FUNC"]

    @property
    def entry(self) -> int:
        """Where ``model_run`` begins."""
        (entry,) = (symbol.address for symbol in self.functions if symbol.name == "model_run")
        return entry

    def source(self, address: int) -> str:
        """The source file that the function at ``address`` was compiled from; "" for the C library's assembly."""
        return next((name for low, high, name in self._sources if low <= address < high), "")

    def instructions(self) -> list[Instruction]:
        """All but those of interrupts, by ascending address."""
        handlers = [range(s.address, s.address + s.bytes) for s in self.functions if s.name in _INTERRUPTS]
        # The largest core's instructions are every core's: left to itself, objdump does not know Helium's.
        listing = _output([f"{BINUTILS}objdump", "-d", "-m", "armv8.1-m.main"], self._image)
        found = {int(match[1], 16): match for match in map(_INSTRUCTION.match, listing.splitlines()) if match}
        addresses = [address for address in sorted(found) if not any(address in handler for handler in handlers)]
        owners = self._owners(addresses)
        return [
            Instruction(a, len(match[2].replace(" ", "")) // 2, match[3], match[4] or "", owners[a])
            for a, match in ((address, found[address]) for address in addresses)
        ]

    def _owners(self, addresses: list[int]) -> dict[int, int]:
        """What the instructions at ``addresses`` are counted for: 0 is ``network``, 1 and up are the layers."""
        numbers = {line: number for number, line in enumerate(self._lines, 1)}
        owners = {a: OUTSIDE if self.source(a).startswith(_RUNTIME) else SHARED for a in addresses}
        asked = "".join(f"{address:#x}\n" for address in addresses if owners[address] == SHARED)
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
        raise SgscError(f"{model}: network calls {list(calls.values())}", hint="teach plugin.py this form")
    return calls


def _sources(elf: ELFFile) -> list[tuple[int, int, str]]:
    """(first address, end, name) of what was compiled from each source file."""
    debug = elf.get_dwarf_info()
    names = {unit.cu_offset: unit.get_top_DIE().attributes["DW_AT_name"].value.decode() for unit in debug.iter_CUs()}
    entries = debug.get_aranges().entries
    return [(e.begin_addr, e.begin_addr + e.length, names[e.info_offset]) for e in entries]


def _symbols(elf: ELFFile) -> list[Symbol]:
    """Functions and objects; without the bit of Thumb."""
    found = []
    for symbol in elf.get_section_by_name(".symtab").iter_symbols():
        kind, section = symbol["st_info"]["type"], symbol["st_shndx"]
        if kind in ("STT_FUNC", "STT_OBJECT"):
            address = symbol["st_value"] & ~1 if kind == "STT_FUNC" else symbol["st_value"]
            found.append(Symbol(symbol.name, kind, elf.get_section(section).name, address, symbol["st_size"]))
    return found


@contextlib.contextmanager
def plugged(target: Target, image: FirmwareImage, plugin: Path, folder: Path, **arguments: object) -> Iterator[Device]:
    """The image's emulated twin with ``plugin``, a source file, in it; ``folder`` takes what is compiled."""
    command = [tools.require(tools.HOST_COMPILER), "-std=c11", "-O2", *WARNINGS, "-shared", "-fPIC"]
    subprocess.run([*command, f"-I{Path(__file__).parent}", str(plugin), "-o", str(folder / "so")], check=True)
    option = ",".join([f"file={folder / 'so'}", *(f"{name}={value}" for name, value in arguments.items())])
    board = target.require_board()
    assert board.emulator is not None
    with emulate(board.emulator, image.binary, board.flash.origin, ("-plugin", option)) as port:
        with connect(target, image, port) as device:
            yield device
