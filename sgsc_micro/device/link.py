"""Talk to the firmware over a serial port: frames, retries, one class, ``Device``. The protocol is in docs/link.md."""

from __future__ import annotations

import dataclasses
import enum
import errno
import secrets
import struct
import time
import zlib
from fractions import Fraction
from types import TracebackType
from typing import Any, Literal, Self

import serial
from cobs import cobs

from sgsc_micro.errors import SgscError

PROTOCOL = 1
DATA_MAX = 512
"""Bytes of input or output in one frame."""

ANSWER_SECONDS = 5.0
"""How long a request other than RUN may stay without an answer, retries included."""
RETRY_SECONDS = 0.5
"""When a request is repeated for the first time; then after twice as long each time."""
RUN_SECONDS = 60.0
"""How long the network may compute, retries included."""
PERMISSION_HINT = "sudo adduser $USER dialout, then log in again"
_RUN_ATTEMPTS = 5
_POLL_SECONDS = 0.02


class Kind(enum.IntEnum):
    """The first byte of a frame; a reply adds 0x80 to its request's."""

    HELLO = 0x01
    WRITE = 0x02
    RUN = 0x03
    READ = 0x04
    FAULT = 0xFE
    ERROR = 0xFF


_REPLY = 0x80
_ERRORS = {
    1: "does not know this request",
    2: "finds the request's length wrong",
    3: "finds the request outside its buffers",
    4: "does not hold the input that was sent",
}
_INPUT_LOST = 4


class LinkError(SgscError):
    """The port or the firmware behind it does not do its part."""


class _RefusedError(LinkError):
    """The firmware answered a request with an error code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@dataclasses.dataclass(frozen=True)
class TickUnit:
    """What one count of a run's cost is: ``ticks`` of the firmware's counter make one ``name``."""

    name: Literal["cycles", "instructions"]
    ticks: Fraction = Fraction(1)


@dataclasses.dataclass(frozen=True)
class Hello:
    """What the firmware says of itself; sizes in bytes."""

    model_hash: str
    build_id: str
    image_crc32: int
    """Computed by the firmware over its own flash when asked."""
    image_bytes: int
    input_bytes: int
    output_bytes: int
    arena_bytes: int
    stack_bytes: int
    core_hz: int


@dataclasses.dataclass(frozen=True)
class RunResult:
    """One case, run on the target."""

    output: bytes
    count: int
    """What ``model_run`` took, with its call, in ``unit``."""
    unit: Literal["cycles", "instructions"]
    stack_bytes: int
    """The deepest use of the stack during this run, counted from its top: the firmware's own frames are in it."""


def encode_frame(kind: int, sequence: int, payload: bytes) -> bytes:
    """A frame as it goes over the line: delimiter, COBS of kind, sequence, payload and CRC-32, delimiter."""
    body = struct.pack("<BH", kind, sequence) + payload
    encoded: bytes = cobs.encode(body + struct.pack("<I", zlib.crc32(body)))
    return b"\0" + encoded + b"\0"


def decode_frame(encoded: bytes) -> tuple[int, int, bytes] | None:
    """(kind, sequence, payload) of what lay between two delimiters; None if it is no whole frame."""
    try:
        raw = cobs.decode(encoded)
    except cobs.DecodeError:
        return None
    if len(raw) < 7 or zlib.crc32(raw[:-4]) != int.from_bytes(raw[-4:], "little"):
        return None
    kind, sequence = struct.unpack_from("<BH", raw)
    return kind, sequence, raw[3:-4]


class Device:
    """The firmware at the other end of a serial port.

    >>> with Device("/dev/ttyACM0") as device:      # doctest: +SKIP
    ...     device.run(0, bytes(device.hello().input_bytes)).output
    """

    def __init__(
        self,
        port: str,
        *,
        baud: int = 115_200,
        unit: TickUnit = TickUnit("cycles"),
        answer_seconds: float = ANSWER_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
        run_seconds: float = RUN_SECONDS,
    ) -> None:
        """Open ``port``. Raises LinkError if it cannot be opened."""
        self._name = port
        self._unit = unit
        self._answer_seconds = answer_seconds
        self._retry_seconds = retry_seconds
        self._run_seconds = run_seconds
        self._sequence = secrets.randbelow(1 << 16)  # a late answer to an earlier session fits no request of this one
        self._pending = b""
        self._hello: Hello | None = None
        try:
            self._serial = serial.Serial(
                port, baud, timeout=_POLL_SECONDS, write_timeout=answer_seconds, exclusive=True
            )
            self._serial.reset_input_buffer()
        except (OSError, ValueError) as error:  # serial.SerialException is an OSError
            denied = getattr(error, "errno", None) == errno.EACCES
            hint = PERMISSION_HINT if denied else "`sgsc doctor` lists the ports it sees"
            raise LinkError(f"{port}: cannot be opened: {error}", hint=hint) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the port back."""
        self._serial.close()

    def hello(self) -> Hello:
        """Ask who is there. Raises LinkError if nobody answers, or in another version of the protocol."""
        reply = self._request(Kind.HELLO, b"", self._answer_seconds)
        (protocol,) = self._unpack("<I", reply[:4])
        if protocol != PROTOCOL:
            raise LinkError(
                f"{self._name}: the firmware speaks version {protocol} of the link, this program {PROTOCOL}",
                hint="build and flash the firmware again",
            )
        model_hash, build_id, *numbers = self._unpack("<32s20s7I", reply[4:])
        self._hello = Hello(model_hash.hex(), build_id.hex(), *numbers)
        return self._hello

    def run(self, case_id: int, data: bytes) -> RunResult:
        """Run the network on ``data`` (int8, as bytes). ``case_id`` (32 bits) comes back with the answer.

        Every byte is covered by a checksum from end to end, so that the output is right or LinkError is raised.
        """
        hello = self._hello or self.hello()
        if len(data) != hello.input_bytes:
            raise LinkError(f"{self._name}: the network takes {hello.input_bytes} bytes of input, not {len(data)}")
        # A device that resets in between has lost input and output; the checksums tell, and the case starts again.
        for _ in range(_RUN_ATTEMPTS):
            for offset in range(0, len(data), DATA_MAX):
                chunk = data[offset : offset + DATA_MAX]
                self._request(Kind.WRITE, struct.pack("<I", offset) + chunk, self._answer_seconds)
            request = struct.pack("<II", case_id, zlib.crc32(data))
            try:
                reply = self._request(Kind.RUN, request, self._run_seconds)
            except _RefusedError as refusal:
                if refusal.code != _INPUT_LOST:
                    raise
                continue
            echoed, crc, ticks, stack_bytes = self._unpack("<IIQI", reply)
            output = self._read(hello.output_bytes)
            if echoed == case_id and zlib.crc32(output) == crc:
                return RunResult(output, round(ticks / self._unit.ticks), self._unit.name, stack_bytes)
        raise LinkError(
            f"{self._name}: case {case_id} did not come through in {_RUN_ATTEMPTS} attempts",
            hint="the device seems to reset again and again: check its supply",
        )

    def _read(self, size: int) -> bytes:
        chunks = ((offset, min(DATA_MAX, size - offset)) for offset in range(0, size, DATA_MAX))
        return b"".join(self._request(Kind.READ, struct.pack("<II", *chunk), self._answer_seconds) for chunk in chunks)

    def _unpack(self, layout: str, payload: bytes) -> tuple[Any, ...]:
        if len(payload) != struct.calcsize(layout):
            raise LinkError(f"{self._name}: an answer of {len(payload)} bytes makes no sense", hint="flash it again")
        return struct.unpack(layout, payload)

    def _request(self, kind: Kind, payload: bytes, seconds: float) -> bytes:
        """The reply's payload. The device answers a repeated request without doing it twice."""
        self._sequence = (self._sequence + 1) & 0xFFFF
        frame = encode_frame(kind, self._sequence, payload)
        deadline = time.monotonic() + seconds
        patience = self._retry_seconds
        try:
            while time.monotonic() < deadline:
                self._serial.write(frame)
                reply = self._await_reply(kind, min(deadline, time.monotonic() + patience))
                if reply is not None:
                    return reply
                patience *= 2
        except OSError as error:
            raise LinkError(f"{self._name}: lost: {error}", hint="is the board still plugged in?") from error
        raise LinkError(
            f"{self._name}: no answer to {kind.name} within {seconds:g} s",
            hint="is this the board's port, and is this project's firmware on it?",
        )

    def _await_reply(self, kind: Kind, until: float) -> bytes | None:
        while time.monotonic() < until:
            *frames, self._pending = self._pending.split(b"\0")
            for frame in map(decode_frame, frames):
                if frame is None:
                    continue
                got, sequence, payload = frame
                if got == Kind.FAULT:
                    raise self._fault(payload)
                if sequence != self._sequence:
                    continue  # late or doubled
                if got == Kind.ERROR:
                    text = _ERRORS.get(payload[0], "refuses")
                    raise _RefusedError(
                        f"{self._name}: {kind.name}: the firmware {text} (error {payload[0]})", payload[0]
                    )
                if got == kind | _REPLY:
                    return payload
            self._pending += self._serial.read(max(1, self._serial.in_waiting))
        return None

    def _fault(self, payload: bytes) -> LinkError:
        exception, pc, lr, cfsr = self._unpack("<4I", payload)
        where = f"pc 0x{pc:08x}, lr 0x{lr:08x}" if pc else "after the stack overflowed"
        return LinkError(
            f"{self._name}: the firmware crashed (exception {exception}, {where}, CFSR 0x{cfsr:08x}) and restarted",
            hint="arm-none-eabi-addr2line -e firmware.elf ADDRESS names the line",
        )
