"""Weights into bytes, as sgsc_micro/storage.py lays them out and c/sgsc_bytes.h reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from sgsc_micro import storage


@dataclass(frozen=True)
class ByteLayout:
    """The counterpart of :class:`~sgsc_micro.kernels.pack.Layout`: rows at once, 4 or 1."""

    rows: int

    def stream(self, weights: np.ndarray, widths: Sequence[int]) -> np.ndarray:
        """The words of one group; weights int8 [O, taps]."""
        words: list[np.ndarray] = []
        first = 0
        for bits, members in groupby(_stored(weights, widths)):
            count = len(list(members))
            content = [pack_channel(channel, bits) for channel in weights[first : first + count]]
            bytes_ = np.concatenate(content)
            padded = np.pad(bytes_, (0, -len(bytes_) % 4))
            words += [np.array([count | bits << 24], np.uint32), padded.view("<u4")]
            first += count
        return np.concatenate(words)

    def dots(self, weights: np.ndarray, widths: Sequence[int]) -> set[tuple[str, int]]:
        """Which segments such a group needs, by rows and width."""
        return {(f"bytes{self.rows}", bits) for bits in _stored(weights, widths)}


def _stored(weights: np.ndarray, widths: Sequence[int]) -> list[int]:
    return [storage.stored_byte_bits(bits, weights.shape[1]) for bits in widths]


def pack_channel(weights: np.ndarray, bits: int) -> np.ndarray:
    """The bytes, uint8, of one channel, plane by plane; weights int [taps]."""
    if bits == 0:
        return np.zeros(0, np.uint8)
    taps, narrowest = weights.size, storage.byte_planes(bits)[-1]
    part = storage.byte_part(bits, taps)
    values = np.zeros(8 // narrowest * part, np.int64)
    values[:taps] = weights.ravel()
    by_part = values.reshape(-1, part)
    planes, below = [], bits
    for field_bits in storage.byte_planes(bits):
        below -= field_bits
        fields = (by_part >> below) & ((1 << field_bits) - 1)  # [part, tap]
        by_field = fields.reshape(8 // field_bits, -1)  # a field of all bytes of this plane, from the top
        shifts = 8 - field_bits * np.arange(1, 1 + len(by_field))
        planes.append((by_field << shifts[:, None]).sum(axis=0))
    return np.concatenate(planes).astype(np.uint8)
