"""The twin of an STM32F446's USART boot ROM, as ST AN3155 describes it, and of its flash.

Written from the application note and the reference manual (RM0390), not from the program that is tested against it.
"""

from __future__ import annotations

import dataclasses
import random
import struct
from collections.abc import Generator
from functools import reduce
from operator import xor

ACK, NACK, SYNC = 0x79, 0x1F, 0x7F
GET, VERSION, ID, READ, GO, WRITE, EXTENDED_ERASE, PROTECT, UNPROTECT = (
    0x00, 0x01, 0x02, 0x11, 0x21, 0x31, 0x44, 0x82, 0x92)  # fmt: skip
COMMANDS = bytes([GET, VERSION, ID, READ, GO, WRITE, EXTENDED_ERASE, 0x63, 0x73, PROTECT, UNPROTECT])
WHEN_PROTECTED = (GET, VERSION, ID, UNPROTECT)
ORIGIN, SIZE = 0x0800_0000, 512 * 1024
SECTORS = [16 * 1024] * 4 + [64 * 1024] + [128 * 1024] * 3
SYSTEM, SIZE_REGISTER = 0x1FFF_7A00, 0x22  # 256 bytes; KiB of flash in 16 bits

Bytes = Generator[None, int, None]


class PowerCutError(Exception):
    """The supply went away while a byte was being dealt with."""


@dataclasses.dataclass(frozen=True)
class Action:
    """What was done to the flash, and how many bytes had come by then; ``whole`` is False where the supply was cut."""

    at: int
    offset: int | None
    """Of what was programmed; None: an erase."""
    whole: bool


class BootRom:
    """The state machine: a byte in, what it sends back."""

    def __init__(self, flash: bytearray, *, chip_id: int = 0x421, kib: int = SIZE // 1024) -> None:
        self.flash = flash
        self.chip_id, self.kib = chip_id, kib
        self.protected = False
        self.received = 0
        self.cut_at: int | None = None
        """The supply is cut at this byte, counted from 1 over all sessions; what it started is half done."""
        self.spoil: dict[int, int] = {}
        """Which received bytes arrive with which bits flipped."""
        self.actions: list[Action] = []
        self.started: int | None = None
        """Where GO jumped."""
        self.restart()

    def restart(self) -> None:
        """Out of reset with BOOT0 high."""
        self.started = None
        self._out = bytearray()
        self._task = self._session()
        next(self._task)

    def feed(self, byte: int) -> bytes:
        self.received += 1
        self._out.clear()
        self._task.send(byte ^ self.spoil.get(self.received, 0))
        if self.received == self.cut_at:
            raise PowerCutError
        return bytes(self._out)

    def _session(self) -> Bytes:
        first = yield
        while first != SYNC:
            yield  # it took some other baud rate: deaf until the next reset
        self._out.append(ACK)
        while self.started is None:
            command = yield
            complement = yield
            allowed = command in COMMANDS and (not self.protected or command in WHEN_PROTECTED)
            if command ^ complement != 0xFF or not allowed:
                self._out.append(NACK)
                continue
            self._out.append(ACK)
            yield from self._command(command)
        while True:
            yield

    def _command(self, command: int) -> Bytes:
        if command == GET:
            self._out += bytes([len(COMMANDS), 0x31]) + COMMANDS + bytes([ACK])
        elif command == VERSION:
            self._out += bytes([0x31, 0, 0, ACK])
        elif command == ID:
            self._out += bytes([1]) + struct.pack(">H", self.chip_id) + bytes([ACK])
        elif command == READ:
            yield from self._read()
        elif command == WRITE:
            yield from self._write()
        elif command == GO:
            if (address := (yield from self._address())) is not None:
                self.started = address
        elif command == EXTENDED_ERASE:
            yield from self._erase()
        elif command == UNPROTECT:
            self._erase_sectors(range(len(SECTORS)))
            self.protected = False
            self._out.append(ACK)

    def _take(self, count: int) -> Generator[None, int, bytes]:
        taken = bytearray()
        while len(taken) < count:
            taken.append((yield))
        return bytes(taken)

    def _address(self) -> Generator[None, int, int | None]:
        """ACK for an address in flash or system memory whose checksum is right; else NACK and None."""
        *word, checksum = yield from self._take(5)
        address = int.from_bytes(bytes(word), "big")
        known = ORIGIN <= address < ORIGIN + self.kib * 1024 or SYSTEM <= address < SYSTEM + 256
        right = reduce(xor, word) == checksum and known
        self._out.append(ACK if right else NACK)
        return address if right else None

    def _read(self) -> Bytes:
        address = yield from self._address()
        if address is None:
            return
        count, complement = yield from self._take(2)
        if count ^ complement != 0xFF:
            self._out.append(NACK)
            return
        system = bytearray(256)
        struct.pack_into("<H", system, SIZE_REGISTER, self.kib)
        memory, origin = (system, SYSTEM) if address < ORIGIN or address >= SYSTEM else (self.flash, ORIGIN)
        self._out += bytes([ACK]) + memory[address - origin : address - origin + count + 1]

    def _write(self) -> Bytes:
        address = yield from self._address()
        if address is None:
            return
        (count,) = yield from self._take(1)
        *data, checksum = yield from self._take(count + 2)
        if reduce(xor, data, count) != checksum or address % 4 or (count + 1) % 4:
            self._out.append(NACK)
            return
        self._program(address - ORIGIN, bytes(data))
        self._out.append(ACK)

    def _erase(self) -> Bytes:
        count = int.from_bytes((yield from self._take(2)), "big")
        if count >= 0xFFFD:
            (checksum,) = yield from self._take(1)
            wanted, right = list(range(len(SECTORS))), checksum == (count >> 8) ^ (count & 0xFF)
        else:
            numbers = yield from self._take(2 * (count + 1))
            (checksum,) = yield from self._take(1)
            wanted = [int.from_bytes(numbers[i : i + 2], "big") for i in range(0, len(numbers), 2)]
            right = reduce(xor, numbers, (count >> 8) ^ (count & 0xFF)) == checksum
        if not right or any(number >= len(SECTORS) for number in wanted):
            self._out.append(NACK)
            return
        self._erase_sectors(wanted)
        self._out.append(ACK)

    def _act(self, offset: int | None) -> bool:
        """Whether it comes to its end."""
        whole = self.received != self.cut_at
        self.actions.append(Action(self.received, offset, whole))
        return whole

    def _erase_sectors(self, numbers: list[int] | range) -> None:
        to_the_end = self._act(None)
        for number in numbers:
            start = sum(SECTORS[:number])
            whole = range(start, start + SECTORS[number])
            # Cut off, a sector is left with some bits erased and others not.
            if not to_the_end:
                for place in whole[:: random.Random(start).randrange(1, 9)]:
                    self.flash[place] = 0xFF
                return
            self.flash[whole.start : whole.stop] = b"\xff" * len(whole)

    def _program(self, offset: int, data: bytes) -> None:
        """Programming can only clear bits; cut off, it has come as far as it has."""
        if not self._act(offset):
            data = data[: random.Random(offset).randrange(len(data))]
        for place, byte in enumerate(data, offset):
            self.flash[place] &= byte
