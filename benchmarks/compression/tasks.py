"""The trained tasks: which network, which data, how long, and what is to be reached."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from benchmarks.compression import data, networks
from benchmarks.compression.data import Splits
from benchmarks.compression.measure import Task
from sgsc_micro.compress.training import Augment
from sgsc_micro.project import CompressionConfig, Policy


def mnist(folder: Path) -> Task:
    """A CNN of the paper's kind, 70 thousand weights."""
    config = CompressionConfig(
        steps=22, settle=5, epochs=5, batch=256, learning_rate=3e-3, bits_learning_rate=0.03, distillation=0.7
    )
    return _task(
        "mnist", data.mnist(), networks.DigitNetwork(), folder, networks.warp, config, (9_000, 6_900), 6_900, 15, 0.01
    )


def cifar(folder: Path) -> Task:
    """ResNet8 of MLPerf Tiny, from the published float weights on."""
    published = data.FOLDER / "tflite" / "ic_resnet8_float32.tflite"
    config = CompressionConfig(
        steps=16, settle=5, epochs=5, batch=128, learning_rate=2e-3, bits_learning_rate=0.03, distillation=0.7
    )
    return _task(
        "cifar",
        data.cifar(),
        networks.ResNet8(published),
        folder,
        networks.crop_and_flip,
        config,
        (26_000, 15_000),
        15_000,
        40,
        0.002,
    )


TASKS: dict[str, Callable[[Path], Task]] = {"mnist": mnist, "cifar": cifar}


def _task(
    name: str,
    splits: Splits,
    network: nn.Module,
    folder: Path,
    augment: Augment,
    config: CompressionConfig,
    budgets: tuple[int, ...],
    unguarded: int,
    epochs: int,
    learning_rate: float,
) -> Task:
    began = time.monotonic()
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    path = folder / f"{name}-float.pt"
    trained = networks.train_float(network, splits.train, path, epochs, 128, learning_rate, 1e-4, augment)
    minutes = (time.monotonic() - began) / 60
    return Task(name, "accuracy", splits, trained, minutes, 300, config, Policy(), budgets, unguarded, augment)
