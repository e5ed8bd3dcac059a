"""Boards on USB, the choice of a flasher, and what openocd, pyocd and west say when something is wrong."""

from __future__ import annotations

import json
import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from serial.tools import list_ports
from serial.tools.list_ports_common import ListPortInfo

from sgsc_micro.device.boards import Site, find_site, find_sites
from sgsc_micro.device.flash import FlashError, choose_flasher, programs
from sgsc_micro.device.flash.base import Job
from sgsc_micro.device.flash.programs import OpenOcdFlasher, PyOcdFlasher, WestFlasher
from sgsc_micro.errors import SgscError
from sgsc_micro.firmware import FirmwareImage, Sizes
from sgsc_micro.targets import OpenOcd, PyOcd, Target, West, list_targets, load_target

NUCLEO = load_target("nucleo-f446re")
PROBE = "066BFF495087884867152321"
SITE = Site("/dev/ttyACM0", PROBE)
OPENOCD = OpenOcdFlasher(OpenOcd(config=("interface/stlink.cfg", "target/stm32f4x.cfg")))
PYOCD = PyOcdFlasher(PyOcd(chip="stm32f446re"))
WEST = WestFlasher(West(runner="openocd"))


def usb(device: str, serial_number: str | None, usb_id: str = "0483:374b") -> ListPortInfo:
    info = ListPortInfo(device)
    info.vid, info.pid = (int(part, 16) for part in usb_id.split(":"))
    info.serial_number = serial_number
    return info


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> list[ListPortInfo]:
    """The serial ports of this machine, as the test wants them."""
    ports = [ListPortInfo("/dev/ttyS0"), usb("/dev/ttyUSB0", "x", "1a86:7523")]
    monkeypatch.setattr(list_ports, "comports", lambda: ports)
    return ports


@pytest.fixture
def job(tmp_path: Path) -> Job:
    image = FirmwareImage(tmp_path / "f.elf", tmp_path / "f.bin", "0" * 40, "0" * 64, 0, Sizes(*[0] * 9), {})
    image.binary.write_bytes(b"image")
    return Job(image, 0x0800_0000, 0x8_0000, SITE)


def test_no_board_names_its_usb_id(plugged: list[ListPortInfo]) -> None:
    with pytest.raises(SgscError, match=r"no nucleo-f446re is plugged in \(USB 0483:374b, .*0483:3754\).*--port"):
        find_site(NUCLEO)


def test_the_only_board_is_found_by_its_usb_id(plugged: list[ListPortInfo]) -> None:
    plugged.append(usb("/dev/ttyACM0", PROBE))
    assert find_site(NUCLEO) == find_site(NUCLEO, port="/dev/ttyACM0") == find_site(NUCLEO, probe=PROBE) == SITE


def test_two_boards_are_named_and_one_can_be_chosen(plugged: list[ListPortInfo]) -> None:
    plugged += [usb("/dev/ttyACM1", "other"), usb("/dev/ttyACM0", PROBE)]
    assert [site.port for site in find_sites(NUCLEO)] == ["/dev/ttyACM0", "/dev/ttyACM1"]
    with pytest.raises(SgscError, match=rf"2 boards .*/dev/ttyACM0 \({PROBE}\), /dev/ttyACM1 \(other\).*--probe"):
        find_site(NUCLEO)
    assert find_site(NUCLEO, probe="other").port == "/dev/ttyACM1"
    assert find_site(NUCLEO, port="/dev/ttyUSB0") == Site("/dev/ttyUSB0")


def test_a_link_to_a_port_is_that_port(plugged: list[ListPortInfo], tmp_path: Path) -> None:
    plugged.append(usb("/dev/ttyACM0", PROBE))
    (tmp_path / "by-id").symlink_to("/dev/ttyACM0")
    assert find_site(NUCLEO, port=str(tmp_path / "by-id")).probe == PROBE


@pytest.mark.parametrize(
    "target", [t for t in list_targets() if t.board and not t.name.startswith("qemu-")], ids=lambda t: t.name
)
def test_the_ways_into_a_board_are_for_the_chip_on_it(target: Target) -> None:
    """What its description names, as each program spells it; ids from ST AN2606."""
    chip = re.findall(r"STM32\w+", target.description.partition(":")[2])[0].lower()
    ways = target.require_board().flashers
    assert ways.openocd and ways.openocd.config == ("interface/stlink.cfg", f"target/{chip[:7]}x.cfg")
    assert ways.pyocd and ways.pyocd.chip.startswith(chip)
    ids = {"f103c8": 0x410, "f407": 0x413, "f446": 0x421, "f746": 0x449, "g071": 0x460, "h743": 0x450, "l4r5": 0x470}
    (known,) = (number for part, number in {**ids, "u575": 0x482}.items() if part in chip)
    assert ways.stm32loader and ways.stm32loader.chip_id == known
    assert ways.stm32loader.family in (None, chip[5:7].upper())


def installed(monkeypatch: pytest.MonkeyPatch, *there: str) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name if name in there else None)
    for module in (programs, sys.modules["sgsc_micro.device.flash.boot_rom"]):
        monkeypatch.setattr(module, "find_spec", lambda name: name if name in there else None)


@pytest.mark.parametrize(
    ("there", "site", "method", "chosen"),
    [
        (("openocd", "pyocd", "stm32loader"), SITE, None, "openocd"),
        (("pyocd", "stm32loader"), SITE, None, "pyocd"),
        (("openocd", "stm32loader"), Site("/dev/ttyUSB0"), None, "stm32loader"),
        (("openocd", "pyocd", "stm32loader"), SITE, "stm32loader", "stm32loader"),
    ],
)
def test_the_first_way_that_is_installed_and_reaches_the_board(
    monkeypatch: pytest.MonkeyPatch, there: tuple[str, ...], site: Site, method: str | None, chosen: str
) -> None:
    installed(monkeypatch, *there)
    assert choose_flasher(NUCLEO, site, method).method == chosen


@pytest.mark.parametrize(
    ("target", "site", "method", "complaint"),
    [
        (NUCLEO, SITE, None, r"openocd or pyocd or stm32loader, not installed.*apt install openocd or pip install"),
        (NUCLEO, Site("/dev/ttyUSB0"), "openocd", "no debug probe.*--probe"),
        (NUCLEO, SITE, "west", "not flashed with west.*openocd, pyocd, stm32loader"),
        (load_target("qemu-m4"), SITE, None, "qemu-m4 has no flasher.*targets/README"),
    ],
)
def test_no_way_is_an_error_that_helps(
    monkeypatch: pytest.MonkeyPatch, target: Target, site: Site, method: str | None, complaint: str
) -> None:
    installed(monkeypatch)
    with pytest.raises(FlashError, match=complaint):
        choose_flasher(target, site, method)


@pytest.fixture
def says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs that write down how they were called, and fail with what the file ``words`` holds."""
    folder = tmp_path / "programs"
    folder.mkdir()
    script = (
        f"#!{sys.executable}\nimport json, pathlib, sys\n"
        "here = pathlib.Path(__file__).parent\n"
        "(here / 'called').write_text(json.dumps(sys.argv[1:]))\n"
        "words = here / 'words'\n"
        "print(words.read_text() if words.exists() else '', file=sys.stderr)\n"
        "sys.exit(words.exists())\n"
    )
    for name in ("openocd", "west", "pyocd.py"):
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=":")
    return folder


def test_what_the_programs_are_told(says: Path, job: Job) -> None:
    def called() -> list[str]:
        return json.loads((says / "called").read_text())

    OPENOCD.write(job, lambda text: None)
    assert called() == [
        *("-f", "interface/stlink.cfg", "-c", f"adapter serial {PROBE}", "-f", "target/stm32f4x.cfg"),
        *("-c", f"program {{{job.binary}}} 0x8000000 verify reset exit"),
    ]
    PYOCD.write(job, lambda text: None)
    assert called() == [
        *("flash", "--no-wait", "--uid", PROBE, "--target", "stm32f446re"),
        *("--base-address", "0x8000000", "--format", "bin", str(job.binary)),
    ]
    (job.binary.parent / "zephyr").mkdir()
    (job.binary.parent / "zephyr" / "runners.yaml").touch()
    WEST.write(job, lambda text: None)
    folder = str(job.binary.parent)
    assert called() == ["flash", "--skip-rebuild", "--build-dir", folder, "--runner", "openocd", "--dev-id", PROBE]


@pytest.mark.parametrize(
    ("flasher", "words", "complaint"),
    [
        (
            OPENOCD,
            "Error: open failed\nin procedure 'program'\n** OpenOCD init failed **",
            "finds no probe 066B.*lsusb",
        ),
        (OPENOCD, "Error: libusb_open() failed with LIBUSB_ERROR_ACCESS\nError: open failed", "no permission.*udev"),
        (OPENOCD, "Error: init mode failed (unable to connect to the target)", "chip does not answer.*powered"),
        (
            OPENOCD,
            "Info : RDP level 0 (0xAA)\nError: stm32x device protected\n",
            "read-out protection.*erases the chip",
        ),
        (OPENOCD, "Info : RDP level 0 (0xAA)\nError: checksum mismatch\n", "not what was written.*flash again"),
        (OPENOCD, "Error: no flash bank found for address 0x08080000", "does not fit the chip"),
        (OPENOCD, "Error: something new\nshutdown command invoked", "openocd fails: Error: something new.*by hand"),
        (PYOCD, "No connected debug probe matches unique ID '066B'", "pyocd finds no probe.*pyocd list"),
        (PYOCD, "0000310 C Target type stm32f446re not recognized. Use 'pyocd list'", "pyocd pack install stm32f446re"),
        (PYOCD, "usb.core.USBError: [Errno 13] Access denied (insufficient permissions)", "no permission.*udev"),
        (PYOCD, "0000500 C Error: [Errno 16] Resource busy", "in use by another program"),
        (PYOCD, "0000500 C STLink error (9): Get IDCODE error ... no ACK", "chip does not answer"),
    ],
)
def test_each_complaint_has_a_cause_and_something_to_do(
    says: Path, job: Job, flasher: OpenOcdFlasher | PyOcdFlasher, words: str, complaint: str
) -> None:
    (says / "words").write_text(words)
    with pytest.raises(FlashError, match=complaint) as error:
        flasher.write(job, lambda text: None)
    assert "\n" not in str(error.value) and str(error.value).startswith(f"/dev/ttyACM0 ({PROBE}): ")


def test_west_wants_a_build_of_zephyr(says: Path, job: Job) -> None:
    with pytest.raises(FlashError, match="no build of Zephyr's"):
        WEST.write(job, lambda text: None)


def test_a_program_that_hangs_is_ended(says: Path, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "PROGRAM_SECONDS", 0.2)
    (says / "openocd").write_text("#!/bin/sh\nexec sleep 60\n")
    with pytest.raises(FlashError, match=r"openocd did not end within 0\.2 s"):
        OPENOCD.write(job, lambda text: None)


@pytest.mark.skipif(shutil.which("openocd") is None, reason="openocd is not installed")
def test_openocd_itself_without_a_probe(job: Job) -> None:
    with pytest.raises(FlashError, match="openocd finds no probe"):
        OPENOCD.write(job, lambda text: None)


@pytest.mark.skipif(find_spec("pyocd") is None, reason="pyocd is not installed")
def test_pyocd_itself_without_a_probe(job: Job) -> None:
    with pytest.raises(FlashError, match="pyocd finds no probe"):
        PYOCD.write(job, lambda text: None)
