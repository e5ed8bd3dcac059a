"""The link: the C parser against Python's, requests and their answers, ports that fail."""

from __future__ import annotations

import contextlib
import os
import random
import struct
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import serial
from hypothesis import given, settings
from hypothesis import strategies as st

from sgsc_micro.device import Device, LinkError, connect, doctor, emulate
from sgsc_micro.device.frames import DATA_MAX, PROTOCOL, Kind, decode_frame, encode_frame
from sgsc_micro.files import data_dir
from sgsc_micro.firmware import FirmwareImage, build_firmware
from sgsc_micro.targets import load_target
from tests.dummy_library import SPIN, write_library

RUNTIME = data_dir("firmware_templates") / "runtime"
FRAME_MAX = 3 + 4 + DATA_MAX + 4

ECHO = """
#include <stdio.h>
#include "link.h"
static void write_out(const uint8_t *bytes, size_t count) { fwrite(bytes, 1, count, stdout); }
int main(void)
{
    static struct link_parser parser;
    for (int byte; (byte = getchar()) != EOF;) {
        if (!link_feed(&parser, (uint8_t)byte))
            continue;
        struct link_frame frame;
        link_begin(&frame, link_kind(&parser.frame), link_sequence(&parser.frame));
        link_put(&frame, parser.frame.bytes + LINK_HEADER_BYTES, link_payload_bytes(&parser.frame));
        link_seal(&frame);
        link_send(&frame, write_out);
    }
}
"""

# Runs of one byte meet COBS's blocks of 254.
runs = st.builds(lambda byte, count: bytes([byte]) * count, st.integers(0, 1), st.integers(240, DATA_MAX + 4))
payloads = st.binary(max_size=DATA_MAX + 4) | runs
frames = st.builds(encode_frame, st.integers(0, 255), st.integers(0, 65535), payloads)
too_long = st.builds(encode_frame, st.integers(0, 255), st.just(1), st.binary(min_size=DATA_MAX + 5, max_size=800))


@st.composite
def corrupt(draw: st.DrawFn) -> bytes:
    frame = bytearray(draw(frames))
    position = draw(st.integers(0, len(frame) - 1))
    frame[position : position + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(frame)


@pytest.fixture(scope="module")
def c_echo(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], bytes]:
    """The device's own link.c, under the address and undefined-behaviour sanitizers: sends back each frame it takes."""
    folder = tmp_path_factory.mktemp("echo")
    (folder / "echo.c").write_text(ECHO)
    command = ["cc", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-I", str(RUNTIME)]
    subprocess.run([*command, str(folder / "echo.c"), str(RUNTIME / "link.c"), "-o", str(folder / "echo")], check=True)

    def run(line: bytes) -> bytes:
        result = subprocess.run([folder / "echo"], input=line, capture_output=True)
        assert result.returncode == 0, result.stderr.decode()
        return result.stdout

    return run


def frames_in(line: bytes) -> list[tuple[int, int, bytes]]:
    """Every whole frame of a size that the device takes; what follows the last delimiter is not whole."""
    decoded = map(decode_frame, line.split(b"\0")[:-1])
    return [frame for frame in decoded if frame is not None and len(frame[2]) <= DATA_MAX + 4]


@settings(max_examples=60, deadline=None)
@given(line=st.lists(frames | corrupt() | too_long | st.binary(max_size=700), max_size=12).map(b"".join))
def test_c_and_python_take_the_same_frames(c_echo: Callable[[bytes], bytes], line: bytes) -> None:
    assert frames_in(c_echo(line)) == frames_in(line)


def test_noise_never_leaves_the_buffer(c_echo: Callable[[bytes], bytes]) -> None:
    noise = random.Random(0)
    for few_zeros in (False, True):
        line = noise.randbytes(2_000_000)
        line = line.replace(b"\0", b"\1") if few_zeros else line
        assert frames_in(c_echo(line)) == frames_in(line)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> FirmwareImage:
    folder = tmp_path_factory.mktemp("link")
    return build_firmware(load_target("qemu-m4"), write_library(folder / "library").folder, folder / "firmware")


@pytest.fixture(scope="module")
def twin_port(image: FirmwareImage) -> Iterator[str]:
    board = load_target("qemu-m4").require_board()
    assert board.emulator is not None
    with emulate(board.emulator, image.binary, board.flash.origin) as port:
        yield port


def test_a_repeated_request_is_not_run_twice(twin_port: str) -> None:
    data = (SPIN + (20_000_000).to_bytes(4, "little")).ljust(40, b"\0")
    run = encode_frame(Kind.RUN, 2, struct.pack("<II", 0, zlib.crc32(data)))
    with serial.Serial(twin_port, timeout=20) as port:

        def ask(frame: bytes) -> tuple[bytes, float]:
            start = time.monotonic()
            port.write(frame)
            port.read_until(b"\0")
            return port.read_until(b"\0"), time.monotonic() - start

        ask(encode_frame(Kind.WRITE, 1, bytes(4) + data))
        first, computing = ask(run)
        again, repeating = ask(run)
    assert again == first
    assert repeating < computing / 4


@pytest.mark.parametrize(
    ("kind", "payload", "code"),
    [
        (0x33, b"", 1),
        (0x02, b"abc", 2),
        (0x03, b"", 2),
        (0x02, (39).to_bytes(4, "little") + b"ab", 3),
        (0x02, b"\xff\xff\xff\xff" + b"ab", 3),
        (0x04, (1).to_bytes(4, "little") + (40).to_bytes(4, "little"), 3),
        (0x04, bytes(4) + b"\xff\xff\xff\xff", 3),
        (0x03, b"case" + b"\0\0\0\0", 4),
    ],
)
def test_bad_requests_are_answered_with_a_code(twin_port: str, kind: int, payload: bytes, code: int) -> None:
    with serial.Serial(twin_port, timeout=5) as port:
        port.write(encode_frame(kind, 9, payload))
        port.read_until(b"\0")
        assert decode_frame(port.read_until(b"\0")[:-1]) == (0xFF, 9, bytes([code]))


@contextlib.contextmanager
def answering(*replies: tuple[int, bytes]) -> Iterator[str]:
    """A port whose first request gets these replies: (what is added to its sequence number, payload)."""
    master, slave = os.openpty()

    def answer() -> None:
        asked = b""
        while asked.count(b"\0") < 2:
            asked += os.read(master, 1)
        kind, sequence, _ = decode_frame(asked.strip(b"\0")) or (0, 0, b"")
        for late, payload in replies:
            os.write(master, encode_frame(kind | 0x80, sequence + late & 0xFFFF, payload))

    thread = threading.Thread(target=answer)
    thread.start()
    yield os.ttyname(slave)
    thread.join()
    os.close(master)
    os.close(slave)


def test_answers_to_other_requests_are_dropped() -> None:
    hello = struct.pack("<I32s20s9I", PROTOCOL, bytes(32), bytes(20), *range(9))
    with answering((-1, hello[:-1] + b"\xff"), (0, hello)) as port, Device(port) as device:
        assert device.hello().core_hz == 6


def test_firmware_of_another_version_is_named() -> None:
    first = struct.pack("<I32s20s7I", 1, bytes(32), bytes(20), *range(7))
    with answering((0, first)) as port, Device(port) as device:
        with pytest.raises(LinkError, match=r"speaks version 1 of the link, this program 2; build and flash"):
            device.hello()


def test_an_input_lost_in_the_device_is_sent_again(
    twin_port: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = write_library(tmp_path)
    data = random.Random(0).randbytes(library.size)
    overwrite = encode_frame(Kind.WRITE, 0, bytes(4) + bytes(library.size))
    with Device(twin_port) as device:
        device.hello()
        send = device._port.write
        sent = []

        def spoil_the_first_run(frame: bytes) -> None:
            decoded = decode_frame(frame.strip(b"\0"))
            sent.append(decoded and decoded[0])
            send(overwrite + frame if sent == [Kind.WRITE, Kind.RUN] else frame)

        monkeypatch.setattr(device._port, "write", spoil_the_first_run)
        assert device.run(0, data).output == library.expected(data)
    assert sent.count(Kind.RUN) == 2


def test_port_that_does_not_exist(image: FirmwareImage) -> None:
    start = time.monotonic()
    with (
        pytest.raises(LinkError, match="/dev/no-such-port: cannot be opened"),
        connect(load_target("stm32"), image, "/dev/no-such-port"),
    ):
        pass
    assert time.monotonic() - start < 1


def test_port_that_does_not_answer() -> None:
    master, slave = os.openpty()
    start = time.monotonic()
    with pytest.raises(LinkError, match="no answer to HELLO"), Device(os.ttyname(slave)) as device:
        device.hello()
    assert time.monotonic() - start < 10
    os.close(master)
    os.close(slave)


def test_machine_that_goes_away(image: FirmwareImage) -> None:
    board = load_target("qemu-m4").require_board()
    assert board.emulator is not None
    with emulate(board.emulator, image.binary, board.flash.origin) as port:
        device = Device(port, answer_seconds=2)
        device.hello()
    with device, pytest.raises(LinkError):
        device.hello()


def test_emulator_that_does_not_start_says_why(image: FirmwareImage) -> None:
    board = load_target("qemu-m4").require_board()
    assert board.emulator is not None
    wrong = board.emulator.model_copy(update={"machine": "no-such-machine"})
    with pytest.raises(LinkError, match=r"does not start: .*unsupported machine"), emulate(wrong, image.binary, 0):
        pass


def test_doctor_names_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    checks = {check.name: check for check in doctor.checks()}
    assert not checks["qemu-system-arm"].ok
    assert checks["qemu-system-arm"].hint == "sudo apt install qemu-system-arm"
