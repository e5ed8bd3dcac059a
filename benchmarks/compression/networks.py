"""The float networks, their augmentation, and how they are trained; kept as checkpoints in floats/."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import tflite
import torch
from rich.progress import track
from torch import nn
from torch.nn import functional as F

from benchmarks.compression.data import Part
from sgsc_micro.compress.graph import as_taken
from sgsc_micro.compress.training import Augment


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """A convolution and its batch norm."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs))


class DigitNetwork(nn.Module):
    """Five convolutions for MNIST: 70 thousand weights."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 16, 32, 32, 64, 64)
        self.layers = nn.ModuleList(conv(*pair) for pair in pairwise(widths))
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 1, 28, 28] to logits [N, 10]."""
        for number, layer in enumerate(self.layers):
            x = F.relu(layer(x))  # [N, C, 28, 28], after one [14, 14], after three [7, 7]
            if number in (0, 2):
                x = F.max_pool2d(x, 2)
        return self.head(x.mean((2, 3)))


class ResNet8(nn.Module):
    """MLPerf Tiny's, batch norm folded: 78 thousand weights, to begin with those of the float model in ``path``."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        shapes = ((16, 16, 1), (16, 32, 2), (32, 64, 2))
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.first = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 3, stride, padding=stride % 2) for inputs, outputs, stride in shapes
        )
        self.second = nn.ModuleList(nn.Conv2d(outputs, outputs, 3, padding=1) for _, outputs, _ in shapes)
        self.short = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 1, stride) if stride > 1 else nn.Identity() for inputs, outputs, stride in shapes
        )
        self.head = nn.Linear(64, 10)
        blocks = zip(self.first, self.second, self.short, strict=True)
        layers = [self.stem, *(layer for block in blocks for layer in block), self.head]
        weighted = [layer for layer in layers if not isinstance(layer, nn.Identity)]
        for layer, (weight, bias) in zip(weighted, tflite_weights(path), strict=True):
            layer.weight.data, layer.bias.data = weight, bias
        self.stem.weight.data *= 255  # it takes 0..255, here 0..1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 3, 32, 32] to logits [N, 10]."""
        x = F.relu(self.stem(x))  # [N, 16, 32, 32]
        for first, second, short in zip(self.first, self.second, self.short, strict=True):
            sides = (0, 1, 0, 1) if first.padding == (0, 0) else (0, 0, 0, 0)  # as TensorFlow's SAME has them
            y = F.relu(first(F.pad(x, sides)))
            x = F.relu(second(y) + short(x))  # [N, 16, 32, 32], [N, 32, 16, 16], [N, 64, 8, 8]
        return self.head(x.mean((2, 3)))


def tflite_weights(path: Path) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Kernels [O, I, ...] and biases [O] of a float .tflite file's layers, in its order."""
    model = tflite.Model.GetRootAsModel(path.read_bytes(), 0)
    graph = model.Subgraphs(0)

    def array(number: int) -> torch.Tensor:
        tensor = graph.Tensors(number)
        values = model.Buffers(tensor.Buffer()).DataAsNumpy().view(np.float32)
        return torch.from_numpy(values.reshape(tensor.ShapeAsNumpy()).copy())

    for number in range(graph.OperatorsLength()):
        inputs = graph.Operators(number).InputsAsNumpy()
        if len(inputs) == 3:
            weight = array(inputs[1])
            yield weight.permute(0, 3, 1, 2) if weight.dim() == 4 else weight, array(inputs[2])


class Block(nn.Module):
    """Causal attention and an MLP, norms before them (nanoGPT's)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, T, width] to the same."""
        n, t, width = x.shape
        parts = self.query_key_value(self.before_attention(x)).split(width, dim=2)  # 3 of [N, T, width]
        q, k, v = (part.view(n, t, self.heads, -1).transpose(1, 2) for part in parts)  # [N, heads, T, width / heads]
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        x = x + F.dropout(self.projection(y.transpose(1, 2).reshape(n, t, width)), self.dropout, self.training)
        return x + self.mlp(self.before_mlp(x))


class CharacterGPT(nn.Module):
    """A decoder-only language model: 0.2 million weights at 4 layers, 4 heads, width 64."""

    def __init__(
        self, vocabulary: int, context: int, layers: int = 4, heads: int = 4, width: int = 64, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary)
        self.dropout = nn.Dropout(dropout)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                deep = math.sqrt(2 * layers) if name.endswith(("projection.weight", "mlp.2.weight")) else 1
                nn.init.normal_(parameter, std=0.02 / deep)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens int64 [N, T] to logits [N, T, vocabulary]."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.dropout(self.tokens(tokens) + self.positions(positions))  # [N, T, width]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))  # [N, T, vocabulary]


def warp(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each turned by up to 12 degrees, scaled by up to 12 %, sheared a little and shifted by up to two pixels."""
    count, _, height, _ = images.shape
    draw = 2 * torch.rand(count, 5, generator=generator) - 1  # -1..1
    angle, scale, shear = 0.21 * draw[:, 0], 1 + 0.12 * draw[:, 1], 0.15 * draw[:, 2]
    cosine, sine = angle.cos() * scale, angle.sin() * scale
    shift = draw[:, 3:] * 4 / height
    rows = [torch.stack([cosine, -sine + shear, shift[:, 0]], 1), torch.stack([sine, cosine, shift[:, 1]], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def crop_and_flip(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each shifted by up to four pixels, every other one mirrored."""
    count, _, height, width = images.shape
    padded = F.pad(images, (4, 4, 4, 4)).permute(0, 2, 3, 1)  # [N, H + 8, W + 8, C]
    down, right = torch.randint(0, 9, (2, count, 1), generator=generator)
    columns = torch.arange(width).repeat(count, 1)
    mirrored = torch.rand(count, generator=generator) < 0.5
    columns[mirrored] = columns[mirrored].flip(1)
    rows = (down + torch.arange(height))[:, :, None]  # [N, H, 1]
    return padded[torch.arange(count)[:, None, None], rows, (right + columns)[:, None]].permute(0, 3, 1, 2)


def train_float(
    network: nn.Module,
    part: Part,
    path: Path,
    epochs: int,
    batch: int,
    learning_rate: float,
    weight_decay: float,
    augment: Augment | None,
    prepare: Callable[[torch.Tensor], torch.Tensor] = lambda x: x,
) -> tuple[nn.Module, float]:
    """The network with the weights in ``path``, trained (AdamW, one cycle) and kept there where it was not, and the
    minutes that it took."""
    if not path.exists():
        began = time.monotonic()
        torch.manual_seed(0)
        inputs, labels = as_taken(network, part.inputs), torch.from_numpy(part.labels)
        generator = torch.Generator().manual_seed(0)
        steps = epochs * -(-len(labels) // batch)
        optimizer = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps, pct_start=0.2)
        network.train()
        for _ in track(range(epochs), f"training {path.stem}"):
            for rows in torch.randperm(len(labels), generator=generator).split(batch):
                x = augment(inputs[rows], generator) if augment else inputs[rows]
                with torch.autocast("cpu", torch.bfloat16):
                    logits = network(prepare(x)).float()
                loss = F.cross_entropy(logits.flatten(0, -2), labels[rows].flatten())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = {"weights": network.state_dict(), "minutes": (time.monotonic() - began) / 60}
        torch.save(kept, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").rename(path)
    kept = torch.load(path, weights_only=True)
    network.load_state_dict(kept["weights"])
    return network.eval(), kept["minutes"]
