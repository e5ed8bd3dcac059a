"""What goes wrong on a serial line, drawn from a seed: bytes lost, doubled, flipped, late, swapped; noise; resets."""

from __future__ import annotations

import collections
import dataclasses
import enum
import random
from collections.abc import Iterator


class Fault(enum.Enum):
    DROP = enum.auto()
    DOUBLE = enum.auto()
    FLIP = enum.auto()
    DELAY = enum.auto()  # the line stands still for a while
    SWAP = enum.auto()  # a byte overtakes those before it
    REPLAY = enum.auto()  # what was sent a while ago comes again
    NOISE = enum.auto()
    RESET = enum.auto()  # of the device, with the rest of the frame still to come


@dataclasses.dataclass(frozen=True)
class Piece:
    """What a line carries next: after ``pause`` seconds, and a reset of the device if so, ``data``."""

    data: bytes
    pause: float = 0.0
    reset: bool = False


class FaultyWay:
    """One direction of a line; each byte meets a fault with probability ``rate``."""

    def __init__(
        self, rate: float, seed: int, faults: tuple[Fault, ...] = tuple(Fault), longest_pause: float = 1.0
    ) -> None:
        self.count: collections.Counter[Fault] = collections.Counter()
        self._rate = rate
        self._random = random.Random(seed)
        self._faults = faults
        self._pauses = [longest_pause * share for share in (0.002, 0.02, 0.2, 1.0)]
        self._past = bytearray()

    def spoil(self, data: bytes) -> Iterator[Piece]:
        """``data`` as it comes out at the other end."""
        self._past = (self._past + data)[-4000:]
        done = 0
        while self._rate and (position := done + int(self._random.expovariate(self._rate))) < len(data):
            yield Piece(data[done:position])
            fault = self._random.choice(self._faults)
            self.count[fault] += 1
            yield self._piece(fault, data[position : position + 1], data[position + 1 : position + 5])
            done = position + (5 if fault is Fault.SWAP else 1)
        yield Piece(data[done:])

    def _piece(self, fault: Fault, byte: bytes, following: bytes) -> Piece:
        draw = self._random
        match fault:
            case Fault.DROP:
                return Piece(b"")
            case Fault.DOUBLE:
                return Piece(byte * 2)
            case Fault.FLIP:
                return Piece(bytes([byte[0] ^ 1 << draw.randrange(8)]))
            case Fault.DELAY:
                return Piece(byte, pause=draw.choice(self._pauses))
            case Fault.SWAP:
                return Piece(following + byte)
            case Fault.REPLAY:
                start = draw.randrange(len(self._past))
                return Piece(byte + self._past[start : start + draw.choice([20, 200, 1500])])
            case Fault.NOISE:
                return Piece(byte + draw.randbytes(draw.choice([1, 10, 300, 2000])))
            case Fault.RESET:
                return Piece(byte, reset=True)


CLEAN = FaultyWay(0, 0)
