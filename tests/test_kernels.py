"""Packing, and the C library against the NumPy reference: on the host under sanitizers, and on every emulated core."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

from sgsc_micro import reference, storage
from sgsc_micro.codegen import SANITIZERS, HostLibrary, footprint, to_stored, write_library
from sgsc_micro.compiler_flags import Objective, Optimize
from sgsc_micro.device import connect
from sgsc_micro.errors import SgscError
from sgsc_micro.firmware import build_firmware
from sgsc_micro.kernels import pack_bytes
from sgsc_micro.kernels.pack import pack_channel, planes
from sgsc_micro.passes import optimise
from sgsc_micro.targets import Target, list_targets, load_target
from tests.graphs import GraphBuilder, random_graph

SEEDS = st.integers(0, 2**32 - 1)


@given(st.integers(1, 8), st.integers(1, 320), SEEDS)
def test_packed_words_hold_the_weights(bits: int, taps: int, seed: int) -> None:
    """Unpacked field by field, as the header describes it, not as the packer does it."""
    order = storage.lane_order(taps)
    weights = np.random.default_rng(seed).integers(-(1 << bits >> 1), max(1 << bits >> 1, 1), taps)
    found = np.zeros(taps, np.int64)
    for plane, words in zip(planes(bits, taps), pack_channel(weights, bits, order), strict=True):
        for position, value in enumerate(_fields(words.tolist(), plane.bits)):
            if position < taps:
                found[order[position]] += value << plane.shift
            else:
                assert value == 0
    offset = 0 if bits == 8 else 1 << bits >> 1
    assert np.array_equal((found - offset + 128) % 256 - 128 if bits == 8 else found - offset, weights)


def _fields(words: list[int], bits: int) -> list[int]:
    """Field by field, those of the low lane and the high one by turns."""
    if bits != 6:
        return [
            word >> lane + bits * field & (1 << bits) - 1
            for word in words
            for field in range(16 // bits)
            for lane in (0, 16)
        ]
    found = []
    for a, b, c in zip(words[0::3], words[1::3], words[2::3], strict=True):
        lanes = [[word >> lane & 0xFFFF for word in (a, b, c)] for lane in (0, 16)]
        pairs = [
            [
                x & 63,
                x >> 6 & 63,
                y & 63,
                y >> 6 & 63,
                x >> 12 | (y >> 12 & 3) << 4,
                z & 63,
                z >> 6 & 63,
                z >> 12 | y >> 14 << 4,
            ]
            for x, y, z in lanes
        ]
        found += [value for low_high in zip(*pairs, strict=True) for value in low_high]
    return found


@pytest.mark.parametrize(
    ("bits", "taps", "words"),
    [(8, 64, 16), (7, 64, 14), (6, 64, 12), (5, 64, 11), (4, 64, 8), (3, 64, 6), (2, 64, 4), (1, 64, 2), (0, 64, 0),
     (8, 9, 3), (5, 9, 2), (4, 9, 2), (3, 9, 1), (2, 9, 1), (1, 9, 1)],
)  # fmt: skip
def test_a_channel_takes_the_words_it_should(bits: int, taps: int, words: int) -> None:
    assert storage.channel_words(bits, taps) == words


def test_a_wider_channel_never_takes_fewer_words() -> None:
    for taps in range(1, 200):
        words = [storage.channel_words(bits, taps) for bits in range(9)]
        assert words == sorted(words)


@given(st.integers(1, 8), st.integers(1, 320), SEEDS)
def test_packed_bytes_hold_the_weights(bits: int, taps: int, seed: int) -> None:
    """Tap by tap from the bits that the header says are its own, not as the packer puts them together."""
    weights = np.random.default_rng(seed).integers(-(1 << bits >> 1), max(1 << bits >> 1, 1), taps)
    packed = pack_bytes.pack_channel(weights, bits).tolist()
    assert len(packed) == storage.channel_bytes(bits, taps)
    narrowest = bits & -bits
    part = -(-taps * narrowest // 8)
    for tap, weight in enumerate(weights.tolist()):
        number, at = divmod(tap, part)
        digits, start = "", 0
        for plane in (8, 4, 2, 1):
            if bits & plane:
                run, field = number % (plane // narrowest), number // (plane // narrowest)
                digits += f"{packed[start + run * part + at]:08b}"[field * plane :][:plane]
                start += plane // narrowest * part
        assert int(digits, 2) - (int(digits[0]) << bits) == weight


@pytest.mark.parametrize(
    ("bits", "taps", "stored", "size"),
    [(8, 64, 8, 64), (7, 64, 7, 56), (6, 64, 6, 48), (5, 64, 5, 40), (4, 64, 4, 32), (3, 64, 3, 24), (2, 64, 2, 16),
     (1, 64, 1, 8), (0, 64, 0, 0), (7, 9, 8, 9), (5, 9, 8, 9), (3, 9, 4, 5), (2, 9, 2, 3), (1, 1 << 17, 8, 1 << 17)],
)  # fmt: skip
def test_a_channel_takes_the_bytes_it_should(bits: int, taps: int, stored: int, size: int) -> None:
    assert storage.stored_byte_bits(bits, taps) == stored
    assert storage.channel_bytes(stored, taps) == size


def _check_on_host(seed: int, folder: Path, instruction_set: str, widths: list[int] | None = None) -> None:
    module, x = random_graph(seed, widths)
    manifest = write_library(
        optimise(module, objective=Objective(instruction_set, Optimize.BALANCED)), folder, f"graph {seed}"
    )
    found = HostLibrary(folder, ("-O1", *SANITIZERS)).run(to_stored(manifest, x))
    expected = reference.run_integers(module, x)
    assert np.array_equal(found.reshape(expected.shape), expected)


@pytest.mark.parametrize("instruction_set", ["c", "dsp", "helium"])
@given(seed=SEEDS)
@settings(max_examples=20, deadline=None)
def test_the_host_library_gives_the_references_bytes(
    instruction_set: str, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    _check_on_host(seed, tmp_path_factory.mktemp("graph"), instruction_set)


@pytest.mark.slow
@pytest.mark.parametrize("instruction_set", ["c", "dsp", "helium"])
@given(seed=SEEDS, widths=st.sampled_from([None, [0, 2], [8], [1, 7], [5, 6]]))
@settings(max_examples=25, deadline=None)
def test_many_more_graphs_on_the_host(
    instruction_set: str, seed: int, widths: list[int] | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    _check_on_host(seed, tmp_path_factory.mktemp("graph"), instruction_set, widths)


WHOLE_TWINS = [
    target.name
    for target in list_targets()
    if target.board and target.board.emulator and target.board.emulator.ram_bytes is None
]


@pytest.mark.parametrize("target_name", WHOLE_TWINS)
@pytest.mark.parametrize("seed", range(4))
def test_an_emulated_core_gives_the_references_bytes(target_name: str, seed: int, tmp_path: Path) -> None:
    _check_on_core(*random_graph(1000 + seed), load_target(target_name), tmp_path)


def _check_on_core(module: tvm.IRModule, x: np.ndarray, target: Target, folder: Path) -> None:
    optimised = optimise(module, objective=Objective(target.instruction_set, Optimize.BALANCED))
    manifest = write_library(optimised, folder / "library", "graph")
    image = build_firmware(target, folder / "library", folder / "firmware")
    expected = reference.run_integers(module, x).reshape(len(x), -1)
    with connect(target, image) as device:
        for case, row in enumerate(to_stored(manifest, x)):
            assert np.frombuffer(device.run(case, row.tobytes()).output, np.int8).tolist() == expected[case].tolist()
    assert image.sizes.weights == manifest["constant_bytes"] == footprint(optimised).flash
    assert image.sizes.arena == manifest["arena_bytes"]


@pytest.mark.parametrize(("rounding", "channels"), [("single", 5), ("tflite", 16)])
@pytest.mark.parametrize("bits", range(1, 9))
def test_helium_gives_the_references_bytes_at_every_width(
    bits: int, rounding: str, channels: int, tmp_path: Path
) -> None:
    """Of a convolution and a dense layer of one row, with odd and even numbers of taps, whose outputs tell a lot."""
    for seed in range(100):
        rng = np.random.default_rng([bits, seed])
        module = GraphBuilder(rng, rounding).build((5, 7, channels), ["conv"], [bits])
        x = rng.normal(0, 2, (3, channels, 5, 7)).astype(np.float32)
        expected = reference.run_integers(module, x).reshape(len(x), -1)
        varied = np.abs(expected.astype(int)) < 127
        if varied.sum() >= 9 and np.all(expected[0] != expected[1], where=varied[0] & varied[1]):
            _check_on_core(module, x, load_target("qemu-m55"), tmp_path)
            return
    raise AssertionError("no such network in 100")


def test_the_same_network_gives_the_same_files(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write_library(optimise(random_graph(3)[0]), tmp_path / folder, "graph")
    files = [path for path in (tmp_path / "one").rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


def test_an_accumulator_that_could_overflow_names_the_layer() -> None:
    builder = GraphBuilder(np.random.default_rng(0))
    builder._finish = lambda total, scales, taps: builder._quantize(total, float(scales.mean()) / 2**26, 0)  # type: ignore[method-assign]
    module = builder.build((4, 4, 2), ["conv"], [8])
    with pytest.raises(SgscError, match=r"conv2d_0: the accumulator of channel \d+ can reach"):
        footprint(optimise(module))


def test_inputs_of_another_shape_are_refused(tmp_path: Path) -> None:
    module, x = random_graph(3)
    manifest = write_library(optimise(module), tmp_path, "graph")
    with pytest.raises(SgscError, match="the model takes"):
        to_stored(manifest, x[..., :0])
