"""A network small enough to compress in seconds, and what tests of the compressor ask of it."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from sgsc_micro.compress.graph import canonical
from sgsc_micro.compress.network import QuantisedNetwork, calibrated
from sgsc_micro.preserve import CaseSet

SHAPE = (1, 6, 6)


class Small(nn.Module):
    """Every operator that can be lowered, in-place ones among them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.relu = nn.ReLU(inplace=True)
        self.clip = nn.ReLU6()
        self.pool = nn.MaxPool2d(2)
        self.drop = nn.Dropout(0.5)
        self.dense = nn.Linear(4 * 9, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.norm(self.conv(x)))  # [N, 4, 6, 6]
        y = self.clip(self.depthwise(x))  # [N, 4, 6, 6]
        y += x
        return self.dense(self.drop(self.pool(y).reshape(len(x), -1)))  # [N, 3]


def make_task() -> tuple[nn.Module, np.ndarray, np.ndarray, CaseSet]:
    """A trained network, 90 noisy bars of 3 directions, and 12 preserved cases."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    bars = np.zeros((3, *SHAPE), dtype=np.float32)
    bars[0, 0, 2], bars[1, 0, :, 2], bars[2, 0] = 1, 1, np.eye(6)
    labels = np.arange(90) % 3
    inputs = bars[labels] + 0.25 * random.normal(size=(90, *SHAPE)).astype(np.float32)
    network = Small()
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(40):
        loss = nn.functional.cross_entropy(network(torch.from_numpy(inputs)), torch.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        answers = network(torch.from_numpy(inputs[:12])).numpy()
    assert (answers.argmax(1) == labels[:12]).all()
    return network, inputs, labels, CaseSet(np.arange(12).astype(str), inputs[:12], labels[:12], answers, "user")


def program_of(network: nn.Module, *shape: int) -> torch.export.ExportedProgram:
    return torch.export.export(network.eval(), (torch.zeros(1, *(shape or SHAPE)),))


def quantised(task: tuple[nn.Module, np.ndarray, np.ndarray, CaseSet]) -> QuantisedNetwork:
    return calibrated(canonical(program_of(task[0])), torch.from_numpy(task[1]))
