"""The drawn TFLite models are valid, say something, and mean the same to both oracles.

Where tflite-micro and LiteRT's reference kernels differ, and why; sgsc_micro follows tflite-micro:

- FULLY_CONNECTED: tflite-micro rounds the product of sum and multiplier twice, LiteRT once: one step apart at most.
- LOGISTIC and TANH of inputs whose scale is above 2: tflite-micro gives one end of the range from a limit on that is a
  whole number of steps: 3 above a scale of 2, 1 above 4, and 0 above 8, where even the zero point gives the lower end.
  LiteRT's answers are those of the float function.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest

pytest.importorskip("tflite_micro", reason="the oracle tflite-micro is not installed")

from tflite_micro.tensorflow.lite.micro.python import schema_py_generated as schema

from tests.tflite_graphs import (
    FLOAT_KINDS,
    KINDS,
    LARGEST,
    random_model,
    single_operator_models,
)
from tests.tflite_models import ModelWriter, Quantization, pack_int4
from tests.tflite_networks import NETWORKS, network_inputs
from tests.tflite_oracles import (
    litert_reference_outputs,
    require_litert,
    tflite_micro_arena_bytes,
    tflite_micro_outputs,
)

SAMPLE = 20
"""Models of a kind."""


def _models(kind: str) -> list[tuple[bytes, np.ndarray]]:
    return list(single_operator_models(kind, np.random.default_rng(7), SAMPLE))


@functools.cache
def _network(name: str) -> bytes:
    return NETWORKS[name](0)


def _graph(model: bytes) -> schema.SubGraphT:
    return schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0)).subgraphs[0]


def _codes(model: bytes) -> list[int]:
    made = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))
    return [made.operatorCodes[operator.opcodeIndex].builtinCode for operator in made.subgraphs[0].operators]


@pytest.mark.parametrize("kind", KINDS + FLOAT_KINDS)
def test_every_kind_is_what_it_says_and_has_something_to_say(kind: str) -> None:
    code = getattr(
        schema.BuiltinOperator, kind.removeprefix("grouped_").removesuffix("_int4").split("_float")[0].upper()
    )
    constant = 0
    for model, inputs in _models(kind):
        assert code in _codes(model)
        outputs = tflite_micro_outputs(model, inputs)
        assert len(outputs) == len(inputs)
        constant += len(np.unique(outputs)) == 1
    assert constant <= SAMPLE / 4


@pytest.mark.parametrize("kind", KINDS + FLOAT_KINDS)
def test_the_oracles_agree(kind: str) -> None:
    require_litert()
    compared = 0
    for model, inputs in _models(kind):
        if kind in ("logistic", "tanh") and _graph(model).tensors[0].quantization.scale[0] > 2:
            continue
        ours, theirs = tflite_micro_outputs(model, inputs), litert_reference_outputs(model, inputs)
        steps = 1 if kind.startswith("fully_connected") else 0
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        assert np.abs(ours.astype(float) - theirs).max() <= steps
        compared += 1
    assert compared >= SAMPLE / 2


def test_the_known_differences_are_there() -> None:
    require_litert()
    products = [(tflite_micro_outputs(*each), litert_reference_outputs(*each)) for each in _models("fully_connected")]
    assert any((ours != theirs).any() for ours, theirs in products)
    writer = ModelWriter()
    x = writer.activation((1, 3), Quantization(10, 0))
    model = writer.bytes([x], [writer.unary("LOGISTIC", x, Quantization(1 / 256, -128))])
    inputs = np.array([[-1, 0, 1]], np.int8)
    assert tflite_micro_outputs(model, inputs).tolist() == [[-128, -128, 127]]
    assert litert_reference_outputs(model, inputs).tolist() == [[-128, 0, 127]]


def test_random_models_run_stay_small_and_reach_every_kind() -> None:
    codes: set[int] = set()
    several_readers = unread = constant = 0
    for seed in range(200):
        model, inputs = random_model(seed)
        outputs = tflite_micro_outputs(model, inputs)
        assert inputs.dtype == outputs.dtype == np.int8
        constant += len(np.unique(outputs)) == 1
        graph = _graph(model)
        codes.update(_codes(model))
        reads = [number for operator in graph.operators for number in operator.inputs]
        written = [number for operator in graph.operators for number in operator.outputs]
        several_readers += any(reads.count(number) > 1 for number in written)
        unread += any(number not in reads and number not in graph.outputs for number in written)
        for number in [*graph.inputs, *written]:
            tensor = graph.tensors[number]
            assert np.prod(tensor.shape) <= LARGEST and 1e-6 < tensor.quantization.scale[0] < 1e3
    assert len(codes) == len({kind.removeprefix("grouped_").removesuffix("_int4") for kind in KINDS})
    assert several_readers >= 20 and unread >= 10
    assert constant <= 40


def test_a_seed_gives_one_model() -> None:
    (first, inputs), (second, same) = random_model(3), random_model(3)
    assert first == second and (inputs == same).all()
    assert random_model(4)[0] != first


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_tell_inputs_apart(name: str) -> None:
    model = _network(name)
    outputs = tflite_micro_outputs(model, network_inputs(model, seed=1))
    assert (outputs[0] != outputs[1]).mean() > 0.5
    assert len(np.unique(outputs)) > 8
    assert np.isin(outputs, [-128, 127]).mean() < 0.5


@pytest.mark.parametrize("name", NETWORKS)
def test_the_oracles_agree_on_networks(name: str) -> None:
    """Byte for byte without a dense layer; on average within half a step with them."""
    require_litert()
    model = _network(name)
    inputs = network_inputs(model, seed=1)
    apart = np.abs(tflite_micro_outputs(model, inputs).astype(int) - litert_reference_outputs(model, inputs))
    assert apart.mean() <= (0.5 if schema.BuiltinOperator.FULLY_CONNECTED in _codes(model) else 0)


def test_mobilenet_has_27_convolutions() -> None:
    convolutions = schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.DEPTHWISE_CONV_2D
    assert sum(code in convolutions for code in _codes(_network("mobilenet"))) == 27


def test_the_arena_holds_what_lives_at_once() -> None:
    writer = ModelWriter()
    x = writer.activation((1, 20, 20, 8), Quantization(0.1, 0))
    one, other = (writer.unary("TANH", x, Quantization(1 / 128, 0)) for _ in range(2))
    model = writer.bytes([x], [writer.binary("ADD", one, other, Quantization(1 / 64, 0))])
    assert 3 * 3200 <= tflite_micro_arena_bytes(model) <= 4 * 3200


def test_int4_values_are_packed_low_half_first() -> None:
    assert pack_int4(np.array([1, -1, 7, -8, 3], np.int8)).tolist() == [0xF1, 0x87, 0x03]


def test_a_model_computed_by_hand() -> None:
    """0.5 * (3 - 1) * 2 + 0.5 * 3 real, at scale 0.25 and zero point -10."""
    writer = ModelWriter()
    x = writer.activation((1, 1, 1, 1), Quantization(0.5, 1))
    weights, bias = np.full((1, 1, 1, 1), 2, np.int8), np.array([3], np.int32)
    y = writer.conv_2d(x, weights, np.array([1.0]), bias, Quantization(0.25, -10))
    assert tflite_micro_outputs(writer.bytes([x], [y]), np.array([[[[3]]]], np.int8)).item() == 4
