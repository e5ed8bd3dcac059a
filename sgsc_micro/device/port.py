"""The serial port under the link: bytes, time, and faults that say what to do."""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import select
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import serial

from sgsc_micro.errors import SgscError

_BUSY_SECONDS = 0.5
"""A lock outlives its holder by the time that a program which was started beside it takes to start."""
_BUSY = "in use by another program", "end the terminal, monitor or sgsc that holds it (`fuser` names it)"
_CAUSES = {
    errno.EAGAIN: _BUSY,
    errno.EBUSY: _BUSY,
    errno.ENOENT: ("there is no such port", "is the board plugged in? `sgsc doctor` lists the ports it sees"),
    errno.ENOTTY: ("it is no serial port", "`sgsc doctor` lists the ports it sees"),
}


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


def open_port(port: str, baud: int, failure: type[SgscError], **options: Any) -> serial.Serial:
    """``port``, opened for this program alone, with what had come in before thrown away.

    ``options`` are pyserial's. Raises ``failure`` with the likely cause.
    """
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            opened = serial.Serial(port, baud, exclusive=True, **options)
            opened.reset_input_buffer()
            return opened
        except (OSError, ValueError, termios.error) as error:  # serial.SerialException is an OSError
            number = getattr(error, "errno", None) or 0
            cause, hint = _CAUSES.get(number, (str(error), "`sgsc doctor` lists the ports it sees"))
            if number in (errno.EACCES, errno.EPERM):
                cause, hint = "no permission to use it", access_hint(Path(port))
            if (cause, hint) == _BUSY and time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            raise failure(f"{port}: cannot be opened: {cause}", hint=hint) from error


class SerialPort:
    """A serial port of this machine; nobody else may have it open."""

    def __init__(self, name: str, baud: int, write_seconds: float) -> None:
        """Open it and drop what had arrived. ``write_seconds``: how long the driver may refuse bytes.

        Errors: ``LinkError`` that says why it cannot be opened.
        """
        self.name = name
        self.baud = baud
        self._serial = open_port(name, baud, LinkError, timeout=0, write_timeout=write_seconds)

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


def access_hint(device: Path) -> str:
    """How this user gets to open a port that it may not: by the group that the port belongs to."""
    try:
        status = device.stat()
        group = grp.getgrgid(status.st_gid)
    except (OSError, KeyError):
        return "is it still plugged in?"
    user = os.environ.get("USER", "$USER")
    if status.st_mode & 0o060 != 0o060 or group.gr_gid == 0:  # the group may not either, or is root's
        return f"sudo chmod a+rw {device}, or a udev rule that does it"
    if user in group.gr_mem:
        return f"{user} is in the group {group.gr_name} since this session began: log in again"
    return f"sudo adduser {user} {group.gr_name}, then log in again"
