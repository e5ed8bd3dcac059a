"""Post-training compression: the guarded loop over a .tflite network, and the rebuilding it rests on."""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tvm import relax

pytest.importorskip("tflite_micro", reason="models are written with the schema of tflite-micro's package")

from sgsc_micro import preserve, reference
from sgsc_micro.codegen import footprint
from sgsc_micro.compress import PostTrainingResult, compress_trained, journal
from sgsc_micro.compress.layers import Constants, layers_of, to_arrays, with_constants
from sgsc_micro.compress.posttraining import HEAVIER, PATIENCE, PostTraining, harms
from sgsc_micro.compress.reconstruction import Reconstruction
from sgsc_micro.errors import SgscError
from sgsc_micro.importers import from_tflite
from sgsc_micro.ir import bindings_of
from sgsc_micro.passes import optimise
from sgsc_micro.preserve import judge
from sgsc_micro.project import Budget, Policy, PostTrainingConfig
from sgsc_micro.reference.values import Accumulator
from tests.bars import Bars, make_bars
from tests.graphs import GraphBuilder

STEPS = 12


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Bars:
    return make_bars(tmp_path_factory.mktemp("bars"))


def run(bars: Bars, folder: Path, **changes: Any) -> PostTrainingResult:
    folder.mkdir(exist_ok=True)
    cases = bars.cases(folder, slice(0, 40))
    arguments: dict[str, Any] = {
        "measure": lambda module: footprint(optimise(module)),
        "workdir": folder,
        "config": PostTrainingConfig(steps=STEPS),
    }
    return compress_trained(from_tflite(bars.write(folder)), bars.reals[60:], cases, **{**arguments, **changes})


def journal_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()[1:]]


def bytes_of(constants: dict[str, Constants]) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in to_arrays(constants).items()}


@pytest.fixture(scope="module")
def undisturbed(bars: Bars, tmp_path_factory: pytest.TempPathFactory) -> tuple[PostTrainingResult, Path]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return run(bars, folder), folder


def test_a_run_shrinks_keeps_every_case_and_records_every_step(
    bars: Bars, undisturbed: tuple[PostTrainingResult, Path]
) -> None:
    result, folder = undisturbed
    network = from_tflite(bars.write(folder))
    compressed = with_constants(network, result.constants)
    assert result.start_bytes == footprint(optimise(network)).flash
    assert result.stored_bytes == footprint(optimise(compressed)).flash < 0.5 * result.start_bytes
    cases = bars.cases(folder, slice(0, 40))
    assert judge(cases, reference.run(compressed, cases.inputs)).flips == ()
    lines = journal_of(folder)
    assert [line["step"] for line in lines] == list(range(STEPS + 1))
    accepted = [line["bytes"] for line in lines if line["accepted"]]
    assert accepted == sorted(set(accepted), reverse=True) and accepted[-1] == result.stored_bytes
    assert any(not line["passed"] and line["flips"] for line in lines)


def test_a_destructive_step_is_refused_and_nothing_of_it_stays(
    bars: Bars, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, calls = Reconstruction.rebuilt, itertools.count()

    def planted(self: Reconstruction, widths: Any, weights: np.ndarray) -> dict[str, Constants]:
        if next(calls) != 1:
            return honest(self, widths, weights)
        constants = honest(self, widths, weights)
        dense = constants["dense_0"]
        turned = np.where(np.arange(3)[:, None] == 1, -dense.weights, dense.weights)
        return constants | {"dense_0": Constants(turned, dense.scales, dense.bias)}  # class 1 is lost

    monkeypatch.setattr(Reconstruction, "rebuilt", planted)
    states = []

    def keep(line: dict[str, Any]) -> None:
        states.append({path.name: path.read_bytes() for path in tmp_path.glob("accepted-*")})

    run(bars, tmp_path, progress=keep, config=PostTrainingConfig(steps=2))
    bad = journal_of(tmp_path)[1]
    assert not bad["accepted"] and bad["restored"] == 0 and bad["flips"]
    assert 1 in bars.labels[[int(case) for case in bad["flips"]]]
    assert states[1] == states[0] and min(states[0]) == "accepted-0000.npz"
    assert journal_of(tmp_path)[2]["accepted"]


@pytest.mark.parametrize("moment", ["in the rebuilding", "after the state", "in the middle of the line"])
def test_a_killed_run_goes_on_to_the_same_bytes(
    bars: Bars,
    undisturbed: tuple[PostTrainingResult, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if moment == "in the rebuilding":
            honest, calls = Reconstruction.rebuilt, itertools.count()
            patch.setattr(Reconstruction, "rebuilt", lambda *a: die() if next(calls) == 5 else honest(*a))
        else:
            syncs = itertools.count()
            patch.setattr(journal, "os", SimpleNamespace(fsync=lambda file: die() if next(syncs) == 5 else None))
        run(bars, tmp_path)
    lines = (tmp_path / "journal.jsonl").read_bytes()
    last = len(lines.splitlines()[-1]) + 1
    cut = {"after the state": last, "in the middle of the line": last // 2}.get(moment, 0)
    (tmp_path / "journal.jsonl").write_bytes(lines[: len(lines) - cut])
    resumed = run(bars, tmp_path)
    result, folder = undisturbed
    assert bytes_of(resumed.constants) == bytes_of(result.constants)
    timeless = [[{**line, "seconds": 0} for line in journal_of(place)] for place in (tmp_path, folder)]
    assert timeless[0] == timeless[1]


def test_a_channel_refused_alone_is_held_and_named(bars: Bars, tmp_path: Path) -> None:
    run(bars, tmp_path, config=PostTrainingConfig(steps=40))
    alone = [line for line in journal_of(tmp_path)[1:] if sum(map(len, line["lowered"].values())) == 1]
    refused = [line for line in alone if not line["accepted"]]
    assert refused
    names = [(layer, channel) for line in refused for layer, part in line["lowered"].items() for channel in part]
    assert len(names) == len(set(names))  # and never tried again
    for line in refused:
        assert line["passed"] or list(line["raised"]) == list(line["lowered"])


def test_what_is_tried_next_follows_from_the_journal(bars: Bars, tmp_path: Path) -> None:
    cases = bars.cases(tmp_path, slice(0, 40))
    reconstruction = Reconstruction(
        from_tflite(bars.write(tmp_path)), np.concatenate([bars.reals[60:70], cases.inputs])
    )
    method = PostTraining(reconstruction, cases, PostTrainingConfig(steps=30), Budget(), harms(reconstruction))
    accepted = {layer.name: layer.constants for layer in reconstruction.layers}
    start = {"accepted": True, "flips": [], "diverged": [], "lowered": {}, "bytes": 100, "ram": 0, "instructions": 0}

    def lowered(lines: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
        proposal = method.propose(lines, accepted)
        assert proposal is not None and proposal.step == len(lines)
        return proposal.lowered

    first = lowered([start])
    assert sum(map(len, first.values())) == 19  # every channel there is
    refused = start | {"accepted": False, "flips": [str(cases.ids[3])], "lowered": first}
    second = method.propose([start, refused], accepted)
    assert second is not None and sum(map(len, second.lowered.values())) == 9
    assert second.weights.tolist() == [1.0] * 13 + [HEAVIER] + [1.0] * 36
    assert sum(map(len, lowered([start, start | {"lowered": second.lowered}, refused]).values())) == 9
    alone = {"conv2d_1": {"2": 6}}
    after = lowered([start, refused | {"lowered": alone}, start | {"lowered": alone}, start | {"lowered": alone}])
    assert "2" not in after.get("conv2d_1", {})
    assert method.propose([start] + [refused] * PATIENCE, accepted) is None
    assert method.propose([start] * 31, accepted) is None
    half = replace(method, config=PostTrainingConfig(share=0.5))
    assert half.propose([start, start | {"bytes": 51}, refused | {"bytes": 40}], accepted) is not None
    assert half.propose([start, start | {"bytes": 50}], accepted) is None


def test_a_journal_of_another_run_is_refused(bars: Bars, tmp_path: Path) -> None:
    run(bars, tmp_path, config=PostTrainingConfig(steps=1))
    with pytest.raises(SgscError, match=r"belongs to another run: policy changed"):
        run(bars, tmp_path, config=PostTrainingConfig(steps=1), policy=Policy(max_flips=3))


@pytest.mark.parametrize("rounding", ["single", "tflite"])
@pytest.mark.parametrize("kind", ["conv", "depthwise", "grouped", "transposed", "rows"])
def test_what_a_layer_sees_is_what_its_accumulators_are_made_of(kind: str, rounding: str) -> None:
    """Sampled rows times weights, beside the reference's own accumulators."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        module = GraphBuilder(rng, rounding).build((7, 8, 4), [kind], [8])
        inputs = rng.normal(0, 3, (5, 4, 7, 8)).astype(np.float32)
        reconstruction = Reconstruction(module, inputs)
        main = reconstruction.module["main"]
        interpreter, values = reference.Interpreter(reconstruction.module), {main.params[0]: inputs[:, None]}
        for var, value in bindings_of(main):
            values[var] = interpreter.evaluate(value, values)
        for layer in reconstruction.layers:
            total = values[layer.total]
            assert isinstance(total, Accumulator)
            exact = (total.integers * total.scale).reshape(5, -1, len(layer.constants.bias))
            sampled = reconstruction._outputs[layer.name].reshape(exact.shape)  # few enough rows: all of them
            assert np.allclose(sampled, exact, rtol=1e-5, atol=1e-5 * np.abs(exact).max())


def test_what_is_not_lowered_stays_to_the_bit(bars: Bars, tmp_path: Path) -> None:
    network = from_tflite(bars.write(tmp_path))
    reconstruction = Reconstruction(network, bars.reals[:70])
    widths = {layer.name: layer.constants.widths for layer in reconstruction.layers}
    assert list(widths) == ["conv2d_0", "conv2d_1", "dense_0"]
    untouched = reconstruction.rebuilt(widths, np.ones(70))
    assert bytes_of(untouched) == bytes_of({layer.name: layer.constants for layer in reconstruction.layers})
    assert np.array_equal(
        reference.run_integers(with_constants(network, untouched), bars.reals),
        reference.run_integers(network, bars.reals),
    )
    widths["conv2d_1"] = np.where(np.arange(8) == 3, 4, widths["conv2d_1"])
    found = reconstruction.rebuilt(widths, np.ones(70))
    before = {layer.name: layer.constants for layer in reconstruction.layers}
    assert bytes_of({"conv2d_0": found["conv2d_0"]}) == bytes_of({"conv2d_0": before["conv2d_0"]})
    same = (found["conv2d_1"].weights == before["conv2d_1"].weights).reshape(8, -1).all(axis=1)
    assert same.tolist() == [channel != 3 for channel in range(8)]
    assert found["conv2d_1"].widths[3] <= 4


def test_rebuilding_keeps_means_and_beats_plain_rounding(bars: Bars, tmp_path: Path) -> None:
    network = from_tflite(bars.write(tmp_path))
    reconstruction = Reconstruction(network, bars.reals[:120])
    widths = {layer.name: np.full(len(layer.constants.bias), 3) for layer in reconstruction.layers}
    rebuilt = reconstruction.rebuilt(widths, np.ones(120))
    plain = {}
    for layer in reconstruction.layers:
        old = layer.constants
        scales = (old.channel_scales * 32).astype(np.float32)
        column = (slice(None), *[None] * (old.weights.ndim - 1))
        weights = np.clip(np.rint(old.weights * old.channel_scales[column] / scales[column]), -4, 3)
        bias = np.rint(old.bias * old.channel_scales / scales)
        plain[layer.name] = Constants(weights.astype(np.int8), scales, bias.astype(np.int32))
    unseen = bars.reals[120:]
    wanted = reference.run(network, unseen)
    errors = [((reference.run(with_constants(network, c), unseen) - wanted) ** 2).mean() for c in (rebuilt, plain)]
    assert errors[0] < 0.5 * errors[1]
    drift = reference.run(with_constants(network, rebuilt), bars.reals[:120]).mean(axis=0)
    assert np.allclose(drift, reference.run(network, bars.reals[:120]).mean(axis=0), atol=0.05)


def test_constants_of_another_network_are_refused(bars: Bars, tmp_path: Path) -> None:
    network = from_tflite(bars.write(tmp_path))
    dense = next(layer for layer in layers_of(network) if layer.is_dense).constants
    for name in ("conv2d_0", "dense_7"):
        with pytest.raises(SgscError, match=name):
            with_constants(network, {name: dense})


def test_a_layer_without_a_bias_gets_one() -> None:
    for seed in range(8):
        rng = np.random.default_rng(seed)
        module = GraphBuilder(rng).build((5, 5, 2), ["conv", "max_pool"], [8])
        written = with_constants(module, {})
        adds = [v for _, v in bindings_of(written["main"]) if isinstance(v, relax.Call) and v.op.name == "relax.add"]
        assert len(adds) == len(layers_of(module)) == 2
        inputs = rng.normal(0, 3, (4, 2, 5, 5)).astype(np.float32)
        assert np.array_equal(reference.run(module, inputs), reference.run(written, inputs))


@pytest.mark.data
@pytest.mark.slow
def test_the_keyword_network_at_fewer_bits(tmp_path: Path) -> None:
    data = Path(os.environ.get("SGSC_DATA", "../shared/data"))
    if not (data / "kws01.npz").is_file():
        pytest.skip("needs kws01.npz and tflite/ in SGSC_DATA")
    network = from_tflite(data / "tflite" / "kws_dscnn_int8.tflite")
    with np.load(data / "kws01.npz") as file:
        inputs = ((file["x"].astype(np.float64) - 83) * 0.58470290899276733).astype(np.float32)
        labels = file["y"].astype(np.int64)
    answers = reference.run(network, inputs)
    pool = preserve.CaseSet(np.arange(500).astype(str), inputs[:500], labels[:500], answers[:500], "all")
    cases = preserve.choose(pool, 150, "hybrid")
    result = compress_trained(
        network,
        inputs[:500],
        cases,
        lambda module: footprint(optimise(module)),
        tmp_path,
        PostTrainingConfig(share=0.68),  # of all constants: 60 % of the weights
    )
    compressed = with_constants(network, result.constants)
    assert result.stored_bytes <= 0.68 * result.start_bytes
    assert judge(cases, reference.run(compressed, cases.inputs)).flips == ()
    right = answers[500:].argmax(1) == labels[500:]
    wrong = reference.run(compressed, inputs[500:]).argmax(1) != labels[500:]
    assert (right & wrong).sum() <= 5
