"""TFLite in: every operator byte for byte as tflite-micro computes it; what cannot be taken is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tflite_micro", reason="the oracle tflite-micro is not installed")

from sgsc_micro import reference
from sgsc_micro.codegen import HostLibrary, write_library
from sgsc_micro.errors import SgscError
from sgsc_micro.importers.tflite import import_model
from sgsc_micro.passes import optimise
from tests.conftest import sgsc
from tests.tflite_graphs import FLOAT_KINDS, KINDS, random_model, single_operator_models
from tests.tflite_models import ModelWriter, Quantization, Tensor
from tests.tflite_networks import NETWORKS, network_inputs
from tests.tflite_oracles import tflite_micro_outputs

Q = Quantization(0.05, 3)


def reference_bytes(model: bytes, inputs: np.ndarray) -> np.ndarray:
    """int8 [N, output bytes] of the integer reference; ``inputs`` int8 [N, ...], or float32 of a float input."""
    module = import_model(model, "model")
    x = inputs if inputs.dtype == np.float32 else _reals(model, inputs)
    return reference.run_integers(module, x).reshape(len(inputs), -1)


def _reals(model: bytes, inputs: np.ndarray) -> np.ndarray:
    """What the integers stand for, so that quantising gives them again."""
    from sgsc_micro.importers.tflite.model import read_model

    source = read_model(model, "model").input
    return ((inputs.astype(np.float64) - source.zero_point) * source.scale).astype(np.float32)


def compiled_bytes(model: bytes, inputs: np.ndarray, folder: Path) -> np.ndarray:
    """int8 [N, output bytes] of the host's C library for int8 ``inputs`` [N, ...]."""
    write_library(optimise(import_model(model, "model")), folder, "model")
    library = HostLibrary(folder, flags=("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"))
    return library.run(inputs.reshape(len(inputs), -1))


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_computes_an_operator_as_tflite_micro_does(kind: str) -> None:
    for model, inputs in single_operator_models(kind, np.random.default_rng(11), 20):
        expected = tflite_micro_outputs(model, inputs).reshape(len(inputs), -1)
        assert np.array_equal(reference_bytes(model, inputs), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_c_library_computes_an_operator_as_tflite_micro_does(kind: str, tmp_path: Path) -> None:
    """One model with every shape odd: random graphs have many more."""
    for number, (model, inputs) in enumerate(single_operator_models(kind, np.random.default_rng(12), 2)):
        expected = tflite_micro_outputs(model, inputs).reshape(len(inputs), -1)
        assert np.array_equal(compiled_bytes(model, inputs, tmp_path / str(number)), expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_typical_network_is_bit_exact(name: str, tmp_path: Path) -> None:
    model = NETWORKS[name](1)
    inputs = network_inputs(model, 1, 8)
    expected = tflite_micro_outputs(model, inputs).reshape(len(inputs), -1)
    assert np.array_equal(reference_bytes(model, inputs), expected)
    assert np.array_equal(compiled_bytes(model, inputs, tmp_path), expected)


@pytest.mark.parametrize("seed", range(5000, 5040))
def test_the_reference_computes_a_random_model_as_tflite_micro_does(seed: int) -> None:
    model, inputs = random_model(seed)
    expected = tflite_micro_outputs(model, inputs).reshape(len(inputs), -1)
    assert np.array_equal(reference_bytes(model, inputs), expected)


@pytest.mark.parametrize("kind", FLOAT_KINDS)
def test_a_float_end_is_quantised_outside(kind: str, tmp_path: Path) -> None:
    for model, inputs in single_operator_models(kind, np.random.default_rng(3), 3):
        path = tmp_path / "model.tflite"
        path.write_bytes(_with_something_to_do(kind))
        del model, inputs
        compiled = sgsc("compile", path, "--target", "host", "-o", tmp_path / "out")
        assert compiled.exit_code == 0, compiled.output


def _with_something_to_do(kind: str) -> bytes:
    """A relu between float32 and int8."""
    writer = ModelWriter()
    real, a, b = writer.tensor((1, 4), "float32"), writer.activation((1, 4), Q), writer.activation((1, 4), Q)
    writer.operator("RELU", [a], [b])
    if kind == "dequantize":
        writer.operator("DEQUANTIZE", [b], [real])
        return writer.bytes([a], [real])
    writer.operators.clear()
    writer.operator("QUANTIZE", [real], [a])
    writer.operator("RELU", [a], [b])
    return writer.bytes([real], [b])


def test_a_convolution_without_bias() -> None:
    """LiteRT refuses one, tflite-micro takes it."""
    rng = np.random.default_rng(0)
    writer = ModelWriter()
    x = writer.activation((1, 5, 4, 3), Q)
    y = writer.conv_2d(x, rng.integers(-127, 128, (2, 3, 3, 3)), [0.01, 0.002], None, Q)
    model, inputs = writer.bytes([x], [y]), rng.integers(-128, 128, (4, 5, 4, 3)).astype(np.int8)
    assert np.array_equal(reference_bytes(model, inputs), tflite_micro_outputs(model, inputs).reshape(4, -1))


def _shape_of(writer: ModelWriter, x: Tensor) -> list[Tensor]:
    """The sides of x as scalars, computed from it as converters do behind a free batch axis."""
    shape = writer.tensor((len(x.shape),), "int32")
    writer.operator("SHAPE", [x], [shape])
    sides = []
    for axis in range(len(x.shape)):
        side = writer.tensor((), "int32")
        ends = [writer.constant([axis]), writer.constant([axis + 1]), writer.constant([1])]
        writer.operator("STRIDED_SLICE", [shape, *ends], [side], shrinkAxisMask=1)
        sides.append(side)
    return sides


def _packed(writer: ModelWriter, sides: list[Tensor]) -> Tensor:
    shape = writer.tensor((len(sides),), "int32")
    writer.operator("PACK", sides, [shape], valuesCount=len(sides), axis=0)
    return shape


def test_a_shape_computed_from_a_tensor_is_a_constant() -> None:
    """Keras' Reshape and Conv2DTranspose: the batch is taken from the input, and the sides are computed."""
    rng = np.random.default_rng(2)
    writer = ModelWriter()
    x = writer.activation((1, 24), Q)
    image = writer.activation((1, 3, 4, 2), Q)
    wanted = _packed(writer, [_shape_of(writer, x)[0], *(writer.constant(side) for side in (3, 4, 2))])
    writer.operator("RESHAPE", [x, wanted], [image])
    weights = rng.integers(-127, 128, (3, 2, 2, 2))
    y = writer.transpose_conv(image, weights, [0.01] * 3, None, Q, (6, 8), strides=(2, 2), padding="SAME")
    batch, height, width, _ = _shape_of(writer, image)
    doubled = []
    for side in (height, width):
        doubled.append(writer.tensor((), "int32"))
        writer.operator("MUL", [side, writer.constant(2)], [doubled[-1]])
    last = writer.operators.index(next(op for op in writer.operators if y.number in op.outputs))
    turned = writer.operators.pop(last)
    turned.inputs[0] = _packed(writer, [batch, *doubled, writer.constant(3)]).number
    writer.operators.append(turned)
    model, inputs = writer.bytes([x], [y]), rng.integers(-128, 128, (5, 24)).astype(np.int8)
    expected = tflite_micro_outputs(model, inputs).reshape(5, -1)
    assert np.array_equal(reference_bytes(model, inputs), expected)
    assert len(np.unique(expected)) > 50


@pytest.mark.parametrize("kind", ["RELU", "LEAKY_RELU"])
def test_the_ratio_of_scales_has_tflite_micros_precision(kind: str) -> None:
    """Ratios next to (n + 1/2) / q: float32 and float64 round q times them to different sides."""
    rng = np.random.default_rng(1)
    inputs = np.arange(-128, 128).astype(np.int8)[None]
    for _ in range(60):
        half = (int(rng.integers(5, 60)) + 0.5) / int(rng.integers(20, 127))
        fine = float(np.float32(rng.uniform(0.01, 0.1)))
        writer = ModelWriter()
        x = writer.activation((1, 256), Quantization(fine if kind == "LEAKY_RELU" else fine * half, 0))
        options = {"alpha": half} if kind == "LEAKY_RELU" else {}
        model = writer.bytes([x], [writer.unary(kind, x, Quantization(fine, 0), **options)])
        assert np.array_equal(reference_bytes(model, inputs)[0], tflite_micro_outputs(model, inputs)[0])


# What cannot be taken.


def _writer() -> tuple[ModelWriter, Tensor]:
    writer = ModelWriter()
    return writer, writer.activation((1, 4, 4, 2), Q)


def _refusal(writer: ModelWriter, x: Tensor, y: Tensor) -> str:
    with pytest.raises(SgscError) as refused:
        import_model(writer.bytes([x], [y]), "net.tflite")
    assert refused.value.hint
    return refused.value.message


def test_every_refused_operator_is_in_one_list() -> None:
    writer, x = _writer()
    y, z = writer.activation((1, 4, 4, 2), Q), writer.activation((1, 4, 4, 2), Q)
    writer.operator("CEIL", [x], [y])
    writer.operator("FLOOR", [y], [z])
    message = _refusal(writer, x, writer.unary("RELU", z, Q))
    assert message.splitlines() == [
        "net.tflite: 2 things cannot be taken:",
        "  operator 0 CEIL ('tensor1'): cannot be compiled",
        "  operator 1 FLOOR ('tensor2'): cannot be compiled",
    ]


def test_a_custom_operator_is_named() -> None:
    writer, x = _writer()
    y = writer.activation((1, 4, 4, 2), Q)
    writer.operator("CUSTOM", [x], [y])
    assert "operator 0 custom ''" in _refusal(writer, x, y)


@pytest.mark.parametrize("dtype", ["int16", "uint8", "float16"])
def test_a_type_that_is_not_int8_is_named(dtype: str) -> None:
    writer = ModelWriter()
    x = writer.tensor((1, 4), dtype, [0.1], [0])
    y = writer.tensor((1, 4), dtype, [0.1], [0])
    writer.operator("RELU", [x], [y])
    message = _refusal(writer, x, y)
    assert "tensor 0 'tensor0'" in message and dtype in message


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_makes_no_sense_is_named(scale: float) -> None:
    writer, x = _writer()
    y = writer.unary("RELU", x, Q)
    writer.tensors[y.number].quantization.scale = [scale]
    assert f"tensor 1 'tensor1' has scale {scale}" in _refusal(writer, x, y)


def test_a_zero_point_outside_of_int8_is_named() -> None:
    writer, x = _writer()
    y = writer.unary("RELU", x, Quantization(0.1, 300))
    assert "tensor 1 'tensor1' has zero point 300" in _refusal(writer, x, y)


def test_asymmetric_weights_are_named() -> None:
    writer, x = _writer()
    y = writer.conv_2d(x, np.ones((1, 1, 1, 2)), [0.1], None, Q)
    weights = next(tensor for tensor in writer.tensors if tensor.buffer and tensor.shape == [1, 1, 1, 2])
    weights.quantization.zeroPoint = [3]
    assert "has a zero point other than 0" in _refusal(writer, x, y)


def test_a_dynamic_shape_is_named_but_for_the_batch() -> None:
    writer, x = _writer()
    y = writer.unary("RELU", x, Q)
    writer.tensors[x.number].shapeSignature = [-1, 4, 4, 2]
    import_model(writer.bytes([x], [y]), "net.tflite")
    writer.tensors[x.number].shapeSignature = [1, -1, 4, 2]
    assert "tensor 0 'tensor0' has the dynamic shape [1, -1, 4, 2]" in _refusal(writer, x, y)


def test_a_tensor_beyond_31_bits_is_named() -> None:
    writer, x = _writer()
    y = writer.unary("RELU", x, Q)
    writer.tensors[y.number].shape = [1, 65536, 65536, 2]
    assert "tensor 1 'tensor1' has 8,589,934,592 elements" in _refusal(writer, x, y)


def test_an_accumulator_that_could_overflow_is_named(tmp_path: Path) -> None:
    writer = ModelWriter()
    x = writer.activation((1, 140_000), Q)
    y = writer.fully_connected(x, np.full((1, 140_000), 127), [0.1], None, Q)
    with pytest.raises(SgscError, match=r"dense_0: the accumulator of channel 0 can reach .*, beyond int32"):
        write_library(optimise(import_model(writer.bytes([x], [y]), "net.tflite")), tmp_path, "net")


def test_several_outputs_are_named() -> None:
    writer, x = _writer()
    parts = writer.split(x, [1, 1], 3, sized=False)
    with pytest.raises(SgscError, match="2 outputs"):
        import_model(writer.bytes([x], parts), "net.tflite")


def test_a_shape_that_the_operator_does_not_make_is_named() -> None:
    writer, x = _writer()
    y = writer.unary("RELU", x, Q)
    writer.tensors[y.number].shape = [1, 4, 4, 3]
    assert "makes [1, 4, 4, 2], [1, 4, 4, 3] is stated" in _refusal(writer, x, y)


@pytest.mark.parametrize("axis", [4, -5, -33554434])
def test_an_axis_that_is_not_there_is_named(axis: int) -> None:
    writer, x = _writer()
    y = writer.mean(x, [1], Q, keep_dims=True)
    next(buffer for buffer in writer.buffers if buffer.data is not None).data = np.frombuffer(
        np.int32(axis).tobytes(), np.uint8
    )
    assert f"has axis {axis} of 4" in _refusal(writer, x, y)


def test_integers_do_not_change_their_meaning_on_the_way() -> None:
    writer, x = _writer()
    y = writer.pool("MAX_POOL_2D", x, (2, 2), (2, 2), "VALID")
    writer.tensors[y.number].quantization.scale = [0.06]
    assert "both have to be quantised alike" in _refusal(writer, x, y)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x1c\0\0\0TFL3" + b"\xff" * 40])
def test_a_file_that_is_no_model_is_an_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.tflite"
    path.write_bytes(content)
    failed = sgsc("compile", path, "--target", "host", "-o", tmp_path / "out")
    assert failed.exit_code == 1 and str(path) in failed.stderr and "Traceback" not in failed.stderr


def test_another_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    path.write_bytes(b"")
    failed = sgsc("compile", path, "--target", "host", "-o", tmp_path / "out")
    assert failed.exit_code == 1 and "'.h5'" in failed.stderr and ".tflite" in failed.stderr
