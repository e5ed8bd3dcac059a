"""What operators of random TFLite models are drawn of: shapes, windows, weights, scales and zero points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from tests.tflite_models import Quantization, Tensor

Choice = TypeVar("Choice")


class Draws:
    """Draws from one generator; what comes is odd more often than in real models."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def quantization(self) -> Quantization:
        """A scale of 1e-4 to 10 and any zero point."""
        return Quantization(float(np.float32(10 ** self.rng.uniform(-4, 1))), self._zero_point())

    def _weights(self, shape: tuple[int, ...], axis: int, bits: int) -> np.ndarray:
        """Weights whose channels (along ``axis``) are full, small, of one size, or zero."""
        top = 127 if bits == 8 else 7
        limits = self.rng.choice([top, top, top, top // 2, 3, 1, 0], shape[axis])
        column = limits.reshape([-1 if place == axis else 1 for place in range(len(shape))])
        return self.rng.integers(-column, column + 1, shape).astype(np.int8)

    def _scaled(
        self, x: Tensor, weights: np.ndarray, axis: int, *, single: bool | None = None, biased: bool | None = None
    ) -> tuple[np.ndarray, np.ndarray | None, Quantization]:
        """Drawn scales (one where ``single``), bias and output parameters."""
        channels = weights.shape[axis]
        single = self._chance(0.15) if single is None else single
        spread = 10 ** self.rng.uniform(-1, 0.5, 1 if single else channels)
        if not single and self._chance(0.2):
            spread *= 10 ** self.rng.uniform(-4, 1, channels)
        output = self.quantization()
        large = 2.0**26 if self._chance(0.1) else None
        scales, bias = self.calibrated(x, weights, axis, output, spread, large)
        return scales, bias if biased or self._chance(0.8) else None, output

    def calibrated(
        self,
        x: Tensor,
        weights: np.ndarray,
        axis: int,
        output: Quantization,
        spread: np.ndarray,
        largest_bias: float | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Weight scales at which sums have a deviation of about 60 ``spread`` output steps, and a bias.

        Biases make up for the input's zero point, or are any up to ``largest_bias``. No product overflows 32 bits.
        """
        channels = weights.shape[axis]
        taps = weights.size // channels
        sums = 100.0 * max(float(weights.std()), 0.5) * math.sqrt(taps)
        largest = largest_bias or sums * 10 ** self.rng.uniform(-2, 0)
        totals = np.moveaxis(weights, axis, 0).reshape(channels, taps).sum(1, dtype=np.int64)
        middle = 0 if largest_bias else parameters_of(x).zero_point * totals  # what takes the sums' mean to 0
        bias = (middle + np.round(self.rng.uniform(-largest, largest, channels))).astype(np.int32)
        multipliers = np.minimum(spread * 60 / sums, 2.0**29 / (255.0 * 128 * taps + np.abs(bias).max()))
        return (multipliers * output.scale / parameters_of(x).scale).astype(np.float32), bias

    def _window(self, x: Tensor) -> dict[str, Any]:
        """Kernel size, strides, dilations and padding that leave at least one pixel."""
        padding = self._choice(["SAME", "VALID"])
        dilations = self._pair(1, 3) if self._chance(0.3) else (1, 1)
        size: tuple[int, ...] = self._pair(1, 5)
        if padding == "VALID":
            size = tuple(
                min(kernel, (side - 1) // step + 1) for kernel, side, step in zip(size, x.shape[1:3], dilations)
            )
        strides = self._pair(1, 4) if self._chance(0.5) else (1, 1)
        return {"size": size, "strides": strides, "dilations": dilations, "padding": padding}

    def _broadcast(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """``shape``, with axes of 1 or without its first ones."""
        thin = tuple(side if self._chance(0.6) else 1 for side in shape)
        return self._choice([shape, thin, shape[-1:], shape[1:], (1,)])

    def _pad_widths(self, x: Tensor) -> np.ndarray:
        """Up to 2 on either side of any axis but the first."""
        return np.vstack([[0, 0], self.rng.integers(0, 3, (len(x.shape) - 1, 2))])

    def _factors(self, size: int, rank: int) -> tuple[int, ...]:
        """A shape of ``size`` values: 1, then sides drawn from its divisors."""
        shape = [1]
        for _ in range(rank - 2):
            shape.append(self._choice([side for side in range(1, 10) if size % side == 0]))
            size //= shape[-1]
        return (*shape, size)

    def _near(self, x: Tensor) -> Quantization:
        """Other parameters at a scale near that of ``x``, the zero point mostly so too."""
        scale, zero_point = parameters_of(x)
        shifted = int(np.clip(zero_point + self._draw(-40, 41), -128, 127))
        return Quantization(
            scale * 10 ** self.rng.uniform(-0.5, 0.5), shifted if self._chance(0.7) else self._zero_point()
        )

    def _zero_point(self) -> int:
        return int(self.rng.choice([-128, -128, 0, 127, *self.rng.integers(-128, 128, 9)]))

    def _fused(self, output: Quantization) -> str:
        """An activation, mostly one that leaves more than a few values of the output's."""
        ranges = {"NONE": (-np.inf, np.inf), "RELU": (0, np.inf), "RELU6": (0, 6), "RELU_N1_TO_1": (-1, 1)}
        wide = []
        for name, ends in ranges.items():
            low, high = np.clip(np.array(ends) / output.scale + output.zero_point, -128, 127)
            wide += [name] if high - low >= 32 or self._chance(0.1) else []
        return self._choice(["NONE", *wide])

    def _draw(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high))

    def _pair(self, low: int, high: int) -> tuple[int, int]:
        return self._draw(low, high), self._draw(low, high)

    def _chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def _choice(self, options: Sequence[Choice]) -> Choice:
        return options[self._draw(0, len(options))]


def parameters_of(x: Tensor) -> Quantization:
    assert x.quantization is not None
    return x.quantization
