"""A line that drops, doubles, flips, delays, reorders, repeats and invents bytes, to a device that resets: whatever it
does, an answer is right or the link says that it failed, in time."""

from __future__ import annotations

import collections
import random
import time
from pathlib import Path

import pytest

from sgsc_micro.device import Device, LinkError, emulate
from sgsc_micro.device.link import ANSWER_SECONDS
from sgsc_micro.firmware import build_firmware
from sgsc_micro.targets import load_target
from tests.dummy_library import write_library
from tests.faults import Fault, FaultyWay
from tests.host_device import CORE_HZ, HostDevice
from tests.pty_line import Monitor, PtyLine
from tests.simulated_line import SimulatedLine

CASES = 4
RATES = (1 / 2000, 1 / 500, 1 / 150, 1 / 40)
SLACK = 0.002  # the adapter's USB frame


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> list[HostDevice]:
    """One whose input is a single request, one whose input is three."""
    folder = tmp_path_factory.mktemp("devices")
    return [HostDevice(write_library(folder / str(size), size=size, arena=size + 9)) for size in (40, 1300)]


class Session:
    """One connection: who is there, then ``CASES`` cases; everything drawn from ``seed``."""

    def __init__(self, device: HostDevice, seed: int) -> None:
        self.device = device
        self.random = random.Random(seed)
        faults = tuple(Fault) if self.random.random() < 0.6 else (self.random.choice(list(Fault)),)
        self.rate = self.random.choice(RATES)
        ways = [FaultyWay(self.rate, self.random.randrange(1 << 32), faults) for _ in range(2)]
        self.line = SimulatedLine(device, down=ways[0], up=ways[1], baud=self.random.choice([115_200, 921_600]))
        self.faults = ways[0].count, ways[1].count

    def run(self) -> str:
        """ "well", or the failure's name. An exception that is no LinkError, a wrong answer or a late one fails."""
        self.device.reset(self.random.randrange(256))
        library = self.device.library
        device = Device(self.line)
        end = self.line.now() + ANSWER_SECONDS
        try:
            hello = device.hello()
            assert (hello.model_hash, hello.core_hz) == (library.model_hash, CORE_HZ)
            for case in range(CASES):
                data = self.random.randbytes(library.size)
                end = self.line.now() + device.limit_seconds(hello)
                assert device.run(case, data).output == library.expected(data)
                assert self.line.now() <= end + SLACK
        except LinkError as error:
            assert error.hint
            return error.message.removeprefix("simulated line: ").split(" within")[0]
        finally:
            assert self.line.now() <= end + SLACK
        return "well"


@pytest.mark.parametrize("sessions", [1000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_no_fault_gives_a_wrong_answer_or_hangs(
    devices: list[HostDevice], sessions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    met: collections.Counter[Fault] = collections.Counter()
    ends: dict[float, collections.Counter[str]] = {rate: collections.Counter() for rate in RATES}
    for seed in range(sessions):
        session = Session(devices[seed % len(devices)], seed)
        monkeypatch.setattr("secrets.randbelow", session.random.randrange)
        ends[session.rate][session.run()] += 1
        for count in session.faults:
            met += count
    assert met.total() >= 10 * sessions
    assert set(met) == set(Fault)
    well = [count["well"] / count.total() for count in ends.values()]
    assert well[0] > 0.95, ends  # the retries are worth something,
    assert 0 < well[-1] < 0.9, ends  # and the worst line is bad enough to fail often


def test_a_clean_line_fails_no_session(devices: list[HostDevice]) -> None:
    for device in devices:
        line = SimulatedLine(device)
        data = random.Random(0).randbytes(device.library.size)
        for case in range(20):
            assert Device(line).run(case, data).output == device.library.expected(data)


@pytest.mark.parametrize("sessions", [5, pytest.param(40, marks=pytest.mark.slow)])
def test_the_emulated_core_over_a_pty(tmp_path: Path, sessions: int) -> None:
    target = load_target("qemu-m4")
    board = target.require_board()
    assert board.emulator is not None
    library = write_library(tmp_path / "library", size=1300, arena=1309)
    image = build_firmware(target, library.folder, tmp_path / "firmware")
    monitor = Monitor(tmp_path)
    ends: collections.Counter[str] = collections.Counter()
    faults = 0
    with (
        emulate(board.emulator, image.binary, board.flash.origin, monitor.options) as port,
        PtyLine(port, monitor.reset) as line,
    ):
        with Device(line.port, baud=921_600) as device:
            device.hello()
            begin = time.monotonic()
            device.run(0, bytes(library.size))
            clean = time.monotonic() - begin  # QEMU takes its bytes one by one, slowly on a busy machine
        patience = max(0.7, 8 * clean)
        limits = {"retry_seconds": max(0.03, clean / 5), "answer_seconds": patience, "run_seconds": patience}
        for seed in range(4 * sessions):
            if seed >= sessions and faults > 5 * sessions:
                break  # a session that fails early meets few
            draw = random.Random(seed)
            ways = [FaultyWay(draw.choice(RATES[:2]), draw.randrange(1 << 32), longest_pause=0.1) for _ in range(2)]
            line.spoil(*ways)
            with Device(line.port, baud=921_600, **limits) as device:
                try:
                    assert device.hello().build_id == image.build_id
                    for case in range(2):
                        data = draw.randbytes(library.size)
                        assert device.run(case, data).output == library.expected(data)
                    ends["well"] += 1
                except LinkError as error:
                    ends[error.message.removeprefix(line.port)] += 1
            faults += sum(way.count.total() for way in ways)
    assert faults > 5 * sessions
    assert ends["well"] > ends.total() / 3, ends
