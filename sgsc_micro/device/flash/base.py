"""What every way of flashing has in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from sgsc_micro.device.boards import Site
from sgsc_micro.errors import SgscError
from sgsc_micro.firmware import FirmwareImage

Progress = Callable[[str], None]
"""Called with what goes on, in words."""

PROTECTED = "read-out protection is on"
"""sgsc never takes it off by itself, since the chip then erases its flash and backup memory."""


class FlashError(SgscError):
    """The image did not get into the flash; whatever lies there now will not pass for it."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One image for one board."""

    image: FirmwareImage
    origin: int
    """The address of the flash's first byte, and the image's."""
    flash_bytes: int
    site: Site
    rom_port: str | None = None
    """The serial port of the boot ROM where it is not the link's."""

    @property
    def binary(self) -> Path:
        """What is written at ``origin``."""
        return self.image.binary


class Flasher(Protocol):
    """One way of getting an image into a chip."""

    @property
    def method(self) -> str:
        """Its name in a target's file."""

    def lacks(self) -> str | None:
        """How to install what it needs; None if it is there."""

    def reaches(self, site: Site) -> bool:
        """Whether it could reach that board at all, were it installed."""

    def write(self, job: Job, progress: Progress) -> None:
        """Write the image, check it in the chip where that is possible, and start it.

        Errors: ``FlashError`` with the likely cause and what to do about it.
        """
