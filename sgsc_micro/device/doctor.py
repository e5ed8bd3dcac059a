"""What this machine has of what firmware and boards need."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from serial.tools import list_ports

from sgsc_micro.device.flash import flashers_of
from sgsc_micro.device.port import access_hint
from sgsc_micro.device.probes import UDEV_HINT, find_probes
from sgsc_micro.errors import SgscError
from sgsc_micro.firmware import tools
from sgsc_micro.targets import Flashers, Target, West, list_targets
from sgsc_micro.zephyr import find_tree

PROBE_SECONDS = 10.0
"""How long a program may take to say what it is."""


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing that was looked for."""

    name: str
    verdict: Literal["ok", "missing", "refused", "optional"]
    """``refused``: it is there, but not to be had; ``optional``: not there, and not always needed."""
    detail: str
    hint: str = ""
    """What to do where it is not ok."""

    @property
    def ok(self) -> bool:
        """There, and usable."""
        return self.verdict == "ok"

    @property
    def stands_in_the_way(self) -> bool:
        """Something that a build or a board needs does not work."""
        return self.verdict in ("missing", "refused")


def checks() -> list[Check]:
    """The programs that builds need, those that flash, Zephyr, then each USB probe and serial port that is there."""
    found = [_program(program) for program in tools.DEBIAN_PACKAGE]
    ways = [target.board.flashers for target in list_targets() if target.board] + [Flashers(west=West())]
    return found + _libraries() + _machines() + flasher_checks(ways) + [_zephyr()] + _probes() + _ports()


def programs_for(target: Target) -> list[Check]:
    """What a build for ``target`` needs, and its twin."""
    if target.board is None:
        return [_program(tools.HOST_COMPILER)]
    wanted = [tools.CROSS_COMPILER, tools.CMAKE, tools.NINJA]
    return [_program(program) for program in wanted + [tools.QEMU] * (target.board.emulator is not None)]


def _program(program: str) -> Check:
    path = shutil.which(program)
    if path is None:
        return Check(program, "missing", "not installed", f"sudo apt install {tools.DEBIAN_PACKAGE[program]}")
    return Check(program, "ok", path)


def _libraries() -> list[Check]:
    """The C library, which Debian packs apart from the compiler."""
    if (compiler := shutil.which(tools.CROSS_COMPILER)) is None:
        return []
    name, where = "C library for Arm", _ask(compiler, "-print-file-name=libc.a").strip()
    if Path(where).is_absolute():
        return [Check(name, "ok", where)]
    return [Check(name, "missing", "not installed", "sudo apt install libnewlib-arm-none-eabi")]


def _machines() -> list[Check]:
    """Whether QEMU has the twins' machines."""
    if (qemu := shutil.which(tools.QEMU)) is None:
        return []
    known = {line.split(" ", 1)[0] for line in _ask(qemu, "-machine", "help").splitlines()}
    twins = {t.board.emulator.machine: t.name for t in list_targets() if t.board and t.board.emulator}
    if lost := sorted(name for machine, name in twins.items() if machine not in known):
        return [Check("emulated twins", "missing", f"QEMU has none for {', '.join(lost)}", "install QEMU 7.2 or later")]
    return [Check("emulated twins", "ok", f"all {len(twins)} machines")]


def _ask(*command: str) -> str:
    """What a program says; nothing where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def flasher_checks(ways: Sequence[Flashers]) -> list[Check]:
    """Each way of flashing that ``ways`` have, once: whether what it needs is installed."""
    known = {flasher.method: flasher.lacks() for each in ways for flasher in flashers_of(each)}
    return [
        Check(method, "optional" if lacks else "ok", "not installed" if lacks else "installed", lacks or "")
        for method, lacks in known.items()
    ]


def _zephyr() -> Check:
    try:
        tree = find_tree()
    except SgscError as error:
        return Check("Zephyr", "missing" if os.environ.get("ZEPHYR_BASE") else "optional", error.message, error.hint)
    return Check("Zephyr", "ok", f"{tree.version} in {tree.base}")


def _probes() -> list[Check]:
    return [
        Check(
            probe.kind,
            "ok" if probe.usable else "refused",
            f"{probe.usb_id} {probe.serial}".strip() + ("" if probe.usable else ", not for you"),
            "" if probe.usable else UDEV_HINT,
        )
        for probe in find_probes()
    ]


def _ports() -> list[Check]:
    boards: dict[str, list[str]] = {}
    for target in list_targets():
        for usb_id in target.board.serial.usb_ids if target.board else ():
            boards.setdefault(usb_id, []).append(target.name)
    found = []
    for port in sorted(list_ports.comports()):
        if port.vid is None:
            continue  # a port of the main board, not of a development board
        usb_id = f"{port.vid:04x}:{port.pid:04x}"
        detail = f"{usb_id} {port.description}" + (f", as on {', '.join(boards[usb_id])}" if usb_id in boards else "")
        if not os.access(port.device, os.R_OK | os.W_OK):
            found.append(Check(port.device, "refused", f"{detail}, not for you", access_hint(Path(port.device))))
        elif user := _user_of(port.device):
            found.append(Check(port.device, "refused", f"{detail}, in use by {user}", f"end {user}"))
        else:
            found.append(Check(port.device, "ok", detail))
    return found or [Check("serial ports", "ok", "no USB serial port: boards are emulated")]


def _user_of(device: str) -> str | None:
    """The program that has a port open, as far as this user may see."""
    place = os.path.realpath(device)
    for entry in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(entry.readlink()) == place:
                return f"{(entry.parents[1] / 'comm').read_text().strip()} (process {entry.parts[2]})"
        except OSError:  # it has ended or closed it, or is somebody else's
            continue
    return None
