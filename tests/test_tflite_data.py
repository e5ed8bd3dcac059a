"""The models of MLPerf Tiny on their own inputs, and one of 4-bit weights: byte for byte what tflite-micro gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tflite_micro", reason="the oracle tflite-micro is not installed")

from tests.conftest import sgsc
from tests.real_data import cifar_images, data_file, four_bit_resnet8, keywords
from tests.tflite_oracles import tflite_micro_outputs

pytestmark = pytest.mark.data

MODELS: dict[str, tuple[Callable[[], bytes], Callable[[], np.ndarray], int]] = {
    "resnet8": (lambda: data_file("tflite/ic_resnet8_int8.tflite").read_bytes(), lambda: cifar_images(40), 36_000),
    "resnet8_4bit": (four_bit_resnet8, lambda: cifar_images(40), 36_000),
    "dscnn": (lambda: data_file("tflite/kws_dscnn_int8.tflite").read_bytes(), lambda: keywords()[0], 17_000),
}
"""Model, inputs, and the arena it may take at most."""


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_bit_exact_from_the_command_line(name: str, tmp_path: Path) -> None:
    content, images, arena = (part() if callable(part) else part for part in MODELS[name])
    model, x = tmp_path / f"{name}.tflite", tmp_path / "x.npy"
    model.write_bytes(content)
    compiled = sgsc("compile", model, "--target", "qemu-m4", "-o", tmp_path / "out")
    assert compiled.exit_code == 0, compiled.output
    expected = tflite_micro_outputs(content, images)
    for place, count in (("host", len(images)), ("qemu-m4", 3)):
        np.save(x, images[:count])
        ran = sgsc("run", tmp_path / "out", "--on", place, "--input", x, "--output", tmp_path / "y.npy")
        assert ran.exit_code == 0, ran.output
        found = np.load(tmp_path / "y.npy")
        assert found.dtype == np.int8
        assert np.array_equal(found, expected[:count])
    manifest = json.loads((tmp_path / "out" / "library" / "manifest.json").read_text())
    assert manifest["arena_bytes"] <= arena


def test_a_dynamic_range_model_is_refused_by_its_kind(tmp_path: Path) -> None:
    model = data_file("tflite/kws_dscnn_dynamic_range.tflite")
    failed = sgsc("compile", model, "--target", "host", "-o", tmp_path / "out")
    assert failed.exit_code == 1
    assert "a dynamic-range model" in failed.stderr and "representative dataset" in failed.stderr


def test_a_float_model_is_refused_by_its_kind(tmp_path: Path) -> None:
    failed = sgsc("compile", data_file("tflite/ic_resnet8_float32.tflite"), "--target", "host", "-o", tmp_path / "out")
    assert failed.exit_code == 1 and "a float model" in failed.stderr
