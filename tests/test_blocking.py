"""The choice of rows and lanes by cost: against the fixed rules, against fresh counts, and what is stored and read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import tune
from benchmarks.counter import Counter
from sgsc_micro import blocking, reference
from sgsc_micro.blocking import Blocking, Layer, choose
from sgsc_micro.codegen import SANITIZERS, HostLibrary, to_stored, write_library
from sgsc_micro.compiler_flags import Objective, Optimize
from sgsc_micro.costs import COSTS, costs_of
from sgsc_micro.errors import SgscError
from sgsc_micro.firmware import build_firmware, tools
from sgsc_micro.kernels.pack import lane_streams
from sgsc_micro.passes import optimise
from sgsc_micro.passes.graph import read_graph
from sgsc_micro.passes.operators import Dense
from sgsc_micro.targets import load_target
from tests.graphs import GraphBuilder, random_graph

emulated = pytest.mark.skipif(
    any(shutil.which(program) is None for program in (tools.QEMU, tools.CROSS_COMPILER, tools.HOST_COMPILER)),
    reason="needs the cross compiler and QEMU",
)
SETS = ("c", "dsp")
OBJECTIVES = [Objective(name, optimize) for name in SETS for optimize in Optimize]
objectives = st.sampled_from(OBJECTIVES)


@st.composite
def layers(draw: st.DrawFn) -> np.ndarray:
    """int8 [O, taps], often of few widths side by side."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    taps, channels = draw(st.integers(1, 80)), draw(st.integers(1, 24))
    widths = sorted(rng.choice(draw(st.sampled_from([[8], [4], [2, 8], [0, 1, 2, 3, 4, 5, 6, 7, 8]])), channels))
    high = (1 << np.array(widths)[:, None]) / 2
    return np.floor(rng.uniform(-high, high, (channels, taps))).astype(np.int8)


REACH = 255
PIXELS = st.sampled_from([1, 2, 3, 4, 5, 9, 64])
_OWN, _SHARED, _PLANES = 1, 2, 3
_TAPS_OF_A_WORD = {8: 4, 5: 6, 4: 8, 3: 10, 2: 16, 1: 32}


def heads(stream: np.ndarray, rows: int) -> list[tuple[int, int, list[tuple[int, int]]]]:
    """(kind, channels, (bits, words) of each plane) of a stream, as c/sgsc_weighted.h describes it, read to its end."""
    found, at = [], 0
    while at < len(stream):
        head = int(stream[at])
        kind, bits, words, channels = head >> 30, head >> 26 & 15, head >> 14 & 0xFFF, head & 0x3FFF
        planes = [(bits, words)] if kind in (_OWN, _SHARED) else []
        at += 1
        if kind == _PLANES:
            planes = [(word & 15, word >> 8) for word in stream[at : at + words].tolist()]
            at += words
        each = (2 if rows == 4 else 4) if kind == _SHARED else 1
        assert channels % each == 0
        at += channels // each * sum(words for _, words in planes)
        found.append((kind, channels, planes))
    assert at == len(stream)
    return found


def counted(stream: np.ndarray, rows: int, taps: int, pixels: int, objective: Objective) -> float:
    """What the file says such a stream takes, from the words themselves."""
    sets = json.loads(COSTS.read_text())["instruction_sets"]
    costs = sets[objective.instruction_set]["goals"][objective.optimize]
    found = heads(stream, rows)
    a, b = costs["widen"][str(rows)]
    total = costs["call"][str(rows)] + (a + b * taps if any(planes for _, _, planes in found) else 0)
    if any(bits != 8 for _, _, planes in found for bits, _ in planes):
        a, b = costs["sum"][str(rows)]
        total += a + b * ((taps + 1) // 2)
    for kind, channels, planes in found:
        total += costs["head"][str(rows)]
        shapes = {"4x1": channels} if rows == 4 else {"1x4": channels // 4, "1x1": channels % 4}
        if kind == _SHARED:
            shapes = {"4x2": channels // 2} if rows == 4 else {"1x4s": channels // 4}
        for shape, count in shapes.items():
            lines = [costs["blocks"][shape][str(bits)] for bits, _ in planes] if count else []
            each = sum(a + b * words for (a, b), (_, words) in zip(lines, planes))
            if kind == _PLANES and count:
                a, b = costs["planes"][shape]
                each += a + b * len(planes)
            total += count * (each if planes else costs["none"][shape] if count else 0)
    return -(-pixels // rows) * total


@given(layers(), PIXELS, objectives)
def test_the_cost_is_that_of_the_words_which_are_stored(weights: np.ndarray, pixels: int, objective: Objective) -> None:
    chosen = choose(weights, 1, REACH, pixels, objective)
    (stream,) = lane_streams(weights[:, None, None], chosen)
    assert chosen.stored_bytes == 4 * len(stream)
    expected = counted(stream, chosen.rows, weights.shape[1], pixels, objective)
    assert chosen.instructions(costs_of(objective.instruction_set, objective.optimize), pixels) == pytest.approx(
        expected
    )


def flash(chosen: Blocking, objective: Objective) -> int:
    code = costs_of(objective.instruction_set, objective.optimize).code
    return chosen.stored_bytes + sum(code[shape].get(bits, 0) for shape, bits in chosen.dots if shape in code)


@given(layers(), PIXELS, objectives)
def test_no_fixed_rule_costs_less(weights: np.ndarray, pixels: int, objective: Objective) -> None:
    """Lanes shared wherever they can be, or nowhere; four rows, one, or one for up to two pixels."""
    costs = costs_of(objective.instruction_set, objective.optimize)

    def cost(blocking: Blocking) -> tuple[float, ...]:
        instructions, stored = blocking.instructions(costs, pixels), flash(blocking, objective)
        return {
            Optimize.SIZE: (stored, instructions),
            Optimize.BALANCED: (instructions,),
            Optimize.SPEED: (instructions, stored),
        }[objective.optimize]

    chosen = cost(choose(weights, 1, REACH, pixels, objective))
    slack = 1.011 if objective.optimize is Optimize.BALANCED else 1  # for which fewer bytes are worth a hundredth
    for rows in (4, 1):
        layer = Layer(weights[None], REACH, rows)
        for rule in layer.rules:
            first, *others = cost(layer.blocking(rule))
            assert chosen <= (slack * first, *others)


@given(layers(), PIXELS, st.sampled_from(SETS))
def test_size_takes_the_fewest_bytes_and_speed_the_fewest_instructions(
    weights: np.ndarray, pixels: int, name: str
) -> None:
    chosen = {goal: choose(weights, 1, REACH, pixels, Objective(name, goal)) for goal in Optimize}
    for goal in (Optimize.SIZE, Optimize.SPEED):
        objective = Objective(name, goal)
        costs = costs_of(name, goal)
        by_goal = {
            other: flash(blocking, objective) if goal is Optimize.SIZE else blocking.instructions(costs, pixels)
            for other, blocking in chosen.items()
        }
        assert by_goal[goal] == min(by_goal.values())


@given(layers(), st.sampled_from([1, 9]), objectives)
def test_a_row_is_as_long_as_what_is_read(weights: np.ndarray, pixels: int, objective: Objective) -> None:
    """Two int16 activations for each pair of lanes that a word holds, or of which it holds several channels'."""
    chosen = choose(weights, 1, REACH, pixels, objective)
    (stream,) = lane_streams(weights[:, None, None], chosen)
    for kind, _, planes in heads(stream, chosen.rows):
        for bits, words in planes:
            if kind == _SHARED:
                lanes = 2 if chosen.rows == 1 and bits != 4 else 1
                taps = words // lanes * (2 if bits >= 4 else 16 // bits)
            else:
                taps = words // 3 * 16 if bits == 6 else words * _TAPS_OF_A_WORD[bits]
            assert weights.shape[1] <= taps <= chosen.row_bytes // 2


def test_what_is_best_depends_on_the_core_and_on_the_shape() -> None:
    rng = np.random.default_rng(0)
    weights = rng.integers(-128, 128, (16, 64)).astype(np.int8)
    few = rng.integers(-128, 128, (16, 9)).astype(np.int8)
    shared = {
        name: any(segment.shared for segment in choose(weights, 1, 128, 64, Objective(name, Optimize.SPEED)).groups[0])
        for name in SETS
    }
    assert shared == {"c": False, "dsp": True}
    rows = {pixels: choose(few, 1, 128, pixels, Objective("dsp", Optimize.SPEED)).rows for pixels in (1, 4, 64)}
    assert rows == {1: 1, 4: 4, 64: 4}


@emulated
@pytest.mark.parametrize("objective", [Objective("dsp", Optimize.BALANCED), Objective("c", Optimize.SPEED)])
def test_the_file_says_what_a_core_executes(objective: Objective, tmp_path: Path) -> None:
    costs = costs_of(objective.instruction_set, objective.optimize)
    counter = tune.built(objective.instruction_set, objective.optimize, tmp_path)
    dots = [("4x1", 4), ("1x4", 8), ("4x2", 2)]
    tests = {(*dot, n): tune.blocks(*dot, 20, n) for dot in dots for n in (1, 2)}
    count = tune.counted(counter, list(tests.values()))
    for shape, bits in dots:
        found = count[tests[shape, bits, 2]] - count[tests[shape, bits, 1]]
        assert costs.block(shape, [(bits, 20)]) == pytest.approx(found, rel=0.01)
        assert costs.code[shape][bits] == counter.function_bytes[f"sgsc_dot{bits}_{shape}"]


@emulated
@pytest.mark.parametrize("core", ["qemu-m4", "qemu-m3"])
@pytest.mark.parametrize("widths", [[8], [4], [2, 5, 6]])
def test_a_layer_takes_what_was_predicted(core: str, widths: list[int], tmp_path: Path) -> None:
    """A dense layer of one row: nothing but rows, calls and channels."""
    target, rng = load_target(core), np.random.default_rng(1)
    objective = Objective(target.instruction_set, Optimize.BALANCED)
    source = GraphBuilder(rng).build((1, 1, 96), ["dense"], widths)
    module = optimise(source, target.board, objective)
    manifest = write_library(module, tmp_path / "library", "net")
    image = build_firmware(target, tmp_path / "library", tmp_path / "firmware")
    x = to_stored(manifest, rng.normal(0, 2, (1, 96, 1, 1)).astype(np.float32))
    (run,) = Counter(target, image, tmp_path / "library").run(x)
    graph = read_graph(module)
    node = next(node for node in graph.nodes if node.name == "dense_0")
    assert isinstance(node.operator, Dense)
    chosen = node.operator.blocking(graph.shapes[node.output], objective)
    predicted = chosen.instructions(costs_of(objective.instruction_set, objective.optimize), 1)
    assert predicted == pytest.approx(run.layers["dense_0"].instructions, rel=0.05, abs=60)


@given(seed=st.integers(0, 2**32 - 1), objective=objectives)
@settings(max_examples=15, deadline=None)
def test_every_choice_gives_the_references_bytes(
    seed: int, objective: Objective, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("graph")
    module, x = random_graph(seed)
    manifest = write_library(optimise(module, objective=objective), folder, "graph")
    assert (manifest["instruction_set"], manifest["optimize"]) == (objective.instruction_set, objective.optimize)
    found = HostLibrary(folder, ("-O1", *SANITIZERS)).run(to_stored(manifest, x))
    expected = reference.run_integers(module, x)
    assert np.array_equal(found.reshape(expected.shape), expected)


@pytest.mark.parametrize("text", ["", "{}", '{"compiler": "gcc", "instruction_sets": {}}'])
def test_a_file_of_costs_that_is_broken_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text(text)
    with pytest.raises(SgscError, match=r"costs\.json"):
        costs_of("dsp", Optimize.SIZE, path)


def test_a_choice_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = np.random.default_rng(7).integers(-8, 8, (12, 33)).astype(np.int8)
    first = choose(weights, 1, REACH, 4, OBJECTIVES[0])
    monkeypatch.setattr(blocking, "Layer", None)
    assert choose(weights.copy(), 1, REACH, 4, OBJECTIVES[0]) is first
