"""What a person sees of a build in the terminal: a line a stage, the guarded loop, the certificate in short."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.status import Status
from rich.table import Table

SHOWN_CASES = 20

WORDS = {
    "reference": "make the reference network ready",
    "preserve": "choose the cases that must keep working",
    "compress": "lower bit-widths under the guard",
    "assess": "bound the flips on unseen data",
    "library": "compile to C",
    "firmware": "build the image",
    "verify": "replay the preserved cases where it runs",
    "report": "write the report",
}


class Screen:
    """Lines that stay for what is done; a spinner for what goes on."""

    def __init__(self, console: Console, stages: tuple[str, ...]) -> None:
        self._console = console
        self._stages = stages
        self._status: Status = console.status("starting")

    def __enter__(self) -> Self:
        self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._status.stop()

    def update(self, stage: str, event: dict[str, Any]) -> None:
        """One event of :mod:`sgsc_micro.pipeline`."""
        label = f"[{self._stages.index(stage) + 1}/{len(self._stages)}] {stage}"
        if "finished" in event:
            time = f"{event['finished']:.1f} s" if event["fresh"] else "nothing to do"
            self._console.print(f"[bold]{_escape(label):<16}[/] {WORDS[stage]:<44} {time}")
            self._status.update("going on")
        elif "step" in event:
            self._console.print(f"    {_journal_line(event)}")
            self._status.update(f"{_escape(label)}: step {event['step'] + 1}")
        elif "done" in event:
            self._status.update(f"{_escape(label)}: case {event['done']} of {event['of']}")
        else:
            self._status.update(f"{_escape(label)}: {_escape(event['note'])}")


def _journal_line(line: dict[str, Any]) -> str:
    """step, what it pressed on, what came of it."""
    if line["accepted"]:
        outcome = "[green]accepted[/]"
    else:
        held = sum(len(channels) for channels in line["raised"].values())
        outcome = f"{_escape(line['reason'])}: step {line['restored']} restored" + (
            f", {held} channels held" if held else ""
        )
        outcome = outcome if line["passed"] else f"[red]{outcome}[/]"
    return f"step {line['step']:>2} {line['phase']:<7} {line['bytes']:>8,} bytes  {outcome}"


def show_certificate(console: Console, certificate: dict[str, Any], folder: Path) -> None:
    """The verdict, what was saved, what it costs; a table of the cases that failed."""
    resources, test = certificate["resources"], certificate["test"]
    passed = certificate["verdict"] == "passed"
    console.print()
    console.print(f"[bold {'green' if passed else 'red'}]{certificate['verdict'].upper()}[/] on {_where(certificate)}")
    console.print(f"  {certificate['statement']}")
    now, before = resources["constant_bytes"], resources["start_constant_bytes"]
    rows = [
        ("constants", f"{now:,} bytes, {100 * now / before:.1f} % of the {before:,} at 8 bits"),
        (
            "test set",
            f"{test['compressed_right']} of {test['decisions']:,} right; the reference {test['reference_right']}",
        ),
    ]
    if firmware := resources["firmware"]:
        flash, ram = firmware["flash_total"], firmware["ram_total"]
        stack = f"stack {firmware['stack']:,} (used {resources['stack_bytes']:,})"
        rows += [
            ("flash", f"{flash:,} bytes: weights {firmware['weights']:,}, code {firmware['code']:,}"),
            ("RAM", f"{ram:,} bytes: arena {firmware['arena']:,}, {stack}"),
            ("one inference", f"{resources['cost']['median']:,} {resources['unit']}"),
        ]
    rows += [("certificate", str(folder / "certificate.json")), ("report", str(folder / "report.html"))]
    for name, text in rows:
        console.print(f"  {name:<14} {text}")
    _show_failures(console, certificate)


def show_board(console: Console, result: dict[str, Any]) -> None:
    """What came of one board, in a line."""
    colour = "green" if result["verdict"] == "passed" else "red"
    console.print(f"[{colour}]{result['verdict']:<7}[/] {_escape(result['board'])}: {_escape(result['reason'])}")


def show_fleet(console: Console, report: dict[str, Any], folder: Path) -> None:
    """The verdict on many boards, and a line for each."""
    boards = [(stage, board) for stage in report["stages"] for board in stage["boards"]]
    good = sum(board["verdict"] == "passed" for _, board in boards)
    colour = "green" if report["verdict"] == "passed" else "red"
    console.print(f"\n[bold {colour}]{report['verdict'].upper()}[/] on {good} of {len(boards)} {report['target']}")
    table = Table("stage", "board", "port", "verdict", "why", "to do", box=None, pad_edge=False)
    for stage, board in boards:
        cells = (stage["name"], board["board"], board["port"] or "", board["verdict"], board["reason"], board["hint"])
        table.add_row(*map(_escape, cells), style="" if board["verdict"] == "passed" else "red")
    console.print(table)
    console.print(f"  report         {folder / 'report.html'}")


def show_compiled(console: Console, folder: Path) -> None:
    """What was made, what it costs, where it lies."""
    from sgsc_micro.codegen import read_manifest
    from sgsc_micro.firmware import read_image

    manifest = read_manifest(folder / "library")
    arena, least = manifest["arena_bytes"], manifest["live_bytes"]
    source, sink = (f"int8 {' x '.join(map(str, manifest[end]['stored_shape']))}" for end in ("input", "output"))
    rows = [
        ("network", f"{source} to {sink}, {len(manifest['layers'])} layers"),
        ("constants", f"{manifest['constant_bytes']:,} bytes"),
        ("arena", f"{arena:,} bytes, {arena - least:,} above what is alive at once"),
    ]
    if (folder / "firmware").is_dir():
        sizes = read_image(folder / "firmware").sizes
        rows += [
            ("flash", f"{sizes.flash_total:,} bytes: weights {sizes.weights:,}, code {sizes.code:,}"),
            ("RAM", f"{sizes.ram_total:,} bytes: arena {sizes.arena:,}, stack {sizes.stack:,}"),
            ("firmware", str(folder / "firmware" / "firmware.bin")),
        ]
    rows.append(("library", str(folder / "library")))
    console.print()
    for name, text in rows:
        console.print(f"  {name:<14} {text}")


def _where(certificate: dict[str, Any]) -> str:
    target = certificate["target"]
    return f"{target['name']} ({target['ran_on']})"


def _show_failures(console: Console, certificate: dict[str, Any]) -> None:
    failures = [case for case in certificate["cases"] if case["verdict"] != "preserved"]
    if not failures:
        return
    table = Table("case", "label", "reference", "here", "verdict", box=None, pad_edge=False)
    for case in failures[:SHOWN_CASES]:
        table.add_row(case["id"], *(str(case[key]) for key in ("label", "reference", "decision")), case["verdict"])
    console.print(table)
    if len(failures) > SHOWN_CASES:
        console.print(f"and {len(failures) - SHOWN_CASES} more: see the certificate")


def _escape(text: str) -> str:
    return text.replace("[", r"\[")
