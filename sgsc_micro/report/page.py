"""From manifest, journal and certificate to ``report.html``; the wording and the order are the template's."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from sgsc_micro.errors import SgscError
from sgsc_micro.files import write_text
from sgsc_micro.report import charts

REPORT_NAME = "report.html"


@dataclass(frozen=True)
class Part:
    """A piece of a memory, as a segment of a bar and a row of a table."""

    kind: str  # of colour, a class in report.css
    name: str
    bytes: int


def write_report(
    folder: Path,
    manifest: dict[str, Any],
    memory_map: str,
    journal: list[dict[str, Any]],
    certificate: dict[str, Any],
) -> Path:
    """Write ``report.html`` into the build folder and return its path; the same arguments give the same bytes.

    ``memory_map`` is the library's picture of its arena, SVG; ``journal`` holds the guarded run's steps, without the
    line that identifies the run; empty where there was none.

    Raises SgscError if manifest and certificate are not about the same model.
    """
    if manifest["model_hash"] != certificate["hashes"]["model"]:
        raise SgscError("report: manifest and certificate are about different models", hint="build and verify again")
    place = certificate["target"]["kind"]
    firmware = certificate["resources"]["firmware"]
    page = _environment().get_template("report.html.j2")
    html = page.render(
        certificate=certificate,
        manifest=manifest,
        rejected=[line for line in journal if not line["accepted"]],
        steps=len(journal),
        place=place,
        violating=[case for case in certificate["cases"] if case["verdict"] != "preserved"],
        flash=_flash(firmware) if firmware else [],
        ram=_ram(firmware) if firmware else [],
        average_bits=_average_bits(manifest["layers"]),
        memory_map=Markup(memory_map),
        widths_chart=Markup(charts.widths(manifest["layers"])),
        journal_chart=Markup(charts.guarded_loop(journal)) if journal else "",
        check_command=_check_command(folder, place, certificate["target"]),
    )
    path = folder / REPORT_NAME
    write_text(path, html)
    return path


def write_fleet_page(path: Path, report: dict[str, Any]) -> None:
    """Write the page of a report on many boards to ``path``; links lead to the certificates beside it."""
    boards = [board for stage in report["stages"] for board in stage["boards"]]
    write_text(path, _environment().get_template("fleet.html.j2").render(report=report, boards=boards))


def _flash(firmware: dict[str, int]) -> list[Part]:
    weights, code = firmware["weights"], firmware["code"]
    rest = firmware["flash_total"] - weights - code
    return [
        Part("weights", "Weights, biases, multipliers", weights),
        Part("code", "Code", code),
        Part("other", "Other: tables, initial values, alignment", rest),
    ]


def _ram(firmware: dict[str, int]) -> list[Part]:
    arena, stack = firmware["arena"], firmware["stack"]
    rest = firmware["ram_total"] - arena - stack
    return [
        Part("weights", "Arena: input, output, activations, scratch", arena),
        Part("code", "Stack, as reserved", stack),
        Part("other", "Buffers and variables", rest),
    ]


def _average_bits(layers: list[dict[str, Any]]) -> float:
    """Of all weights that are left, widths of 0 included."""
    weighted = [layer for layer in layers if "widths" in layer]
    bits: int = sum(sum(layer["widths"]) * layer["taps"] for layer in weighted)
    weights: int = sum(len(layer["widths"]) * layer["taps"] for layer in weighted)
    return bits / weights


def _check_command(folder: Path, place: str, target: dict[str, str]) -> str:
    words = ["python", "-m", "sgsc_micro", "verify", f"build/{folder.resolve().name}"]
    if place == "board":
        words += ["--port", target["ran_on"]]
    return shlex.join(words)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sgsc_micro.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": "{:,}".format, "share": _share, "bound": _bound, "moment": _moment}
    return environment


def _share(part: int, whole: int) -> str:
    """A per cent figure.

    >>> _share(5324, 18764)
    '28.4\N{NO-BREAK SPACE}%'
    """
    return f"{100 * part / whole:.1f}\N{NO-BREAK SPACE}%"


def _bound(rate: float) -> str:
    """An upper bound in per cent, which may only be rounded up.

    >>> _bound(0.00741)
    '0.75\N{NO-BREAK SPACE}%'
    """
    return f"{Decimal(str(100 * rate)).quantize(Decimal('0.01'), ROUND_CEILING)}\N{NO-BREAK SPACE}%"


def _moment(created: str) -> str:
    """An ISO 8601 moment as a person writes it.

    >>> _moment("2026-03-01T10:30:15+02:00")
    '2026-03-01 08:30 UTC'
    """
    return f"{datetime.fromisoformat(created).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
