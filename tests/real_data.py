"""The real data sets and models, where SGSC_DATA says (default: ../shared/data beside the checkout)."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import ROOT


def data_file(name: str) -> Path:
    """A file of the data folder; skips the test where it is not there."""
    path = Path(os.environ.get("SGSC_DATA", ROOT.parent / "shared" / "data")) / name
    if not path.is_file():
        pytest.skip(f"{path} is not there: set SGSC_DATA to a folder that has {name}")
    return path


def keywords() -> tuple[np.ndarray, np.ndarray]:
    """The keyword inputs of MLPerf Tiny, int8 [1000, 49, 10, 1], and their labels."""
    stored = np.load(data_file("kws01.npz"))
    return stored["x"].reshape(-1, 49, 10, 1), stored["y"]


def cifar_images(count: int) -> np.ndarray:
    """The first test images of CIFAR-10 as the int8 ResNet8 takes them, int8 [count, 32, 32, 3]."""
    from PIL import Image

    stored = np.load(data_file("cifar10_jpeg.npz"))
    data, offsets = stored["jpeg_test"], stored["offset_test"]
    pictures = (data[offsets[row] : offsets[row + 1]].tobytes() for row in range(count))
    return np.stack(
        [np.asarray(Image.open(io.BytesIO(picture))).astype(np.int16) - 128 for picture in pictures]
    ).astype(np.int8)


def four_bit_resnet8() -> bytes:
    """The float ResNet8 with int8 activations and per-channel int4 weights, by ai-edge-quantizer."""
    pytest.importorskip("ai_edge_quantizer", reason="ai-edge-quantizer is not installed")
    from ai_edge_quantizer import qtyping, quantizer

    quantized = quantizer.Quantizer(with_signature(data_file("tflite/ic_resnet8_float32.tflite").read_bytes()))
    weights = qtyping.TensorQuantizationConfig(4, True, qtyping.QuantGranularity.CHANNELWISE)
    whole = qtyping.TensorQuantizationConfig(8, True, qtyping.QuantGranularity.CHANNELWISE)
    for operator, narrow in (
        (qtyping.TFLOperationName.ALL_SUPPORTED, whole),
        (qtyping.TFLOperationName.CONV_2D, weights),
    ):
        config = qtyping.OpQuantizationConfig(
            activation_tensor_config=qtyping.TensorQuantizationConfig(8, False, qtyping.QuantGranularity.TENSORWISE),
            weight_tensor_config=narrow,
            compute_precision=qtyping.ComputePrecision.INTEGER,
        )
        quantized.update_quantization_recipe(".*", operator, config)
    images = cifar_images(64).astype(np.float32) + 128
    calibrated = quantized.calibrate({"serving_default": [{"input": image[None]} for image in images]})
    return bytes(quantized.quantize(calibrated).quantized_model)


def with_signature(model: bytes) -> bytes:
    """The model with the signature that ai-edge-quantizer calibrates by."""
    import flatbuffers
    from tflite_micro.tensorflow.lite.micro.python import schema_py_generated as schema

    made: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))
    signature = schema.SignatureDefT()
    signature.signatureKey = "serving_default"
    for name in ("inputs", "outputs"):
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name.removesuffix("s"), int(getattr(made.subgraphs[0], name)[0])
        setattr(signature, name, [entry])
    made.signatureDefs = [signature]
    builder = flatbuffers.Builder()
    builder.Finish(made.Pack(builder), b"TFL3")
    return bytes(builder.Output())
