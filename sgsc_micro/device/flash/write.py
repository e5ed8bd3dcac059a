"""The way of flashing that a board wants and this machine has; the image, written and found again over the link."""

from __future__ import annotations

from sgsc_micro.device.boards import Site
from sgsc_micro.device.flash.base import Flasher, FlashError, Job, Progress
from sgsc_micro.device.flash.boot_rom import BootRomFlasher
from sgsc_micro.device.flash.programs import OpenOcdFlasher, PyOcdFlasher, WestFlasher
from sgsc_micro.device.link import Hello, LinkError
from sgsc_micro.device.session import connect
from sgsc_micro.firmware import FirmwareImage
from sgsc_micro.targets import Flashers, Target


def flash(
    target: Target,
    image: FirmwareImage,
    site: Site,
    progress: Progress = lambda text: None,
    *,
    method: str | None = None,
    rom_port: str | None = None,
) -> Hello:
    """Write ``image`` to the board at ``site`` and return what it then says of itself over the link.

    ``method`` is one of the target's; by default the first that reaches the board and is installed.
    Errors: ``FlashError`` where it is not written; ``LinkError`` where it is, and does not answer as it should.
    """
    board = target.require_board()
    size = image.sizes.flash_total
    if size > board.flash.bytes:
        raise FlashError(
            f"the image takes {size:,} bytes, the flash of {target.name} has {board.flash.bytes:,}",
            hint="build it for this target, which says what to make smaller",
        )
    if site.port is None:
        raise FlashError(
            f"probe {site.probe}: no serial port of its own was found, so that the firmware cannot be verified",
            hint="is it plugged in? Then name the port of the link with --port",
        )
    flasher = choose_flasher(target, site if rom_port is None else Site(rom_port), method)
    flasher.write(Job(image, board.flash.origin, board.flash.bytes, site, rom_port), progress)
    progress("reading the firmware's hash back over the link")
    try:
        with connect(target, image, site.port) as device:
            return device.hello()
    except LinkError as error:
        raise LinkError(
            f"written with {flasher.method}, but {error.message}",
            hint="press RESET with BOOT0 low; if that is not it: " + error.hint,
        ) from error


def choose_flasher(target: Target, site: Site, method: str | None = None) -> Flasher:
    """The target's first flasher that reaches ``site`` and is installed, or ``method``.

    Errors: ``FlashError`` saying what to install, or that the target has none.
    """
    known = flashers_of(target.require_board().flashers)
    named = [flasher for flasher in known if method in (None, flasher.method)]
    if not named:
        what = f"is not flashed with {method}" if method and known else "has no flasher"
        methods = ", ".join(flasher.method for flasher in known)
        hint = f"its ways are {methods}" if known else "add [board.flashers] to its file: targets/README.md"
        raise FlashError(f"{target.name} {what}", hint=hint)
    candidates = [flasher for flasher in named if flasher.reaches(site)]
    if not candidates:
        raise FlashError(
            f"{site}: shows no debug probe, which {' and '.join(flasher.method for flasher in named)} need",
            hint="name it with --probe ID (`pyocd list`, or `lsusb -v`: iSerial)",
        )
    lacking = {flasher.method: flasher.lacks() for flasher in candidates}
    ready = next((flasher for flasher in candidates if lacking[flasher.method] is None), None)
    if ready is None:
        raise FlashError(
            f"{target.name} is flashed with {' or '.join(lacking)}, not installed here",
            hint=" or ".join(filter(None, lacking.values())),
        )
    return ready


def flashers_of(ways: Flashers) -> list[Flasher]:
    """Those that a target has, the preferred first."""
    made: list[Flasher] = []
    if ways.openocd:
        made.append(OpenOcdFlasher(ways.openocd))
    if ways.pyocd:
        made.append(PyOcdFlasher(ways.pyocd))
    if ways.stm32loader:
        made.append(BootRomFlasher(ways.stm32loader))
    if ways.west:
        made.append(WestFlasher(ways.west))
    return made
