"""The tasks' data, where SGSC_DATA says (default: ../shared/data beside the checkout)."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent.parent
FOLDER = Path(os.environ.get("SGSC_DATA", ROOT.parent / "shared" / "data"))


@dataclass(frozen=True)
class Part:
    """inputs float32 [N, *shape], labels int64 [N] or, for sequences, [N, T]."""

    inputs: np.ndarray
    labels: np.ndarray

    def rows(self, chosen: np.ndarray | slice) -> Part:
        """Some of it."""
        return Part(self.inputs[chosen], self.labels[chosen])


@dataclass(frozen=True)
class Splits:
    """What is trained on, what bounds the flips (never trained or selected on), what is touched at the end alone."""

    train: Part
    calibration: Part
    test: Part


def mnist() -> Splits:
    """Inputs [N, 1, 28, 28] in 0..1; C is 5,000 of the training images, drawn with seed 0."""
    stored = np.load(FOLDER / "mnist.npz")
    train = Part(_scaled(stored["x_train"][:, None]), stored["y_train"].astype(np.int64))
    test = Part(_scaled(stored["x_test"][:, None]), stored["y_test"].astype(np.int64))
    return _with_calibration(train, test, 5_000)


def cifar() -> Splits:
    """Inputs [N, 3, 32, 32] in 0..1; C is 5,000 of the training images, drawn with seed 0."""
    stored = np.load(FOLDER / "cifar10_jpeg.npz")

    def part(name: str) -> Part:
        data, offsets = stored[f"jpeg_{name}"], stored[f"offset_{name}"]
        pairs = pairwise(offsets)
        images = np.stack([np.asarray(Image.open(io.BytesIO(data[a:b].tobytes()))) for a, b in pairs])
        return Part(_scaled(images.transpose(0, 3, 1, 2)), stored[f"y_{name}"].astype(np.int64))

    return _with_calibration(part("train"), part("test"), 5_000)


def names(context: int) -> Splits:
    """The file as running text of 27 characters: tokens [N, context] and the next ones; its last tenth is T, the tenth
    before it, which floats do not train on either, C."""
    text = (FOLDER / "names.txt").read_text(encoding="ascii")
    alphabet = {character: number for number, character in enumerate(sorted(set(text)))}
    tokens = np.array([alphabet[character] for character in text])
    bounds = [0, int(0.87 * len(tokens)), int(0.9 * len(tokens)), len(tokens)]
    parts = []
    for (start, stop), stride in zip(pairwise(bounds), (3, context, context), strict=True):
        at = np.arange(start, stop - context, stride)[:, None] + np.arange(context)  # [N, context]
        parts.append(Part(tokens[at].astype(np.float32), tokens[at + 1].astype(np.int64)))
    return Splits(*parts)


def _scaled(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images.astype(np.float32) / 255)


def _with_calibration(train: Part, test: Part, count: int) -> Splits:
    order = np.random.default_rng(0).permutation(len(train.labels))
    return Splits(train.rows(np.sort(order[count:])), train.rows(np.sort(order[:count])), test)
