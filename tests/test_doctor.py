"""`sgsc doctor`: programs, probes and ports that are there, are not, or are not for this user; and what to do."""

from __future__ import annotations

import grp
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from serial.tools.list_ports_common import ListPortInfo

from sgsc_micro.device import doctor, probes
from sgsc_micro.device.doctor import Check, checks
from sgsc_micro.device.port import access_hint
from sgsc_micro.device.probes import Probe, find_probes
from sgsc_micro.targets import load_target
from tests.conftest import sgsc

Program = Callable[[str, str], None]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Puts programs of one's own into a PATH that has nothing else but a shell."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def write(name: str, says: str) -> None:
        path = folder / name
        path.write_text(f"#!/bin/sh\n/bin/cat <<'END'\n{says}\nEND\n")
        path.chmod(0o755)

    return write


@pytest.fixture
def usb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Plugs devices into a USB of one's own, in place of this machine's."""
    sysfs, nodes = tmp_path / "devices", tmp_path / "nodes"
    sysfs.mkdir()
    (sysfs / "1-0:1.0").mkdir()  # an interface: it has no ids
    monkeypatch.setattr(doctor, "find_probes", lambda: find_probes(sysfs, nodes))

    def plug(usb_id: str, number: int, **more: str) -> None:
        device = sysfs / f"1-{number}"
        device.mkdir()
        vendor, product = usb_id.split(":")
        texts = {"idVendor": vendor, "idProduct": product, "busnum": "1", "devnum": str(number), **more}
        for name, text in texts.items():
            (device / name).write_text(f"{text}\n")
        (nodes / "001").mkdir(parents=True, exist_ok=True)
        (nodes / "001" / f"{number:03}").touch()

    return plug


def named(found: list[Check], name: str) -> Check:
    (check,) = [check for check in found if check.name == name]
    return check


def refuse(monkeypatch: pytest.MonkeyPatch, module: Any, *names: str) -> None:
    """Whoever runs the tests may open everything but these: root, too."""
    monkeypatch.setattr(module.os, "access", lambda path, mode: Path(path).name not in names)


def test_probes_are_known_by_id_by_vendor_and_by_their_product_s_name(
    usb: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    usb("0483:374b", 5, serial="066BFF49", product="STM32 STLink")
    usb("1366:1015", 6, product="J-Link")
    usb("2e8a:000c", 7, serial="E660", product="Debug Probe (CMSIS-DAP)")
    usb("046d:c31c", 8, product="Keyboard")
    refuse(monkeypatch, probes, "006")
    assert doctor.find_probes() == [
        Probe("Debug Probe (CMSIS-DAP)", "2e8a:000c", "E660", True),
        Probe("SEGGER J-Link", "1366:1015", "", False),
        Probe("ST-LINK/V2-1", "0483:374b", "066BFF49", True),
    ]
    found = checks()
    assert named(found, "ST-LINK/V2-1").ok and "066BFF49" in named(found, "ST-LINK/V2-1").detail
    refused = named(found, "SEGGER J-Link")
    assert refused.verdict == "refused" and refused.stands_in_the_way and "udev" in refused.hint


def test_every_st_link_of_a_board_is_a_probe(usb: Callable[..., None]) -> None:
    ids = load_target("stm32").require_board().serial.usb_ids
    for number, usb_id in enumerate(ids):
        usb(usb_id, number)
    assert sorted(probe.usb_id for probe in doctor.find_probes()) == sorted(ids)


def test_a_system_without_a_list_of_usb_devices_has_no_probes(tmp_path: Path) -> None:
    assert find_probes(tmp_path / "none", tmp_path) == []


def port(device: str, vid: int | None, pid: int | None, description: str) -> ListPortInfo:
    info = ListPortInfo(device)
    info.vid, info.pid, info.description = vid, pid, description
    return info


def test_ports_say_which_boards_they_may_be_and_whether_they_may_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = [
        port("/dev/ttyACM1", 0x0483, 0x374B, "STM32 STLink"),
        port("/dev/ttyUSB0", 0x10C4, 0xEA60, "CP2102"),
        port("/dev/ttyS0", None, None, "n/a"),
    ]
    monkeypatch.setattr(doctor.list_ports, "comports", lambda: ports)
    refuse(monkeypatch, doctor, "ttyUSB0")
    found = checks()
    assert named(found, "/dev/ttyACM1").ok
    assert "as on nucleo-f446re, nucleo-f746zg" in named(found, "/dev/ttyACM1").detail
    assert named(found, "/dev/ttyUSB0").verdict == "refused" and named(found, "/dev/ttyUSB0").hint
    assert not any("ttyS0" in check.name for check in found)


def test_a_port_that_a_program_holds_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    main, terminal = os.openpty()
    name = os.ttyname(terminal)
    monkeypatch.setattr(doctor.list_ports, "comports", lambda: [port(name, 0x0483, 0x374B, "ST-Link")])
    held = named(checks(), name)
    assert held.verdict == "refused" and f"(process {os.getpid()})" in held.detail and held.hint.startswith("end ")
    os.close(terminal)
    assert named(checks(), name).ok
    os.close(main)


@pytest.mark.parametrize(
    ("base", "verdict", "words"),
    [
        (None, "optional", "ZEPHYR_BASE is not set"),
        ("none", "missing", "no Zephyr tree in"),
        (
            "VERSION_MAJOR = 3\nVERSION_MINOR = 4\nPATCHLEVEL = 0\n",
            "ok",
            "3.4.0 in",
        ),
    ],
)
def test_zephyr_is_needed_where_it_is_named(
    base: str | None, verdict: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ZEPHYR_BASE", raising=False)
    if base is not None:
        (tmp_path / "VERSION").write_text(base)
        monkeypatch.setenv("ZEPHYR_BASE", str(tmp_path))
    zephyr = named(checks(), "Zephyr")
    assert zephyr.verdict == verdict and words in zephyr.detail


@pytest.mark.parametrize(
    ("mode", "gid", "members", "hint"),
    [
        (0o660, 20, [], "sudo adduser ann dialout, then log in again"),
        (0o660, 20, ["ann"], "ann is in the group dialout since this session began: log in again"),
        (0o600, 20, ["ann"], "sudo chmod a+rw {port}, or a udev rule that does it"),
        (0o660, 0, [], "sudo chmod a+rw {port}, or a udev rule that does it"),
    ],
)
def test_how_to_get_at_a_port(
    mode: int, gid: int, members: list[str], hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path / "ttyACM0"
    device.touch(mode)
    device.chmod(mode)
    monkeypatch.setenv("USER", "ann")
    monkeypatch.setattr(grp, "getgrgid", lambda _: grp.struct_group(("dialout", "x", gid, members)))
    assert access_hint(device) == hint.format(port=device)
    assert access_hint(tmp_path / "gone") == "is it still plugged in?"


def test_a_compiler_without_its_c_library_is_told(program: Program) -> None:
    program("arm-none-eabi-gcc", "libc.a")  # gcc's answer where it finds none
    lacking = named(checks(), "C library for Arm")
    assert lacking.verdict == "missing" and lacking.hint == "sudo apt install libnewlib-arm-none-eabi"
    program("arm-none-eabi-gcc", "/usr/lib/arm-none-eabi/lib/libc.a")
    assert named(checks(), "C library for Arm").ok


def test_a_qemu_without_a_twin_s_machine_is_told(program: Program) -> None:
    machines = {t.board.emulator.machine for t in doctor.list_targets() if t.board and t.board.emulator}
    program("qemu-system-arm", "\n".join(f"{machine:<20} a machine" for machine in machines - {"mps3-an547"}))
    lacking = named(checks(), "emulated twins")
    assert lacking.verdict == "missing" and "qemu-m55" in lacking.detail and "nucleo" not in lacking.detail
    program("qemu-system-arm", "\n".join(f"{machine:<20} a machine" for machine in machines))
    assert named(checks(), "emulated twins").ok


def test_a_flasher_that_is_not_there_stands_in_nobody_s_way(program: Program) -> None:
    program("openocd", "")
    found = checks()
    assert named(found, "openocd").ok
    west = named(found, "west")
    assert (west.verdict, west.stands_in_the_way, west.hint) == ("optional", False, "pip install west")
    assert {"pyocd", "stm32loader"} < {check.name for check in found}
    assert named(found, "cmake").stands_in_the_way
    shown = sgsc("targets", "show", "stm32").stdout
    assert "flashers   openocd, " in shown and "stm32loader" in shown
    assert "openocd (missing: sudo apt install openocd)" not in shown and "chip_id" not in shown


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "nucleo-l4r5zi",
            [
                "inherits   _stm32",
                "core       cortex-m4 with fpv4-sp-d16",
                "clock      120 MHz",
                "flash      2,097,152 bytes at 0x08000000",
                "ram        655,360 bytes at 0x20000000",
                "an arena of 651,264 bytes",
                "115,200 baud on PG7 (out) and PG8 (in), USB 0483:374b",
                "chip_stm32l4.c, uart_stm32_v2.c",
                "twin       none",
            ],
        ),
        ("stm32", ["nucleo-f446re", "inherits   _stm32f4, _stm32", "also       stm32", "QEMU's netduinoplus2"]),
        ("bluepill-f103", ["kernels    plain C", "stm32vldiscovery, with 8,192 bytes of RAM"]),
        ("nucleo-h743zi", ["arena      dtcm: 131,072 bytes at 0x20000000", "an arena of 651,264 bytes"]),
        ("host", ["runs       on this computer", "needs      cc"]),
    ],
)
def test_show_says_all_about_a_target(name: str, words: list[str]) -> None:
    done = sgsc("targets", "show", name)
    assert done.exit_code == 0, done.output
    for word in words:
        assert word in done.stdout, done.stdout


def test_show_takes_a_file_and_says_what_is_missing_here(tmp_path: Path, program: Program) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('description = "My [board]"\ninherits = "nucleo-g071rb"\n')
    done = sgsc("targets", "show", mine)
    for word in (
        "mine: My [board]",
        str(mine),
        "nucleo-g071rb, _stm32",
        "ninja (missing: sudo apt install ninja-build)",
    ):
        assert word in done.stdout, done.output
    assert "did you mean nucleo-g071rb" in sgsc("targets", "show", "nucleo-g071").stderr


def test_the_table_lists_every_target() -> None:
    lines = sgsc("targets").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:] if line and not line.startswith((" ", "one of"))] == [
        target.name for target in doctor.list_targets()
    ]
