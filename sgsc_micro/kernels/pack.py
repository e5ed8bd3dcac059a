"""Weights into words, as sgsc_micro/storage.py lays them out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from sgsc_micro import storage


@dataclass(frozen=True)
class Plane:
    """Fields of ``bits`` bits, worth 2^shift each; ``words`` from ``offset`` in a channel of its own."""

    bits: int
    shift: int
    offset: int
    words: int


@dataclass(frozen=True)
class Segment:
    """``count`` blocks of ``block`` neighbouring channels of one stored width, from ``offset`` words in their group.

    A channel has ``words`` words. In each plane a block's channels take turns, word by word: one pointer walks them.
    """

    bits: int
    first: int
    count: int
    block: int
    offset: int
    words: int
    planes: tuple[Plane, ...]


@dataclass(frozen=True)
class Run:
    """``count`` neighbouring groups with the same segments, ``words`` each, from word ``offset``."""

    first: int
    count: int
    offset: int
    words: int
    segments: tuple[Segment, ...]


def planes(bits: int, taps: int) -> tuple[Plane, ...]:
    """The planes of one channel, most significant first."""
    result, offset, below = [], 0, sum(storage.planes(bits, taps))
    for field_bits in storage.planes(bits, taps):
        below -= field_bits
        words = storage.plane_words(field_bits, taps)
        result.append(Plane(field_bits, below, offset, words))
        offset += words
    return tuple(result)


def blocks(count: int, size: int) -> list[tuple[int, int, int]]:
    """``count`` things in blocks of ``size``, what remains one by one: (first, number of blocks, size).

    >>> blocks(5, 2), blocks(1, 2)
    ([(0, 2, 2), (4, 1, 1)], [(0, 1, 1)])
    """
    whole, rest = divmod(count, size)
    parts = (0, whole, size), (whole * size, rest, 1)
    return [part for part in parts if part[1]]


def segments(widths: np.ndarray, taps: int, block: int) -> tuple[Segment, ...]:
    """Neighbouring channels of one stored width, of one group, in blocks; widths int [O / groups]."""
    result, start, offset = [], 0, 0
    for bits, channels in groupby(storage.stored_bits(bits, taps) for bits in widths.tolist()):
        together, words = len(list(channels)), storage.channel_words(bits, taps)
        for first, count, size in blocks(together, block):
            there = offset + first * words
            result.append(Segment(bits, start + first, count, size, there, words, planes(bits, taps)))
        start, offset = start + together, offset + together * words
    return tuple(result)


def runs(widths: np.ndarray, groups: int, taps: int, block: int) -> list[Run]:
    """Neighbouring groups alike; widths int [O]; channels in blocks of ``block``."""
    result: list[Run] = []
    first, offset = 0, 0
    for alike, members in groupby(segments(row, taps, block) for row in widths.reshape(groups, -1)):
        count, words = len(list(members)), sum(segment.count * segment.block * segment.words for segment in alike)
        result.append(Run(first, count, offset, words, alike))
        first, offset = first + count, offset + count * words
    return result


def pack_channel(weights: np.ndarray, bits: int, order: np.ndarray) -> Iterator[np.ndarray]:
    """The words, uint32, of each plane of one channel; weights int [taps], ``order`` the tap at each row position."""
    offset_binary = weights.ravel()[order].astype(np.int64) + (1 << bits >> 1)
    for plane in planes(bits, len(order)):
        per_lane = 16 // plane.bits
        fields = np.zeros(plane.words * 2 * per_lane, np.int64)
        fields[: len(order)] = (offset_binary >> plane.shift) & ((1 << plane.bits) - 1)
        lanes = fields.reshape(plane.words, per_lane, 2)  # [word, field, lane]
        shifts = plane.bits * np.arange(per_lane)[:, None] + np.array([0, 16])
        yield (lanes << shifts).sum(axis=(1, 2)).astype(np.uint32)


def pack(weights: np.ndarray, alike: list[Run]) -> np.ndarray:
    """All words of a layer, in the order of its runs; weights int8 [O, kh, kw, I]."""
    order = storage.lane_order(weights.shape[-1], int(np.prod(weights.shape[1:-1])))
    packed, channels = [np.zeros(0, np.uint32)], iter(weights)
    for groups in alike:
        for segment in groups.segments * groups.count:
            for _ in range(segment.count):
                block = [pack_channel(next(channels), segment.bits, order) for _ in range(segment.block)]
                packed += [np.stack(plane, axis=1).ravel() for plane in zip(*block, strict=True)]
    return np.concatenate(packed)
