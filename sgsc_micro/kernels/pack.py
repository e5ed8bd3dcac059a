"""Weights into streams of words, as sgsc_micro/storage.py lays them out and c/sgsc_weighted.h reads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np

from sgsc_micro import storage
from sgsc_micro.blocking import Blocking, Segment, is_in_planes, shared_pairs, shared_words

NO_WEIGHTS, OWN_LANES, SHARED_LANES, PLANES = range(4)
"""What a head says of its channels."""


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


def pack(streams: Sequence[np.ndarray], widths: np.ndarray) -> tuple[np.ndarray, list[Run]]:
    """All streams of a layer, uint32, one a group, as one, and where they lie; widths int [O]."""
    runs: list[Run] = []
    offset = 0
    members = zip(map(len, streams), map(tuple, widths.reshape(len(streams), -1).tolist()), strict=True)
    for (words, alike), same in groupby(members):
        first, count = (runs[-1].first + runs[-1].count if runs else 0), len(list(same))
        runs.append(Run(first, count, offset, words, alike))
        offset += count * words
    return np.concatenate(streams), runs


def lane_streams(weights: np.ndarray, blocking: Blocking) -> list[np.ndarray]:
    """The words, uint32, of each group; weights int8 [O, kh, kw, I]."""
    by_group = weights.reshape(len(blocking.groups), -1, blocking.taps)
    return [_stream(group, segments, blocking) for group, segments in zip(by_group, blocking.groups, strict=True)]


def _stream(weights: np.ndarray, segments: Iterable[Segment], blocking: Blocking) -> np.ndarray:
    """The stream of one group; weights int8 [O, taps]."""
    taps = weights.shape[1]
    order = storage.lane_order(taps)
    words: list[np.ndarray] = []
    for segment in segments:
        of_channel = planes(segment.bits, taps)
        channels = weights[segment.first : segment.first + segment.count]
        if segment.shared:
            blocks = channels.reshape(-1, blocking.sharing, taps)
            each = shared_words(segment.bits, taps, blocking.rows)
            words.append(_words(head(SHARED_LANES, segment.bits, each, segment.count)))
            words += [pack_shared(block, segment.bits, order, blocking.rows) for block in blocks]
            continue
        if not of_channel:
            words.append(_words(head(NO_WEIGHTS, 0, 0, segment.count)))
        elif not is_in_planes([(plane.bits, plane.words) for plane in of_channel]):
            words.append(_words(head(OWN_LANES, of_channel[0].bits, of_channel[0].words, segment.count)))
        else:
            above = [plane.shift for plane in of_channel]
            steps = zip(of_channel, pairwise([*above[:1], *above]), strict=True)
            below = [plane.bits | (high - low) << 4 | plane.words << 8 for plane, (high, low) in steps]
            words.append(_words(head(PLANES, 0, len(of_channel), segment.count), *below))
        whole = segment.count - segment.count % blocking.together
        for block in [*channels[:whole].reshape(-1, blocking.together, taps), *channels[whole:, None]]:
            packed = [pack_channel(channel, segment.bits, order) for channel in block]
            words += [np.stack(plane, axis=1).ravel() for plane in zip(*packed, strict=True)]
    return np.concatenate(words)


def head(kind: int, bits: int, words: int, channels: int) -> int:
    """The word before ``channels`` neighbours of one kind."""
    return channels | words << 14 | bits << 26 | kind << 30


def _words(*values: int) -> np.ndarray:
    return np.array(values, np.uint32)


def pack_shared(channels: np.ndarray, bits: int, order: np.ndarray, rows: int) -> np.ndarray:
    """The words, uint32, of channels in common lanes; weights int [channels, taps].

    The first of a lane is signed, the others offset binary, those of 8 bits signed too.
    """
    places, taps = storage.LANES[rows][bits], len(order)
    by_lane = channels[:, order].astype(np.int64).reshape(-1, len(places), taps)  # [lanes, channels, taps]
    offsets = np.array([0, *[0 if bits == storage.MAX_BITS else 1 << bits >> 1] * (len(places) - 1)])
    values = ((by_lane + offsets[:, None]) << np.array(places)[:, None]).sum(axis=1) & 0xFFFF  # [lanes, taps]
    fields = storage.MAX_BITS // bits if bits < 4 else 1  # in a word
    padded = np.zeros((len(by_lane), 2 * shared_pairs(bits, taps, rows)), np.int64)
    padded[:, :taps] = values
    low, high = np.moveaxis(padded.reshape(len(by_lane), -1, fields, 2), 3, 0)  # [lanes, word, field]
    pair, left = low | high << 16, 2 * bits * np.arange(fields) if fields > 1 else np.zeros(1, np.int64)
    words = (((pair << left) | (pair >> (32 - left))) & 0xFFFFFFFF).sum(axis=2)  # [lanes, word]
    return words.T.ravel().astype(np.uint32)


def pack_channel(weights: np.ndarray, bits: int, order: np.ndarray) -> Iterator[np.ndarray]:
    """The words, uint32, of each plane of one channel; weights int [taps], ``order`` the tap at each row position.

    Fields of 8 bits are signed; others are offset binary.
    """
    taps = len(order)
    offset = 0 if bits == storage.MAX_BITS else 1 << bits >> 1
    stored = weights.ravel()[order].astype(np.int64) + offset
    for plane in planes(bits, taps):
        words, fields = storage.field_group(plane.bits)
        values = np.zeros(plane.words // words * fields, np.int64)
        values[:taps] = (stored >> plane.shift) & ((1 << plane.bits) - 1)
        low, high = np.moveaxis(values.reshape(-1, fields // 2, 2), 2, 0)  # [group, field]
        pairs = low | high << 16
        yield (_six(pairs) if plane.bits == 6 else _side_by_side(pairs, plane.bits)).astype(np.uint32).ravel()


def _side_by_side(pairs: np.ndarray, bits: int) -> np.ndarray:
    return (pairs << bits * np.arange(pairs.shape[1])).sum(axis=1)


def _six(pairs: np.ndarray) -> np.ndarray:
    """Eight pairs of fields of 6 bits in three words; the fifth and the last lie across them."""
    low, high = pairs & 0x000F000F, pairs >> 4 & 0x00030003
    left_over = np.stack([low[:, 4], high[:, 4] | high[:, 7] << 2, low[:, 7]], axis=1)
    return pairs[:, [0, 2, 5]] | pairs[:, [1, 3, 6]] << 6 | left_over << 12
