"""Talk to the firmware: requests in flight, retries, time limits. The protocol is in docs/link.md."""

from __future__ import annotations

import dataclasses
import secrets
import struct
import zlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from types import TracebackType
from typing import Any, Literal, Self

from sgsc_micro.device.frames import (
    DATA_MAX,
    LINE_FRAME_MAX,
    PROTOCOL,
    REFUSALS,
    REPLY,
    Kind,
    Refusal,
    decode_frame,
    encode_frame,
)
from sgsc_micro.device.port import LinkError, Port, SerialPort

__all__ = ["Device", "Hello", "LinkError", "RunResult", "TickUnit"]

ANSWER_SECONDS = 5.0
"""How long the firmware may be silent, but for RUN, whatever is sent again meanwhile."""
RETRY_SECONDS = 0.5
"""When a request is sent again for the first time, above what the line takes for a window of the longest frames; then
after twice as long each time, up to four times: a device that is slow is not buried in copies."""
RUN_SECONDS = 60.0
"""How long the network may compute, retries included."""
WINDOW = 4
"""Requests in flight. Enough that the line never waits for a USB adapter; the firmware takes one after the other."""
_RUN_ATTEMPTS = 5
_LINE_SLACK = 4
"""A case may take the line as often as this many times without a fault."""


class _RefusedError(LinkError):
    """The firmware answered a request with an error code."""

    def __init__(self, message: str, code: int) -> None:
        again = "flash" if code == Refusal.WEIGHTS else "build and flash"
        super().__init__(message, hint=f"{again} the firmware again")
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
    weights_crc32: int
    """Of the network's constants, computed by the firmware over its own flash; where it was wrong once, that."""
    weights_built_crc32: int
    """What it was when the network was compiled."""


@dataclasses.dataclass(frozen=True)
class RunResult:
    """One case, run on the target."""

    output: bytes
    count: int
    """What ``model_run`` took, with its call, in ``unit``."""
    unit: Literal["cycles", "instructions"]
    stack_bytes: int
    """The deepest use of the stack during this run, counted from its top: the firmware's own frames are in it."""


@dataclasses.dataclass
class _InFlight:
    """A request that waits for its reply; times in seconds of the port's clock."""

    index: int
    frame: bytes
    patience: float
    due: float = 0.0
    """When it is sent again."""


class Device:
    """The firmware at the other end of a serial port.

    >>> with Device("/dev/ttyACM0") as device:      # doctest: +SKIP
    ...     device.run(0, bytes(device.hello().input_bytes)).output
    """

    def __init__(
        self,
        port: str | Port,
        *,
        baud: int = 115_200,
        unit: TickUnit = TickUnit("cycles"),
        answer_seconds: float = ANSWER_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
        run_seconds: float = RUN_SECONDS,
        window: int = WINDOW,
    ) -> None:
        """Open ``port``, or talk over one that is open; ``window``: requests in flight, 1 or more.

        Raises LinkError if it cannot be opened.
        """
        self._port = SerialPort(port, baud, answer_seconds) if isinstance(port, str) else port
        self._unit = unit
        self._answer_seconds = answer_seconds
        self._run_seconds = run_seconds
        self._window = window
        self._retry_seconds = retry_seconds + self._line_seconds(window * LINE_FRAME_MAX)
        self._sequence = secrets.randbelow(1 << 16)  # a late answer to an earlier session fits no request of this one
        self._pending = b""
        self._noise = 0  # bytes of this exchange that made no frame
        self._hello: Hello | None = None

    @property
    def name(self) -> str:
        """The port's."""
        return self._port.name

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the port back."""
        self._port.close()

    def hello(self) -> Hello:
        """Ask who is there. Raises LinkError if nobody answers, or in another version of the protocol."""
        (reply,) = self._exchange(Kind.HELLO, [b""], self._answer_seconds, self._port.now() + self._answer_seconds)
        (protocol,) = self._unpack("<I", reply[:4])
        if protocol != PROTOCOL:
            raise LinkError(
                f"{self._port.name}: the firmware speaks version {protocol} of the link, this program {PROTOCOL}",
                hint="build and flash the firmware again",
            )
        model_hash, build_id, *numbers = self._unpack("<32s20s9I", reply[4:])
        self._hello = Hello(model_hash.hex(), build_id.hex(), *numbers)
        return self._hello

    def limit_seconds(self, hello: Hello) -> float:
        """How long :meth:`run` takes at most, whatever the line does."""
        line = self._line_seconds(hello.input_bytes + hello.output_bytes)
        return self._run_seconds + self._answer_seconds + _LINE_SLACK * line

    def run(self, case_id: int, data: bytes) -> RunResult:
        """Run the network on ``data`` (int8, as bytes). ``case_id`` (32 bits) comes back with the answer.

        Every byte is covered by a checksum from end to end, so that the output is right or LinkError is raised.
        """
        hello = self._hello or self.hello()
        if len(data) != hello.input_bytes:
            raise LinkError(f"{self._port.name}: the network takes {hello.input_bytes} bytes of input, not {len(data)}")
        deadline = self._port.now() + self.limit_seconds(hello)
        # A device that resets in between has lost input and output; the checksums tell, and the case starts again.
        for _ in range(_RUN_ATTEMPTS):
            result = self._attempt(case_id, data, hello.output_bytes, deadline)
            if result is not None:
                return result
        raise LinkError(
            f"{self._port.name}: case {case_id} did not come through in {_RUN_ATTEMPTS} attempts",
            hint="the device seems to reset again and again: check its supply",
        )

    def _attempt(self, case_id: int, data: bytes, output_bytes: int, deadline: float) -> RunResult | None:
        """None where input or output did not stay whole in the device."""
        chunks = [struct.pack("<I", start) + data[start : start + DATA_MAX] for start in range(0, len(data), DATA_MAX)]
        self._exchange(Kind.WRITE, chunks, self._answer_seconds, deadline)
        request = struct.pack("<II", case_id, zlib.crc32(data))
        try:
            (reply,) = self._exchange(Kind.RUN, [request], self._run_seconds, deadline)
        except _RefusedError as refusal:
            if refusal.code != Refusal.INPUT:
                raise
            return None
        echoed, crc, ticks, stack_bytes = self._unpack("<IIQI", reply)
        starts = range(0, output_bytes, DATA_MAX)
        places = [struct.pack("<II", start, min(DATA_MAX, output_bytes - start)) for start in starts]
        output = b"".join(self._exchange(Kind.READ, places, self._answer_seconds, deadline))
        if echoed != case_id or zlib.crc32(output) != crc:
            return None
        return RunResult(output, round(ticks / self._unit.ticks), self._unit.name, stack_bytes)

    def _line_seconds(self, count: int) -> float:
        return count * 10 / self._port.baud  # a start bit, eight, a stop bit

    def _unpack(self, layout: str, payload: bytes) -> tuple[Any, ...]:
        if len(payload) != struct.calcsize(layout):
            raise LinkError(
                f"{self._port.name}: an answer of {len(payload)} bytes makes no sense", hint="flash it again"
            )
        return struct.unpack(layout, payload)

    def _exchange(self, kind: Kind, payloads: Sequence[bytes], silence: float, deadline: float) -> list[bytes]:
        """The replies' payloads, in order; a window of requests is in flight. The order of service must not matter.

        Errors: ``LinkError`` after ``silence`` seconds without a reply, or at ``deadline``.
        """
        replies: dict[int, bytes] = {}
        waiting: dict[int, _InFlight] = {}  # by sequence number, in the order of sending
        last = begin = self._port.now()
        self._noise = 0
        while len(replies) < len(payloads):
            now = self._port.now()
            if now >= min(last + silence, deadline):
                raise self._no_answer(kind, now - begin)
            for sequence, request in list(waiting.items()):
                if request.due <= now:
                    request.patience = min(2 * request.patience, 4 * self._retry_seconds)
                    self._send(waiting, sequence, request)
            while len(waiting) < self._window and len(replies) + len(waiting) < len(payloads):
                index = len(replies) + len(waiting)
                self._sequence = (self._sequence + 1) & 0xFFFF
                frame = encode_frame(kind, self._sequence, payloads[index])
                self._send(waiting, self._sequence, _InFlight(index, frame, self._retry_seconds))
            until = min(last + silence, deadline, *(request.due for request in waiting.values()))
            for sequence, payload in self._replies(kind, until, waiting):
                self._expedite(waiting, sequence)
                replies[waiting.pop(sequence).index] = payload
                last = self._port.now()
        return [replies[index] for index in range(len(payloads))]

    def _send(self, waiting: dict[int, _InFlight], sequence: int, request: _InFlight) -> None:
        waiting.pop(sequence, None)  # it is the last sent now
        self._port.write(request.frame)
        request.due = self._port.now() + request.patience
        waiting[sequence] = request

    def _expedite(self, waiting: dict[int, _InFlight], answered: int) -> None:
        """A line keeps the order: what was sent before an answered request and has no answer was lost."""
        for sequence, request in waiting.items():
            if sequence == answered:
                break
            request.due = self._port.now()

    def _replies(self, kind: Kind, until: float, waiting: dict[int, _InFlight]) -> Iterator[tuple[int, bytes]]:
        """(sequence, payload) of each reply in what arrives next; late and doubled ones are left out."""
        *frames, self._pending = (self._pending + self._port.read(until)).split(b"\0")
        self._pending = self._pending[-LINE_FRAME_MAX:]  # a line that is stuck sends no delimiter
        for encoded in frames:
            frame = decode_frame(encoded)
            if frame is None:
                self._noise += len(encoded)
                continue
            got, sequence, payload = frame
            if got == Kind.FAULT:
                raise self._fault(payload)
            if sequence not in waiting:
                continue
            if got == Kind.ERROR:
                raise self._refusal(kind, payload)
            if got == kind | REPLY:
                yield sequence, payload

    def _no_answer(self, kind: Kind, seconds: float) -> LinkError:
        noise = self._noise + len(self._pending)
        message = f"{self._port.name}: no answer to {kind.name} within {seconds:.3g} s"
        if noise:
            return LinkError(
                f"{message}, but {noise} bytes that make no frame",
                hint=f"does the board speak at {self._port.baud} baud, with this project's firmware on it?",
            )
        return LinkError(message, hint="is this the board's port, and is this project's firmware on it?")

    def _refusal(self, kind: Kind, payload: bytes) -> LinkError:
        (code,) = self._unpack("<B", payload)
        text = REFUSALS.get(code, "refuses")
        return _RefusedError(f"{self._port.name}: {kind.name}: the firmware {text} (error {code})", code)

    def _fault(self, payload: bytes) -> LinkError:
        exception, pc, lr, cfsr = self._unpack("<4I", payload)
        where = f"pc 0x{pc:08x}, lr 0x{lr:08x}" if pc else "after the stack overflowed"
        crash = f"exception {exception}, {where}, CFSR 0x{cfsr:08x}"
        return LinkError(
            f"{self._port.name}: the firmware crashed ({crash}) and restarted",
            hint="arm-none-eabi-addr2line -e firmware.elf ADDRESS names the line",
        )
