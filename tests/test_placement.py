"""Placement: blocks alive together lie apart, as low as was to be had, and within the memories there are."""

from __future__ import annotations

import itertools
import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sgsc_micro.errors import SgscError
from sgsc_micro.passes.placement import Block, Room, allot, arrange, first_fit, height, live_bytes

BLOCKS = st.lists(
    st.builds(lambda size, first, length: Block(4 * size, first, first + length),
              st.integers(1, 50), st.integers(0, 10), st.integers(0, 5)),
    min_size=1, max_size=15,
)  # fmt: skip


def apart(blocks: dict[str, Block], offsets: dict[str, int]) -> bool:
    """Whether nothing that is alive together shares a byte."""
    return all(
        one.last < other.first
        or other.last < one.first
        or offsets[a] + one.size <= offsets[b]
        or offsets[b] + other.size <= offsets[a]
        for (a, one), (b, other) in itertools.combinations(blocks.items(), 2)
    )


@given(BLOCKS)
@settings(deadline=None)
def test_arranged_blocks_are_apart_and_no_higher_than_greedy_ones(found: list[Block]) -> None:
    blocks = {str(number): block for number, block in enumerate(found)}
    offsets = arrange(blocks)
    assert apart(blocks, offsets) and set(offsets) == set(blocks) and min(offsets.values()) == 0
    greedy = first_fit(dict(sorted(blocks.items(), key=lambda item: -item[1].size)))
    live = max(sum(b.size for b in found if b.first <= step <= b.last) for step in range(20))
    assert apart(blocks, greedy)
    assert live == live_bytes(found) <= height(blocks, offsets) <= height(blocks, greedy)
    assert all(offset % 4 == 0 for offset in offsets.values())


def lowest(blocks: list[Block]) -> int:
    """The height of the best plan, by trying every offset of every block."""

    def fits(placed: dict[str, Block], offsets: dict[str, int], limit: int) -> bool:
        if len(placed) == len(blocks):
            return True
        name, block = str(len(placed)), blocks[len(placed)]
        more = placed | {name: block}
        choices = (offsets | {name: offset} for offset in range(limit - block.size + 1))
        return any(apart(more, choice) and fits(more, choice, limit) for choice in choices)

    return next(limit for limit in itertools.count(1) if fits({}, {}, limit))


@given(
    st.lists(
        st.builds(lambda size, first, length: Block(size, first, first + length),
                  st.integers(1, 4), st.integers(0, 5), st.integers(0, 3)),
        min_size=1, max_size=6,
    )
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_few_blocks_are_placed_as_low_as_can_be(found: list[Block]) -> None:
    blocks = {str(number): block for number, block in enumerate(found)}
    assert height(blocks, arrange(blocks)) == lowest(found)


def test_the_search_finds_what_no_greedy_order_does() -> None:
    gained, above = 0, 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        firsts = rng.integers(0, 12, 24)
        blocks = {
            str(i): Block(4 * int(rng.integers(1, 60)), int(first), int(first + rng.integers(0, 5)))
            for i, first in enumerate(firsts)
        }
        best, greedy = height(blocks, arrange(blocks)), height(blocks, first_fit(dict(blocks)))
        gained += best < greedy
        above += best > live_bytes(blocks.values())
    assert gained > 20 and above < 4


@given(BLOCKS, st.lists(st.integers(1, 100), min_size=1, max_size=3))
@settings(deadline=None)
def test_rooms_are_kept_to_or_the_block_without_one_is_named(found: list[Block], sizes: list[int]) -> None:
    blocks = {f"block {number}": block for number, block in enumerate(found)}
    rooms = [Room(f"room {number}", 4 * size) for number, size in enumerate(sizes)]
    try:
        allotted = allot(blocks, rooms)
    except SgscError as error:
        assert re.match(r"block \d+: no room for its [\d,]+ bytes", error.message)
        assert live_bytes(found) > 0.3 * sum(room.size or 0 for room in rooms)
        return
    assert sorted(name for offsets in allotted for name in offsets) == sorted(blocks)
    for room, offsets in zip(rooms, allotted, strict=True):
        inside = {name: blocks[name] for name in offsets}
        assert apart(inside, offsets) and height(inside, offsets) <= (room.size or 0)
