"""Firmware: what is built is what runs, on every emulated twin; its sizes are exact; what does not fit says why."""

from __future__ import annotations

import dataclasses
import random
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from sgsc_micro.device import Device, LinkError, RunResult, connect, emulate
from sgsc_micro.errors import SgscError
from sgsc_micro.files import data_dir
from sgsc_micro.firmware import FirmwareImage, build_firmware, read_image
from sgsc_micro.targets import Target, list_targets, load_target
from tests.dummy_library import CRASH, OVERFLOW, SPIN, UNALIGNED, DummyLibrary, write_library

TWINS = [target for target in list_targets() if target.board and target.board.emulator]


@dataclasses.dataclass(frozen=True)
class Built:
    target: Target
    image: FirmwareImage
    library: DummyLibrary


@pytest.fixture(scope="module", params=TWINS, ids=lambda target: target.name)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp(request.param.name)
    library = write_library(folder / "library")
    return Built(request.param, build_firmware(request.param, library.folder, folder / "firmware"), library)


@pytest.fixture(scope="module")
def device(built: Built) -> Iterator[Device]:
    with connect(built.target, built.image) as device:
        yield device


def padded(start: bytes, library: DummyLibrary) -> bytes:
    return start.ljust(library.size, b"\0")


def test_hello_says_what_was_built(built: Built, device: Device) -> None:
    hello = device.hello()
    assert hello.model_hash == built.library.model_hash
    assert hello.build_id == built.image.build_id
    assert hello.image_crc32 == zlib.crc32(built.image.binary.read_bytes()) == built.image.crc32
    assert hello.image_bytes == built.image.sizes.flash_total
    assert (hello.input_bytes, hello.output_bytes) == (built.library.size, built.library.size)
    assert (hello.arena_bytes, hello.stack_bytes) == (built.image.sizes.arena, built.image.sizes.stack)


def test_sections_are_the_arrays_to_the_byte(built: Built) -> None:
    sizes = built.image.sizes
    assert sizes.weights == built.library.weights
    assert sizes.arena == built.library.arena
    board = built.target.require_board()
    assert sizes.stack == board.stack_bytes
    padding = sizes.flash_total - (sizes.code + sizes.rodata + sizes.weights + sizes.data)
    assert 0 <= padding < 16
    assert 0 <= sizes.ram_total - (sizes.stack + sizes.data + sizes.arena + sizes.bss) < 32


def test_every_output_byte_over_random_cases(built: Built, device: Device) -> None:
    for case in range(200):
        data = random.Random(case).randbytes(built.library.size)
        assert device.run(case, data).output == built.library.expected(data)


def test_counts_are_instructions_to_the_digit(built: Built, device: Device) -> None:
    def spin(times: int) -> RunResult:  # two instructions each time
        (result,) = {device.run(0, padded(SPIN + times.to_bytes(4, "little"), built.library)) for _ in range(4)}
        return result

    base = spin(1)
    assert base.unit == "instructions"
    assert 0 < base.stack_bytes < 256
    for times in (2, 3, 4, 7, 500, 100_000):
        assert spin(times).count - base.count == 2 * (times - 1)
    # Longer than SysTick's 24 bits: each overflow adds its interrupt, a few instructions in millions.
    assert 0 < spin(5_000_000).count - base.count - 2 * 4_999_999 < 200


def test_crash_is_named_and_the_next_case_runs(built: Built) -> None:
    with connect(built.target, built.image) as device:
        with pytest.raises(LinkError, match=r"crashed \(exception 3, pc 0x"):
            device.run(1, padded(CRASH, built.library))
        data = padded(b"fine", built.library)
        assert device.run(2, data).output == built.library.expected(data)


def test_an_unaligned_load_faults_on_the_core_that_has_none(built: Built) -> None:
    """So that what an M0 cannot do does not pass on its twin."""
    data = padded(UNALIGNED, built.library)
    with connect(built.target, built.image) as device:
        if built.target.name == "qemu-m0":
            with pytest.raises(LinkError, match=r"crashed \(exception 3"):
                device.run(0, data)
        else:
            assert device.run(0, data).output == built.library.expected(data)


def test_stack_overflow_is_named(built: Built) -> None:
    with connect(built.target, built.image) as device, pytest.raises(LinkError, match="stack overflow"):
        device.run(1, padded(OVERFLOW, built.library))


def test_inputs_longer_than_a_frame(tmp_path: Path) -> None:
    target = load_target("stm32")
    library = write_library(tmp_path / "library", size=1100, arena=1100)
    with connect(target, build_firmware(target, library.folder, tmp_path / "firmware")) as device:
        for case in range(3):
            data = random.Random(case).randbytes(library.size)
            assert device.run(case, data).output == library.expected(data)


def test_an_image_too_large_for_a_small_twin_is_refused(tmp_path: Path) -> None:
    """The Blue Pill has 20 kB of RAM, QEMU's STM32F100 8."""
    target = load_target("bluepill-f103")
    library = write_library(tmp_path / "library", arena=4000)
    image = build_firmware(target, library.folder, tmp_path / "firmware")
    with pytest.raises(SgscError, match=r"takes 8,\d{3} bytes of RAM, .* stm32vldiscovery, has 8,192"):
        with connect(target, image):
            pass


def test_an_image_may_lie_in_a_folder_with_a_comma(built: Built, tmp_path: Path) -> None:
    """QEMU takes a comma for the end of an option."""
    board = built.target.require_board()
    assert board.emulator is not None
    folder = tmp_path / "one, two"
    folder.mkdir()
    shutil.copy(built.image.binary, folder / "firmware.bin")
    with emulate(board.emulator, folder / "firmware.bin", board.flash.origin) as port:
        with connect(built.target, built.image, port) as device:
            assert device.hello().build_id == built.image.build_id


def test_input_of_the_wrong_size_is_refused(device: Device) -> None:
    with pytest.raises(LinkError, match="takes 40 bytes of input, not 3"):
        device.run(0, b"abc")


def test_other_firmware_and_corrupt_flash_are_told_apart(built: Built, tmp_path: Path) -> None:
    board = built.target.require_board()
    assert board.emulator is not None
    corrupt = bytearray(built.image.binary.read_bytes())
    corrupt[corrupt.index(built.library.values[:100])] ^= 1
    (tmp_path / "corrupt.bin").write_bytes(corrupt)
    with emulate(board.emulator, tmp_path / "corrupt.bin", board.flash.origin) as port:
        with pytest.raises(LinkError, match="weights in flash are damaged"), connect(built.target, built.image, port):
            pass
        other = dataclasses.replace(built.image, build_id="0" * 40)
        with pytest.raises(LinkError, match="runs other firmware"), connect(built.target, other, port):
            pass


def test_same_sources_same_bytes_wherever_they_lie(built: Built, tmp_path: Path) -> None:
    library = write_library(tmp_path / "elsewhere" / "deeper")
    again = build_firmware(built.target, library.folder, tmp_path / "out")
    assert again.binary.read_bytes() == built.image.binary.read_bytes()
    for folder in (data_dir("firmware_templates"), tmp_path):
        assert bytes(folder) not in again.elf.read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("sizes", "complaint"),
    [
        ({"weights": 600_000}, r"flash is \d\d,\d{3} bytes too small .*; weights 600,016, .* make the weights smaller"),
        ({"arena": 140_000}, r"RAM is \d\d,\d{3} bytes too small .*; arena 140,000, .* make the arena smaller"),
    ],
)
def test_what_does_not_fit_says_by_how_much_and_why(tmp_path: Path, sizes: dict[str, int], complaint: str) -> None:
    library = write_library(tmp_path / "library", **sizes)
    with pytest.raises(SgscError, match=complaint):
        build_firmware(load_target("stm32"), library.folder, tmp_path / "firmware")
    assert not (tmp_path / "firmware").exists()


def test_code_that_does_not_compile_shows_the_compiler_s_words(tmp_path: Path) -> None:
    library = write_library(tmp_path / "library")
    (library.folder / "model.c").write_text("void model_run(void) { nonsense; }\n")
    with pytest.raises(SgscError, match="'nonsense' undeclared"):
        build_firmware(load_target("qemu-m4"), library.folder, tmp_path / "firmware")


def test_missing_parts_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = write_library(tmp_path / "library")
    with pytest.raises(SgscError, match="host has no firmware"):
        build_firmware(load_target("host"), library.folder, tmp_path / "firmware")
    with pytest.raises(SgscError, match="no firmware here"):
        read_image(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SgscError, match="apt install gcc-arm-none-eabi"):
        build_firmware(load_target("qemu-m4"), library.folder, tmp_path / "firmware")
    (library.folder / "weights.c").unlink()
    with pytest.raises(SgscError, match=r"weights\.c: not there"):
        build_firmware(load_target("qemu-m4"), library.folder, tmp_path / "firmware")
