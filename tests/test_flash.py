"""Flashing, from a build to firmware that answers: the boot ROM's twin, QEMU booting what was written, each failure."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import subprocess
import threading
import time
import tty
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from errno import EACCES
from pathlib import Path

import pytest
import serial
from hypothesis import given, settings
from hypothesis import strategies as st
from serial.tools import list_ports
from serial.tools.list_ports_common import ListPortInfo

from sgsc_micro.artifacts import LIBRARY, make_firmware
from sgsc_micro.device import Device, LinkError, connect
from sgsc_micro.device.boards import Site
from sgsc_micro.device.flash import FlashError, boot_rom, flash
from sgsc_micro.device.flash.base import Job
from sgsc_micro.device.flash.boot_rom import BootRomFlasher
from sgsc_micro.firmware import FirmwareImage, build_firmware
from sgsc_micro.stages import run_stage
from sgsc_micro.targets import Flashers, Stm32Loader, Target, load_target
from tests.board import Board
from tests.boot_rom import ORIGIN, SIZE, BootRom
from tests.conftest import fails, sgsc
from tests.dummy_library import DummyLibrary, write_library

pytest.importorskip("stm32loader", reason="stm32loader is not installed")

SETTINGS = Stm32Loader(chip_id=0x421, family="F4", parity="none")  # a pty has no parity


def on_pty(target: Target) -> Target:
    """The same target, flashed through a boot ROM on a pty."""
    return target.model_copy(
        update={"board": target.require_board().model_copy(update={"flashers": Flashers(stm32loader=SETTINGS)})}
    )


TARGET = on_pty(load_target("nucleo-f446re"))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> DummyLibrary:
    return write_library(tmp_path_factory.mktemp("library"), weights=301)


@pytest.fixture(scope="module")
def image(library: DummyLibrary, tmp_path_factory: pytest.TempPathFactory) -> FirmwareImage:
    return build_firmware(TARGET, library.folder, tmp_path_factory.mktemp("built") / "firmware")


@pytest.fixture(autouse=True, scope="module")
def _short_waits() -> Iterator[None]:
    """A pty answers at once; how long one waits for silence changes nothing that is tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boot_rom, "ANSWER_SECONDS", 0.3)
        patch.setattr(boot_rom, "ERASE_SECONDS", 0.3)
        patch.setattr(boot_rom, "SYNC_SECONDS", 0.1)
        assert Device.__init__.__kwdefaults__["answer_seconds"]
        patch.setitem(Device.__init__.__kwdefaults__, "answer_seconds", 2.0)
        yield


@pytest.fixture
def board() -> Iterator[Board]:
    with Board(TARGET) as board:
        yield board


def write(board: Board, image: FirmwareImage) -> None:
    """The image alone, without a look at what then runs."""
    BootRomFlasher(SETTINGS).write(Job(image, ORIGIN, SIZE, Site(board.port)), lambda text: None)


@pytest.fixture(scope="module")
def session(image: FirmwareImage) -> BootRom:
    """A boot ROM after one flashing: what it received and did."""
    with Board(TARGET) as board:
        board.boots_after_go = False
        write(board, image)
        return board.rom


def test_what_was_written_boots_and_answers_over_the_same_port(
    board: Board, image: FirmwareImage, library: DummyLibrary
) -> None:
    hello = flash(TARGET, image, Site(board.port))
    content = image.binary.read_bytes()
    assert board.flash[: len(content)] == content
    assert set(board.flash[len(content) :]) == {0xFF}
    assert board.rom.started == ORIGIN and board.boots == 1
    assert (hello.build_id, hello.image_crc32) == (image.build_id, zlib.crc32(content))
    with connect(TARGET, image, board.port) as device:
        data = random.Random(1).randbytes(library.size)
        assert device.run(0, data).output == library.expected(data)


def test_the_vector_table_is_written_once_and_last(session: BootRom, image: FirmwareImage) -> None:
    """Until then a reset with BOOT0 low finds nothing to start."""
    erase, *writes = session.actions
    size = image.binary.stat().st_size
    assert size > 512 and erase.offset is None  # at least two blocks, or nothing is tested
    assert [action.offset for action in writes] == [*range(256, size, 256), 0]


def cuts(session: BootRom) -> st.SearchStrategy[int]:
    """Any byte, and more often than by chance those that start an erase or a write."""
    return st.integers(1, session.received) | st.sampled_from([action.at for action in session.actions])


@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_power_cut_at_any_byte_then_flashing_again(image: FirmwareImage, session: BootRom, data: st.DataObject) -> None:
    check_a_power_cut(image, session, data)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_power_cuts_at_many_bytes(image: FirmwareImage, session: BootRom, data: st.DataObject) -> None:
    check_a_power_cut(image, session, data)


def check_a_power_cut(image: FirmwareImage, session: BootRom, data: st.DataObject) -> None:
    content = image.binary.read_bytes()
    with Board(TARGET) as board:
        board.boots_after_go = False
        if same_before := data.draw(st.booleans()):
            board.flash[: len(content)] = content
        board.rom.cut_at = data.draw(cuts(session))
        with pytest.raises(FlashError):
            write(board, image)
        done = board.rom.actions
        erased = any(action.offset is None and action.whole for action in done)
        first = [action for action in done if action.offset == 0]
        if erased and not first:  # nothing that a core could start
            assert board.flash[:256] == b"\xff" * 256
        if board.flash[: len(content)] == content:
            assert first or (same_before and not done)
        board.reset(boot0=True)
        write(board, image)
        assert board.flash[: len(content)] == content


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_never_writes_another_image(image: FirmwareImage, session: BootRom, data: st.DataObject) -> None:
    """And flashing again needs no reset: what the boot ROM still waits for is got over with."""
    content = image.binary.read_bytes()
    with Board(TARGET) as board:
        board.boots_after_go = False
        place = data.draw(st.integers(2, session.received))  # a first byte that is wrong leaves it deaf until a reset
        board.rom.spoil = {place: 1 << data.draw(st.integers(0, 7))}
        try:
            write(board, image)
        except FlashError:
            write(board, image)
        assert board.flash[: len(content)] == content and board.rom.started == ORIGIN


def test_what_a_killed_program_left_on_its_way_is_answered_to_nobody(
    image: FirmwareImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Board(TARGET) as board:
        board.boots_after_go = False
        rom, feed = board.rom, board.rom.feed

        def slow(byte: int) -> bytes:
            time.sleep(0.002 if rom.received < 300 else 0)
            return feed(byte)

        monkeypatch.setattr(rom, "feed", slow)
        with serial.Serial(board.port) as port:
            port.write(b"\x7f" + bytes(300))  # 150 times nonsense, each answered while the next program knocks
        write(board, image)
        assert rom.started == ORIGIN


def test_half_written_images_boot_and_are_not_taken_for_good(image: FirmwareImage, session: BootRom) -> None:
    """Boards that held the same image, cut off while it was erased, between two blocks, and inside of the first."""
    content = image.binary.read_bytes()
    (erase,) = (action.at for action in session.actions if action.offset is None)
    (first,) = (action.at for action in session.actions if action.offset == 0)

    def outcome(cut: int) -> str:
        with Board(TARGET) as board:
            board.flash[: len(content)] = content
            board.rom.cut_at = cut
            with pytest.raises(FlashError):
                write(board, image)
            assert board.flash[: len(content)] != content
            board.reset(boot0=False)
            with pytest.raises(LinkError) as error, connect(TARGET, image, board.port):
                pass
            return error.value.message

    with ThreadPoolExecutor() as pool:
        said = list(pool.map(outcome, (erase, session.received // 3, first)))
    assert all("no answer" in text or "corrupt" in text or "crashed" in text for text in said), said


def refused(board: Board, image: FirmwareImage, *words: str, target: Target = TARGET) -> None:
    """Flashing ends in an error of one line that says these words, and something to do."""
    before, started = bytes(board.flash), time.monotonic()
    with pytest.raises(FlashError) as error:
        flash(target, image, Site(board.port))
    assert "\n" not in str(error.value) and error.value.hint
    assert time.monotonic() < started + 10
    for word in words:
        assert word in str(error.value)
    assert board.flash == before


def test_a_chip_in_no_boot_rom(board: Board, image: FirmwareImage) -> None:
    board.rom.feed(0)  # the rate it then believes in is none of ours
    refused(board, image, board.port, "does not answer", "BOOT0 high")


def test_firmware_that_runs_is_no_boot_rom(board: Board, image: FirmwareImage) -> None:
    flash(TARGET, image, Site(board.port))
    refused(board, image, board.port, "does not answer", "BOOT0 high")


def test_read_out_protection_is_named_and_left_alone(board: Board, image: FirmwareImage) -> None:
    board.rom.protected = True
    refused(board, image, "read-out protection is on", "erases the chip", "--unprotect")
    assert board.rom.protected


def test_another_chip(image: FirmwareImage) -> None:
    with Board(TARGET, chip_id=0x413) as board:
        refused(board, image, "0x413, not a 0x421")


def test_a_smaller_chip_of_the_family(image: FirmwareImage) -> None:
    with Board(TARGET, kib=2) as board:
        refused(board, image, "this chip's flash has 2,048")


def test_an_image_too_large_for_the_target(board: Board, image: FirmwareImage) -> None:
    large = dataclasses.replace(image, sizes=dataclasses.replace(image.sizes, flash_total=SIZE + 1))
    refused(board, large, "524,289 bytes", "has 524,288")


def test_a_port_that_another_program_holds(board: Board, image: FirmwareImage) -> None:
    with serial.Serial(board.port, exclusive=True):
        refused(board, image, board.port, "in use by another program")


def test_no_permission_on_the_port(board: Board, image: FirmwareImage, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> None:
        raise serial.SerialException(EACCES, "could not open port")

    monkeypatch.setattr(serial, "Serial", denied)
    refused(board, image, board.port, "no permission", f"sudo chmod a+rw {board.port}")


def test_what_answers_is_no_boot_rom(image: FirmwareImage) -> None:
    near, far = os.openpty()
    tty.setraw(far)
    echo = threading.Thread(target=lambda: [os.write(near, bytes(len(os.read(near, 999)))) for _ in range(5)])
    echo.start()
    with pytest.raises(FlashError, match=r"answers 0x00, as no boot ROM does.*baud rate"):
        flash(TARGET, image, Site(os.ttyname(far)))
    echo.join()
    os.close(near)
    os.close(far)


def test_unplugged_in_mid_run(board: Board, image: FirmwareImage, session: BootRom) -> None:
    board.unplug_at = session.received // 2
    with pytest.raises(FlashError, match="still plugged in"):
        flash(TARGET, image, Site(board.port))


@pytest.mark.skipif(shutil.which("stm32flash") is None, reason="stm32flash is not installed")
def test_another_program_finds_the_twin_a_boot_rom(board: Board, image: FirmwareImage) -> None:
    """stm32flash, written by others: the twin is what AN3155 describes, not what stm32loader believes."""
    command = ["stm32flash", "-m", "8n1", "-w", str(image.binary), "-v", "-g", "0x08000000", board.port]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    with connect(TARGET, image, board.port) as device:
        assert device.hello().build_id == image.build_id


@pytest.fixture(scope="module")
def build(library: DummyLibrary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `sgsc compile` leaves it, as far as flashing looks."""
    folder = tmp_path_factory.mktemp("build")
    run_stage(folder / LIBRARY, {}, lambda partial: shutil.copytree(library.folder, partial, dirs_exist_ok=True))
    make_firmware(folder, TARGET)
    return folder


def test_the_command_flashes_the_only_board_there_is(
    board: Board, build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = ListPortInfo(board.port)
    info.vid, info.pid, info.serial_number = 0x0483, 0x374B, "066BFF"
    monkeypatch.setattr(list_ports, "comports", lambda: [info])
    done = sgsc("flash", build)
    assert done.exit_code == 0, done.stderr
    assert f"{board.port} (066BFF) runs" in done.stdout and "next: sgsc verify" in done.stdout
    content = (build / "firmware" / "firmware.bin").read_bytes()
    assert board.flash[: len(content)] == content
    board.rom.protected = True
    board.reset(boot0=True)
    fails(sgsc("flash", build, "--port", board.port), board.port, "read-out protection", "try: ")
    (build / "firmware" / "firmware.bin").write_bytes(content + b"\0")
    fails(sgsc("flash", build), "missing, added or altered")
    fails(sgsc("flash", build.parent), "no build here")
