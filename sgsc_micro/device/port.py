"""The serial port under the link: bytes, time, and faults that say what to do."""

from __future__ import annotations

import contextlib
import errno
import select
import termios
import time
from collections.abc import Iterator
from typing import Protocol

import serial

from sgsc_micro.errors import SgscError

PERMISSION_HINT = "sudo adduser $USER dialout, then log in again"


class LinkError(SgscError):
    """The port or the firmware behind it does not do its part."""


class Port(Protocol):
    """What carries the link: bytes either way, and the time that they take."""

    name: str
    baud: int

    def now(self) -> float:
        """Seconds on a clock that never goes back."""
        ...

    def write(self, data: bytes) -> None:
        """Send ``data``. Errors: ``LinkError``."""
        ...

    def read(self, until: float) -> bytes:
        """What has arrived, as soon as anything has; nothing at the time ``until``. Errors: ``LinkError``."""
        ...

    def close(self) -> None:
        """Give it back."""
        ...


class SerialPort:
    """A serial port of this machine; nobody else may have it open."""

    def __init__(self, name: str, baud: int, write_seconds: float) -> None:
        """Open it and drop what had arrived. ``write_seconds``: how long the driver may refuse bytes.

        Errors: ``LinkError`` that says why it cannot be opened.
        """
        self.name = name
        self.baud = baud
        try:
            self._serial = serial.Serial(name, baud, timeout=0, write_timeout=write_seconds, exclusive=True)
            self._serial.reset_input_buffer()
        except (OSError, ValueError, termios.error) as error:  # serial.SerialException is an OSError
            raise LinkError(f"{name}: cannot be opened: {error}", hint=_opening_hint(error)) from error

    def now(self) -> float:
        """Seconds."""
        return time.monotonic()

    def write(self, data: bytes) -> None:
        """Send ``data``. Errors: ``LinkError``."""
        with self._lost():
            self._serial.write(data)

    def read(self, until: float) -> bytes:
        """What has arrived, as soon as anything has; nothing at the time ``until``. Errors: ``LinkError``."""
        with self._lost():
            ready, _, _ = select.select([self._serial], [], [], max(0.0, until - self.now()))
            arrived: bytes = self._serial.read(max(1, self._serial.in_waiting)) if ready else b""
            return arrived

    def close(self) -> None:
        """Give the port back."""
        self._serial.close()

    @contextlib.contextmanager
    def _lost(self) -> Iterator[None]:
        try:
            yield
        except (OSError, termios.error) as error:
            raise LinkError(f"{self.name}: lost: {error}", hint="is the board still plugged in?") from error


def _opening_hint(error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number == errno.EACCES:
        return PERMISSION_HINT
    if number in (errno.EAGAIN, errno.EBUSY):
        return "another program has it open: end that first"
    return "`sgsc doctor` lists the ports it sees"
