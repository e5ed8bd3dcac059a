"""The trained tasks: which network, which data, how long, and what is to be reached."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from benchmarks.compression import data, networks
from benchmarks.compression.data import Splits
from benchmarks.compression.measure import Task
from sgsc_micro.compress.training import Augment
from sgsc_micro.project import CompressionConfig, Policy

FLOATS = Path(__file__).parent / "floats"
"""Kept, so that rows of different days compare: trained elsewhere a float has other last bits, other narrow cases."""


def mnist() -> Task:
    """A CNN of the paper's kind, 70 thousand weights."""
    config = CompressionConfig(
        steps=10, settle=4, epochs=20, batch=256, learning_rate=3e-3, bits_learning_rate=0.03, distillation=0.7
    )
    return _task("mnist", data.mnist(), networks.DigitNetwork(), networks.warp, config, (9_000, 6_900), 6_900, 15, 0.01)


def cifar() -> Task:
    """ResNet8 of MLPerf Tiny, from the published float weights on."""
    published = data.FOLDER / "tflite" / "ic_resnet8_float32.tflite"
    config = CompressionConfig(
        steps=8,
        settle=3,
        epochs=6,
        batch=128,
        learning_rate=1e-3,
        bits_learning_rate=0.03,
        distillation=0.7,
        mixing=0.0,  # it underfits
    )
    return _task(
        "cifar",
        data.cifar(),
        networks.ResNet8(published),
        networks.crop_and_flip,
        config,
        (26_000, 15_000),
        15_000,
        40,
        0.002,
    )


def names() -> Task:
    """A decoder-only transformer that continues names, 0.2 million weights."""
    context = 32
    config = CompressionConfig(
        steps=14, settle=4, epochs=1, batch=64, learning_rate=2e-3, bits_learning_rate=0.03, distillation=0.8
    )
    network = networks.CharacterGPT(27, context)
    return _task("names", data.names(context), network, None, config, (60_000, 50_000), 50_000, 6, 2e-3)


TASKS: dict[str, Callable[[], Task]] = {"mnist": mnist, "cifar": cifar, "names": names}


def _task(
    name: str,
    splits: Splits,
    network: nn.Module,
    augment: Augment | None,
    config: CompressionConfig,
    budgets: tuple[int, ...],
    unguarded: int,
    epochs: int,
    learning_rate: float,
) -> Task:
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch, decay = (64, 0.1) if splits.train.labels.ndim == 2 else (128, 1e-4)
    trained, minutes = networks.train_float(
        network, splits.train, FLOATS / f"{name}.pt", epochs, batch, learning_rate, decay, augment
    )
    metric = "loss" if splits.train.labels.ndim == 2 else "accuracy"
    return Task(name, metric, splits, trained, minutes, 300, config, Policy(), budgets, unguarded, augment)
