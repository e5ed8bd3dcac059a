"""The boot ROM of an STM32 on one of its USARTs (ST AN3155), which stm32loader speaks.

The chip's first block, with its vector table, is written last and after all others were read back: a chip whose
flashing was cut off has nothing to start.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from sgsc_micro.device.boards import Site
from sgsc_micro.device.flash.base import PROTECTED, FlashError, Job, Progress
from sgsc_micro.device.port import open_port
from sgsc_micro.targets import Stm32Loader

if TYPE_CHECKING:
    from stm32loader.bootloader import Stm32Bootloader

BAUD = 115_200
"""The boot ROM takes it from the first byte that it hears."""
ANSWER_SECONDS = 2.0
ERASE_SECONDS = 40.0
"""AN3155 names none; the largest STM32F4 takes 32 s (RM0090: mass erase)."""
SYNC_SECONDS, QUIET_SECONDS = 0.3, 0.1

_SYNC, _ACK, _NACK = b"\x7f", b"\x79", b"\x1f"
_FLOOD = 300
"""Ends a block that an earlier program left half sent: a length, 256 bytes, a checksum."""
_WHOLE_BLOCKS = ("F4", "L0")
"""Families whose boot ROM reads the memory that tells the flash's size in whole blocks only, as stm32loader knows."""
_KIB = 1024
_ERASED = b"\xff"
_BOOT0_HINT = "BOOT0 high, then press RESET; is the line at the USART of the boot ROM (ST AN2606)?"


class _SilenceError(Exception):
    """Fewer bytes came than were due."""


class _Line:
    """A serial port as stm32loader wants it, on which silence is an exception."""

    def __init__(self, port: str, parity: str) -> None:
        self._serial = open_port(
            port, BAUD, FlashError, parity=parity, timeout=ANSWER_SECONDS, write_timeout=ANSWER_SECONDS
        )

    @property
    def timeout(self) -> float:
        """Seconds that an answer may take."""
        return float(self._serial.timeout)

    @timeout.setter
    def timeout(self, seconds: float) -> None:
        self._serial.timeout = seconds

    def read(self, size: int = 1) -> bytes:
        """``size`` bytes. Raises _SilenceError."""
        data: bytes = self._serial.read(size)
        if len(data) < size:
            raise _SilenceError
        return data

    def write(self, data: bytes) -> None:
        """All of ``data``."""
        self._serial.write(data)

    def close(self) -> None:
        """Give the port back."""
        self._serial.close()

    def reset_into_rom(self) -> None:
        """Pull the chip's reset with BOOT0 high, where the modem lines are wired so (both active low)."""
        self._serial.rts = False
        self._serial.dtr = True
        time.sleep(0.1)
        self._serial.dtr = False
        time.sleep(0.3)

    def synchronise(self) -> bytes:
        """What the boot ROM answers to a first byte, or to one that makes no sense to it; empty if nothing.

        One byte, then silence: more are answers to what an earlier program left on its way.
        """
        answer = b""
        for knock in (_SYNC, _SYNC, _SYNC * _FLOOD, _SYNC, _SYNC):
            self.write(knock)
            heard = self._heard()
            answer = heard or answer
            if knock == _SYNC and heard in (_ACK, _NACK):
                break
        return answer[-1:]

    def _heard(self) -> bytes:
        """All that comes until it is quiet; a program that never is, is left after a while."""
        with self.patience(SYNC_SECONDS):
            heard: bytes = self._serial.read(1)
        end = time.monotonic() + ANSWER_SECONDS
        with self.patience(QUIET_SECONDS):
            while heard and time.monotonic() < end and (more := self._serial.read(_FLOOD)):
                heard += more
        return heard

    @contextlib.contextmanager
    def patience(self, seconds: float) -> Iterator[None]:
        """Wait that long for each answer in the block."""
        before, self.timeout = self.timeout, seconds
        try:
            yield
        finally:
            self.timeout = before


@dataclasses.dataclass(frozen=True)
class BootRomFlasher:
    """stm32loader on a serial port."""

    settings: Stm32Loader
    method: str = "stm32loader"

    def lacks(self) -> str | None:
        """See :class:`Flasher`."""
        return None if find_spec("stm32loader") else "pip install 'sgsc-micro[flash]' (stm32loader)"

    def reaches(self, site: Site) -> bool:
        """See :class:`Flasher`."""
        return site.port is not None

    def write(self, job: Job, progress: Progress) -> None:
        """See :class:`Flasher`."""
        from stm32loader.bootloader import Stm32Bootloader

        port = job.rom_port or job.site.port
        assert port is not None  # reaches() said so
        with contextlib.closing(_Line(port, self.settings.parity[0].upper())) as line, _explained(port):
            self._enter(port, line)
            rom = Stm32Bootloader(line, device_family=self.settings.family, verbosity=0)
            self._check_chip(port, rom, job)
            progress("erasing")
            _erase(rom, line)
            _write_image(port, rom, job, progress)
            rom.go(job.origin)

    def _enter(self, port: str, line: _Line) -> None:
        if self.settings.reset_lines:
            line.reset_into_rom()
        answer = line.synchronise()
        if not answer:
            raise FlashError(f"{port}: the boot ROM does not answer", hint=_BOOT0_HINT)
        if answer not in (_ACK, _NACK):
            raise FlashError(
                f"{port}: answers 0x{answer.hex()}, as no boot ROM does: a program runs, or the baud rate is wrong",
                hint=_BOOT0_HINT,
            )

    def _check_chip(self, port: str, rom: Stm32Bootloader, job: Job) -> None:
        with _understood(port):  # even a protected chip allows these
            rom.get()  # which commands it has
            chip = rom.get_id()
        if chip != self.settings.chip_id:
            raise FlashError(
                f"{port}: the chip is a 0x{chip:03x}, not a 0x{self.settings.chip_id:03x}",
                hint="is it another board? ST AN2606 lists the ids",
            )
        family = self.settings.family
        if family is None:
            return
        kib = rom.get_flash_size_and_uid()[0] if family in _WHOLE_BLOCKS else rom.get_flash_size()
        if job.image.sizes.flash_total > kib * _KIB:
            raise FlashError(
                f"{port}: the image takes {job.image.sizes.flash_total:,} bytes, this chip's flash has {kib * _KIB:,}",
                hint="it is a smaller one of its family: build for it",
            )


def _erase(rom: Stm32Bootloader, line: _Line) -> None:
    """All of the flash: stm32loader's own function prints."""
    with line.patience(ERASE_SECONDS):
        rom.command(rom.Command.EXTENDED_ERASE if rom.extended_erase else rom.Command.ERASE, "Erase")
        rom.write_and_ack("erase", b"\xff\xff\x00" if rom.extended_erase else b"\xff\x00")


def _write_image(port: str, rom: Stm32Bootloader, job: Job, progress: Progress) -> None:
    content, size = job.binary.read_bytes(), rom.data_transfer_size
    # Whole blocks: some flashes are written 32 bytes at a time.
    blocks = [content[start : start + size].ljust(size, _ERASED) for start in range(0, len(content), size)]
    addresses = [job.origin + size * index for index in range(len(blocks))]
    progress(f"writing {len(content):,} bytes")
    for order in (slice(1, None), slice(0, 1)):
        written = list(zip(addresses[order], blocks[order]))
        for address, block in written:
            rom.write_memory(address, block)
        for address, block in written:
            if rom.read_memory(address, size) != block:
                raise FlashError(
                    f"{port}: the flash at 0x{address:08x} is not what was written",
                    hint="flash again; if it stays so, the flash is worn out",
                )


@contextlib.contextmanager
def _understood(port: str) -> Iterator[None]:
    """Commands that no chip refuses."""
    from stm32loader.bootloader import CommandError

    try:
        yield
    except CommandError as error:
        raise FlashError(
            f"{port}: the boot ROM did not understand ({error})", hint="bytes were spoiled on the line: flash again"
        ) from error


@contextlib.contextmanager
def _explained(port: str) -> Iterator[None]:
    """What goes wrong on the line, in words."""
    from stm32loader.bootloader import CommandError

    try:
        yield
    except CommandError as error:  # an OSError, too
        if str(error) == "NACK Command":
            raise FlashError(
                f"{port}: the boot ROM refuses to touch the flash: {PROTECTED}",
                hint=f"taking it off erases the chip: stm32loader --port {port} --unprotect; then flash again",
            ) from error
        with _understood(port):
            raise
    except _SilenceError as error:
        raise FlashError(
            f"{port}: the boot ROM fell silent", hint="was the supply or the line cut? Press RESET and flash again"
        ) from error
    except OSError as error:
        raise FlashError(
            f"{port}: lost: {error}", hint="is the board still plugged in? Plug it in and flash again"
        ) from error
