"""Debug probes on this machine's USB, as Linux lists them: none is opened."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

SYSFS = Path("/sys/bus/usb/devices")
NODES = Path("/dev/bus/usb")
UDEV_HINT = "sudo apt install openocd brings the udev rules; then plug it in again"

_BY_ID = {
    "0483:3748": "ST-LINK/V2",
    "0483:374b": "ST-LINK/V2-1",
    "0483:3752": "ST-LINK/V2-1",
    "0483:374e": "STLINK-V3E",
    "0483:374f": "STLINK-V3",
    "0483:3753": "STLINK-V3",
    "0483:3754": "STLINK-V3E",
    "0483:3757": "STLINK-V3PWR",
    "1d50:6018": "Black Magic Probe",
}
_BY_VENDOR = {"1366": "SEGGER J-Link"}
_CMSIS_DAP = "CMSIS-DAP"
"""Such a probe has this in its product's name: Arm's specification asks for it."""


@dataclasses.dataclass(frozen=True)
class Probe:
    """One probe. ``serial`` is its USB serial number, which its serial port shares; empty where it has none."""

    kind: str
    usb_id: str
    serial: str
    usable: bool
    """Whether this user may open it."""


def find_probes(sysfs: Path = SYSFS, nodes: Path = NODES) -> list[Probe]:
    """Every probe that is plugged in, by kind and serial number; none where the system has no such lists."""
    found = []
    for device in sorted(sysfs.glob("*")):
        vendor, product, name, serial = (_read(device / key) for key in ("idVendor", "idProduct", "product", "serial"))
        usb_id = f"{vendor}:{product}"
        kind = _BY_ID.get(usb_id) or _BY_VENDOR.get(vendor) or (name if _CMSIS_DAP in name else None)
        if kind is not None:
            bus, number = (_read(device / key).zfill(3) for key in ("busnum", "devnum"))
            found.append(Probe(kind, usb_id, serial, os.access(nodes / bus / number, os.R_OK | os.W_OK)))
    return sorted(found, key=lambda probe: (probe.kind, probe.serial))


def _read(path: Path) -> str:
    """One attribute; empty where there is none, as of an interface, or of a device that has just gone."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
