"""How a channel of b-bit weights lies in flash: the one place that knows, for the size model and for the packer.

For SMLAD, and in plain C (``Packing.LANES``): a 32-bit word has two 16-bit lanes, for two products. A *plane* of f-bit
fields puts ``16 // f`` fields into each lane, so one AND with a shifted word yields a pair. A width that fills lanes
badly is split into planes of narrower fields, ``w = hi * 2^k + lo``; each channel takes the split that needs the fewest
words.

For Helium (``Packing.BYTES``): fields of 8, 4, 2 or 1 bits fill a byte, other widths are planes of these.
c/sgsc_bytes.h says which tap lies where.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from functools import cache
from itertools import combinations_with_replacement

import numpy as np

FIELD_BITS = (8, 6, 5, 4, 3, 2, 1)
"""Field widths the micro-kernels know."""

_PLANE_COST = 1.1
"""What a further plane must save at least, as a ratio of words: it takes as long as the first."""

MAX_BITS = 8

_MAX_BYTE_TAPS = 1 << 17
"""From here on a sum of activations times weights at the top of their bytes could leave int32."""


class Packing(StrEnum):
    """What an instruction set multiplies: pairs of 16-bit lanes, or bytes."""

    LANES = "lanes"
    BYTES = "bytes"

    @staticmethod
    def of(instruction_set: str) -> Packing:
        """Of a target."""
        return Packing.BYTES if instruction_set == "helium" else Packing.LANES


LANES: dict[int, dict[int, tuple[int, ...]]] = {
    4: {8: (8, 0), 2: (14, 0), 1: (15, 0)},
    1: {8: (8, 0), 4: (12, 8, 4, 0), 2: (14, 0), 1: (15, 0)},
}
"""By rows at once and width: where in a 16-bit lane the weights of the channels begin that share it."""


def field_group(bits: int) -> tuple[int, int]:
    """In how many words how many fields of both lanes lie; of 6 bits, two in each word and two across three.

    >>> field_group(3), field_group(6)
    ((1, 10), (3, 16))
    """
    return (3, 16) if bits == 6 else (1, 2 * (16 // bits))


def plane_words(bits: int, taps: int) -> int:
    """Words of one plane over ``taps`` weights."""
    words, fields = field_group(bits)
    return words * -(-taps // fields)


HEAD_BYTES, ORDER_BYTES = 4, 2
"""Of the head of neighbours of one kind, and of a channel's place where channels are computed out of order."""


@cache
def planes(bits: int, taps: int) -> tuple[int, ...]:
    """Field widths, most significant first, that store ``taps`` weights of ``bits`` bits in few words and few planes.

    No planes for width 0.

    >>> planes(6, 64), planes(7, 144), planes(7, 9), planes(3, 9), planes(0, 9)
    ((6,), (6, 1), (8,), (3,), ())
    """
    if bits == 0:
        return ()
    splits: list[tuple[int, ...]] = [
        split for count in (1, 2, 3) for split in combinations_with_replacement(FIELD_BITS, count) if sum(split) == bits
    ]
    if bits in (6, 7):
        splits.append((8,))  # a wider field holds a narrower value as well

    def cost(split: tuple[int, ...]) -> tuple[float, int]:
        words = sum(plane_words(field_bits, taps) for field_bits in split)
        return words * _PLANE_COST ** (len(split) - 1), len(split)

    return min(splits, key=cost)


def channel_words(bits: int, taps: int) -> int:
    """32-bit words of one channel of ``taps`` weights at width ``bits``."""
    return sum(plane_words(b, taps) for b in planes(bits, taps))


def stored_bits(bits: int, taps: int) -> int:
    """The widest width that takes no more words and no more planes: channels of near widths then share one loop.

    >>> stored_bits(4, 9), stored_bits(4, 64)
    (5, 4)
    """
    cost = channel_words(bits, taps), len(planes(bits, taps))
    return max(b for b in range(bits, MAX_BITS + 1) if (channel_words(b, taps), len(planes(b, taps))) == cost)


def compute_order(widths: np.ndarray, taps: int) -> np.ndarray | None:
    """The channels of a layer widest first, int64 [O], if this saves more heads of neighbours than it takes to say it.

    >>> compute_order(np.array([8, 2, 8, 2, 8, 2, 8, 2]), 64), compute_order(np.array([8, 8, 2, 2]), 64)
    (array([0, 2, 4, 6, 1, 3, 5, 7]), None)
    """
    stored = np.array([stored_bits(bits, taps) for bits in widths.tolist()])
    order = np.argsort(-stored, kind="stable")
    before, after = (1 + np.count_nonzero(np.diff(these)) for these in (stored, stored[order]))
    return order if HEAD_BYTES * (before - after) > ORDER_BYTES * len(order) else None


def byte_planes(bits: int) -> tuple[int, ...]:
    """Field widths of the planes in bytes, most significant first.

    >>> byte_planes(7), byte_planes(4), byte_planes(0)
    ((4, 2, 1), (4,), ())
    """
    return tuple(field_bits for field_bits in (8, 4, 2, 1) if bits & field_bits)


def byte_part(bits: int, taps: int) -> int:
    """Taps that a field of the narrowest plane's bytes serves: ceil(taps * f / 8) for fields of f bits; bits > 0."""
    return -(-taps * byte_planes(bits)[-1] // 8)


def channel_bytes(bits: int, taps: int) -> int:
    """Bytes of one channel whose fields fill bytes.

    >>> channel_bytes(4, 9), channel_bytes(6, 64), channel_bytes(3, 9)
    (5, 48, 6)
    """
    return byte_part(bits, taps) * bits // byte_planes(bits)[-1] if bits else 0


def stored_byte_bits(bits: int, taps: int) -> int:
    """The width at which a channel of ``bits`` takes the fewest bytes, then the fewest planes, then the widest.

    >>> stored_byte_bits(3, 9), stored_byte_bits(7, 64), stored_byte_bits(0, 64)
    (4, 7, 0)
    """
    if bits == 0:
        return 0
    if taps >= _MAX_BYTE_TAPS:
        return MAX_BITS

    def cost(width: int) -> tuple[int, int, int]:
        return channel_bytes(width, taps), len(byte_planes(width)), -width

    return min(range(bits, MAX_BITS + 1), key=cost)


WIDTH_BITS = 4
"""What says in a stream of bits how wide the weights are that follow."""


def channel_bits(bits: int, taps: int, depthwise: bool) -> int:
    """Bits of flash of one channel; those of a depthwise layer follow one another bit by bit.

    >>> channel_bits(6, 9, depthwise=True), channel_bits(6, 9, depthwise=False)
    (58, 64)
    """
    return WIDTH_BITS + bits * taps if depthwise else 32 * channel_words(bits, taps)


def stream_bytes(widths: Iterable[int], taps: int) -> int:
    """Bytes of a depthwise layer's channels; a word at least, which a micro-kernel loads.

    >>> stream_bytes([6, 6, 0], 9), stream_bytes([1], 9)
    (15, 4)
    """
    return max(-(-sum(channel_bits(bits, taps, depthwise=True) for bits in widths) // 8), 4)


def lane_order(taps: int) -> np.ndarray:
    """Which tap lies where in the widened row; int64 [taps].

    SXTB16 widens bytes 0 and 2 of a word into one register and 1 and 3 into another, so each four go as (0, 2, 1, 3).

    >>> lane_order(6).tolist()
    [0, 2, 1, 3, 4, 5]
    """
    order = np.arange(taps)
    fours = taps - taps % 4
    order[:fours] = order[:fours].reshape(-1, 4)[:, [0, 2, 1, 3]].ravel()
    return order


def width_of(weights: np.ndarray) -> np.ndarray:
    """Bits each output channel's integers need: int64 [O] from int8 [O, ...]; 0 for a channel of zeros.

    >>> width_of(np.array([[0, 0], [-1, 0], [1, -2], [127, 0]], dtype=np.int8))
    array([0, 1, 2, 8])
    """
    flat = weights.reshape(len(weights), -1).astype(np.int64)
    magnitude = np.where(flat < 0, ~flat, flat).max(axis=1, initial=0)
    bits = 1 + np.ceil(np.log2(magnitude + 1)).astype(np.int64)
    return np.where(np.any(flat, axis=1), bits, 0)
