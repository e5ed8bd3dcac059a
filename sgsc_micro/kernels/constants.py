"""Constants as typed arrays: what a kernel wants stored goes into the narrowest of four pools."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

POOLS: dict[str, type[np.integer[Any]]] = {
    "words": np.uint32,
    "ints": np.int32,
    "halves": np.int16,
    "bytes": np.int8,
}
"""Widest first, so that the pools one after another need no padding."""


@dataclass(frozen=True)
class Entry:
    """``count`` elements from ``offset`` of a pool, for a person: which layer, what."""

    layer: str
    what: str
    pool: str
    offset: int
    count: int


@dataclass
class Constants:
    """Arrays by pool and what lies where in them."""

    layer: str = ""
    arrays: dict[str, list[np.ndarray]] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)

    def words(self, what: str, values: np.ndarray) -> Entry:
        """Store uint32 ``values``."""
        return self._store("words", what, values.astype(np.uint32))

    def integers(self, what: str, values: np.ndarray, pools: tuple[str, ...] = ("bytes", "halves", "ints")) -> Entry:
        """Store signed ``values`` in the narrowest type, of ``pools`` from narrow to wide, that holds them all."""
        for pool in pools:
            limits = np.iinfo(POOLS[pool])
            if limits.min <= values.min(initial=0) and values.max(initial=0) <= limits.max:
                return self._store(pool, what, values.astype(POOLS[pool]))
        raise OverflowError(f"{self.layer}: {what} leaves int32")

    def size(self, pool: str) -> int:
        """Elements in a pool."""
        return sum(map(len, self.arrays.get(pool, [])))

    def append(self, other: Constants) -> dict[str, int]:
        """Take over another's arrays; where they now begin, by pool."""
        bases = {pool: self.size(pool) for pool in other.arrays}
        for entry in other.entries:
            moved = entry.offset + bases[entry.pool]
            self.entries.append(Entry(entry.layer, entry.what, entry.pool, moved, entry.count))
        for pool, arrays in other.arrays.items():
            self.arrays.setdefault(pool, []).extend(arrays)
        return bases

    def pool(self, name: str) -> np.ndarray:
        """A pool as one array."""
        return np.concatenate([np.zeros(0, POOLS[name]), *self.arrays.get(name, [])])

    @property
    def used(self) -> list[str]:
        """Pools with anything in them, widest first."""
        return [name for name in POOLS if self.size(name)]

    def _store(self, pool: str, what: str, values: np.ndarray) -> Entry:
        entry = Entry(self.layer, what, pool, self.size(pool), len(values))
        self.arrays.setdefault(pool, []).append(values)
        self.entries.append(entry)
        return entry
