"""On the emulated cores no layer touches a byte that is not its own, and none needs more than 1 kB of stack.

What the host's sanitizers cannot see: hand-written assembly, and loads of the widths that only a device uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import tvm

pytest.importorskip("tflite_micro", reason="tflite-micro is not installed")

from benchmarks.networks import NETWORKS, requantised
from sgsc_micro import reference
from sgsc_micro.codegen import to_stored, write_library
from sgsc_micro.compiler_flags import Objective, Optimize
from sgsc_micro.firmware import build_firmware
from sgsc_micro.importers.tflite import import_model
from sgsc_micro.passes import optimise
from sgsc_micro.targets import load_target
from tests import tflite_networks
from tests.conftest import edit
from tests.fuzz import EMULATED, reals_of
from tests.graphs import graph_of, random_graph
from tests.guard import ALL, Guard, Place, Run, Violation

STACK_LIMIT = 1024
WEIGHTED = ["conv", "depthwise", "rows", "grouped", "residual", "depthwise", "conv", "transposed"]
WIDTHS = (None, [8], [1, 7], [5, 6], [2, 4], [0, 3])


@dataclass(frozen=True)
class Watched:
    """A network built for a core, its inputs as stored [N, bytes] and the reference's outputs [N, bytes]."""

    guard: Guard
    stored: np.ndarray
    expected: np.ndarray

    def run(self) -> list[Run]:
        """Every run right, inside its places and its stack."""
        runs = self.guard.run(self.stored)
        for run, expected in zip(runs, self.expected, strict=True):
            assert list(map(str, run.violations)) == []
            assert np.array_equal(run.output, expected)
            assert 0 < run.stack_bytes <= STACK_LIMIT
        return runs


def watched(module: tvm.IRModule, x: np.ndarray, target_name: str, folder: Path) -> Watched:
    target = load_target(target_name)
    optimised = optimise(module, objective=Objective(target.instruction_set, Optimize.BALANCED))
    manifest = write_library(optimised, folder / "library", "guarded")
    image = build_firmware(target, folder / "library", folder / "firmware")
    expected = reference.run_integers(module, x).reshape(len(x), -1)
    return Watched(Guard(target, image, folder / "library", optimised), to_stored(manifest, x), expected)


def network(name: str, count: int = 1) -> tuple[tvm.IRModule, np.ndarray]:
    model = tflite_networks.NETWORKS[name](0)
    return import_model(model, name), reals_of(model, tflite_networks.network_inputs(model, 0, count))


def _widths(seed: int) -> list[int] | None:
    return WIDTHS[seed % len(WIDTHS)]


@pytest.mark.parametrize(("seed", "target_name"), [(0, "qemu-m4"), (1, "qemu-m0"), (2, "qemu-m3")])
def test_random_graphs_stay_inside(seed: int, target_name: str, tmp_path: Path) -> None:
    watched(*random_graph(3000 + seed), target_name, tmp_path).run()


@pytest.mark.parametrize(
    ("seed", "target_name"), [*((seed, "qemu-m4") for seed in range(len(WIDTHS))), (0, "qemu-m0"), (3, "qemu-m3")]
)
def test_weighted_layers_stay_inside_and_write_all_of_their_output(seed: int, target_name: str, tmp_path: Path) -> None:
    guarded = watched(*graph_of(seed, WEIGHTED, _widths(seed)), target_name, tmp_path)
    for run in guarded.run():
        for place in guarded.guard.places:
            if place.what in ("output", "words"):  # the guard sees each of them used to its ends
                assert run.touched[place] == range(place.first, place.end), place


@pytest.mark.parametrize("seed", range(len(WIDTHS)))
def test_weighted_layers_stay_inside_with_helium(seed: int, tmp_path: Path) -> None:
    """Whose last bytes are fewer than a word: nothing reads what fills it up."""
    watched(*graph_of(seed, WEIGHTED, _widths(seed)), "qemu-m55", tmp_path).run()


def test_a_typical_network_stays_inside(tmp_path: Path) -> None:
    watched(*network("mobilenet"), "qemu-m4", tmp_path).run()


@pytest.mark.long
@pytest.mark.parametrize("name", tflite_networks.NETWORKS)
@pytest.mark.parametrize("target_name", EMULATED)
def test_typical_networks_stay_inside_on_every_core(name: str, target_name: str, tmp_path: Path) -> None:
    watched(*network(name), target_name, tmp_path).run()


@pytest.mark.long
@pytest.mark.parametrize("seed", range(60))
def test_many_graphs_stay_inside_on_every_core(seed: int, tmp_path: Path) -> None:
    for target_name in EMULATED:
        watched(*random_graph(4000 + seed, _widths(seed)), target_name, tmp_path / target_name / "any").run()
        weighted = graph_of(4000 + seed, WEIGHTED, _widths(seed))
        watched(*weighted, target_name, tmp_path / target_name / "weighted").run()


@pytest.mark.long
@pytest.mark.data
@pytest.mark.parametrize("target_name", ["qemu-m0", "qemu-m3", "qemu-m4"])
@pytest.mark.parametrize("bits", [8, None], ids=["8", "mixed"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_benchmarks_networks_stay_inside(name: str, bits: int | None, target_name: str, tmp_path: Path) -> None:
    model, inputs = NETWORKS[name].model(), NETWORKS[name].inputs(1)
    module = requantised(import_model(model, name), bits)
    watched(module, reals_of(model, inputs), target_name, tmp_path).run()


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """A network to be told wrong places for."""
    return watched(*graph_of(0, WEIGHTED), "qemu-m4", tmp_path_factory.mktemp("right"))


def _violations(watched: Watched, places: Sequence[Place]) -> list[Violation]:
    return [violation for run in watched.guard.run(watched.stored, places) for violation in run.violations]


@pytest.mark.parametrize("what", ["input", "output", "scratch", "words", "ints", "halves", "bytes"])
def test_a_place_a_byte_shorter_is_noticed(what: str, right: Watched) -> None:
    """Of those that are used to their ends: the guard is as fine as it says."""
    touched = right.run()[0].touched
    used = [place for place in right.guard.places if place.what == what and touched[place].stop == place.end]
    for place in (used[0], used[-1]):
        others = [other for other in right.guard.places if other is not place]
        found = _violations(right, [*others, replace(place, end=place.end - 1)])
        assert {(violation.layer, violation.address + violation.bytes) for violation in found} == {
            (place.layer, place.end)
        }


def test_a_layer_may_not_write_what_it_may_read(right: Watched) -> None:
    found = _violations(right, [replace(place, writes=False) for place in right.guard.places])
    assert found and all(violation.store for violation in found)


def test_a_table_that_nobody_allowed_is_noticed(right: Watched) -> None:
    found = _violations(right, [place for place in right.guard.places if place.layer != ALL])
    assert found and not any(violation.store for violation in found)


def test_a_loop_of_the_assembly_that_goes_on_too_long_is_named(tmp_path: Path) -> None:
    """One turn more: four rows are read past their ends."""
    module, x = graph_of(0, WEIGHTED)
    target, optimised = load_target("qemu-m4"), optimise(module)
    manifest = write_library(optimised, tmp_path / "library", "broken")
    loop = r"subs r2, #1\n bne 1b\n pop"
    edit(tmp_path / "library" / "sgsc_rows.h", loop, loop.replace("bne", "bpl"))
    image = build_firmware(target, tmp_path / "library", tmp_path / "firmware")
    for run in Guard(target, image, tmp_path / "library", optimised).run(to_stored(manifest, x)):
        assert "sgsc_widen_fours" in {violation.function for violation in run.violations}
