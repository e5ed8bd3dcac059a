"""``sgsc preserve``: choose the cases that must keep working, look at them, check them, add to them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from sgsc_micro.errors import SgscError
from sgsc_micro.files import locked, read_json
from sgsc_micro.pipeline import ABOUT, Build
from sgsc_micro.project import FILE_NAME, load_project, name_cases
from sgsc_micro.show import Screen
from sgsc_micro.stages import RECORD, record_hash
from sgsc_micro.targets import load_target
from sgsc_micro.terminal import OUTPUT, PROJECT, console, project_folder, reports_errors

if TYPE_CHECKING:
    from sgsc_micro.preserve import CaseSet
    from sgsc_micro.preserve.field import Proposal

SHOWN = 10
STAGES = ("reference", "preserve")


@click.group()
def preserve() -> None:
    """The cases that must keep working: choose them, look at them, check them, add to them."""


@preserve.command()
@PROJECT
@OUTPUT
@reports_errors
def build(folder: Path | None, output: Path) -> None:
    """Choose P and keep P, C and T, without compressing anything."""
    made = _built(folder, output)
    cases, about = _read(made.shared / "preserve")
    console.print()
    _print_head(cases, about)
    _print_gaps(about)


@preserve.command()
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@reports_errors
def show(path: Path) -> None:
    """Say what the set in PATH holds and what it does not cover: an .npz, or the folder of a build."""
    cases, about = _read(path)
    _print_head(cases, about)
    _print_narrowest(cases)
    _print_gaps(about)
    for entry in (about or {}).get("history", []):
        console.print(
            f"version {entry['version']}: {len(entry['added'])} cases from {entry['source']}, labels "
            f"{entry['labels']}: {entry['reason']} (after {entry['parent'][:12]})"
        )


@preserve.command()
@PROJECT
@OUTPUT
@reports_errors
def check(folder: Path | None, output: Path) -> None:
    """Check the sets: disjoint, consistent, right in the reference, and those that the builds rest on."""
    made = _built(folder, output)  # which raises where the sets touch or the reference is wrong on most cases
    cases, about = _read(made.shared / "preserve")
    assert about is not None
    _print_conflicts(about)
    if wrong := _wrong(cases):
        console.print(f"[yellow]warning[/] the reference is wrong in {len(wrong)} cases of P: {', '.join(wrong[:5])}")
    _check_builds(made, cases)
    console.print(f"ok: {len(cases)} cases, P, C, T apart, hash {cases.content_hash[:12]}")


@preserve.command()
@PROJECT
@OUTPUT
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    required=True,
    help=".npz of inputs [N, ...] and, if known, labels, slices, weights [N].",
)
@click.option("--count", type=click.IntRange(min=1), default=10, show_default=True, help="Cases to propose.")
@click.option("--reason", default="unlike what is known", show_default=True, help="Kept in the set's history.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@reports_errors
def update(folder: Path | None, output: Path, source: Path, count: int, reason: str, yes: bool) -> None:
    """Propose field cases that are unlike all that is known, and keep those confirmed as a new version of your own.

    The old file stays; [preserve] cases in sgsc.toml names the new one.
    """
    from sgsc_micro import preserve as sets

    made = _built(folder, output)
    project = made.project
    known = {name: sets.load(made.shared / "preserve" / f"{name}.npz") for name in "PCT"}
    known["train"] = made.cases_of("train")
    proposal = sets.propose(made.field_cases(source), known, made.features, count)
    _print_proposal(proposal)
    if not yes and not click.confirm(f"preserve these {len(proposal.cases)} cases?"):
        console.print("nothing was changed")
        return
    own, history = project.preserve.cases, made.history
    old = project.path(own) if own else None
    new = sets.next_path(own, sets.version_of(history) + 1)  # relative to sgsc.toml
    why = {"source": source.name, "reason": reason}
    mine = made.own_cases(old) if old else None
    entry = sets.write_version(proposal, mine, history, known["P"].content_hash, project.path(new), why)
    name_cases(project.folder / FILE_NAME, new)
    console.print(
        f"version {entry['version']}: {project.path(new)}, named in {project.folder / FILE_NAME}; next: sgsc build"
    )


def _built(folder: Path | None, output: Path) -> Build:
    """The project with its sets made; no target has a say in them."""
    project = load_project(project_folder(folder))
    with Screen(console, STAGES) as screen:
        made = Build(project, load_target("host"), "host", output, screen.update)
        with locked(made.shared):
            made.run(STAGES[-1])
    return made


def _read(path: Path) -> tuple[CaseSet, dict[str, Any] | None]:
    """A set, and what was noted beside it: of an .npz, a build's shared folder, its preserve/, or a target's folder."""
    from sgsc_micro import preserve as sets

    places = [path] if path.is_file() else [path / part / "P.npz" for part in ("", "preserve", "evidence")]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise SgscError(f"{path}: no P.npz in it", hint="name a set, or the folder of a build")
    about = found.with_name(ABOUT)
    return sets.load(found), read_json(about) if found.name == "P.npz" and about.is_file() else None


def _wrong(cases: CaseSet) -> list[str]:
    from sgsc_micro import preserve as sets

    return list(map(str, cases.ids[~sets.right_cases(cases)]))


def _check_builds(made: Build, cases: CaseSet) -> None:
    """Errors: ``SgscError`` where a compressed network or a library rests on another set."""
    from sgsc_micro import preserve as sets

    record = made.shared / "compress" / RECORD
    if record.is_file() and read_json(record)["inputs"]["preserve"] != record_hash(made.shared / "preserve"):
        raise SgscError(f"{record.parent}: was compressed with other sets", hint="build the project again")
    for kept in sorted(made.root.glob(f"{made.project.name}-*/evidence/P.npz")):
        used = sets.load(kept).content_hash
        if used != cases.content_hash:
            raise SgscError(
                f"{kept.parent.parent}: rests on the set {used[:12]}, the project's is {cases.content_hash[:12]}",
                hint="build the project again",
            )


def _print_head(cases: CaseSet, about: dict[str, Any] | None) -> None:
    from sgsc_micro import preserve as sets

    counts = sets.counts(cases)
    history = (about or {}).get("history", [])
    rows = [("cases", f"{len(cases)}, {cases.strategy}"), ("hash", cases.content_hash)]
    rows += [("version", str(sets.version_of(history)))] if about else []
    rows += [(what, ", ".join(f"{name}: {number}" for name, number in found.items())) for what, found in counts.items()]
    if heavy := int((cases.weights != 1).sum()):
        rows.append(("weights", f"{heavy} cases not 1: {cases.weights.min():g} to {cases.weights.max():g}"))
    for name, text in rows:
        console.print(f"  {name:<10} {text or 'none named'}", markup=False)


def _print_narrowest(cases: CaseSet) -> None:
    from sgsc_micro import preserve as sets

    margins = sets.smallest_margins(cases, cases.reference)
    table = Table("narrowest", "class", "slice", "weight", "margin", box=None, pad_edge=False)
    for row in margins.argsort(kind="stable")[:SHOWN]:
        label = str(cases.labels[row]) if cases.labels.ndim == 1 else ""
        values = (cases.ids[row], label, cases.slices[row], f"{cases.weights[row]:g}", f"{margins[row]:.4g}")
        table.add_row(*map(str, values))
    console.print(table)


def _print_gaps(about: dict[str, Any] | None) -> None:
    if about is None:
        console.print("what it does not cover: known in the folder of a build alone")
        return
    for what, few in about["gaps"].items():
        if few:
            named = ", ".join(f"{name} ({number})" for name, number in few.items())
            console.print(f"[yellow]few or no cases[/] of {what} {named}")
    holes = about["holes"]
    radius = ", ".join(f"{percent} % within {value:.4g}" for percent, value in holes["radius"].items())
    console.print(f"from training cases to the nearest preserved one: {radius}")
    table = Table("farthest", "class", "distance", box=None, pad_edge=False)
    for case in holes["worst"]:
        table.add_row(case["id"], str(case["class"]), f"{case['distance']:.4g}")
    console.print(table)
    _print_conflicts(about)


def _print_conflicts(about: dict[str, Any]) -> None:
    if conflicts := about["label_conflicts"]:
        named = ", ".join(f"{one} = {other}" for one, other in conflicts[:5])
        console.print(f"[yellow]warning[/] {len(conflicts)} near-duplicates in train have different labels: {named}")


def _print_proposal(proposal: Proposal) -> None:
    from sgsc_micro import preserve as sets

    cases = proposal.cases

    table = Table("case", "label", "margin", "distance", "anomaly", box=None, pad_edge=False)
    for row, margin in enumerate(sets.smallest_margins(cases, cases.reference)):
        label = str(cases.labels[row]) if cases.labels.ndim == 1 else "sequence"
        numbers = (f"{value:.4g}" for value in (margin, proposal.distances[row], proposal.scores[row]))
        table.add_row(str(cases.ids[row]), label, *numbers)
    console.print(table)
    if cases.strategy != "user":
        console.print(f"[yellow]no labels in the file[/]: {cases.strategy} decisions; look at the cases")
    left_out = [f"{number} {reason}" for reason, number in proposal.left_out.items() if number]
    if left_out:
        console.print("left out: " + ", ".join(left_out))
