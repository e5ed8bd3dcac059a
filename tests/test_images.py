"""A compiled network on every board: the image is whole, and runs where the board has a twin.

Twins that have all of their board's memory run more networks than this one: tests/test_kernels.py.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile

from sgsc_micro import reference
from sgsc_micro.artifacts import make_firmware, make_library
from sgsc_micro.codegen import read_manifest, to_stored
from sgsc_micro.compiler_flags import Optimize
from sgsc_micro.device import connect
from sgsc_micro.errors import SgscError
from sgsc_micro.firmware import FirmwareImage, read_image
from sgsc_micro.targets import Target, list_targets
from tests.graphs import GraphBuilder

BOARDS = [target for target in list_targets() if target.board and not target.name.startswith("qemu-")]
BODY = ["conv", "depthwise", "residual", "lookup", "max_pool", "softmax"]
MODULE = GraphBuilder(np.random.default_rng(3)).build((8, 6, 3), BODY, [2, 5, 8])


@pytest.mark.parametrize("target", BOARDS, ids=lambda target: target.name)
def test_a_network_on_every_board(target: Target, tmp_path: Path) -> None:
    make_library(tmp_path, target, "graph", {}, lambda: MODULE, Optimize.BALANCED)
    make_firmware(tmp_path, target)  # every warning is an error
    manifest, image = read_manifest(tmp_path / "library"), read_image(tmp_path / "firmware")
    assert image.sizes.weights == manifest["constant_bytes"] > 0
    assert image.sizes.arena == manifest["arena_bytes"] > 0
    check_memories(target, image)
    check_vectors(target, image)
    if target.require_board().emulator is None:
        with pytest.raises(SgscError, match="no emulated twin"), connect(target, image):
            pass
        return
    x = np.random.default_rng(4).normal(0, 3, (2, 3, 8, 6)).astype(np.float32)
    expected = reference.run_integers(MODULE, x).reshape(2, -1)
    with connect(target, image) as device:
        for case, row in enumerate(to_stored(manifest, x)):
            assert np.frombuffer(device.run(case, row.tobytes()).output, np.int8).tolist() == expected[case].tolist()


def check_memories(target: Target, image: FirmwareImage) -> None:
    """Each part of the image lies in one of the board's memories; one for the arena alone is filled first."""
    board = target.require_board()
    spans = {"flash": board.flash, "ram": board.ram} | {region.name: region for region in board.arena}
    with image.elf.open("rb") as stream:
        placed = {
            section.name: next(
                name
                for name, memory in spans.items()
                if memory.origin <= section["sh_addr"]
                and section["sh_addr"] + section["sh_size"] <= memory.origin + memory.bytes
            )
            for section in ELFFile(stream).iter_sections()
            if section["sh_flags"] & 2 and section["sh_size"]  # SHF_ALLOC
        }
    arena = f".arena.{board.arena[0].name}" if board.arena else ".arena"
    assert placed[arena] == (board.arena[0].name if board.arena else "ram")
    assert (placed[".text"], placed[".weights"], placed[".stack"]) == ("flash", "flash", "ram")


def check_vectors(target: Target, image: FirmwareImage) -> None:
    """Stack, reset, faults and the UART's interrupt."""
    board = target.require_board()
    vectors = struct.unpack_from(f"<{17 + board.defines['UART_IRQ']}I", image.binary.read_bytes())
    assert vectors[0] == board.ram.origin + board.stack_bytes
    flash = range(board.flash.origin, board.flash.origin + image.sizes.flash_total)
    for index in (1, 2, 3, 15, 16 + board.defines["UART_IRQ"]):
        assert vectors[index] % 2 == 1 and vectors[index] in flash
    with image.elf.open("rb") as stream:
        table = ELFFile(stream).get_section_by_name(".symtab")
        symbols = {symbol.name: symbol["st_value"] for symbol in table.iter_symbols()}
    assert vectors[-1] == symbols["uart_interrupt"] and vectors[1] == symbols["reset_handler"]
