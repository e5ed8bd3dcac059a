"""Connect to what runs an image: the board on a port, or the emulated twin."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sgsc_micro.device.emulator import emulate
from sgsc_micro.device.link import Device, LinkError, TickUnit
from sgsc_micro.errors import SgscError
from sgsc_micro.firmware import FirmwareImage
from sgsc_micro.targets import Emulator, Target


@contextlib.contextmanager
def connect(target: Target, image: FirmwareImage, port: str | None = None) -> Iterator[Device]:
    """A Device that is known to run exactly ``image``: on ``port``, or on the twin if there is none.

    Raises LinkError if nobody answers or other firmware does, SgscError if the target has neither board nor
    twin, or the image does not fit the twin.
    """
    board = target.require_board()
    with contextlib.ExitStack() as stack:
        if port is not None:
            unit = TickUnit("cycles")
        elif board.emulator is not None:
            _check_memory(target, board.emulator, image)
            unit = TickUnit("instructions", board.emulator.ticks_per_instruction)
            port = stack.enter_context(emulate(board.emulator, image.binary, board.flash.origin))
        else:
            raise SgscError(f"target {target.name} has no emulated twin", hint="give the board's port")
        device = stack.enter_context(Device(port, baud=board.serial.baud, unit=unit))
        check_identity(device, image)
        yield device


def _check_memory(target: Target, twin: Emulator, image: FirmwareImage) -> None:
    """A twin may have less RAM than the board."""
    need, have = image.sizes.ram_total, twin.ram_bytes
    if have is not None and need > have:
        raise SgscError(
            f"{target.name}: the image takes {need:,} bytes of RAM, its twin, QEMU's {twin.machine}, has {have:,}",
            hint="give the board's port",
        )


def check_identity(device: Device, image: FirmwareImage) -> None:
    """Ask the firmware who it is. Errors: ``LinkError`` where it is not ``image`` to the bit, or does not answer."""
    port, hello = device.name, device.hello()
    if hello.build_id != image.build_id:
        raise LinkError(
            f"{port}: runs other firmware (build {hello.build_id[:12]}, not {image.build_id[:12]})",
            hint=f"flash {image.binary}",
        )
    if hello.weights_crc32 != hello.weights_built_crc32:
        raise LinkError(
            f"{port}: build {image.build_id[:12]}: the network's weights in flash are damaged "
            f"(CRC-32 {hello.weights_crc32:08x}, not {hello.weights_built_crc32:08x})",
            hint=f"flash {image.binary} again",
        )
    if hello.image_crc32 != image.crc32:
        raise LinkError(
            f"{port}: the flash is corrupt (CRC-32 {hello.image_crc32:08x}, not {image.crc32:08x})",
            hint=f"flash {image.binary} again",
        )
