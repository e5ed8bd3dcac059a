"""The digits example: a small residual CNN and scikit-learn's handwritten digits, split into disjoint parts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

SPLIT_SEED = 0
CALIBRATION_SIZE = 400
TEST_SIZE = 497


@dataclass(frozen=True)
class Split:
    """Images float32 [N, 1, 8, 8] in [0, 1] and labels int64 [N]."""

    inputs: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Data:
    """Three disjoint splits: P is chosen from ``train``, the bound uses ``calibration``, ``test`` is touched once."""

    train: Split
    calibration: Split
    test: Split


def data() -> Data:
    """The 1,797 digits, stratified by class: 900 to train, 400 for the bound (C), 497 for the test (T)."""
    digits = load_digits()
    inputs = (digits.images / 16).astype(np.float32)[:, None]  # [1797, 1, 8, 8]
    labels = digits.target.astype(np.int64)  # [1797]

    def divide(index: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        rest, part = train_test_split(index, test_size=size, stratify=labels[index], random_state=SPLIT_SEED)
        return np.sort(rest), np.sort(part)

    rest, test = divide(np.arange(len(labels)), TEST_SIZE)
    train, calibration = divide(rest, CALIBRATION_SIZE)
    return Data(*(Split(inputs[index], labels[index]) for index in (train, calibration, test)))


class DigitsNet(nn.Module):
    """Convolution, a depthwise-separable residual block, convolution, dense: 17,344 weights."""

    def __init__(self, width: int = 32, top: int = 48) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.depthwise = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.pointwise = nn.Sequential(nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width))
        self.conv = nn.Sequential(nn.Conv2d(width, top, 3, padding=1, bias=False), nn.BatchNorm2d(top), nn.ReLU())
        self.pool = nn.MaxPool2d(2)
        self.dense = nn.Linear(top * 4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)  # [N, 32, 8, 8]
        x = torch.relu(x + self.pointwise(self.depthwise(x)))  # [N, 32, 8, 8]
        x = self.pool(x)  # [N, 32, 4, 4]
        x = self.pool(self.conv(x))  # [N, 48, 2, 2]
        return self.dense(torch.flatten(x, 1))  # [N, 10]


def network() -> nn.Module:
    """The untrained network; ``train.py`` writes its weights."""
    return DigitsNet()
