"""The preservation set: its hash, its file, the choice of cases, disjointness, the verdict and the bound."""

from __future__ import annotations

from dataclasses import replace
from math import comb
from pathlib import Path

import numpy as np
import pytest

from sgsc_micro.errors import SgscError
from sgsc_micro.preserve import (
    NO_LABEL,
    CaseSet,
    check_disjoint,
    choose,
    judge,
    load,
    load_user_cases,
    margins,
    safe_prefix,
    save,
    upper_bound,
)
from sgsc_micro.preserve.strategies import STRATEGIES, Candidates, by_k_center, by_margin, hybrid
from sgsc_micro.project import Policy


def make(count: int = 6, *, name: str = "case", seed: int = 0) -> CaseSet:
    """Cases of 3 classes that the reference gets right."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    reference = random.normal(size=(count, 3)).astype(np.float32)
    reference[np.arange(count), labels] = 5
    inputs = random.normal(size=(count, 1, 2, 2)).astype(np.float32)
    return CaseSet(np.array([f"{name}/{i}" for i in range(count)]), inputs, labels, reference, "margin")


@pytest.mark.parametrize("field", ["ids", "inputs", "labels", "reference", "strategy"])
def test_the_hash_changes_with_every_field(field: str) -> None:
    cases = make()
    if field == "strategy":
        changed = replace(cases, strategy="k_center")
    elif field == "ids":
        changed = replace(cases, ids=np.array([*cases.ids[:-1], "other"]))
    else:
        values = getattr(cases, field).copy()
        values.reshape(-1).view(np.uint8)[0] ^= 1  # one bit
        changed = replace(cases, **{field: values})
    assert changed.content_hash != cases.content_hash


def test_the_hash_does_not_depend_on_memory_layout() -> None:
    cases = make()
    assert replace(cases, inputs=np.asfortranarray(cases.inputs)).content_hash == cases.content_hash


def test_a_saved_set_comes_back_and_is_the_same_bytes_every_time(tmp_path: Path) -> None:
    cases = make()
    save(cases, tmp_path / "a.npz")
    save(load(tmp_path / "a.npz"), tmp_path / "b.npz")
    assert load(tmp_path / "b.npz").content_hash == cases.content_hash
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_an_altered_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "P.npz"
    save(make(), path)
    fields = dict(np.load(path))
    fields["labels"][0] = 1
    np.savez(path, **fields)
    with pytest.raises(SgscError, match=r"P\.npz: content_hash"):
        load(path)


@pytest.mark.parametrize("damage", ["cut", "text", "missing"])
def test_a_broken_file_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "P.npz"
    save(make(), path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:200])
    elif damage == "text":
        path.write_text("not an archive")
    else:
        path.unlink()
    with pytest.raises(SgscError, match=r"P\.npz"):
        load(path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("inputs", np.zeros((0, 1, 2, 2)), "inputs: the set is empty"),
        ("labels", np.zeros(5), "labels: shape"),
        ("reference", np.zeros(6), "reference: shape"),
        ("labels", np.array([0, 1, 2, 0, 1, 3]), r"labels: outside 0..2 in cases case/5"),
        ("labels", np.array([-1, 1, 2, 0, 1, 2]), "case/0"),
        ("inputs", np.full((6, 1, 2, 2), np.nan), "inputs: NaN"),
        ("reference", np.full((6, 3), np.inf), "reference: NaN or infinity"),
        ("ids", np.array(["a"] * 6), "ids: not unique: a"),
    ],
)
def test_a_malformed_set_cannot_be_made(field: str, value: np.ndarray, message: str) -> None:
    with pytest.raises(SgscError, match=message):
        replace(make(), **{field: value})


def test_a_users_own_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    wanted = make()
    np.savez(path, inputs=wanted.inputs, labels=wanted.labels)
    cases = load_user_cases(path, (1, 2, 2), lambda inputs: wanted.reference)
    assert (cases.strategy, cases.ids[0], len(cases)) == ("user", "cases/mine/0", 6)
    with pytest.raises(SgscError, match=r"mine\.npz: inputs: shape"):
        load_user_cases(path, (1, 3, 3), lambda inputs: wanted.reference)
    np.savez(path, inputs=wanted.inputs)
    with pytest.raises(SgscError, match="labels: missing"):
        load_user_cases(path, (1, 2, 2), lambda inputs: wanted.reference)


def test_strategies_on_points_of_a_line() -> None:
    points = Candidates(np.array([3.0, 1.0, 2.0, 0.5]), np.zeros(4), np.array([[0.0], [1.0], [2.0], [10.0]]))
    assert list(by_margin(points)) == [3, 1, 2, 0]
    assert list(by_k_center(points)) == [2, 3, 0, 1]  # nearest the mean 3.25; farthest; farthest from both; the rest
    assert list(hybrid(points)) == [3, 2, 1, 0]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_choice_is_balanced_distinct_and_right_in_the_reference(strategy: str) -> None:
    pool = make(30)
    pool.reference[4] = (0, -5, 0)  # the reference is wrong: this case preserves nothing
    chosen = choose(pool, 12, strategy)
    assert np.bincount(chosen.labels).tolist() == [4, 4, 4]
    assert "case/4" not in chosen.ids
    assert (chosen.reference.argmax(1) == chosen.labels).all()
    assert chosen.content_hash == choose(pool, 12, strategy).content_hash


def test_margin_takes_the_narrowest_of_each_class() -> None:
    reference = np.array([[1, 0], [9, 0], [0, 2], [0, 8]], dtype=np.float32)
    inputs = np.arange(4, dtype=np.float32)[:, None]
    pool = CaseSet(np.array(list("abcd")), inputs, np.array([0, 0, 1, 1]), reference, "all")
    assert choose(pool, 2, "margin").ids.tolist() == ["a", "c"]


def test_an_impossible_choice_is_refused() -> None:
    pool = make(6)
    with pytest.raises(SgscError, match="no strategy 'marjin'"):
        choose(pool, 3, "marjin")
    with pytest.raises(SgscError, match="gets 6 of 6"):
        choose(pool, 7)


def test_overlap_is_an_error_that_names_both_cases() -> None:
    preserve, calibration, test, train = (make(9, name=name, seed=seed) for seed, name in enumerate("pcts"))
    check_disjoint(preserve, calibration, test, train)
    for noise in (0.0, 0.01):  # the same case, and nearly the same
        inputs = calibration.inputs.copy()
        inputs[7] = preserve.inputs[2] + noise
        with pytest.raises(SgscError, match="P overlaps C in 1 cases: p/2 = c/7"):
            check_disjoint(preserve, replace(calibration, inputs=inputs), test, train)
        with pytest.raises(SgscError, match="T overlaps train in 9 cases"):
            check_disjoint(preserve, calibration, test, replace(train, inputs=test.inputs + noise))
    check_disjoint(train, calibration, test, train)  # P may come from the training side


def test_a_negative_flip_needs_a_right_reference_and_a_wrong_candidate() -> None:
    cases = make(6)
    reference = cases.reference.copy()
    reference[1] = (9, 0, 0)  # wrong from the start
    cases = replace(cases, reference=reference)
    outputs = reference.copy()
    outputs[1] = (0, 0, 9)  # still wrong: no flip
    outputs[4] = (9, 0, 0)
    verdict = judge(cases, outputs)
    assert verdict.flips == ("case/4",) and not verdict.passed
    assert verdict.margins[4] == -9
    assert judge(cases, outputs, Policy(max_flips=1)).passed


def test_the_lowest_index_wins_a_tie() -> None:
    cases = CaseSet(np.array(["a", "b"]), np.zeros((2, 1)), np.array([0, 1]), np.eye(2), "user")
    assert judge(cases, np.ones((2, 2), dtype=np.float32)).flips == ("b",)


def test_divergence_is_asked_only_by_a_policy() -> None:
    cases = make()
    outputs = cases.reference.copy()
    outputs[3, 1] += 0.5
    assert judge(cases, outputs).passed
    verdict = judge(cases, outputs, Policy(max_divergence=0.4))
    assert verdict.diverged == ("case/3",) and not verdict.passed


def test_outputs_that_are_not_numbers_are_refused() -> None:
    cases = make()
    outputs = cases.reference.copy()
    outputs[2, 0] = np.nan
    with pytest.raises(SgscError, match="case/2"):
        judge(cases, outputs)


def test_the_bound_is_clopper_pearson() -> None:
    assert upper_bound(0, 400) == pytest.approx(1 - 0.05 ** (1 / 400))
    assert upper_bound(5, 5) == 1
    for flips, n in ((1, 30), (7, 100)):  # by definition: so few flips have probability 5 % at the bound
        rate = upper_bound(flips, n)
        chance = sum(comb(n, k) * rate**k * (1 - rate) ** (n - k) for k in range(flips + 1))
        assert chance == pytest.approx(0.05)
    with pytest.raises(SgscError, match="3 flips in 2 cases"):
        upper_bound(3, 2)


@pytest.mark.parametrize("name", ["calibration", "test"])
def test_a_set_that_repeats_itself_is_no_iid_sample(name: str) -> None:
    random = np.random.default_rng(0)

    def cases(prefix: str) -> CaseSet:
        inputs = random.normal(size=(6, 4)).astype(np.float32)
        return CaseSet(np.array([f"{prefix}/{row}" for row in range(6)]), inputs, np.zeros(6, int), inputs, "all")

    sets = {part: cases(part) for part in ("preserve", "calibration", "test", "train")}
    check_disjoint(**sets)
    sets[name].inputs[5] = sets[name].inputs[2]
    with pytest.raises(SgscError, match=f"{name}/2 = {name}/5"):
        check_disjoint(**sets)


# Sequences, slices, means


def sequences() -> tuple[CaseSet, np.ndarray]:
    """Two cases of three positions and two classes, one position without a label; the reference is wrong at one."""
    labels = np.array([[0, 1, NO_LABEL], [1, 1, 0]])
    reference = np.array([[[2, 0], [0, 3], [9, 0]], [[1, 0], [0, 1], [4, 0]]], np.float32)
    cases = CaseSet(np.array(["a", "b"]), np.zeros((2, 3), np.float32), labels, reference, "user")
    return cases, reference.copy()


def test_every_position_of_a_sequence_is_a_decision() -> None:
    cases, outputs = sequences()
    assert margins(outputs, cases.labels).tolist() == [[2, 3, np.inf], [-1, 1, 4]]
    verdict = judge(cases, outputs)
    assert verdict.passed and verdict.margins.tolist() == [2, 1]  # where the reference is right
    outputs[0, 2] = [0, 9]  # nothing is asked there
    outputs[1, 0] = [5, 0]  # wrong before
    assert judge(cases, outputs, Policy(max_flips=0)).flips == ()
    outputs[1, 2] = [0, 1]
    assert judge(cases, outputs, Policy(max_flips=0, max_loss_rise=9)).violations == ("1 negative flips, 0 allowed",)


def test_the_loss_of_sequences_may_rise_by_so_much() -> None:
    cases, outputs = sequences()
    outputs[0, 0] = [0, 0]
    verdict = judge(cases, outputs)
    counted = [(2, 0), (3, 0), (0, 1), (1, 0), (4, 0)]  # the label's logit and the other one's
    before = np.mean([np.log1p(np.exp(other - own)) for own, other in counted])
    after = before + (np.log(2) - np.log1p(np.exp(-2))) / 5
    assert (verdict.loss.reference, verdict.loss.candidate) == (pytest.approx(before), pytest.approx(after))
    assert verdict.flips == () and len(verdict.violations) == 1 and "loss" in verdict.violations[0]
    assert judge(cases, outputs, Policy(max_loss_rise=0.2)).passed


def test_a_slice_may_fall_by_its_own_tolerance() -> None:
    cases = make(8)
    cases = CaseSet(
        cases.ids, cases.inputs, cases.labels, cases.reference, "user", slices=np.array(["day"] * 4 + ["night"] * 4)
    )
    outputs = cases.reference.copy()
    outputs[5, cases.labels[5]] = -9
    loose = {"max_flips": 1, "slice_tolerance": 0.1}
    verdict = judge(cases, outputs, Policy(**loose))
    assert verdict.violations == ("slice night: 100.0% right before, 75.0% now",)
    assert verdict.slices["day"].candidate == 1
    assert judge(cases, outputs, Policy(**loose, slices={"night": 0.25})).passed
    with pytest.raises(SgscError, match="no slice dusk"):
        judge(cases, outputs, Policy(slices={"dusk": 0.1}))


def test_agreement_counts_wrong_decisions_too() -> None:
    cases = make(4)
    outputs = cases.reference.copy()
    outputs[2, (cases.labels[2] + 1) % 3] = 9
    assert judge(cases, outputs, Policy(max_flips=1, min_agreement=0.75)).passed
    assert not judge(cases, outputs, Policy(max_flips=1, min_agreement=0.8)).passed


# What may be said of unseen data


def test_the_bounds_cover_as_often_as_they_say() -> None:
    """1,000 draws of C: Clopper-Pearson on one model, Learn then Test along a path that gets worse."""
    random, n, rate = np.random.default_rng(0), 400, 0.02
    missed = np.mean([upper_bound(int(flips), n) < rate for flips in random.binomial(n, rate, 1000)])
    assert missed <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 1000)
    rates = np.linspace(0.001, 0.06, 12)
    limits = np.sort(random.random((1000, n, 1)), axis=1)  # one draw for all models: each breaks what the last broke
    paths = (limits < rates).sum(axis=1)  # [1000, 12]
    chosen = np.array([safe_prefix(path, n, rate) for path in paths.tolist()])
    wrong = np.mean([length > 0 and rates[length - 1] > rate for length in chosen])
    assert wrong <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 1000)
    assert chosen.mean() > 1  # it is not safe by choosing nothing
    smallest_that_looks_safe = [(path / n <= rate).nonzero()[0].max() for path in paths]
    assert np.mean(rates[smallest_that_looks_safe] > rate) > 0.3  # what one would do without it


def test_a_rate_that_is_none_is_refused() -> None:
    with pytest.raises(SgscError, match="is no rate"):
        safe_prefix([0], 10, 0)
