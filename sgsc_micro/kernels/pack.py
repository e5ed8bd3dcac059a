"""Weights into streams of words, as sgsc_micro/storage.py lays them out and c/sgsc_weighted.h reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np

from sgsc_micro import storage

PAIRED = 0xFF
"""Stands where a segment's number of planes does, for channels two in each lane."""


@dataclass(frozen=True)
class Plane:
    """Fields of ``bits`` bits, worth 2^shift each; ``words`` of them make a channel."""

    bits: int
    shift: int
    words: int


@dataclass(frozen=True)
class Run:
    """``count`` neighbouring groups of the same widths, ``words`` each, from word ``offset``."""

    first: int
    count: int
    offset: int
    words: int
    widths: tuple[int, ...]


def planes(bits: int, taps: int) -> tuple[Plane, ...]:
    """The planes of one channel, most significant first."""
    result, below = [], sum(storage.planes(bits, taps))
    for field_bits in storage.planes(bits, taps):
        below -= field_bits
        result.append(Plane(field_bits, below, storage.plane_words(field_bits, taps)))
    return tuple(result)


@dataclass(frozen=True)
class Segment:
    """``count`` neighbouring channels of one kind from channel ``first`` of a group: of a stored width, in lanes of
    their own or, ``paired``, two in each lane."""

    bits: int
    paired: bool
    first: int
    count: int


@dataclass(frozen=True)
class Layout:
    """What a layer's packing depends on besides its weights: channels whose words take turns (1, or 4 where a row is
    alone), and the largest magnitude of an activation minus its zero point."""

    together: int
    reach: int


def pack(weights: np.ndarray, widths: np.ndarray, groups: int, layout: Layout) -> tuple[np.ndarray, list[Run]]:
    """All streams of a layer, uint32, one a group, and where they lie; weights int8 [O, kh, kw, I], widths int [O]."""
    taps = int(np.prod(weights.shape[1:]))
    streams: list[np.ndarray] = []
    runs: list[Run] = []
    offset = 0
    by_group = zip(weights.reshape(groups, -1, taps), widths.reshape(groups, -1).tolist(), strict=True)
    packed = [(_stream(of_group, segments(of_group, of_widths, layout), layout), of_widths) for of_group, of_widths in by_group]
    for (words, alike), members in groupby(packed, lambda member: (len(member[0]), tuple(member[1]))):
        new = [stream for stream, _ in members]
        first = runs[-1].first + runs[-1].count if runs else 0
        runs.append(Run(first, len(new), offset, words, alike))
        offset += len(new) * words
        streams += new
    return np.concatenate(streams), runs


def dots(weights: np.ndarray, widths: np.ndarray, groups: int, layout: Layout) -> set[tuple[str, int]]:
    """Which dot products these streams need, by shape and field width."""
    taps = int(np.prod(weights.shape[1:]))
    result = set()
    for of_group, of_widths in zip(weights.reshape(groups, -1, taps), widths.reshape(groups, -1).tolist(), strict=True):
        for segment in segments(of_group, of_widths, layout):
            whole, rest = divmod(segment.count, layout.together)
            shapes = ["4x1"] if layout.together == 1 else ["1x4"] * (whole > 0) + ["1x1"] * (rest > 0)
            fields = [plane.bits for plane in planes(segment.bits, taps)]
            result |= {(shape, bits) for shape in (["4x2"] if segment.paired else shapes) for bits in fields}
    return result


def segments(weights: np.ndarray, widths: Sequence[int], layout: Layout) -> list[Segment]:
    """The channels of a group by kind, in their order; weights int8 [O, taps]."""
    taps = weights.shape[1]
    kinds: list[tuple[int, bool]] = []
    channel = 0
    stored = [storage.stored_bits(bits, taps) for bits in widths]
    while channel < len(stored):
        bits = stored[channel]
        paired = layout.together == 1 and stored[channel : channel + 2] == [bits, bits]
        paired = paired and _fit_a_lane(weights[channel : channel + 2], bits, layout.reach)
        count = 2 if paired else 1
        kinds += [(bits, paired)] * count
        channel += count
    result, first = [], 0
    for (bits, paired), members in groupby(kinds):
        count = len(list(members))
        result.append(Segment(bits, paired, first, count))
        first += count
    return result


def _fit_a_lane(two: np.ndarray, bits: int, reach: int) -> bool:
    """Whether two channels may share lanes: the first one's sum must stay within the bits above the second's."""
    if bits not in storage.PAIRED_BITS:
        return False
    below = storage.PAIRED_BITS[bits]
    first, second = two.astype(np.int64)
    lanes = (first << below) + second
    within = bits < storage.MAX_BITS or lanes.min() >= -(1 << 15)
    return bool(within and np.abs(first).sum() * reach < 1 << (31 - below))


def _stream(weights: np.ndarray, kinds: list[Segment], layout: Layout) -> np.ndarray:
    """The stream of one group; weights int8 [O, taps]."""
    taps = weights.shape[1]
    order = storage.lane_order(taps)
    words: list[np.ndarray] = []
    for segment in kinds:
        of_channel = planes(segment.bits, taps)
        channels = weights[segment.first : segment.first + segment.count]
        if segment.paired:
            pairs = [pack_pair(two, segment.bits, order) for two in channels.reshape(-1, 2, taps)]
            words.append(np.array([segment.count | PAIRED << 24, segment.bits | len(pairs[0]) << 8], np.uint32))
            words += pairs
            continue
        words.append(np.array([segment.count | len(of_channel) << 24], np.uint32))
        above = [plane.shift for plane in of_channel]
        steps = [high - low for high, low in pairwise([*above[:1], *above])]
        head = [plane.bits | step << 4 | plane.words << 8 for plane, step in zip(of_channel, steps, strict=True)]
        words.append(np.array(head, np.uint32))
        whole = segment.count - segment.count % layout.together
        for block in [*channels[:whole].reshape(-1, layout.together, taps), *channels[whole:, None]]:
            packed = [pack_channel(channel, segment.bits, order) for channel in block]
            words += [np.stack(plane, axis=1).ravel() for plane in zip(*packed, strict=True)]
    return np.concatenate(words)


def pack_pair(two: np.ndarray, bits: int, order: np.ndarray) -> np.ndarray:
    """The words, uint32, of two channels in common lanes: the first above, the second below, of narrow ones only these
    bits, offset binary; weights int [2, taps]."""
    taps, below = len(order), storage.PAIRED_BITS[bits]
    first, second = two[:, order].astype(np.int64)
    offset = 0 if bits == storage.MAX_BITS else 1 << bits >> 1
    per_word = storage.MAX_BITS // bits
    lanes = np.zeros(-(-taps // (2 * per_word)) * 2 * per_word, np.int64)
    lanes[:taps] = ((first << below) + second + offset) & 0xFFFF
    low, high = np.moveaxis(lanes.reshape(-1, per_word, 2), 2, 0)  # [word, field]
    pairs, left = low | high << 16, 2 * bits * np.arange(per_word)
    return (((pairs << left) | (pairs >> (32 - left))) & 0xFFFFFFFF).sum(axis=1).astype(np.uint32)


def pack_channel(weights: np.ndarray, bits: int, order: np.ndarray) -> Iterator[np.ndarray]:
    """The words, uint32, of each plane of one channel; weights int [taps], ``order`` the tap at each row position.

    Fields of 8 bits are signed; others are offset binary.
    """
    taps = len(order)
    offset = 0 if bits == storage.MAX_BITS else 1 << bits >> 1
    stored = weights.ravel()[order].astype(np.int64) + offset
    for plane in planes(bits, taps):
        per_lane = 16 // plane.bits
        fields = np.zeros(plane.words * 2 * per_lane, np.int64)
        fields[:taps] = (stored >> plane.shift) & ((1 << plane.bits) - 1)
        lanes = fields.reshape(plane.words, per_lane, 2)  # [word, field, lane]
        shifts = plane.bits * np.arange(per_lane)[:, None] + np.array([0, 16])
        yield (lanes << shifts).sum(axis=(1, 2)).astype(np.uint32)
