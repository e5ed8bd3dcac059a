"""Which rows meet which channels at once, and which channels share lanes: what costs a weighted layer least.

A layer computes four output pixels at once or one. Neighbouring channels of one stored width have words of their own or
share lanes; a width is stored as it is or as a wider one that takes no more words, so that more channels are alike.
What is best depends on the instruction set, the shape, and the weights: of lanes, on how far their sums reach.
:func:`choose` takes what a model of the executed instructions (``costs.py``) and the bytes of flash say, those of the
weights and of the dot products' code, as if the layer were alone. For size: least bytes, then instructions. For speed:
least instructions, then bytes. Balanced: least bytes of what is about a hundredth from the least instructions.

How a width is split into planes is no such choice: the compressor, whose result serves every target, counts the bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import groupby, product

import numpy as np

from sgsc_micro import storage
from sgsc_micro.compiler_flags import Objective, Optimize
from sgsc_micro.costs import PLANES, SHAPES, Costs, at, costs_of
from sgsc_micro.storage import LANES

MAX_WORDS, MAX_CHANNELS = (1 << 12) - 1, (1 << 14) - 1
"""What fits into a head."""
ROWS = (4, 1)
"""Output pixels at once."""

SHARED_SHAPES = {4: "4x2", 1: "1x4s"}
"""By rows at once, the dot products of channels that share lanes."""

Kind = tuple[int, bool]
"""A stored width, and whether channels that can share lanes do."""


@dataclass(frozen=True)
class Segment:
    """``count`` neighbouring channels of one kind from channel ``first`` of a group: of a stored width, each with words
    of its own or ``shared`` lanes."""

    bits: int
    shared: bool
    first: int
    count: int


@dataclass(frozen=True)
class Blocking:
    """How ``rows`` rows, 4 or 1, of ``taps`` activations meet the channels of each group."""

    rows: int
    taps: int
    groups: tuple[tuple[Segment, ...], ...]

    @property
    def together(self) -> int:
        """Channels whose words take turns."""
        return 4 // self.rows

    @property
    def shared_shape(self) -> str:
        """Of the dot products of channels that share lanes."""
        return SHARED_SHAPES[self.rows]

    @property
    def sharing(self) -> int:
        """Channels of one dot product with shared lanes."""
        return SHAPES[self.shared_shape].channels

    def blocks(self, segment: Segment) -> Iterator[tuple[str, int]]:
        """The shapes of its dot products, and how often each is needed."""
        if segment.shared:
            yield self.shared_shape, segment.count // self.sharing
            return
        whole, rest = divmod(segment.count, self.together)
        yield from (("4x1", whole),) if self.rows == 4 else (("1x4", whole), ("1x1", rest))

    def words(self, segment: Segment) -> Iterator[tuple[int, int]]:
        """Field width and words of each plane of a channel, or of the channels that share lanes."""
        if segment.shared:
            yield segment.bits, shared_words(segment.bits, self.taps, self.rows)
        else:
            yield from (
                (bits, storage.plane_words(bits, self.taps)) for bits in storage.planes(segment.bits, self.taps)
            )

    @property
    def dots(self) -> set[tuple[str, int]]:
        """Which dot products are needed, by shape and field width (0: none), and sums of how many planes."""
        needed = set()
        for segment in {(s.bits, s.shared, s.count): s for segments in self.groups for s in segments}.values():
            fields = list(self.words(segment)) or [(0, 0)]
            needed |= {(shape, bits) for shape, count in self.blocks(segment) if count for bits, _ in fields}
            if is_in_planes(fields):
                needed.add((PLANES, len(fields)))
        return needed

    def code_bytes(self, costs: Costs) -> int:
        """Of the dot products."""
        return sum(costs.code[shape][bits] for shape, bits in self.dots if shape != PLANES and bits)

    def sums_rows(self, group: int) -> bool:
        """Whether a group's fields are offset binary, which the sum of a row's activations takes back."""
        return any(0 < segment.bits < storage.MAX_BITS for segment in self.groups[group])

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of widened int16 activations, with what the widest-reading channel reads beyond the taps."""
        reached = [self.taps + self.taps % 2]
        for segment in {(s.bits, s.shared): s for segments in self.groups for s in segments}.values():
            for bits, words in self.words(segment):
                if segment.shared:
                    reached.append(2 * shared_pairs(bits, self.taps, self.rows))
                else:
                    in_words, fields = storage.field_group(bits)
                    reached.append(words // in_words * fields)
        return 2 * max(reached)

    @property
    def stored_bytes(self) -> int:
        """Of all streams."""
        total = 0
        for segment in (segment for segments in self.groups for segment in segments):
            planes = list(self.words(segment))
            apart = len(planes) if is_in_planes(planes) else 0
            channels = segment.count // self.sharing if segment.shared else segment.count
            total += 1 + apart + channels * sum(words for _, words in planes)
        return 4 * total

    def instructions(self, costs: Costs, pixels: int) -> float:
        """Executed for ``pixels`` output pixels, as far as they depend on the blocking."""
        once = 0.0
        for group, segments in enumerate(self.groups):
            if any(segment.bits for segment in segments):
                once += at(costs.widen[self.rows], self.taps)
            if self.sums_rows(group):
                once += at(costs.sum[self.rows], -(-self.taps // 2))
            once += costs.call[self.rows] + costs.head[self.rows] * len(segments)
            for segment in segments:
                planes = list(self.words(segment))
                once += sum(count * costs.block(shape, planes) for shape, count in self.blocks(segment) if count)
        return -(-pixels // self.rows) * once


def is_in_planes(planes: Sequence[tuple[int, int]]) -> bool:
    """Whether a head alone cannot say what these words are."""
    return len(planes) > 1 or any(words > MAX_WORDS for _, words in planes)


def shared_pairs(bits: int, taps: int, rows: int) -> int:
    """Pairs of taps that a micro-kernel for shared lanes walks through."""
    multiple = storage.MAX_BITS // bits if bits < 4 else (4 // _lanes(bits, rows) if rows == 1 else 1)
    return -(-taps // (2 * multiple)) * multiple


def shared_words(bits: int, taps: int, rows: int) -> int:
    """Words of the channels that share lanes."""
    in_a_word = storage.MAX_BITS // bits if bits < 4 else 1
    return shared_pairs(bits, taps, rows) // in_a_word * _lanes(bits, rows)


def _lanes(bits: int, rows: int) -> int:
    """Lanes that the channels of one dot product take."""
    return SHAPES[SHARED_SHAPES[rows]].channels // len(LANES[rows][bits])


def choose(weights: np.ndarray, groups: int, reach: int, pixels: int, objective: Objective) -> Blocking:
    """The blocking of least cost of int8 weights [O, ...] for ``pixels`` output pixels.

    ``reach`` is the largest magnitude of an activation minus its zero point. Errors: ``SgscError`` where nothing is
    known of the instruction set.
    """
    flat = weights.reshape(len(weights), -1)
    return _choose(flat.tobytes(), flat.shape[1], groups, reach, pixels, objective)


@lru_cache(maxsize=256)
def _choose(weights: bytes, taps: int, groups: int, reach: int, pixels: int, objective: Objective) -> Blocking:
    """From the best of the fixed rules one width after another takes the kind that suits it best.

    As such a walk can end beside the best, size and speed also look at where the walks to the other goals end.
    """

    def cost(blocking: Blocking, goal: Optimize = objective.optimize) -> tuple[float, float, float]:
        costs = costs_of(objective.instruction_set, goal)
        stored = blocking.stored_bytes + blocking.code_bytes(costs)
        return rank(blocking.instructions(costs, pixels), stored, goal)

    goals = (objective.optimize,) if objective.optimize is Optimize.BALANCED else tuple(Optimize)
    found = []
    for rows, goal in product(ROWS, goals):
        layer = Layer(np.frombuffer(weights, np.int8).reshape(groups, -1, taps), reach, rows)
        kinds = min(layer.rules, key=lambda rule: cost(layer.blocking(rule), goal))
        for bits in kinds:
            options = [kinds | {bits: kind} for kind in (kinds[bits], *layer.kinds(bits))]
            kinds = min(options, key=lambda option: cost(layer.blocking(option), goal))
        found.append(layer.blocking(kinds))
    return min(found, key=cost)


def rank(instructions: float, flash: int, optimize: Optimize) -> tuple[float, float, float]:
    """What is least where a blocking suits the goal best; ``flash`` is bytes."""
    if optimize is Optimize.SIZE:
        return flash, instructions, 0
    if optimize is Optimize.SPEED:
        return instructions, flash, 0
    return round(100 * math.log(instructions + 1)), flash, instructions


class Layer:
    """The blockings that int8 weights [groups, O, taps] have with ``rows`` rows at once."""

    def __init__(self, weights: np.ndarray, reach: int, rows: int) -> None:
        """``reach``: the largest magnitude of an activation minus its zero point."""
        self._weights, self._reach, self._rows, self._taps = weights, reach, rows, weights.shape[2]
        self._widths = [storage.width_of(group).tolist() for group in weights]
        self._fits = cache(self._fit_lanes)

    @property
    def rules(self) -> list[dict[int, Kind]]:
        """By width, the kinds of the fixed rules: the widest that takes no more words; lanes shared never or always."""
        widths = sorted({bits for group in self._widths for bits in group})
        return [{bits: (storage.stored_bits(bits, self._taps), share) for bits in widths} for share in (False, True)]

    def kinds(self, bits: int) -> Iterator[Kind]:
        """What channels of ``bits`` bits can be, without more words of their own."""
        for stored in range(bits, storage.MAX_BITS + 1):
            alone = sum(storage.planes(stored, self._taps)) == stored  # what lies in wider fields is as wide as these
            if alone and storage.channel_words(stored, self._taps) <= storage.channel_words(bits, self._taps):
                yield from ((stored, share) for share in (False, True) if not share or stored in LANES[self._rows])

    def blocking(self, kinds: dict[int, Kind]) -> Blocking:
        """With channels of these kinds, by their width."""
        groups = [tuple(self._segments(group, kinds)) for group in range(len(self._weights))]
        return Blocking(self._rows, self._taps, tuple(groups))

    def _segments(self, group: int, kinds: dict[int, Kind]) -> Iterator[Segment]:
        """The channels of a group by kind, in their order."""
        sharing, most = SHAPES[SHARED_SHAPES[self._rows]].channels, MAX_CHANNELS // 4 * 4
        wanted = [kinds[bits] for bits in self._widths[group]]
        found: list[Kind] = []
        while (channel := len(found)) < len(wanted):
            bits, share = wanted[channel]
            share = share and wanted[channel : channel + sharing] == [wanted[channel]] * sharing
            share = share and self._fits(group, channel, bits)
            found += [(bits, share)] * (sharing if share else 1)
        first = 0
        for (bits, shared), members in groupby(found):
            count = len(list(members))
            for start in range(0, count, most):
                yield Segment(bits, shared, first + start, min(count - start, most))
            first += count

    def _fit_lanes(self, group: int, channel: int, bits: int) -> bool:
        """Whether the channels from this one on may share lanes: a lane holds them, and no sum leaves the bits above
        the lower ones'."""
        places = LANES[self._rows].get(bits)
        if places is None or 2 * self._taps > MAX_WORDS:
            return False
        channels = self._weights[group, channel : channel + SHAPES[SHARED_SHAPES[self._rows]].channels].astype(np.int64)
        by_lane = channels.reshape(-1, len(places), self._taps)  # [lanes, channels, taps]
        held = bits < storage.MAX_BITS or bool((by_lane[:, 0] * 256 + by_lane[:, 1]).min() >= -(1 << 15))
        reached = np.abs(by_lane).sum(axis=2) * self._reach  # [lanes, channels]
        return held and all(
            bool(np.all(sums < 1 << (31 - place))) for sums, place in zip(reached.T, places, strict=True)
        )
