"""A small int8 TFLite classifier of noisy bars in three directions, its last layer fitted, nothing trained."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from sgsc_micro import reference
from sgsc_micro.importers import from_tflite
from sgsc_micro.preserve import CaseSet
from tests.tflite_models import ModelWriter, Quantization, Tensor

INPUT = Quantization(float(np.float32(1 / 50)), -60)
FEATURES = Quantization(0.06, -128)
LOGITS = Quantization(0.03, 3)


_DATA = """
from pathlib import Path
from types import SimpleNamespace

import numpy as np

def data():
    file = np.load(Path(__file__).with_name("bars.npz"))
    rows = {"train": slice(0, 120), "calibration": slice(120, 180), "test": slice(180, 240)}
    parts = {n: SimpleNamespace(inputs=file["inputs"][r], labels=file["labels"][r]) for n, r in rows.items()}
    return SimpleNamespace(**parts)
"""

_SETTINGS = """
name = "bars"

[model]
source = "bars.tflite"
data = "bars.py"

[preserve]
size = 30

[compress]
steps = 8
"""


class Bars(NamedTuple):
    model: bytes
    inputs: np.ndarray  # int8 [N, 6, 6, 1]
    labels: np.ndarray  # int64 [N]

    @property
    def reals(self) -> np.ndarray:
        return ((self.inputs.astype(np.float64) - INPUT.zero_point) * INPUT.scale).astype(np.float32)

    def cases(self, folder: Path, rows: slice) -> CaseSet:
        """Those the network decides right, with its own answers."""
        inputs, labels = self.reals[rows], self.labels[rows]
        outputs = reference.run(from_tflite(self.write(folder)), inputs)
        right = outputs.argmax(axis=1) == labels
        ids = np.arange(len(labels)).astype(str)
        return CaseSet(ids[right], inputs[right], labels[right], outputs[right], "user")

    def write(self, folder: Path) -> Path:
        path = folder / "bars.tflite"
        path.write_bytes(self.model)
        return path


def make_bars(folder: Path, count: int = 240) -> Bars:
    rng = np.random.default_rng(0)
    bars = np.zeros((3, 6, 6, 1))
    bars[0, 2], bars[1, :, 2], bars[2, :, :, 0] = 1, 1, np.eye(6)
    labels = np.arange(count) % 3
    reals = bars[labels] + 0.25 * rng.normal(size=(count, 6, 6, 1))
    inputs = np.clip(np.rint(reals / INPUT.scale) + INPUT.zero_point, -128, 127).astype(np.int8)
    kernels = (
        rng.integers(-127, 128, (8, 3, 3, 1)).astype(np.int8),
        rng.integers(-127, 128, (1, 3, 3, 8)).astype(np.int8),
    )
    scales = rng.uniform(0.005, 0.008, 8), rng.uniform(0.005, 0.008, 8)
    biases = rng.integers(-500, 500, (2, 8)).astype(np.int32)

    def features(writer: ModelWriter) -> tuple[Tensor, Tensor]:
        x = writer.activation((1, 6, 6, 1), INPUT)
        y = writer.conv_2d(x, kernels[0], scales[0], biases[0], FEATURES, activation="RELU")
        y = writer.depthwise_conv_2d(y, kernels[1], scales[1], biases[1], FEATURES, activation="RELU")
        return x, writer.pool("MAX_POOL_2D", y, (2, 2), (2, 2), "VALID")

    writer = ModelWriter()
    x, y = features(writer)
    found = Bars(writer.bytes([x], [y]), inputs, labels)
    seen = reference.run(from_tflite(found.write(folder)), found.reals).reshape(count, -1).astype(np.float64)
    seen = np.column_stack([seen, np.ones(count)])
    fitted = np.linalg.solve(seen.T @ seen + 5 * np.eye(seen.shape[1]), seen.T @ (2 * np.eye(3)[labels] - 1)).T
    scale = float(np.abs(fitted[:, :-1]).max() / 127)
    bias = np.rint(fitted[:, -1] / (scale * FEATURES.scale)).astype(np.int32)
    writer = ModelWriter()
    x, y = features(writer)
    y = writer.fully_connected(y, np.rint(fitted[:, :-1] / scale).astype(np.int8), np.array([scale]), bias, LOGITS)
    return Bars(writer.bytes([x], [y]), inputs, labels)


def write_project(folder: Path) -> None:
    """The same as a project to build."""
    bars = make_bars(folder)
    bars.write(folder)
    np.savez(folder / "bars.npz", inputs=bars.inputs, labels=bars.labels)
    (folder / "bars.py").write_text(_DATA)
    (folder / "sgsc.toml").write_text(_SETTINGS)
