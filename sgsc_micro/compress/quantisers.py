"""The differentiable quantisers: weights with learned width and range per channel, activations in int8.

Weights follow S. Csefalvay and J. Imber, "Self-Compressing Neural Networks", arXiv 2301.13142, eq. 1; the learned
activation scale follows S. Esser et al., "Learned Step Size Quantization", arXiv 1902.08153.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from sgsc_micro.storage import MAX_BITS

SAMPLE = 2**16
"""Values at most, about, that a range is chosen by."""


def round_through(x: torch.Tensor) -> torch.Tensor:
    """Round half to even forwards, pass the gradient straight through backwards."""
    return x + (x.round() - x).detach()


class WeightQuantiser(nn.Module):
    """q(x, b, e) = 2^e round(clamp(2^-e x, -2^(b-1), 2^(b-1) - 1)) per output channel (dimension 0).

    Learned are the width b and the reach r = e + b - 1, the logarithm of the range, so that a lost bit costs
    precision and not range (1905.11452 compares such parametrisations); e is rounded: the scale is a power of two.
    b is kept within bounds by ``project`` and not inside the graph, so that a channel at zero bits still has a gradient
    and can come back.

    >>> q = WeightQuantiser(torch.tensor([[1.0, -0.5, 0.2]]))
    >>> q(torch.tensor([[1.0, -0.5, 0.2]])).detach()
    tensor([[ 0.9922, -0.5000,  0.2031]])
    """

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        largest = weight.detach().abs().flatten(1).amax(1).clamp(min=2.0**-20)  # [C]
        self.bits = nn.Parameter(torch.full_like(largest, MAX_BITS))  # [C]
        self.reach = nn.Parameter(torch.log2(largest).ceil())  # [C]

    def integers(self, weight: torch.Tensor) -> torch.Tensor:
        """weight [C, ...] to the integers 2^-e q, as floats with a gradient, [C, ...]."""
        per_channel = (-1,) + (1,) * (weight.dim() - 1)
        half = 2 ** (self.bits.view(per_channel) - 1)  # [C, 1, ...]
        scaled = weight / self.scale().view(per_channel)  # [C, ...]
        return round_through(torch.minimum(torch.maximum(scaled, -half), half - 1))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """weight [C, ...] to its quantised values [C, ...]."""
        return self.integers(weight) * self.scale().view((-1,) + (1,) * (weight.dim() - 1))

    def scale(self) -> torch.Tensor:
        """2^e, [C]."""
        return 2 ** round_through(self.reach - self.bits + 1)

    @torch.no_grad()
    def project(self, floor: torch.Tensor, ceiling: torch.Tensor) -> None:
        """Bring the widths back between two bounds [C] after an optimiser step."""
        self.bits.copy_(torch.minimum(torch.maximum(self.bits, floor), ceiling))


class ActivationQuantiser(nn.Module):
    """int8 per tensor: real = s (q - z). The scale is learned as its logarithm; the zero point stays as calibrated."""

    log_scale: nn.Parameter
    zero_point: torch.Tensor

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        low, high = min(low, 0.0), max(high, 0.0, low + 1e-6)  # zero is a value: padding needs it
        scale = (high - low) / 255
        self.log_scale = nn.Parameter(torch.tensor(scale).log2())
        self.register_buffer("zero_point", torch.tensor(float(round(-128 - low / scale))))

    @classmethod
    def fixed(cls, scale: float, zero_point: int) -> ActivationQuantiser:
        """One whose scale is not learned."""
        quantiser = cls((-128 - zero_point) * scale, (127 - zero_point) * scale)
        quantiser.log_scale.data.fill_(math.log2(scale))
        quantiser.log_scale.requires_grad_(False)
        return quantiser

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x of any shape to its quantised values."""
        quantised: torch.Tensor = _LearnedStep.apply(x.float(), self.scale(), self.zero_point)
        return quantised

    def scale(self) -> torch.Tensor:
        """s, a scalar."""
        return 2**self.log_scale


def least_error_range(values: torch.Tensor) -> tuple[float, float]:
    """The range, of those between two fifths and all of the values' own, whose 256 steps leave the least squared error.

    Zero is in every one of them.
    """
    values = values.detach().flatten().float()
    sample = values[:: max(len(values) // SAMPLE, 1)]
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    if high == low:
        return low, high
    shares = [part / 20 for part in range(8, 21)]
    # Ends shrink together, then the lower alone: what only one of them has to hold is often the outlier.
    ranges = [(share * low, share * high) for share in shares]
    low, high = min(ranges, key=lambda range_: _squared_error(sample, *range_))
    return min(((share * low, high) for share in shares), key=lambda range_: _squared_error(sample, *range_))


def _squared_error(values: torch.Tensor, low: float, high: float) -> float:
    scale = (high - low) / 255
    zero_point = round(-128 - low / scale)
    quantised = (values / scale + zero_point).round_().clamp_(-128, 127).sub_(zero_point).mul_(scale)
    return float((quantised - values).square_().sum())


class _LearnedStep(torch.autograd.Function):
    """s (clamp(round(x / s + z), -128, 127) - z) with 1902.08153's gradients, in few passes over memory: written with
    ``round_through``, quantising took as long as the convolutions."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor) -> torch.Tensor:
        quantised = (x / scale).add_(zero_point).round_().clamp_(-128, 127).sub_(zero_point).mul_(scale)
        ctx.save_for_backward(x, quantised)
        ctx.step, ctx.zero_point = scale.item(), zero_point.item()
        return quantised

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        x, quantised = ctx.saved_tensors
        (gradient,) = gradients
        low, high = ((bound - ctx.zero_point) * ctx.step for bound in (-128, 127))
        passed = torch.ops.aten.hardtanh_backward(gradient, x, low, high)  # what lies between the bounds
        return passed, (_dot(gradient, quantised) - _dot(passed, x)) / ctx.step, None


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Sum of the products of two tensors of one shape; where they lie in memory alike, without a third."""
    order = sorted(range(a.dim()), key=lambda axis: -a.stride(axis))
    a, b = a.permute(order), b.permute(order)
    return torch.dot(a.reshape(-1), b.reshape(-1))  # a view where the axes follow each other
