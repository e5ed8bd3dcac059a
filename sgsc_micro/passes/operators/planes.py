"""How a depthwise convolution goes through an image: four channels at a time, band by band of rows, in widened planes.

A plane is a channel of some rows of the padded image. Where columns are the longer walk, the image is turned first:
its columns are then the rows below, so that an inner loop is long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BLOCK = 4
"""Channels at a time: a word of the image."""
BAND_BYTES = 4096
"""What the planes and accumulators of a band may take, where a row of output needs no more."""
_ROW_COST, _TURN_COST, _PAIR_COST = 45, 25, 36
"""Instructions, about: to begin a row of outputs, more where they do not follow each other, and for two of them."""

Pair = tuple[int, int]


@dataclass(frozen=True)
class Planes:
    """Geometry, all of it (rows, columns) of the image as it lies or, ``turned``, (columns, rows) of it."""

    turned: bool
    output: Pair
    kernel: Pair
    strides: Pair
    dilation: Pair
    before: Pair
    """Padding above and to the left."""

    @staticmethod
    def of(
        output: Sequence[int],
        kernel: Sequence[int],
        strides: Sequence[int],
        dilation: Sequence[int],
        before: Sequence[int],
    ) -> Planes:
        """Two of each, rows first, as the image lies."""

        def pair(sides: Sequence[int], turned: bool) -> Pair:
            return (sides[1], sides[0]) if turned else (sides[0], sides[1])

        sides_of = output, kernel, strides, dilation, before
        ways = [Planes(turned, *(pair(sides, turned) for sides in sides_of)) for turned in (False, True)]
        return min(ways, key=lambda planes: planes._cost)

    @property
    def _cost(self) -> int:
        rows, columns = self.output
        return rows * (_ROW_COST + self.turned * _TURN_COST + _PAIR_COST * -(-columns // 2))

    @property
    def is_3x3(self) -> bool:
        """Whether a micro-kernel keeps the taps in registers."""
        return self.kernel == (3, 3) and self.dilation[1] == 1 and self.strides[1] <= 2

    @property
    def span(self) -> Pair:
        """What a window covers, holes included."""
        rows, columns = (1 + (taps - 1) * step for taps, step in zip(self.kernel, self.dilation, strict=True))
        return rows, columns

    @property
    def tap_columns(self) -> int:
        """Lanes of a row of taps: those of a window's columns, to an even number."""
        return _even(self.span[1])

    @property
    def tap_bytes(self) -> int:
        """The taps of one channel."""
        return 2 * self.kernel[0] * self.tap_columns

    @property
    def columns(self) -> int:
        """Lanes of a plane's row: as far as the windows of two outputs at a time read."""
        reach = self.span[1] if self.is_3x3 else self.tap_columns
        return _even((_even(self.output[1]) - 1) * self.strides[1] + reach)

    @property
    def kept(self) -> int:
        """Rows that a band has in common with the next."""
        return max(self.span[0] - self.strides[0], 0)

    def rows(self, outputs: int) -> int:
        """Rows of the padded image that so many rows of output read."""
        return (outputs - 1) * self.strides[0] + self.span[0]

    @property
    def row_bytes(self) -> int:
        """A row of a plane."""
        return 2 * self.columns

    def band_bytes(self, outputs: int) -> int:
        """What a band of so many rows of output takes: planes, then accumulators and room for one more."""
        return BLOCK * self.rows(outputs) * self.row_bytes + 4 * (outputs * self.output[1] + 1)

    @property
    def band(self) -> int:
        """Rows of output at a time."""
        fitting = (count for count in range(self.output[0], 1, -1) if self.band_bytes(count) <= BAND_BYTES)
        return next(fitting, 1)

    @property
    def bands(self) -> int:
        """How often."""
        return -(-self.output[0] // self.band)

    @property
    def plane_bytes(self) -> int:
        """One of the planes."""
        return self.rows(self.band) * self.row_bytes

    @property
    def first_plane(self) -> int:
        """Where the planes begin in scratch: behind the taps of a block."""
        return BLOCK * self.tap_bytes

    @property
    def accumulators(self) -> int:
        """Where the accumulators begin."""
        return self.first_plane + BLOCK * self.plane_bytes

    @property
    def scratch_bytes(self) -> int:
        """Taps, planes and accumulators."""
        return self.first_plane + self.band_bytes(self.band)


def _even(count: int) -> int:
    return count + count % 2
