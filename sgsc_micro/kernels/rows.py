"""How the activations of some output pixels become rows that meet packed weights, for either packing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from tvm.script.ir_builder import tirx as T

from sgsc_micro.blocking import Blocking
from sgsc_micro.kernels.builder import Expression, Kernel, run
from sgsc_micro.kernels.epilogue import Epilogue
from sgsc_micro.kernels.pack import lane_streams
from sgsc_micro.kernels.pack_bytes import byte_streams, stored_widths
from sgsc_micro.passes.operators import Conv2D
from sgsc_micro.storage import MAX_BITS

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Rows(ABC):
    """What both packings' have in common: ``count`` rows at once, 4 or 1, of a convolution over ``image``."""

    operator: Conv2D
    image: Shape
    width: int
    """Of the output, in pixels."""
    count: int

    prefix = "sgsc"
    """What the names of their micro-kernels begin with."""

    @property
    @abstractmethod
    def streams(self) -> list[np.ndarray]:
        """The weights that they meet, uint32 words, group by group."""

    @property
    @abstractmethod
    def dots(self) -> set[tuple[str, int]]:
        """Which micro-kernels these need, by shape and width."""

    @property
    @abstractmethod
    def bias(self) -> np.ndarray:
        """What the sums of weights and rows begin with; int64 [O]."""

    @property
    @abstractmethod
    def scratch_bytes(self) -> int:
        """What they take of scratch, from its start."""

    def ending(self, epilogue: Epilogue) -> str:
        """What the names of their micro-kernels end with."""
        return epilogue.kind

    @abstractmethod
    def begin(self, built: Kernel) -> None:
        """What is the same for all pixels."""

    @abstractmethod
    def gather(self, built: Kernel, first: Expression, pixels: int, count: Expression, group: Expression) -> None:
        """Fill the rows with a group's activations under the kernel, for ``count`` of ``pixels`` from ``first``."""

    @abstractmethod
    def arguments(
        self, built: Kernel, first: Expression, group: Expression, widths: tuple[int, ...]
    ) -> list[Expression]:
        """The micro-kernel's arguments that say where the rows are, and what it needs of them for such channels."""

    def _source(self, built: Kernel, first: Expression, group: Expression) -> Expression:
        """Where a group's activations begin, from pixel ``first`` on."""
        return T.address_of(built.input()[0, 0, first, group * self.operator.weights.shape[3]])

    @property
    def _geometry(self) -> tuple[int, ...]:
        operator, (_, height, width, channels) = self.operator, self.image
        kh, kw, depth = operator.weights.shape[1:]
        steps = *operator.strides, *operator.padding[:2], kh, kw, *operator.dilation, *operator.upsample
        return self.width, *steps, height, width, channels, depth, operator.input.zero_point


@dataclass(frozen=True)
class LaneRows(Rows):
    """Widened to int16 minus the zero point, side by side; those beyond the last pixel are its own again.

    Scratch holds them, what a kernel row outside of the image reads, and rows before they are widened.
    """

    blocking: Blocking

    @property
    def streams(self) -> list[np.ndarray]:
        """See :class:`Rows`."""
        return lane_streams(self.operator.weights, self.blocking)

    @property
    def dots(self) -> set[tuple[str, int]]:
        """See :class:`Rows`."""
        return self.blocking.dots

    @property
    def bias(self) -> np.ndarray:
        """See :class:`Rows`."""
        return self.operator.bias.astype(np.int64)

    @property
    def scratch_bytes(self) -> int:
        """See :class:`Rows`."""
        return self._outside_at + self.operator.gathered_bytes(self.count)

    @property
    def _outside_at(self) -> int:
        """Where in scratch it is as outside of the image."""
        return self.count * self.blocking.row_bytes

    def begin(self, built: Kernel) -> None:
        """See :class:`Rows`."""
        if self.operator.sees_zeros:
            outside = T.address_of(built.row[self._outside_at])
            run("sgsc_fill", outside, self.operator.run, self.operator.input.zero_point)

    def gather(self, built: Kernel, first: Expression, pixels: int, count: Expression, group: Expression) -> None:
        """See :class:`Rows`."""
        operator, rows = self.operator, T.address_of(built.row[0])
        if operator.is_pointwise:
            source, depth = self._source(built, first, group), operator.weights.shape[3]
            step, zero_point = self.image[3], operator.input.zero_point
            run("sgsc_widen_pixels", rows, self.count, source, step, count, depth, zero_point)
            return
        scratch = T.address_of(built.row[self._outside_at]), int(operator.copies_taps)
        source = self._source(built, 0, group)
        run("sgsc_gather", rows, self.count, source, first, pixels - 1, *self._geometry, *scratch)

    def arguments(
        self, built: Kernel, first: Expression, group: Expression, widths: tuple[int, ...]
    ) -> list[Expression]:
        """See :class:`Rows`: the rows, how many pairs have to be summed, the zero point."""
        offset_binary = any(0 < bits < MAX_BITS for bits in widths)
        pairs = -(-self.operator.taps // 2) if offset_binary else 0
        return [T.address_of(built.row[0]), pairs, self.operator.input.zero_point]


class ByteRows(Rows):
    """As they are: in the image where a row lies there in one piece, else copied into scratch.

    A micro-kernel may read one tap more than an odd number of them, which is worth nothing: these are copied too.
    """

    prefix = "sgsc_bytes"

    @property
    def streams(self) -> list[np.ndarray]:
        """See :class:`Rows`."""
        return byte_streams(self.operator.weights, self.operator.groups)

    @property
    def dots(self) -> set[tuple[str, int]]:
        """See :class:`Rows`."""
        return {(f"bytes{self.count}", bits) for bits in stored_widths(self.operator.weights)}

    @property
    def bias(self) -> np.ndarray:
        """See :class:`Rows`: minus what the zero point adds to the products."""
        weights = self.operator.weights.reshape(len(self.operator.weights), -1).astype(np.int64)
        return np.asarray(self.operator.bias - self.operator.input.zero_point * weights.sum(axis=1))

    @property
    def scratch_bytes(self) -> int:
        """See :class:`Rows`."""
        return self.count * self.operator.copied_bytes

    @property
    def _stride(self) -> int:
        """From a row to the next."""
        return self.operator.copied_bytes or self.image[3]

    def ending(self, epilogue: Epilogue) -> str:
        """See :class:`Rows`: short form or long is all the same."""
        return epilogue.clamping

    def begin(self, built: Kernel) -> None:
        """See :class:`Rows`: nothing."""

    def gather(self, built: Kernel, first: Expression, pixels: int, count: Expression, group: Expression) -> None:
        """See :class:`Rows`."""
        if self.operator.copied_bytes:
            rows = T.address_of(built.row[0]), self._stride, count
            run("sgsc_bytes_gather", *rows, self._source(built, 0, group), first, *self._geometry)

    def arguments(
        self, built: Kernel, first: Expression, group: Expression, widths: tuple[int, ...]
    ) -> list[Expression]:
        """See :class:`Rows`: the first row, how far it is to the next, the taps."""
        copied = self.operator.copied_bytes > 0
        row = T.address_of(built.row[0]) if copied else self._source(built, first, group)
        return [row, self._stride, self.operator.taps]
