"""Weights into bytes, as sgsc_micro/storage.py lays them out and c/sgsc_bytes.h reads them."""

from __future__ import annotations

from itertools import groupby

import numpy as np

from sgsc_micro import storage


def byte_streams(weights: np.ndarray, groups: int) -> list[np.ndarray]:
    """The words, uint32, of each group; weights int8 [O, kh, kw, I]."""
    return [_stream(group) for group in weights.reshape(groups, -1, int(np.prod(weights.shape[1:])))]


def _stream(weights: np.ndarray) -> np.ndarray:
    """Those of one group; weights int8 [O, taps]."""
    words: list[np.ndarray] = []
    first = 0
    for bits, members in groupby(stored_widths(weights)):
        count = len(list(members))
        content = np.concatenate([pack_channel(channel, bits) for channel in weights[first : first + count]])
        padded = np.pad(content, (0, -len(content) % 4))
        words += [np.array([count | bits << 24], np.uint32), padded.view("<u4")]
        first += count
    return np.concatenate(words)


def stored_widths(weights: np.ndarray) -> list[int]:
    """At which width each channel is stored; weights int8 [O, ...]."""
    taps = int(np.prod(weights.shape[1:]))
    return [storage.stored_byte_bits(bits, taps) for bits in storage.width_of(weights).tolist()]


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
