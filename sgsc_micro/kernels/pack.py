"""Weights into words, as sgsc_micro/storage.py lays them out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from sgsc_micro import storage


@dataclass(frozen=True)
class Plane:
    """Fields of ``bits`` bits, worth 2^shift each; ``words`` from ``offset`` in the channel."""

    bits: int
    shift: int
    offset: int
    words: int


@dataclass(frozen=True)
class Segment:
    """``count`` neighbouring channels of one stored width, ``words`` each, from ``offset`` words in their group."""

    bits: int
    first: int
    count: int
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


def segments(widths: np.ndarray, taps: int) -> tuple[Segment, ...]:
    """Neighbouring channels of one stored width, of one group; widths int [O / groups]."""
    result, first, offset = [], 0, 0
    for bits, channels in groupby(storage.stored_bits(bits, taps) for bits in widths.tolist()):
        count, words = len(list(channels)), storage.channel_words(bits, taps)
        result.append(Segment(bits, first, count, offset, words, planes(bits, taps)))
        first, offset = first + count, offset + count * words
    return tuple(result)


def runs(widths: np.ndarray, groups: int, taps: int) -> list[Run]:
    """Neighbouring groups alike; widths int [O]."""
    result: list[Run] = []
    first, offset = 0, 0
    for alike, members in groupby(segments(row, taps) for row in widths.reshape(groups, -1)):
        count, words = len(list(members)), sum(segment.count * segment.words for segment in alike)
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


def pack(weights: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """All words of a layer, channel after channel; weights int8 [O, kh, kw, I], widths [O]."""
    order = storage.lane_order(weights.shape[-1], int(np.prod(weights.shape[1:-1])))
    stored = (storage.stored_bits(bits, len(order)) for bits in widths.tolist())
    channels = zip(weights, stored, strict=True)
    packed = [plane for channel, bits in channels for plane in pack_channel(channel, bits, order)]
    return np.concatenate([np.zeros(0, np.uint32), *packed])
