"""A serial line and the device at its end, in virtual time: how long a thing takes does not depend on this machine."""

from __future__ import annotations

import collections
import heapq
import itertools
import math
import re

from tests.faults import CLEAN, FaultyWay, Piece
from tests.host_device import HostDevice

RING_BYTES = 1024  # of serial.c
BOOT_SECONDS = 0.02
RUN_SECONDS = 0.005
PATIENCE_SECONDS = 2000.0  # of virtual time
_ENDING = re.compile(rb"[^\0]*\0|[^\0]+\Z")


class SimulatedLine:
    """A ``Port``: a USB adapter, a line of ``baud`` and a device that, as the firmware does, keeps 1,024 bytes while it
    sends and none while it runs the network.

    ``latency``: seconds for bytes from the host to the adapter's pin, or back; they travel in USB frames of 1 ms.
    """

    def __init__(
        self,
        device: HostDevice,
        *,
        baud: int = 115_200,
        latency: float = 0.001,
        core_hz: float = 16e6,
        down: FaultyWay = CLEAN,
        up: FaultyWay = CLEAN,
    ) -> None:
        self.name, self.baud = "simulated line", baud
        self.carried = [0, 0]  # bytes to the device, and back
        self._device, self._latency, self._down, self._up = device, latency, down, up
        self._byte_seconds, self._cycle_seconds = 10 / baud, 1 / core_hz
        self._now = 0.0
        self._down_free = self._up_free = 0.0  # when the line has sent all
        self._free = 0.0  # when the device takes up the next byte
        self._deaf = 0.0  # until when the device loses what arrives
        self._coming: list[tuple[float, int, float, Piece]] = []  # a heap: last byte's time, order, first's, what
        self._ring: collections.deque[bytes] = collections.deque()
        self._arrivals: list[tuple[float, int, bytes]] = []  # at the host: a heap
        self._order = itertools.count()

    def now(self) -> float:
        return self._now

    def close(self) -> None:
        pass

    def write(self, data: bytes) -> None:
        self.carried[0] += len(data)
        start = max(self._down_free, self._usb(self._now))
        for spoilt in self._down.spoil(data):
            start += spoilt.pause
            if spoilt.reset:
                self._reset_at(start)
            for piece in _ENDING.findall(spoilt.data):
                end = start + len(piece) * self._byte_seconds
                heapq.heappush(self._coming, (end, next(self._order), start + self._byte_seconds, Piece(piece)))
                start = end
        self._down_free = start

    def read(self, until: float) -> bytes:
        while True:
            assert self._now < PATIENCE_SECONDS, "the host never gives up"
            host = self._arrivals[0][0] if self._arrivals else math.inf
            device = self._next_step()
            if min(host, device) > until:
                self._now = max(self._now, until)
                return b""
            if host <= device:
                self._now = max(self._now, host)
                return heapq.heappop(self._arrivals)[2]
            self._step(device)

    def _next_step(self) -> float:
        """When the device takes up, or the line delivers, the next piece."""
        work = self._free if self._ring else math.inf
        return min(work, self._coming[0][0] if self._coming else math.inf)

    def _step(self, time: float) -> None:
        if self._ring and self._free <= time:
            self._work(self._ring.popleft(), self._free)
            return
        last, _, first, piece = heapq.heappop(self._coming)
        if piece.reset:
            self._device.reset(0x5A)
            self._ring.clear()
            self._free = self._deaf = last + BOOT_SECONDS
            return
        lost = math.ceil((self._deaf - first) / self._byte_seconds)
        heard = piece.data[max(0, lost) :]
        if not self._ring and self._free <= last:
            self._work(heard, last)
        else:
            self._ring.append(heard[: RING_BYTES - sum(map(len, self._ring))])

    def _work(self, data: bytes, time: float) -> None:
        """The device takes ``data``; it waits for the line to send what it answers."""
        runs = self._device.runs
        answer = self._device.feed(data)
        if not answer:
            return
        time += 14 * (len(data) + len(answer)) * self._cycle_seconds  # two checksums
        if self._device.runs != runs:
            time += RUN_SECONDS
            self._deaf = time
        self.carried[1] += len(answer)
        self._free = time + len(answer) * self._byte_seconds
        for piece in self._up.spoil(answer):
            start = max(self._up_free, time) + piece.pause
            self._up_free = time = start + len(piece.data) * self._byte_seconds
            if piece.reset:
                self._reset_at(start)
                return  # what it had still to say is gone
            if piece.data:
                heapq.heappush(self._arrivals, (self._usb(self._up_free), next(self._order), piece.data))

    def _reset_at(self, time: float) -> None:
        heapq.heappush(self._coming, (time, next(self._order), time, Piece(b"", reset=True)))

    def _usb(self, time: float) -> float:
        """When the adapter passes on what it has at ``time``."""
        return math.ceil((time + self._latency) * 1000 - 1e-9) / 1000
