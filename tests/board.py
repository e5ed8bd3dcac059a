"""The twin of a board on a pty: a boot ROM, and QEMU booting the bytes that it has written."""

from __future__ import annotations

import contextlib
import os
import random
import selectors
import tempfile
import threading
import tty
from pathlib import Path
from typing import Self

import serial

from sgsc_micro.device import emulate
from sgsc_micro.targets import Target
from tests.boot_rom import SIZE, BootRom, PowerCutError


class Board:
    """A board on a pty: the boot ROM, or, after GO or a reset with BOOT0 low, QEMU booting what lies in the flash."""

    def __init__(self, target: Target, **chip: int) -> None:
        self.flash = bytearray(random.Random(0).randbytes(1024) + b"\xff" * (SIZE - 1024))  # something else was there
        self.rom = BootRom(self.flash, **chip)
        self.boots = 0
        self.boots_after_go = True
        self.unplug_at: int | None = None
        """The USB plug is pulled at this byte, counted as :attr:`BootRom.cut_at`."""
        self.unplug_after: int | None = None
        """The same, after the firmware has sent so many bytes."""
        self._sent = 0
        self._gone: set[int] = set()
        board = target.require_board()
        assert board.emulator is not None
        self._twin, self._origin = board.emulator, board.flash.origin
        self._near, self._slave = os.openpty()
        tty.setraw(self._slave)
        self.port = os.ttyname(self._slave)
        self._power = threading.Event()
        self._power.set()
        self._wake, self._bell = os.pipe()
        self._running = contextlib.ExitStack()
        self._far: serial.Serial | None = None
        self._thread = threading.Thread(target=self._live)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        os.write(self._bell, b"q")
        self._thread.join()
        self._stop()
        for descriptor in {self._near, self._slave, self._wake, self._bell} - self._gone:
            os.close(descriptor)

    def start(self, binary: bytes) -> None:
        """Have ``binary`` in the flash, and run it."""
        self.flash[: len(binary)] = binary
        self.reset(boot0=False)

    def reset(self, *, boot0: bool) -> None:
        """Power on again; returns when the board has restarted."""
        done = threading.Event()
        self._done = done
        os.write(self._bell, b"1" if boot0 else b"0")
        assert done.wait(20)

    def _live(self) -> None:
        while True:
            ready = ({self._near, self._wake} | ({self._far.fileno()} if self._far else set())) - self._gone
            with selectors.DefaultSelector() as selector:
                for descriptor in ready:
                    selector.register(descriptor, selectors.EVENT_READ)
                keys = [key.fd for key, _ in selector.select()]
            if self._wake in keys:
                order = os.read(self._wake, 1)
                if order == b"q":
                    return
                self._restart(boot0=order == b"1")
                self._done.set()
            elif self._far is not None and self._far.fileno() in keys:
                self._relay()
            else:
                self._hear(os.read(self._near, 4096))

    def _hear(self, data: bytes) -> None:
        if self._far is not None:
            self._far.write(data)
        elif self._power.is_set():
            try:
                for byte in data:
                    os.write(self._near, self.rom.feed(byte))
                    if self.rom.received == self.unplug_at:
                        self._unplug()
                        return
                    if self.rom.started is not None and self.boots_after_go:
                        self._boot()
                        return
            except PowerCutError:
                self._power.clear()

    def _unplug(self) -> None:
        self._gone = {self._near, self._slave}
        for descriptor in self._gone:
            os.close(descriptor)
        self._stop()

    def _relay(self) -> None:
        assert self._far is not None
        try:
            self._sent += os.write(self._near, self._far.read(max(1, self._far.in_waiting)))
            if self.unplug_after is not None and self._sent >= self.unplug_after:
                self._unplug()
        except OSError:  # QEMU gave up: the core locked up
            self._stop()
            self._power.clear()

    def _restart(self, *, boot0: bool) -> None:
        self._stop()
        self._power.set()
        self.rom.cut_at = None
        self.rom.restart()
        if not boot0:
            self._boot()

    def _boot(self) -> None:
        self.boots += 1
        folder = self._running.enter_context(tempfile.TemporaryDirectory())
        binary = Path(folder) / "flash.bin"
        binary.write_bytes(self.flash)
        try:
            port = self._running.enter_context(emulate(self._twin, binary, self._origin))
            self._far = self._running.enter_context(serial.Serial(port, timeout=0))
        except OSError:
            self._power.clear()

    def _stop(self) -> None:
        self._far = None
        self._running.close()
        self._running = contextlib.ExitStack()
