"""Boards on this machine's USB, found by vendor and product id."""

from __future__ import annotations

import dataclasses
import os

from serial.tools import list_ports
from serial.tools.list_ports_common import ListPortInfo

from sgsc_micro.errors import SgscError
from sgsc_micro.targets import Target


@dataclasses.dataclass(frozen=True)
class Site:
    """One board: where its link is, and the debug probe that reaches its chip."""

    port: str | None
    """The serial port that carries the link; None: a probe alone."""
    probe: str | None = None
    """The probe's USB serial number, which its serial port shares."""

    @property
    def name(self) -> str:
        """What stays when ports are numbered anew, where there is such a thing."""
        return self.probe or self.port or "the board"

    def __str__(self) -> str:
        return f"{self.port} ({self.probe})" if self.port and self.probe else self.name


def find_sites(target: Target) -> list[Site]:
    """Every board with one of the target's USB ids, by port."""
    ports = sorted(_ports_of(target), key=lambda info: info.device)
    return [Site(info.device, info.serial_number or None) for info in ports]


def find_site(target: Target, port: str | None = None, probe: str | None = None) -> Site:
    """The board on ``port``, or behind ``probe``, or the only one that is plugged in.

    Errors: ``SgscError`` where there is none, or more than one to choose from.
    """
    sites = find_sites(target)
    if port is not None:
        same = next(
            (site for site in sites if site.port and os.path.realpath(port) == os.path.realpath(site.port)), None
        )
        return Site(port, probe or (same.probe if same else None))
    if probe is not None:
        return next((site for site in sites if site.probe == probe), Site(None, probe))
    if not sites:
        raise no_board(target)
    if len(sites) > 1:
        raise SgscError(
            f"{len(sites)} boards could be the {target.name}: {', '.join(map(str, sites))}",
            hint="name one with --port or --probe",
        )
    return sites[0]


def no_board(target: Target) -> SgscError:
    """What is said where none of the target's boards is plugged in."""
    ids = ", ".join(target.require_board().serial.usb_ids)
    return SgscError(
        f"no {target.name} is plugged in" + (f" (USB {ids})" if ids else ""),
        hint="plug it in, or name its --port; `sgsc doctor` lists the ports it sees",
    )


def _ports_of(target: Target) -> list[ListPortInfo]:
    ids = target.require_board().serial.usb_ids
    return [info for info in list_ports.comports() if info.vid is not None and f"{info.vid:04x}:{info.pid:04x}" in ids]
