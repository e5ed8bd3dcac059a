"""A built firmware image and what it takes, read off the ELF."""

from __future__ import annotations

import dataclasses
import zlib
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from sgsc_micro.errors import SgscError
from sgsc_micro.files import sha256_bytes

ELF_NAME = "firmware.elf"
BINARY_NAME = "firmware.bin"
_BUILD_ID = ".note.gnu.build-id"
_PART = ".arena."
_NOTE_HEADER_BYTES = 16


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
            sections = {section.name: section for section in ELFFile(stream).iter_sections()}
            note = sections[_BUILD_ID].data()
    except (ELFError, KeyError) as error:
        raise SgscError(f"{elf}: not a whole firmware image", hint="build it again") from error
    build_id = note[_NOTE_HEADER_BYTES:].hex()
    parts = {name.removeprefix(_PART): int(s["sh_size"]) for name, s in sections.items() if name.startswith(_PART)}
    size = {name: int(section["sh_size"]) for name, section in sections.items()}
    sizes = Sizes(
        weights=size.get(".weights", 0),
        code=size[".text"],
        rodata=size.get(".rodata", 0) + size[_BUILD_ID],
        data=size.get(".data", 0),
        arena=size.get(".arena", 0) + sum(parts.values()),
        bss=size[".bss"],
        stack=size[".stack"],
        flash_total=len(content),
        # The stack lies first in RAM and .bss last: see link.ld.j2.
        ram_total=sections[".bss"]["sh_addr"] + size[".bss"] - sections[".stack"]["sh_addr"] + sum(parts.values()),
    )
    return FirmwareImage(elf, binary, build_id, sha256_bytes(content), zlib.crc32(content), sizes, parts)
