"""Small random transformers in quantized_decomposed nodes, as the compressor exports them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.ao.quantization.fx._decomposed  # registers torch.ops.quantized_decomposed
from torch import nn
from torch.nn import functional as F

quantized = torch.ops.quantized_decomposed


@dataclass(frozen=True)
class Shape:
    """Of a transformer: tokens at once, width of a head, heads, blocks, vocabulary; how its scores are masked."""

    length: int = 8
    depth: int = 4
    heads: int = 2
    blocks: int = 2
    vocabulary: int = 27
    mask: str = "fill"
    """fill, where, equal or add; none in an encoder."""
    dead: tuple[int, ...] = ()
    """Heads of every block whose values have neither weights nor bias."""

    @property
    def width(self) -> int:
        """Features of a token."""
        return self.depth * self.heads


def int8(x: torch.Tensor, scale: float, zero_point: int = 0) -> torch.Tensor:
    """``x`` quantised, in floats."""
    q = quantized.quantize_per_tensor(x, scale, zero_point, -128, 127, torch.int8)
    return quantized.dequantize_per_tensor(q, scale, zero_point, -128, 127, torch.int8)


class _Table(nn.Module):
    """int8 [rows, width] of one scale, or of one a row."""

    def __init__(self, rng: np.random.Generator, rows: int, width: int, by_row: bool = False) -> None:
        super().__init__()
        self.by_row, self.scale = by_row, 0.02
        self.register_buffer("q", torch.from_numpy(rng.integers(-100, 101, (rows, width)).astype(np.int8)))
        self.register_buffer("scales", torch.from_numpy(rng.uniform(0.01, 0.03, rows).astype(np.float32)))
        self.register_buffer("zeros", torch.zeros(rows, dtype=torch.int64))

    def forward(self) -> torch.Tensor:
        """float32 [rows, width]."""
        if self.by_row:
            return quantized.dequantize_per_channel(self.q, self.scales, self.zeros, 0, -128, 127, torch.int8)
        return quantized.dequantize_per_tensor(self.q, self.scale, 0, -128, 127, torch.int8)


class _Linear(nn.Module):
    """Weights of drawn widths, scaled so that a normalised input gives about a normalised output."""

    def __init__(self, rng: np.random.Generator, inputs: int, outputs: int, input_scale: float) -> None:
        super().__init__()
        bits = rng.choice([0, 2, 4, 8], outputs, p=[0.1, 0.2, 0.3, 0.4])
        reach = (1 << bits >> 1)[:, None]
        q = rng.integers(-reach, np.maximum(reach, 1), (outputs, inputs))
        scale = (1.5 / np.maximum(reach[:, 0], 1) / np.sqrt(inputs)).astype(np.float32)
        bias_scale = np.float32(input_scale) * scale
        for name, values, scales, dtype in (
            ("weight", q, scale, np.int8),
            ("bias", np.rint(rng.normal(0, 0.1, outputs) / bias_scale), bias_scale, np.int32),
        ):
            self.register_buffer(name, torch.from_numpy(values.astype(dtype)))
            self.register_buffer(f"{name}_scale", torch.from_numpy(scales))
        self.register_buffer("zeros", torch.zeros(outputs, dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[1, T, inputs] to [1, T, outputs]."""
        decode = quantized.dequantize_per_channel
        weight = decode(self.weight, self.weight_scale, self.zeros, 0, -128, 127, torch.int8)
        bias = decode(self.bias, self.bias_scale, self.zeros, 0, -(2**31), 2**31 - 1, torch.int32)
        return F.linear(x, weight, bias)


NORMAL, WIDE = 0.03, 0.05
"""Scales of what is normalised, and of sums."""


class _Block(nn.Module):
    def __init__(self, rng: np.random.Generator, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        width = shape.width
        self.query, self.key, self.value = (_Linear(rng, width, width, NORMAL) for _ in range(3))
        for head in shape.dead:
            channels = slice(head * shape.depth, (head + 1) * shape.depth)
            self.value.weight[channels] = self.value.bias[channels] = 0
        self.out, self.up = _Linear(rng, width, width, NORMAL), _Linear(rng, width, 2 * width, NORMAL)
        self.down = _Linear(rng, 2 * width, width, NORMAL)
        hidden = torch.triu(torch.ones(shape.length, shape.length, dtype=torch.bool), 1)
        self.register_buffer("hidden", hidden)
        self.register_buffer("kept", (~hidden).int()[None, None])
        self.register_buffer("added", torch.zeros(hidden.shape).masked_fill(hidden, float("-inf")))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[1, T, F] to itself."""
        shape = self.shape
        normal = int8(F.layer_norm(x, (shape.width,)), NORMAL, 3)
        query, key, value = (
            int8(layer(normal), NORMAL, -2).view(1, shape.length, shape.heads, shape.depth).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = self._masked(int8(query @ key.transpose(-2, -1), 0.06, 5))
        mixed = int8(int8(F.softmax(scores, dim=-1), 1 / 256, -128) @ value, NORMAL)
        mixed = mixed.transpose(1, 2).reshape(1, shape.length, shape.width)
        x = int8(x + int8(self.out(mixed), NORMAL), WIDE, 1)
        normal = int8(F.layer_norm(x, (shape.width,), eps=1e-3), NORMAL)
        hidden = int8(F.gelu(int8(self.up(normal), NORMAL, 4)), NORMAL, -100)
        return int8(x + int8(self.down(hidden), NORMAL), WIDE)

    def _masked(self, scores: torch.Tensor) -> torch.Tensor:
        length = self.shape.length
        match self.shape.mask:
            case "fill":
                return scores.masked_fill(self.hidden, float("-inf"))
            case "where":
                return torch.where(self.hidden, float("-inf"), scores)
            case "equal":
                return scores.masked_fill(self.kept[:, :, :length, :length] == 0, float("-inf"))
            case "add":
                return scores + self.added
            case _:
                return scores


class Transformer(nn.Module):
    """Token numbers float32 [1, T] to logits [1, T, V]."""

    def __init__(self, seed: int, shape: Shape) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        self.shape = shape
        self.first = -128 if shape.vocabulary > 128 else 0
        self.tokens = _Table(rng, shape.vocabulary, shape.width, by_row=bool(rng.random() < 0.5))
        self.positions = _Table(rng, shape.length, shape.width)
        self.blocks = nn.ModuleList(_Block(rng, shape) for _ in range(shape.blocks))
        self.head = _Linear(rng, shape.width, shape.vocabulary, NORMAL)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Every block before the head."""
        numbers = int8(x, 1.0, self.first).to(torch.int64)
        x = int8(F.embedding(numbers, self.tokens()), 0.02, 7)
        x = int8(x + self.positions(), WIDE, -3)
        for block in self.blocks:
            x = block(x)
        return int8(self.head(int8(F.layer_norm(x, (self.shape.width,)), NORMAL)), WIDE, 2)


def exported(seed: int, shape: Shape) -> torch.export.ExportedProgram:
    """A transformer as ``torch.export`` gives it."""
    return torch.export.export(Transformer(seed, shape).eval(), (torch.zeros(1, shape.length),))


def tokens(seed: int, shape: Shape, cases: int) -> np.ndarray:
    """float32 [cases, T] of token numbers."""
    return np.random.default_rng(seed).integers(0, shape.vocabulary, (cases, shape.length)).astype(np.float32)


def in_torch(seed: int, shape: Shape, x: np.ndarray) -> np.ndarray:
    """What torch makes of tokens [N, T], in floats: [N, T, V]."""
    network = Transformer(seed, shape).eval()
    with torch.no_grad():
        return np.concatenate([network(row[None]).numpy() for row in torch.from_numpy(x)])
