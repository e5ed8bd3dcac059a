"""Frames as they go over the line: COBS around kind, sequence number, payload and CRC-32 (docs/link.md)."""

from __future__ import annotations

import enum
import struct
import zlib

from cobs import cobs

PROTOCOL = 2
DATA_MAX = 512
"""Bytes of input or output in one frame."""
LINE_FRAME_MAX = 528
"""The longest frame as it goes over the line: 523 bytes, COBS's code byte for each 254 of them, two delimiters."""
REPLY = 0x80
"""Added to a request's kind by its reply."""


class Kind(enum.IntEnum):
    """The first byte of a frame; a reply adds ``REPLY`` to its request's."""

    HELLO = 0x01
    WRITE = 0x02
    RUN = 0x03
    READ = 0x04
    FAULT = 0xFE
    ERROR = 0xFF


class Refusal(enum.IntEnum):
    """What an ERROR says."""

    KIND = 1
    LENGTH = 2
    RANGE = 3
    INPUT = 4
    WEIGHTS = 5


REFUSALS = {
    Refusal.KIND: "does not know this request",
    Refusal.LENGTH: "finds the request's length wrong",
    Refusal.RANGE: "finds the request outside its buffers",
    Refusal.INPUT: "does not hold the input that was sent",
    Refusal.WEIGHTS: "finds the network's weights in its flash damaged",
}


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
