"""What this machine has of what firmware and boards need."""

from __future__ import annotations

import dataclasses
import os
import shutil

from serial.tools import list_ports

from sgsc_micro.device.port import PERMISSION_HINT
from sgsc_micro.firmware.tools import DEBIAN_PACKAGE
from sgsc_micro.targets import list_targets


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing that was looked for."""

    name: str
    ok: bool
    detail: str
    hint: str = ""
    """What to do where it is not ok."""


def checks() -> list[Check]:
    """One check for each program, then one for each USB serial port that is there."""
    return [_program(*item) for item in DEBIAN_PACKAGE.items()] + _ports()


def _program(program: str, package: str) -> Check:
    path = shutil.which(program)
    return Check(program, path is not None, path or "not installed", "" if path else f"sudo apt install {package}")


def _ports() -> list[Check]:
    boards = {usb_id: t.name for t in list_targets() if t.board for usb_id in t.board.serial.usb_ids}
    found = []
    for port in list_ports.comports():
        if port.vid is None:
            continue  # a port of the main board, not of a development board
        usb_id = f"{port.vid:04x}:{port.pid:04x}"
        usable = os.access(port.device, os.R_OK | os.W_OK)
        detail = f"{usb_id} {port.description}" + (f", as on {boards[usb_id]}" if usb_id in boards else "")
        found.append(Check(port.device, usable, detail, "" if usable else PERMISSION_HINT))
    return found or [Check("serial ports", True, "no USB serial port: boards are emulated")]
