"""Weights into streams of words, as sgsc_micro/storage.py lays them out and c/sgsc_weighted.h reads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from sgsc_micro import storage


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


def pack(weights: np.ndarray, widths: np.ndarray, groups: int, together: int) -> tuple[np.ndarray, list[Run]]:
    """All streams of a layer, uint32, one a group, and where they lie; weights int8 [O, kh, kw, I], widths int [O].

    In each plane the words of ``together`` neighbouring channels of one width take turns.
    """
    taps = int(np.prod(weights.shape[1:]))
    streams: list[np.ndarray] = []
    runs: list[Run] = []
    offset = 0
    by_group = zip(weights.reshape(groups, -1, taps), widths.reshape(groups, -1).tolist(), strict=True)
    for alike, members in groupby(by_group, lambda member: tuple(member[1])):
        new = [_stream(of_group, alike, together) for of_group, _ in members]
        first = runs[-1].first + runs[-1].count if runs else 0
        runs.append(Run(first, len(new), offset, len(new[0]), alike))
        offset += len(new) * len(new[0])
        streams += new
    return np.concatenate(streams), runs


def dots(runs: list[Run], taps: int, together: int) -> set[tuple[str, int]]:
    """Which dot products these streams need, by shape and field width, for ``together`` channels or one by four rows."""
    result = set()
    for widths in {run.widths for run in runs}:
        for bits, members in groupby(storage.stored_bits(bits, taps) for bits in widths):
            whole, rest = divmod(len(list(members)), together)
            shapes = ["4x1"] if together == 1 else ["1x4"] * (whole > 0) + ["1x1"] * (rest > 0)
            result |= {(shape, plane.bits) for shape in shapes for plane in planes(bits, taps)}
    return result


def _stream(weights: np.ndarray, widths: tuple[int, ...], together: int) -> np.ndarray:
    """The stream of one group; weights int8 [O, taps]."""
    taps = weights.shape[1]
    order = storage.lane_order(taps)
    words: list[np.ndarray] = []
    channels = iter(weights)
    for bits, members in groupby(storage.stored_bits(bits, taps) for bits in widths):
        count, of_channel = len(list(members)), planes(bits, taps)
        words.append(np.array([count | len(of_channel) << 24], np.uint32))
        above = [plane.shift for plane in of_channel]
        steps = [0, *(high - low for high, low in zip(above, above[1:], strict=False))]
        head = [plane.bits | step << 4 | plane.words << 8 for plane, step in zip(of_channel, steps, strict=False)]
        words.append(np.array(head, np.uint32))
        for first in range(0, count, together):
            several = together if count - first >= together else 1
            for _ in range(0, min(together, count - first), several):
                block = [pack_channel(next(channels), bits, order) for _ in range(several)]
                words += [np.stack(plane, axis=1).ravel() for plane in zip(*block, strict=True)]
    return np.concatenate(words)


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
