"""One board or many, verified: what a board that is wrong, or away, says, and does to the others."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import tty
from collections.abc import Callable, Iterator
from errno import EACCES
from pathlib import Path

import pytest
import serial

from sgsc_micro.firmware import read_image
from sgsc_micro.verify import read_certificate
from tests.board import Board
from tests.conftest import fails, results, sgsc

UNUSED = 4 * (16 + 10)
"""A byte of the image that nothing reads but the checksum: the vector of interrupt 10."""
SECONDS = 15
"""How long a command may take that ends in an error."""


@pytest.fixture(scope="module")
def binary(board_build: Path) -> bytes:
    return (board_build / "firmware" / "firmware.bin").read_bytes()


def ports(boards: list[Board]) -> list[str]:
    return [word for board in boards for word in ("--port", board.port)]


def soon(started: float) -> bool:
    return time.monotonic() - started < SECONDS


def test_every_board_that_is_plugged_in_is_verified(
    board_build: Path, binary: bytes, plug: Callable[[int], list[Board]]
) -> None:
    for board in plug(2):
        board.start(binary)
    done = sgsc("verify", board_build, "--all")
    assert done.exit_code == 0, done.output
    assert "PASSED on 2 of 2" in done.stdout
    for name, result in results(board_build / "boards").items():
        certificate = read_certificate(board_build / "boards" / f"certificate-{name}.json")
        assert (certificate["verdict"], certificate["target"]["ran_on"]) == ("passed", result["port"])
        assert certificate["preservation"]["cases"] == 9
    assert set(results(board_build / "boards")) == {"S0", "S1"}


def test_boards_that_are_wrong_or_go_away_do_not_stop_the_others(
    board_build: Path, binary: bytes, plug: Callable[[int], list[Board]]
) -> None:
    good, worn, other, away, silent = plug(5)
    good.start(binary)
    flipped = bytearray(binary)
    flipped[UNUSED] ^= 4
    worn.start(bytes(flipped))
    name = binary.index(bytes.fromhex(read_image(board_build / "firmware").build_id))
    other.start(binary[:name] + bytes(20) + binary[name + 20 :])
    away.unplug_after = 300
    away.start(binary)
    started = time.monotonic()
    done = sgsc("verify", board_build, *ports([good, worn, other, away, silent]))
    assert done.exit_code == 1 and soon(started)
    assert "FAILED on 1 of 5" in done.stdout
    found = results(board_build / "boards")
    assert [result["verdict"] for result in found.values()] == ["passed", "error", "error", "error", "error"]
    for serial_number, words in (
        ("S1", "flash is corrupt"),
        ("S2", "runs other firmware"),
        ("S3", "lost"),
        ("S4", "no answer to HELLO"),
    ):
        assert words in str(found[serial_number]["reason"]) and found[serial_number]["hint"]
        assert str(found[serial_number]["reason"]) in (board_build / "boards" / "report.html").read_text()
        assert words in done.stdout
        assert not (board_build / "boards" / f"certificate-{serial_number}.json").exists()
    assert read_certificate(board_build / "boards" / "certificate-S0.json")["verdict"] == "passed"


def test_a_fleet_that_cannot_be(board_build: Path, plug: Callable[[int], list[Board]], tmp_path: Path) -> None:
    fails(sgsc("verify", board_build, "--all"), "no board is plugged in (USB 0483:374b", "--port")
    (board,) = plug(1)
    (tmp_path / "by-id").symlink_to(board.port)
    fails(sgsc("verify", board_build, *ports([board]), "--port", tmp_path / "by-id"), "named twice")
    fails(sgsc("verify", board_build, "--all", "--port", board.port), "give one of them")
    assert board.rom.received == 0


def refused(command: tuple[str | Path, ...], *words: str) -> None:
    """It ends in an error of one line that says these words, and one of what to do, in seconds."""
    started = time.monotonic()
    done = sgsc(*command)
    fails(done, *words)
    error, advice = done.stderr.splitlines()
    assert error.startswith("error: ") and advice.startswith("  try: ")
    assert soon(started)


def test_one_board_that_is_not_as_it_should_be(
    board_build: Path, binary: bytes, plug: Callable[[int], list[Board]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fault in a line. What flashing alone meets is in test_flash."""
    certificate = (board_build / "certificate.json").read_bytes()
    board, away = plug(2)
    refused(("flash", board_build), "2 boards could be the board", board.port, "--port or --probe")
    board.start(binary[:UNUSED] + bytes([binary[UNUSED] ^ 1]) + binary[UNUSED + 1 :])
    refused(("verify", board_build, "--port", board.port), "flash is corrupt", "flash")
    away.unplug_after = 300
    away.start(binary)
    refused(("verify", board_build, "--port", away.port), "lost", "still plugged in")
    refused(("verify", board_build, "--port", "/dev/ttyNONE"), "there is no such port", "doctor")

    def denied(*_: object, **__: object) -> None:
        raise serial.SerialException(EACCES, "could not open port")

    monkeypatch.setattr(serial, "Serial", denied)
    refused(("verify", board_build, "--port", board.port), "no permission", f"sudo chmod a+rw {board.port}")
    assert (board_build / "certificate.json").read_bytes() == certificate


@contextlib.contextmanager
def at_half_the_rate() -> Iterator[str]:
    """A port on which every byte of an answer is seen as a receiver at twice the rate would see it."""
    near, far = os.openpty()
    tty.setraw(far)

    def answer() -> None:
        with contextlib.suppress(OSError):
            while data := os.read(near, 4096):
                os.write(near, bytes(2 * len(data)).replace(b"\0\0", b"\xe6\x80"))

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield os.ttyname(far)
    finally:
        os.close(far)
        thread.join()
        os.close(near)


def test_a_wrong_baud_rate(board_build: Path) -> None:
    with at_half_the_rate() as port:
        refused(("verify", board_build, "--port", port), "make no frame", "115200 baud")
