"""The firmware's own request handling (app.c, link.c) compiled for this machine, as a function from bytes to bytes."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

from sgsc_micro.codegen.host import WARNINGS
from sgsc_micro.files import data_dir
from tests.dummy_library import DummyLibrary

RUNTIME = data_dir("firmware_templates") / "runtime"
IMAGE, CORE_HZ = bytes([1, 2, 3]).ljust(300, b"\0"), 16_000_000  # of host_device.c
_ROOM = 1 << 20
_TRAPS = ("-fsanitize=undefined", "-fsanitize-undefined-trap-on-error")


class HostDevice:
    """One device; another of the same library is another copy."""

    def __init__(self, library: DummyLibrary) -> None:
        self.library = library
        main, program = Path(__file__).with_suffix(".c"), library.folder / "device.so"
        sources = [main, RUNTIME / "link.c", library.folder / "weights.c", library.folder / "model.c"]
        command = ["cc", "-shared", "-fPIC", "-O2", *_TRAPS, *WARNINGS, "-Wno-conversion", "-std=gnu11"]
        command += [f"-I{RUNTIME}", f"-I{library.folder}", *map(str, sources), "-o", str(program)]
        subprocess.run(command, check=True)
        self._c = ctypes.CDLL(str(program))
        self._c.device_flip.restype = ctypes.c_bool
        self._c.device_feed.restype = ctypes.c_size_t
        self._sent = ctypes.create_string_buffer(_ROOM)
        self.reset(0)

    def reset(self, garbage: int) -> None:
        """As a supply that fails and comes back: the arena is full of ``garbage``."""
        self._c.device_reset(ctypes.c_uint8(garbage))

    def feed(self, data: bytes) -> bytes:
        """What the firmware sends when ``data`` arrives."""
        count = self._c.device_feed(data, ctypes.c_size_t(len(data)), self._sent, ctypes.c_size_t(_ROOM))
        return ctypes.string_at(self._sent, count)

    def flip(self, offset: int, bits: int) -> None:
        """Flip ``bits`` of byte ``offset`` of the network's constants, as flash that has changed."""
        assert offset < self.library.weights
        assert self._c.device_flip(ctypes.c_size_t(offset), ctypes.c_uint8(bits))

    @property
    def runs(self) -> int:
        """How often the network ran."""
        count: int = self._c.device_runs()
        return count
