"""A pty between the host and a port, over which bytes meet with faults; and QEMU's reset button."""

from __future__ import annotations

import json
import os
import selectors
import socket
import threading
import time
import tty
from collections.abc import Callable
from pathlib import Path

import serial

from tests.faults import CLEAN, FaultyWay


class PtyLine:
    """``port``: the host's end. Pauses are as long as they say; a reset of the device is ``reset``.

    It lasts over many sessions of the host: QEMU looks but once a second whether a pty is open again.
    """

    def __init__(self, far: str, reset: Callable[[], None], *, down: FaultyWay = CLEAN, up: FaultyWay = CLEAN) -> None:
        self._far = serial.Serial(far, timeout=0)
        self._near, self._slave = os.openpty()
        tty.setraw(self._slave)
        self.port = os.ttyname(self._slave)
        self.spoil(down, up)
        self._reset = reset
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._pass_on)

    def spoil(self, down: FaultyWay, up: FaultyWay) -> None:
        """From now on with these faults."""
        self._ways = {self._near: (self._far.fileno(), down), self._far.fileno(): (self._near, up)}

    def __enter__(self) -> PtyLine:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self._far.close()
        os.close(self._near)
        os.close(self._slave)

    def _pass_on(self) -> None:
        with selectors.DefaultSelector() as selector:
            for end in self._ways:
                selector.register(end, selectors.EVENT_READ)
            while not self._stop.is_set():
                for key, _ in selector.select(0.05):
                    out, way = self._ways[key.fd]
                    for piece in way.spoil(os.read(key.fd, 256)):
                        time.sleep(piece.pause)
                        if piece.reset:
                            self._reset()
                        os.write(out, piece.data)


class Monitor:
    """QEMU's machine protocol on the socket of ``options``."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "qmp"
        self.options = ("-qmp", f"unix:{self._path},server=on,wait=off")

    def reset(self) -> None:
        """Press the board's reset button."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._path))
            with connection.makefile("rw") as lines:
                lines.readline()  # the greeting
                for command in ("qmp_capabilities", "system_reset"):
                    lines.write(json.dumps({"execute": command}) + "\n")
                    lines.flush()
                    while "return" not in json.loads(lines.readline()):
                        pass  # events
