"""`sgsc monitor`: what changes in a running device is found in the round it must be, named, and in the log."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sgsc_micro.device import Device, LinkError, connect
from sgsc_micro.errors import SgscError
from sgsc_micro.firmware import FirmwareImage, Sizes, build_firmware
from sgsc_micro.monitor import Log, Monitor, Schedule
from sgsc_micro.targets import load_target
from tests.conftest import fails, sgsc
from tests.dummy_library import DummyLibrary, write_library
from tests.host_device import IMAGE, HostDevice
from tests.simulated_line import SimulatedLine

CASES = 7
FLASHED = FirmwareImage(  # what host_device.c says of itself
    Path("firmware.elf"), Path("firmware.bin"), IMAGE[:20].hex(), "sha", zlib.crc32(IMAGE), Sizes(*[0] * 9), {}
)


def watching(device: Device, image: FirmwareImage, library: DummyLibrary, folder: Path) -> Monitor:
    inputs = [random.Random(case).randbytes(library.size) for case in range(CASES)]
    stored, expected = (
        np.array([np.frombuffer(row, np.int8) for row in rows])
        for rows in (inputs, [library.expected(data) for data in inputs])
    )
    return Monitor(device, image, np.arange(CASES), stored, expected, Log(folder / "log"))


@pytest.fixture
def host(tmp_path: Path) -> tuple[HostDevice, Monitor]:
    device = HostDevice(write_library(tmp_path / "library"))
    return device, watching(Device(SimulatedLine(device)), FLASHED, device.library, tmp_path)


def watch(monitor: Monitor, times: int, before: Callable[[int], None] = lambda number: None) -> list[dict[str, Any]]:
    """The log of ``times`` rounds of three cases; ``before`` is called in the pause before each but the first."""
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        before(len(pauses) + 1)

    try:
        with monitor.log.failures():
            monitor.run(Schedule(60, times, 3), lambda passed: None, pause)
    finally:
        for number, seconds in enumerate(pauses, 1):
            assert 60 * number - 30 < seconds <= 60 * number  # no time passes but this
    return logged(monitor.log.path)


def logged(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_case_has_its_turn(host: tuple[HostDevice, Monitor]) -> None:
    device, monitor = host
    lines = watch(monitor, 5)
    assert [line["event"] for line in lines] == ["start", *["passed"] * 5, "end"]
    assert [line["cases"] for line in lines[1:-1]] == [[0, 1, 2], [3, 4, 5], [6, 0, 1], [2, 3, 4], [5, 6, 0]]
    assert device.runs == 15


def test_a_weight_that_flips_between_two_rounds_is_found_in_the_next(host: tuple[HostDevice, Monitor]) -> None:
    device, monitor = host

    def damage(number: int) -> None:
        if number == 3:
            device.flip(1000, 0x20)  # a weight that no output depends on

    with pytest.raises(LinkError, match=r"build 010203000000: the network's weights in flash are damaged"):
        watch(monitor, 9, damage)
    *passed, last = logged(monitor.log.path)
    assert [line["round"] for line in passed] == [0, 1, 2]
    assert (last["event"], last["round"]) == ("failed", 3)
    assert "weights in flash" in last["error"] and last["hint"] == "flash firmware.bin again"
    assert device.runs == 6


def test_a_weight_that_flips_in_mid_round_is_named_and_not_called_drift(
    host: tuple[HostDevice, Monitor], monkeypatch: pytest.MonkeyPatch
) -> None:
    device, monitor = host
    run = Device.run

    def damaging(self: Device, case: int, data: bytes) -> Any:
        if device.runs == 4:
            device.flip(8 + 6 + 5, 1)  # of output byte 5
        return run(self, case, data)

    monkeypatch.setattr(Device, "run", damaging)
    with pytest.raises(LinkError, match="weights in flash are damaged"):
        watch(monitor, 9)
    assert logged(monitor.log.path)[-1]["round"] == 2


def test_an_answer_that_drifts_is_named_when_its_turn_comes(host: tuple[HostDevice, Monitor]) -> None:
    _, monitor = host
    monitor.expected[6, 39] ^= 1
    with pytest.raises(SgscError, match=r"the device drifts: 1 of 3 cases are not bit-exact: 6; .*suspect RAM"):
        watch(monitor, 9)
    assert [line["event"] for line in logged(monitor.log.path)] == ["start", "passed", "passed", "failed"]


def test_a_late_round_does_not_delay_those_after_it() -> None:
    pauses: list[float] = []
    assert list(Schedule(0.0, 3).starts(pauses.append)) == [1, 2, 3] and not pauses
    endless = Schedule(1000.0).starts(pauses.append)
    assert [next(endless) for _ in range(4)] == [1, 2, 3, 4]
    assert pauses == pytest.approx([1000, 2000, 3000], abs=30)


def test_an_emulated_core_is_watched(tmp_path: Path) -> None:
    target, library = load_target("qemu-m4"), write_library(tmp_path / "library")
    image = build_firmware(target, library.folder, tmp_path / "firmware")
    with connect(target, image) as device:
        lines = watch(watching(device, image, library, tmp_path), 3)
    assert [line["event"] for line in lines] == ["start", "passed", "passed", "passed", "end"]
    assert lines[0]["build_id"] == image.build_id
    assert all(line["unit"] == "instructions" and 0 < line["stack_bytes"] < 1024 for line in lines[1:-1])


def test_the_command_watches_a_build(digits: Path, tmp_path: Path) -> None:
    build, log = digits / "build" / "digits-qemu-m4", tmp_path / "log"
    done = sgsc("monitor", build, "--times", "2", "--every", "0.1s", "--cases", "5", "--log", log)
    assert done.exit_code == 0, done.output
    assert "round 2: flash intact, 5 cases bit-exact" in done.output
    assert [line["event"] for line in logged(log)] == ["start", "passed", "passed", "end"]


def test_the_command_fails_and_logs_why(digits: Path, tmp_path: Path) -> None:
    build, log = digits / "build" / "digits-stm32", tmp_path / "log"
    fails(sgsc("monitor", build, "--port", "/dev/ttyNONE", "--log", log), "/dev/ttyNONE: cannot be opened")
    assert [line["event"] for line in logged(log)] == ["failed"]
    fails(sgsc("monitor", build, "--on", "host"), "no device runs it")
    assert sgsc("monitor", build, "--every", "soon").exit_code == 2
