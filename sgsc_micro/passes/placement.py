"""Blocks with lifetimes into memories: first fit in several orders, these improved, then a bounded search of all."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sgsc_micro.errors import SgscError

TRIES, NODES = 30_000, 1_000_000
"""Orders tried and nodes searched, each times the blocks there are: about a second, and the same plan anywhere."""

Offsets = dict[str, int]


@dataclass(frozen=True)
class Block:
    """``size`` bytes wanted from step ``first`` to step ``last``, both included."""

    size: int
    first: int
    last: int


@dataclass(frozen=True)
class Room:
    """A memory that blocks may lie in; ``size`` in bytes, None where nothing limits it."""

    name: str
    size: int | None = None


def live_bytes(blocks: Collection[Block]) -> int:
    """What no memory for these blocks can be smaller than: the most bytes alive in one step."""
    return max(
        (sum(b.size for b in blocks if b.first <= step <= b.last) for step in {b.first for b in blocks}), default=0
    )


def height(blocks: Mapping[str, Block], offsets: Offsets) -> int:
    """Where the last byte ends."""
    return max((offset + blocks[name].size for name, offset in offsets.items()), default=0)


def allot(blocks: Mapping[str, Block], rooms: Sequence[Room]) -> list[Offsets]:
    """Offsets by room: each is filled before the next, largest blocks first.

    Errors: ``SgscError`` naming a block that no room has place for.
    """
    left, result = dict(blocks), []
    for room in rooms:
        offsets = arrange(left) if room.size is None else _fill(left, room.size)
        left = {name: block for name, block in left.items() if name not in offsets}
        result.append(offsets)
    if left:
        name, block = max(left.items(), key=lambda item: (item[1].size, item[0]))
        sizes = ", ".join(f"{room.name} {room.size:,}" for room in rooms)
        raise SgscError(
            f"{name}: no room for its {block.size:,} bytes beside what is alive with them: the network needs "
            f"{live_bytes(blocks.values()):,} bytes at once, the memories have {sizes}",
            hint="make the layer's tensors smaller or choose a larger target",
        )
    return result


def _fill(blocks: Mapping[str, Block], size: int) -> Offsets:
    """Offsets of as many blocks, largest first, as ``size`` bytes take."""
    offsets = arrange(blocks)
    if height(blocks, offsets) <= size:
        return offsets
    chosen: dict[str, Block] = {}
    offsets = {}
    for name, block in sorted(blocks.items(), key=_largest):
        wanted = chosen | {name: block}
        if live_bytes(wanted.values()) > size:
            continue
        tried = offsets | {name: _lowest(block, chosen, offsets)}
        if height(wanted, tried) > size:
            tried = arrange(wanted, size)
        if height(wanted, tried) <= size:
            chosen, offsets = wanted, tried
    return offsets


def arrange(blocks: Mapping[str, Block], enough: int = 0) -> Offsets:
    """Offsets of all blocks, ending as low as was found; ``enough`` bytes are low enough."""
    orders = (
        sorted(blocks.items(), key=_largest),
        sorted(blocks.items(), key=lambda item: (-item[1].size * (1 + item[1].last - item[1].first), item[0])),
        sorted(blocks.items(), key=lambda item: (item[1].first - item[1].last, -item[1].size, item[0])),
        sorted(blocks.items(), key=lambda item: (item[1].first, -item[1].size, item[0])),
    )
    best = min((first_fit(dict(order)) for order in orders), key=lambda offsets: height(blocks, offsets))
    least = max(live_bytes(blocks.values()), enough)
    for better in (_improved, _searched):
        if height(blocks, best) > least:
            best = better(blocks, least, best)
    return best


def first_fit(blocks: Mapping[str, Block]) -> Offsets:
    """Each block, in the order given, at the lowest offset where nothing alive at the same time lies."""
    offsets: Offsets = {}
    for name, block in blocks.items():
        offsets[name] = _lowest(block, blocks, offsets)
    return offsets


def _lowest(block: Block, blocks: Mapping[str, Block], offsets: Offsets) -> int:
    taken = sorted(
        (offset, offset + blocks[other].size) for other, offset in offsets.items() if _together(block, blocks[other])
    )
    lowest = 0
    for begin, end in taken:
        if lowest + block.size <= begin:
            break
        lowest = max(lowest, end)
    return lowest


def _together(a: Block, b: Block) -> bool:
    return a.first <= b.last and b.first <= a.last


def _largest(item: tuple[str, Block]) -> tuple[int, int, str]:
    name, block = item
    return -block.size, block.first, name


def _improved(blocks: Mapping[str, Block], least: int, best: Offsets) -> Offsets:
    """Hill climbing over the orders of first fit: what reaches the top moves before a block that it lies on."""
    draw, order, top = random.Random(0), sorted(best, key=lambda name: (best[name], name)), height(blocks, best)
    for _ in range(TRIES // len(blocks)):
        if top <= least:
            break
        name = draw.choice([name for name in order if best[name] + blocks[name].size == top])
        place = order.index(name)
        below = [index for index, other in enumerate(order[:place]) if _together(blocks[name], blocks[other])]
        tried = list(order)
        if below and draw.random() < 0.7:
            tried.insert(draw.choice(below), tried.pop(place))
        else:
            a, b = draw.randrange(len(tried)), draw.randrange(len(tried))
            tried[a], tried[b] = tried[b], tried[a]
        offsets = first_fit({name: blocks[name] for name in tried})
        if height(blocks, offsets) <= top:
            order, best, top = tried, offsets, height(blocks, offsets)
    return best


def _searched(blocks: Mapping[str, Block], least: int, best: Offsets) -> Offsets:
    """The lowest found by bisection between ``least``, where half of the work goes, and what is known."""
    search, limit, nodes = _Search(blocks), least, NODES // len(blocks) // 2
    while least < height(blocks, best):
        found = search.run(limit, nodes)
        if found is not None:
            best = found
        else:
            least = limit + 1
        nodes = NODES // len(blocks) // 20
        limit = (least + height(blocks, best) - 1) // 2
    return best


_State = tuple[list[int], list[int], frozenset[int]]
"""By step: where the placed blocks end and how many bytes are not placed yet; the numbers of those blocks."""


class _Search:
    """Depth first over the orders in which blocks can be stacked, from the lowest offset up.

    In some best plan each block lies on the floor or on another, so that placing them by rising offset finds it: a
    block's offset is the top of what is there in its steps. What is not placed yet lies higher, so in every step it
    has to fit between that and the limit.
    """

    def __init__(self, blocks: Mapping[str, Block]) -> None:
        self.names = [name for name, _ in sorted(blocks.items(), key=_largest)]
        steps = sorted({block.first for block in blocks.values()})  # blocks alive together are so where one begins
        chosen = [blocks[name] for name in self.names]
        self.sizes = [block.size for block in chosen]
        alive = ([step for step, at in enumerate(steps) if b.first <= at <= b.last] for b in chosen)
        self.spans = [(span[0], span[-1] + 1) for span in alive]
        self.steps = len(steps)

    def run(self, limit: int, nodes: int) -> Offsets | None:
        """Offsets below ``limit``; None where there are none, or none after so many ``nodes``."""
        needed = [0] * self.steps
        for size, (begin, end) in zip(self.sizes, self.spans, strict=True):
            for step in range(begin, end):
                needed[step] += size
        placed: list[tuple[int, int]] = []  # offset and number, rising
        state: _State = [0] * self.steps, needed, frozenset(range(len(self.sizes)))
        stack = [(state, self._next(state, (0, -1)))]
        while stack and nodes:
            (tops, needed, left), candidates = stack[-1]
            choice = next(candidates, None)
            if choice is None:
                stack.pop()
                if placed:
                    placed.pop()
                continue
            nodes -= 1
            offset, number = choice
            begin, end = self.spans[number]
            size = self.sizes[number]
            tops = [*tops[:begin], *[offset + size] * (end - begin), *tops[end:]]
            needed = [*needed[:begin], *(need - size for need in needed[begin:end]), *needed[end:]]
            if any(need and max(top, offset) + need > limit for top, need in zip(tops, needed, strict=True)):
                continue
            placed.append(choice)
            state = tops, needed, left - {number}
            if not state[2]:
                return {self.names[number]: offset for offset, number in placed}
            stack.append((state, self._next(state, choice)))
        return None

    def _next(self, state: _State, last: tuple[int, int]) -> Iterator[tuple[int, int]]:
        """Offset and number of blocks that can be placed above ``last``, lowest first, of these the largest."""
        tops, _, left = state
        offsets = ((max(tops[slice(*self.spans[number])]), number) for number in left)
        return iter(sorted(choice for choice in offsets if choice > last))
