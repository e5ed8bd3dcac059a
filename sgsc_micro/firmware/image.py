"""A built firmware image and what it takes, read off the ELF."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterable
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import Section

from sgsc_micro.errors import SgscError
from sgsc_micro.files import sha256_bytes

ELF_NAME = "firmware.elf"
BINARY_NAME = "firmware.bin"
_BUILD_ID = ".note.gnu.build-id"
_PART = ".arena."
_WEIGHTS, _ARENA, _STACK = ".weights", ".arena", ".stack"
"""Sections that every platform's linker script makes; the others are told apart by what they are."""
_NOTE_HEADER_BYTES = 16


@dataclasses.dataclass(frozen=True)
class _Section:
    name: str
    address: int
    bytes: int
    allocated: bool
    executable: bool
    stored: bool
    """In the flash: its bytes are part of the image."""
    in_ram: bool
    """It has no bytes in the image, or they are copied elsewhere."""

    @classmethod
    def of(cls, elf: ELFFile, section: Section) -> _Section:
        """What ``elf`` says of it."""
        flags, address = section["sh_flags"], section["sh_addr"]
        stored = section["sh_type"] != "SHT_NOBITS"
        loads = (s for s in elf.iter_segments() if s["p_type"] == "PT_LOAD" and s.section_in_segment(section))
        copied = any(segment["p_paddr"] != segment["p_vaddr"] for segment in loads)
        allocated, executable = (bool(flags & bit) for bit in (SH_FLAGS.SHF_ALLOC, SH_FLAGS.SHF_EXECINSTR))
        return cls(section.name, address, section["sh_size"], allocated, executable, stored, copied or not stored)


def _total(sections: Iterable[_Section]) -> int:
    return sum(section.bytes for section in sections)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """All in bytes. Flash holds weights, code, rodata and data; RAM holds data, arena, bss and stack."""

    weights: int
    code: int
    rodata: int
    data: int
    arena: int
    """All of its parts, whatever memory they lie in."""
    bss: int
    stack: int
    flash_total: int
    """What is flashed, alignment included."""
    ram_total: int
    """From the start of RAM to the last variable, and the arena's parts elsewhere."""


@dataclasses.dataclass(frozen=True)
class FirmwareImage:
    """``binary`` is what a flasher writes at the start of flash and what the twin boots; ``elf`` has the symbols."""

    elf: Path
    binary: Path
    build_id: str
    sha256: str
    crc32: int
    sizes: Sizes
    arena_parts: dict[str, int]
    """Bytes of the arena by the memory of the board's that is for it alone."""


def read_image(folder: Path) -> FirmwareImage:
    """The image that ``build_firmware`` left in ``folder``; SgscError if it is not there or not whole."""
    elf, binary = folder / ELF_NAME, folder / BINARY_NAME
    for path in (elf, binary):
        if not path.is_file():
            raise SgscError(f"{path}: no firmware here", hint="build it first")
    content = binary.read_bytes()
    try:
        with elf.open("rb") as stream:
            elf_file = ELFFile(stream)
            sections = [_Section.of(elf_file, section) for section in elf_file.iter_sections()]
            (note,) = (section.data() for section in elf_file.iter_sections() if section.name == _BUILD_ID)
    except (ELFError, ValueError) as error:
        raise SgscError(f"{elf}: not a whole firmware image", hint="build it again") from error
    build_id = note[_NOTE_HEADER_BYTES:].hex()
    sections = [section for section in sections if section.allocated and section.bytes]
    parts = {s.name.removeprefix(_PART): s.bytes for s in sections if s.name.startswith(_PART)}
    ram = [section for section in sections if section.in_ram and not section.name.startswith(_PART)]
    sizes = Sizes(
        weights=_total(s for s in sections if s.name == _WEIGHTS),
        code=_total(s for s in sections if s.executable and not s.in_ram),
        rodata=_total(s for s in sections if not s.executable and not s.in_ram and s.name != _WEIGHTS),
        data=_total(s for s in ram if s.stored),
        arena=_total(s for s in ram if s.name == _ARENA) + sum(parts.values()),
        bss=_total(s for s in ram if not s.stored and s.name not in (_ARENA, _STACK)),
        stack=_total(s for s in ram if s.name == _STACK),
        flash_total=len(content),
        ram_total=max(s.address + s.bytes for s in ram) - min(s.address for s in ram) + sum(parts.values()),
    )
    return FirmwareImage(elf, binary, build_id, sha256_bytes(content), zlib.crc32(content), sizes, parts)
