"""Weights into streams of words, as sgsc_micro/storage.py lays them out and c/sgsc_weighted.h reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Protocol

import numpy as np

from sgsc_micro import storage

NO_WEIGHTS, OWN_LANES, SHARED_LANES, PLANES = range(4)
"""What a head says of its channels."""
MAX_WORDS, MAX_CHANNELS = (1 << 12) - 1, (1 << 14) - 1
"""What fits into a head."""


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
    """``count`` neighbouring channels of one kind from channel ``first`` of a group: of a stored width, each with words
    of its own or ``shared`` lanes."""

    bits: int
    shared: bool
    first: int
    count: int


@dataclass(frozen=True)
class Layout:
    """What a layer's packing depends on besides its weights: rows at once, 4 or 1, and the largest magnitude of an
    activation minus its zero point."""

    rows: int
    reach: int

    @property
    def together(self) -> int:
        """Channels whose words take turns."""
        return 4 // self.rows

    def stream(self, weights: np.ndarray, widths: Sequence[int]) -> np.ndarray:
        """The words of one group; weights int8 [O, taps]."""
        return _stream(weights, segments(weights, widths, self), self)

    def dots(self, weights: np.ndarray, widths: Sequence[int]) -> set[tuple[str, int]]:
        """Which dot products such a group needs, by shape and field width (0: none), and sums of how many "planes"."""
        result = set()
        for segment in segments(weights, widths, self):
            whole, rest = divmod(segment.count, self.together)
            shapes = ["4x1"] if self.rows == 4 else ["1x4"] * (whole > 0) + ["1x1"] * (rest > 0)
            of_channel = planes(segment.bits, weights.shape[1])
            fields = [plane.bits for plane in of_channel] or [0]
            if _head_of_planes(of_channel):
                result.add(("planes", len(fields)))
            result |= {(shape, bits) for shape in ([self.shape] if segment.shared else shapes) for bits in fields}
        return result

    @property
    def shape(self) -> str:
        """Of the dot products of channels that share lanes."""
        return "4x2" if self.rows == 4 else "1x4s"

    @property
    def sharing(self) -> int:
        """Channels of one dot product with shared lanes."""
        return 2 if self.rows == 4 else 4


class Packer(Protocol):
    """How the weights of one group lie in a stream of words: int8 [O, taps] and the channels' widths."""

    def stream(self, weights: np.ndarray, widths: Sequence[int]) -> np.ndarray:
        """The words, uint32."""

    def dots(self, weights: np.ndarray, widths: Sequence[int]) -> set[tuple[str, int]]:
        """Which micro-kernels they need, by shape and width."""


def pack(weights: np.ndarray, widths: np.ndarray, groups: int, layout: Packer) -> tuple[np.ndarray, list[Run]]:
    """All streams of a layer, uint32, one a group, and where they lie; weights int8 [O, kh, kw, I], widths int [O]."""
    streams: list[np.ndarray] = []
    runs: list[Run] = []
    offset = 0
    packed = [(layout.stream(*of_group), of_group[1]) for of_group in _by_group(weights, widths, groups)]
    for (words, alike), members in groupby(packed, lambda member: (len(member[0]), tuple(member[1]))):
        new = [stream for stream, _ in members]
        first = runs[-1].first + runs[-1].count if runs else 0
        runs.append(Run(first, len(new), offset, words, alike))
        offset += len(new) * words
        streams += new
    return np.concatenate(streams), runs


def dots(weights: np.ndarray, widths: np.ndarray, groups: int, layout: Packer) -> set[tuple[str, int]]:
    """Which micro-kernels these streams need, by shape and width."""
    return set().union(*(layout.dots(*of_group) for of_group in _by_group(weights, widths, groups)))


def _by_group(weights: np.ndarray, widths: np.ndarray, groups: int) -> Iterator[tuple[np.ndarray, list[int]]]:
    """int8 [O, taps] and widths, group by group."""
    taps = int(np.prod(weights.shape[1:]))
    return zip(weights.reshape(groups, -1, taps), widths.reshape(groups, -1).tolist(), strict=True)


def segments(weights: np.ndarray, widths: Sequence[int], layout: Layout) -> list[Segment]:
    """The channels of a group by kind, in their order; weights int8 [O, taps]."""
    taps, sharing = weights.shape[1], layout.sharing
    kinds: list[tuple[int, bool]] = []
    stored = [storage.stored_bits(bits, taps) for bits in widths]
    while len(kinds) < len(stored):
        channel, bits = len(kinds), stored[len(kinds)]
        shared = stored[channel : channel + sharing] == [bits] * sharing
        shared = shared and _fit_lanes(weights[channel : channel + sharing], bits, layout)
        kinds += [(bits, shared)] * (sharing if shared else 1)
    result, first = [], 0
    for (bits, shared), members in groupby(kinds):
        count = len(list(members))
        for start in range(0, count, MAX_CHANNELS // 4 * 4):
            result.append(Segment(bits, shared, first + start, min(count - start, MAX_CHANNELS // 4 * 4)))
        first += count
    return result


def _fit_lanes(weights: np.ndarray, bits: int, layout: Layout) -> bool:
    """Whether these channels may share lanes: a lane holds them, and no sum leaves the bits above the lower ones'."""
    places = storage.LANES[layout.rows].get(bits)
    if places is None:
        return False
    by_lane = weights.reshape(-1, len(places), weights.shape[1]).astype(np.int64)  # [lanes, channels, taps]
    if 2 * weights.shape[1] > MAX_WORDS:
        return False
    held = bits < storage.MAX_BITS or bool((by_lane[:, 0] * 256 + by_lane[:, 1]).min() >= -(1 << 15))
    reached = np.abs(by_lane).sum(axis=2) * layout.reach  # [lanes, channels]
    return held and all(bool(np.all(sums < 1 << (31 - place))) for sums, place in zip(reached.T, places, strict=True))


def _stream(weights: np.ndarray, kinds: list[Segment], layout: Layout) -> np.ndarray:
    """The stream of one group; weights int8 [O, taps]."""
    taps = weights.shape[1]
    order = storage.lane_order(taps)
    words: list[np.ndarray] = []
    for segment in kinds:
        of_channel = planes(segment.bits, taps)
        channels = weights[segment.first : segment.first + segment.count]
        if segment.shared:
            blocks = [pack_shared(b, segment.bits, order, layout) for b in channels.reshape(-1, layout.sharing, taps)]
            words += [_head(SHARED_LANES, segment.bits, len(blocks[0]), segment.count), *blocks]
            continue
        if not of_channel:
            words.append(_head(NO_WEIGHTS, 0, 0, segment.count))
        elif not _head_of_planes(of_channel):
            words.append(_head(OWN_LANES, of_channel[0].bits, of_channel[0].words, segment.count))
        else:
            above = [plane.shift for plane in of_channel]
            steps = zip(of_channel, pairwise([*above[:1], *above]), strict=True)
            each = [plane.bits | (high - low) << 4 | plane.words << 8 for plane, (high, low) in steps]
            words += [_head(PLANES, 0, len(of_channel), segment.count), np.array(each, np.uint32)]
        whole = segment.count - segment.count % layout.together
        for block in [*channels[:whole].reshape(-1, layout.together, taps), *channels[whole:, None]]:
            packed = [pack_channel(channel, segment.bits, order) for channel in block]
            words += [np.stack(plane, axis=1).ravel() for plane in zip(*packed, strict=True)]
    return np.concatenate(words)


def _head_of_planes(of_channel: tuple[Plane, ...]) -> bool:
    """Whether words for these planes follow a head: one alone goes into the head itself, unless it is too long."""
    return len(of_channel) > 1 or any(plane.words > MAX_WORDS for plane in of_channel)


def _head(kind: int, bits: int, words: int, channels: int) -> np.ndarray:
    return np.array([channels | words << 14 | bits << 26 | kind << 30], np.uint32)


def pack_shared(channels: np.ndarray, bits: int, order: np.ndarray, layout: Layout) -> np.ndarray:
    """The words, uint32, of channels in common lanes; weights int [channels, taps].

    The first of a lane is signed, the others offset binary, those of 8 bits signed too.
    """
    places, taps = storage.LANES[layout.rows][bits], len(order)
    by_lane = channels[:, order].astype(np.int64).reshape(-1, len(places), taps)  # [lanes, channels, taps]
    offsets = np.array([0, *[0 if bits == storage.MAX_BITS else 1 << bits >> 1] * (len(places) - 1)])
    values = ((by_lane + offsets[:, None]) << np.array(places)[:, None]).sum(axis=1) & 0xFFFF  # [lanes, taps]
    fields = storage.MAX_BITS // bits if bits < 4 else 1  # in a word
    multiple = fields if bits < 4 else (4 // len(by_lane) if layout.rows == 1 else 1)  # pairs of one step
    pairs = -(-taps // (2 * multiple)) * multiple
    padded = np.zeros((len(by_lane), 2 * pairs), np.int64)
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
