"""A flipped bit in the network's constants: the firmware finds it at boot and when asked, and the host names it."""

from __future__ import annotations

import random
import re
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile

from sgsc_micro.codegen import write_library
from sgsc_micro.device import Device, LinkError, connect, emulate
from sgsc_micro.firmware import FirmwareImage, build_firmware
from sgsc_micro.passes import optimise
from sgsc_micro.targets import load_target
from tests import dummy_library
from tests.graphs import GraphBuilder, random_graph
from tests.host_device import HostDevice
from tests.simulated_line import SimulatedLine

DAMAGED = r"the network's weights in (its )?flash (are )?damaged"


@pytest.fixture
def device(tmp_path: Path) -> HostDevice:
    return HostDevice(dummy_library.write_library(tmp_path))


def answer(device: HostDevice, host: Device) -> bool:
    """Whether a case comes out right. Errors: ``LinkError``."""
    data = random.Random(0).randbytes(device.library.size)
    return host.run(0, data).output == device.library.expected(data)


def test_damage_before_boot_is_found_and_nothing_runs(device: HostDevice) -> None:
    draw = random.Random(0)
    for place in [0, device.library.weights - 1, *draw.sample(range(device.library.weights), 20)]:
        bit = 1 << draw.randrange(8)
        device.flip(place, bit)
        device.reset(0)
        host = Device(SimulatedLine(device))
        hello = host.hello()
        assert hello.weights_built_crc32 == zlib.crc32(device.library.constants)
        assert hello.weights_crc32 != hello.weights_built_crc32
        with pytest.raises(LinkError, match=DAMAGED + r" \(error 5\); flash the firmware again"):
            answer(device, host)
        assert device.runs == 0
        device.flip(place, bit)
    device.reset(0)
    assert answer(device, Device(SimulatedLine(device)))


def test_damage_after_boot_is_found_when_asked_and_stays_found(device: HostDevice) -> None:
    host = Device(SimulatedLine(device))
    assert answer(device, host)
    for bits in (0x10, 0x10):  # flash that reads wrong, and then right again, is not to be trusted
        device.flip(700, bits)
        hello = host.hello()
        assert hello.weights_crc32 != hello.weights_built_crc32
        with pytest.raises(LinkError, match=DAMAGED):
            answer(device, host)
    device.reset(0)
    assert answer(device, host)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> FirmwareImage:
    folder = tmp_path_factory.mktemp("weights")
    library = dummy_library.write_library(folder / "library")
    return build_firmware(load_target("qemu-m4"), library.folder, folder / "firmware")


def _weights(elf: Path) -> bytes:
    with elf.open("rb") as stream:
        return bytes(ELFFile(stream).get_section_by_name(".weights").data())


def _flipped(image: FirmwareImage, folder: Path, place: Callable[[bytes], int]) -> Path:
    content = bytearray(image.binary.read_bytes())
    content[place(bytes(content))] ^= 4
    (folder / "flipped.bin").write_bytes(content)
    return folder / "flipped.bin"


def test_an_emulated_core_finds_a_flipped_weight(image: FirmwareImage, tmp_path: Path) -> None:
    target = load_target("qemu-m4")
    board = target.require_board()
    assert board.emulator is not None
    weights = _weights(image.elf)
    with connect(target, image) as device:
        hello = device.hello()
        assert hello.weights_crc32 == hello.weights_built_crc32 == zlib.crc32(weights)
    flipped = _flipped(image, tmp_path, lambda content: content.index(weights) + len(weights) // 2)
    with emulate(board.emulator, flipped, board.flash.origin) as port:
        complaint = rf"build {image.build_id[:12]}: {DAMAGED} .*; flash {re.escape(str(image.binary))} again"
        with pytest.raises(LinkError, match=complaint), connect(target, image, port):
            pass
        with Device(port) as device, pytest.raises(LinkError, match=DAMAGED):
            device.run(0, bytes(40))


def test_damage_elsewhere_is_told_from_that_of_the_weights(image: FirmwareImage, tmp_path: Path) -> None:
    target = load_target("qemu-m4")
    board = target.require_board()
    assert board.emulator is not None
    flipped = _flipped(image, tmp_path, lambda content: 4 * 12)  # the vector of a debug monitor that nobody calls
    with emulate(board.emulator, flipped, board.flash.origin) as port:
        with pytest.raises(LinkError, match="the flash is corrupt"), connect(target, image, port):
            pass


@pytest.mark.parametrize("seed", range(3))
def test_a_library_knows_the_checksum_of_its_constants(seed: int, tmp_path: Path) -> None:
    module, _ = random_graph(seed)
    write_library(optimise(module), tmp_path, "net")
    _check_checksum(tmp_path)


def test_constants_of_every_width_are_in_the_checksum(tmp_path: Path) -> None:
    """And so is the padding at their end."""
    module = GraphBuilder(np.random.default_rng(3)).build((5, 4, 3), ["conv", "residual", "softmax"], [3, 8])
    write_library(optimise(module), tmp_path, "net")
    _check_checksum(tmp_path)


def _check_checksum(folder: Path) -> None:
    """model.h against the bytes that a compiler for the core makes of weights.c."""
    made = folder / "weights.o"
    subprocess.run(["arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb", "-fdata-sections", "-c", folder / "weights.c",
                    "-o", made], check=True)  # fmt: skip
    with made.open("rb") as stream:
        data = ELFFile(stream).get_section_by_name(".rodata.model_constants").data()
    named = dict(re.findall(r"#define MODEL_(CONSTANT_\w+) (\w+)", (folder / "model.h").read_text(encoding="utf-8")))
    assert int(named["CONSTANT_BYTES"]) == len(data)
    assert named["CONSTANT_CRC32"] == f"0x{zlib.crc32(data):08X}u"
