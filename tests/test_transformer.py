"""Transformers from torch to emulated cores; the operators that only they have, at the ends of their ranges."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from tvm import relax

from sgsc_micro import reference
from sgsc_micro.codegen import SANITIZERS, HostLibrary, footprint, to_stored, write_library
from sgsc_micro.compiler_flags import Objective, Optimize
from sgsc_micro.device import connect
from sgsc_micro.errors import SgscError
from sgsc_micro.firmware import build_firmware
from sgsc_micro.importers import from_torch
from sgsc_micro.passes import optimise
from sgsc_micro.targets import load_target
from tests.conftest import sgsc
from tests.transformer import WIDE, Shape, exported, in_torch, int8, tokens

SHAPES = [
    Shape(),
    Shape(length=5, depth=3, heads=3, mask="where"),
    Shape(length=7, depth=5, vocabulary=200, mask="equal"),
    Shape(length=9, depth=4, blocks=1, mask="add"),
    Shape(length=6, mask="none"),
    Shape(length=1, depth=8, heads=1, blocks=1),
    Shape(length=5, depth=3, heads=4, mask="add", dead=(0, 2)),
]


@pytest.mark.parametrize("seed", range(len(SHAPES)))
def test_the_reference_is_within_rounding_of_torch(seed: int) -> None:
    shape = SHAPES[seed]
    x = tokens(seed, shape, 6)
    found, expected = reference.run(from_torch(exported(seed, shape)), x), in_torch(seed, shape, x)
    # A tie that falls to the other side moves one value by a step, and a few of those behind it.
    steps = np.abs(found - expected) / WIDE
    assert found.shape == (6, shape.length, shape.vocabulary) and expected.std() / WIDE > 10
    assert steps.max() <= 6 and steps.mean() <= 0.6


def _on_host(module: tvm.IRModule, x: np.ndarray, folder: Path, instruction_set: str = "c") -> None:
    """The library gives the reference's bytes, under sanitizers."""
    expected = reference.run_integers(module, x)
    optimised = optimise(module, objective=Objective(instruction_set, Optimize.BALANCED))
    stored = to_stored(write_library(optimised, folder, "model"), x)
    found = HostLibrary(folder, ("-O1", *SANITIZERS)).run(stored)
    assert np.array_equal(found.reshape(expected.shape), expected)


@pytest.mark.parametrize("seed", range(len(SHAPES)))
def test_the_library_gives_the_references_bytes(seed: int, tmp_path: Path) -> None:
    _on_host(from_torch(exported(seed, SHAPES[seed])), tokens(seed, SHAPES[seed], 6), tmp_path)


@pytest.mark.parametrize("name", ["qemu-m0", "qemu-m3", "qemu-m4", "qemu-m55"])
def test_an_emulated_core_gives_the_references_bytes(name: str, tmp_path: Path) -> None:
    shape, target = Shape(length=5, depth=3, heads=3, dead=(1,)), load_target(name)
    module, x = from_torch(exported(7, shape)), tokens(7, shape, 2)
    optimised = optimise(module, objective=Objective(target.instruction_set, Optimize.BALANCED))
    manifest = write_library(optimised, tmp_path / "library", "transformer")
    image = build_firmware(target, tmp_path / "library", tmp_path / "firmware")
    expected = reference.run_integers(module, x).reshape(2, -1)
    with connect(target, image) as device:
        for case, row in enumerate(to_stored(manifest, x)):
            assert np.frombuffer(device.run(case, row.tobytes()).output, np.int8).tolist() == expected[case].tolist()


def test_a_file_is_compiled_and_run(tmp_path: Path) -> None:
    shape = Shape(blocks=1)
    program, x = exported(3, shape), tokens(3, shape, 2)
    torch.export.save(program, tmp_path / "model.pt2")
    np.save(tmp_path / "x.npy", x)
    compiled = sgsc("compile", tmp_path / "model.pt2", "--target", "qemu-m4", "-o", tmp_path / "build")
    assert compiled.exit_code == 0, compiled.output
    files = ("--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy")
    ran = sgsc("run", tmp_path / "build", "--on", "qemu-m4", *files)
    assert ran.exit_code == 0, ran.output
    assert np.array_equal(np.load(tmp_path / "y.npy"), reference.run(from_torch(program), x))


# Single operators.

Emit = Callable[[relax.Expr], relax.Var]


def _module(
    shape: tuple[int, ...], body: Callable[[Emit, relax.Var], relax.Expr], output: tuple[float, int] | None
) -> tvm.IRModule:
    """``body`` of int8 [1, *shape] as it is given, quantised to ``output`` where that is named."""
    builder, x = relax.BlockBuilder(), relax.Var("x", relax.TensorType((1, *shape), "float32"))
    one, zero = relax.const(np.float32(1)), relax.const(np.int8(0))
    with builder.function("main", [x]):
        with builder.dataflow():
            result = body(builder.emit, builder.emit(relax.op.quantize(x, one, zero, out_dtype="int8")))
            if output is not None:
                parameters = relax.const(np.float32(output[0])), relax.const(np.int8(output[1]))
                result = relax.op.quantize(builder.emit(result), *parameters, out_dtype="int8")
            end = builder.emit_output(relax.op.dequantize(builder.emit(result), one, zero))
        builder.emit_func_output(end)
    return builder.finalize()


def _dequantized(q: relax.Var, scale: float, zero_point: int) -> relax.Expr:
    return relax.op.dequantize(q, relax.const(np.float32(scale)), relax.const(np.int8(zero_point)))


def _layer_norm(
    shape: tuple[int, ...], scale: float, epsilon: float, output: tuple[float, int], weight: float = 1
) -> tvm.IRModule:
    one, zero = np.full(shape[-1], weight, np.float32), np.zeros(shape[-1], np.float32)

    def body(emit: Emit, q: relax.Var) -> relax.Expr:
        real = emit(_dequantized(q, scale, 5))
        return relax.op.nn.layer_norm(real, relax.const(one), relax.const(zero), axes=[-1], epsilon=epsilon)

    return _module(shape, body, output)


def _rows(rng: np.random.Generator, width: int) -> np.ndarray:
    """int8 [8, width]: constant, saturated, one value off, two values, narrow, wide."""
    rows = rng.integers(-128, 128, (8, width))
    rows[0], rows[1], rows[2], rows[3] = 17, -128, 127, -128
    rows[3, rng.integers(width)] = 127
    rows[4] = rng.choice([-128, 127], width)
    rows[5] = rng.integers(0, 2, width)
    rows[6] = 0
    rows[6, 0] = 1
    return rows


def _normal(rows: np.ndarray, scale: float, epsilon: float) -> np.ndarray:
    """In float64, of all that is exact until it is divided."""
    centred = rows.shape[1] * rows - rows.sum(axis=1, keepdims=True)
    variance = rows.shape[1] * (rows**2).sum(axis=1, keepdims=True) - rows.sum(axis=1, keepdims=True) ** 2
    added = epsilon / np.float64(np.float32(scale)) ** 2 * rows.shape[1] ** 2
    return centred / np.sqrt(np.maximum(variance + added, 1e-300))


def _powers(low: int, high: int) -> st.SearchStrategy[float]:
    return st.floats(low, high).map(lambda exponent: 10.0**exponent)


@given(
    seed=st.integers(0, 2**32 - 1),
    width=st.sampled_from([1, 2, 3, 7, 64, 129, 1024]),
    scale=_powers(-4, 1),
    epsilon=_powers(-12, 0),
    output=st.tuples(_powers(-3, 0), st.integers(-128, 127)),
)
@settings(max_examples=60, deadline=None)
def test_layer_norm_is_within_half_a_step(
    seed: int, width: int, scale: float, epsilon: float, output: tuple[float, int]
) -> None:
    rows = _rows(np.random.default_rng(seed), width)
    found = reference.run_integers(_layer_norm(rows.shape, scale, epsilon, output), rows[None].astype(np.float32))
    steps = _normal(rows, scale, epsilon) / np.float64(np.float32(output[0]))
    wanted = np.clip(steps + output[1], -128, 127)
    # E has 20 fraction bits beside a variance of at least width - 1: a millionth of the value where all else is 0.
    assert (np.abs(found - wanted) <= 0.5 + 2e-6 * np.minimum(np.abs(steps), 300)).all()


@pytest.mark.parametrize(
    ("width", "scale", "epsilon", "output"),
    [(1, 0.1, 1e-5, (0.03, 3)), (3, 1e-7, 1e-5, (0.02, -128)), (64, 0.05, 1e-5, (0.03, 0)), (31, 0.05, 0.0, (1e-9, 0)),
     (1024, 10.0, 1e-12, (0.25, 127)), (7, 1e-8, 1.0, (1e9, 1))],
)  # fmt: skip
def test_layer_norm_in_c_at_its_ends(
    width: int, scale: float, epsilon: float, output: tuple[float, int], tmp_path: Path
) -> None:
    rows = _rows(np.random.default_rng(width), width)
    _on_host(_layer_norm(rows.shape, scale, epsilon, output), rows[None].astype(np.float32), tmp_path)


def _softmax(shape: tuple[int, ...], scale: float, mask: np.ndarray | None) -> tvm.IRModule:
    def body(emit: Emit, q: relax.Var) -> relax.Expr:
        real = emit(_dequantized(q, scale, -3))
        return relax.op.nn.softmax(real if mask is None else emit(relax.op.add(real, relax.const(mask))), axis=-1)

    return _module(shape, body, (1 / 256, -128))


def _causal(length: int) -> np.ndarray:
    return np.where(np.arange(length)[:, None] >= np.arange(length), 0, -np.inf).astype(np.float32)


@pytest.mark.parametrize(("length", "scale"), [(1, 0.1), (5, 1e-6), (8, 0.05), (13, 30.0)])
def test_a_causal_softmax_is_that_of_each_rows_beginning(length: int, scale: float, tmp_path: Path) -> None:
    scores = np.random.default_rng(length).integers(-128, 128, (4, length, length))
    scores[0], scores[1] = 127, -128
    scores[2] = np.triu(np.full((length, length), 127), 1) - np.tril(np.full((length, length), 128))
    x, module = scores[None].astype(np.float32), _softmax(scores.shape, scale, _causal(length))
    found = reference.run_integers(module, x)[0]
    for row in range(length):
        seen = scores[:, row, : row + 1]
        alone = reference.run_integers(_softmax(seen.shape, scale, None), seen[None].astype(np.float32))[0]
        assert np.array_equal(found[:, row, : row + 1], alone)
        assert (found[:, row, row + 1 :] == -128).all()
        chances = torch.softmax(torch.from_numpy(seen * np.float64(np.float32(scale))), dim=-1).numpy()
        assert np.abs(alone.astype(int) + 128 - np.minimum(256 * chances, 255)).max() <= 1
    _on_host(module, x, tmp_path)


@pytest.mark.parametrize(("rows", "zero_point"), [(1, 0), (5, 3), (256, -128), (200, -128)])
def test_tokens_outside_of_a_table_are_the_nearest_inside(rows: int, zero_point: int, tmp_path: Path) -> None:
    table = np.random.default_rng(rows).integers(-128, 128, (rows, 3)).astype(np.int8)

    def body(emit: Emit, q: relax.Var) -> relax.Expr:
        token = emit(relax.op.add(emit(relax.op.astype(q, "int32")), relax.const(np.int32(-zero_point))))
        return relax.op.take(relax.const(table), emit(relax.op.clip(token, 0, rows - 1)), axis=0)

    every = np.arange(-128, 128)
    module, x = _module((256,), body, None), every[None].astype(np.float32)
    expected = [table[min(max(int(q) - zero_point, 0), rows - 1)] for q in every]
    assert np.array_equal(reference.run_integers(module, x)[0], expected)
    _on_host(module, x, tmp_path)


def _imported(network: Callable[[torch.Tensor], torch.Tensor], *shape: int) -> tvm.IRModule:
    class Network(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return int8(network(int8(x, 0.05, 7)), 0.03, -90)

    return from_torch(torch.export.export(Network(), (torch.zeros(shape),)))


@pytest.mark.parametrize("function", [F.gelu, partial(F.gelu, approximate="tanh"), torch.sigmoid, torch.tanh])
def test_a_function_of_one_value_is_torchs(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    q = np.arange(-128, 128)
    x = ((q - 7) * np.float64(np.float32(0.05)))[None]
    found = reference.run_integers(_imported(function, 1, 256), x.astype(np.float32))[0]
    steps = function(torch.from_numpy(x)).numpy()[0] / np.float64(np.float32(0.03)) - 90
    assert np.abs(found - np.clip(steps, -128, 127)).max() <= 0.5 + 1e-9


def test_what_cannot_be_lowered_is_named() -> None:
    hidden = torch.zeros(4, 4, dtype=torch.bool)
    hidden[0, 1] = True
    with pytest.raises(SgscError, match="mask that is not causal"):
        optimise(_softmax((2, 4, 4), 0.1, np.zeros((4, 4), np.float32)))
    with pytest.raises(SgscError, match="epsilon outweighs"):
        footprint(optimise(_layer_norm((3, 4), 1e-10, 1.0, (0.1, 0))))
    with pytest.raises(SgscError, match="layer norm with weights"):
        optimise(_layer_norm((3, 4), 0.1, 1e-5, (0.1, 0), weight=2))
    with pytest.raises(SgscError, match="mask of shape"):
        _imported(lambda x: F.softmax(x.masked_fill(hidden.expand(2, 4, 4), float("-inf")), -1), 1, 2, 4, 4)
    with pytest.raises(SgscError, match="quantise that first"):
        _imported(lambda x: F.gelu(x) + x, 1, 4)
