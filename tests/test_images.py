"""A compiled network on every board: the image is whole, and runs on a twin, QEMU's or one of the chip's registers.

QEMU's twins that have all of their board's memory run more networks than this one: tests/test_kernels.py.
"""

from __future__ import annotations

import dataclasses
import struct
from typing import Any

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile

from sgsc_micro import reference
from sgsc_micro.artifacts import make_firmware, make_library
from sgsc_micro.codegen import read_manifest, to_stored
from sgsc_micro.compiler_flags import Optimize
from sgsc_micro.device import Device, connect
from sgsc_micro.errors import SgscError
from sgsc_micro.firmware import FirmwareImage, read_image
from sgsc_micro.targets import Target, list_targets
from tests.graphs import GraphBuilder
from tests.stm32_boards import BOARDS

TARGETS = [target for target in list_targets() if target.board and not target.name.startswith("qemu-")]
BODY = ["conv", "depthwise", "residual", "lookup", "max_pool", "softmax"]
MODULE = GraphBuilder(np.random.default_rng(3)).build((8, 6, 3), BODY, [2, 5, 8])
INPUTS = np.random.default_rng(4).normal(0, 3, (2, 3, 8, 6)).astype(np.float32)
CPACR = 0xE000ED88


@dataclasses.dataclass(frozen=True)
class Built:
    target: Target
    image: FirmwareImage
    manifest: dict[str, Any]


@pytest.fixture(scope="module", params=TARGETS, ids=lambda target: target.name)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Compiled as `sgsc compile` does it, every warning an error."""
    folder, target = tmp_path_factory.mktemp(request.param.name), request.param
    make_library(folder, target, "graph", {}, lambda: MODULE, Optimize.BALANCED)
    make_firmware(folder, target)
    return Built(target, read_image(folder / "firmware"), read_manifest(folder / "library"))


def assert_the_references_bytes(device: Device, manifest: dict[str, Any]) -> None:
    expected = reference.run_integers(MODULE, INPUTS).reshape(len(INPUTS), -1)
    for case, row in enumerate(to_stored(manifest, INPUTS)):
        assert np.frombuffer(device.run(case, row.tobytes()).output, np.int8).tolist() == expected[case].tolist()


def test_qemu_s_twin_gives_the_references_bytes(built: Built) -> None:
    if built.target.require_board().emulator is None:
        with pytest.raises(SgscError, match="no emulated twin"), connect(built.target, built.image):
            pass
        return
    with connect(built.target, built.image) as device:
        assert_the_references_bytes(device, built.manifest)


def test_the_image_sets_its_chip_up_and_gives_the_references_bytes(built: Built) -> None:
    """From reset, through the clocks, at full speed; what the registers then hold is in bounds all the way."""
    pytest.importorskip("unicorn", reason="unicorn is not installed")
    from tests.unicorn_board import UnicornBoard

    facts = BOARDS[built.target.name]
    board = UnicornBoard(built.target, built.image, facts)
    with Device(board) as device:
        hello = device.hello()
        assert (hello.core_hz, hello.build_id) == (facts.hz, built.image.build_id)
        assert hello.image_crc32 == built.image.crc32
        assert_the_references_bytes(device, built.manifest)
    assert board.registers.faults == []
    hard_float = "-mfloat-abi=hard" in built.target.require_board().cpu_flags
    assert board.table.model_peek(CPACR) == (0xF << 20 if hard_float else 0)


def test_sizes_are_the_manifests_and_each_part_lies_in_one_of_the_board_s_memories(built: Built) -> None:
    assert built.image.sizes.weights == built.manifest["constant_bytes"] > 0
    assert built.image.sizes.arena == built.manifest["arena_bytes"] > 0
    board = built.target.require_board()
    spans = {"flash": board.flash, "ram": board.ram} | {region.name: region for region in board.arena}
    with built.image.elf.open("rb") as stream:
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


def test_the_vectors_are_stack_reset_faults_and_the_uart_s(built: Built) -> None:
    board = built.target.require_board()
    vectors = struct.unpack_from(f"<{17 + board.defines['UART_IRQ']}I", built.image.binary.read_bytes())
    assert vectors[0] == board.ram.origin + board.stack_bytes
    flash = range(board.flash.origin, board.flash.origin + built.image.sizes.flash_total)
    for index in (1, 2, 3, 15, 16 + board.defines["UART_IRQ"]):
        assert vectors[index] % 2 == 1 and vectors[index] in flash
    with built.image.elf.open("rb") as stream:
        table = ELFFile(stream).get_section_by_name(".symtab")
        symbols = {symbol.name: symbol["st_value"] for symbol in table.iter_symbols()}
    assert vectors[-1] == symbols["uart_interrupt"] and vectors[1] == symbols["reset_handler"]
