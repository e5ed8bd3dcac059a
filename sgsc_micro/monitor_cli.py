"""``sgsc monitor``: a device that runs a build, checked on a schedule."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from sgsc_micro.artifacts import FIRMWARE, built_for
from sgsc_micro.errors import SgscError
from sgsc_micro.files import locked
from sgsc_micro.targets import load_target
from sgsc_micro.terminal import BUILD_FOLDER, console, reports_errors

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def _seconds(context: click.Context, parameter: click.Parameter, text: str) -> float:
    """``60``, ``90s``, ``5m``, ``1.5h``, ``1d`` in seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if found is None:
        raise click.BadParameter(f"{text!r} is no time: 60s, 5m, 1h or 1d", context, parameter)
    return float(found[1]) * _UNITS[found[2]]


@click.command()
@BUILD_FOLDER
@click.option("--on", "target_name", help="The target it was built for, which is what it is without this.")
@click.option("--port", help="The serial port of a real board; without it, the emulated twin.")
@click.option("--every", callback=_seconds, default="60s", show_default=True, help="From one round to the next.")
@click.option("--times", type=click.IntRange(min=1), help="How many rounds; without it, until it is interrupted.")
@click.option("--cases", type=click.IntRange(min=1), default=10, show_default=True, help="Preserved cases in a round.")
@click.option("--log", type=click.Path(path_type=Path, dir_okay=False), help="JSON lines; FOLDER/monitor.jsonl.")
@reports_errors
def monitor(
    folder: Path,
    target_name: str | None,
    port: str | None,
    every: float,
    times: int | None,
    cases: int,
    log: Path | None,
) -> None:
    """Watch a device that runs the build in FOLDER: its flash, and a part of the preserved cases, round after round.

    Ends with exit code 1 at the first bit of flash that has changed, answer that is not the host's, or silence.
    """
    from sgsc_micro.device import connect
    from sgsc_micro.firmware import read_image
    from sgsc_micro.monitor import LOG, Log, Monitor, Schedule
    from sgsc_micro.verification import expect

    target = load_target(target_name) if target_name else built_for(folder)
    if target.board is None:
        raise SgscError(f"{folder}: no device runs it", hint="monitor a build for a board or an emulated core")
    with locked(folder):
        known, image = expect(folder, target), read_image(folder / FIRMWARE)
    book = Log(log or folder / LOG)

    def show(passed: dict[str, Any]) -> None:
        low, high = passed["cost"]
        console.print(
            f"round {book.round}: flash intact, {len(passed['cases'])} cases bit-exact, "
            f"{low:,} to {high:,} {passed['unit']}"
        )

    with book.failures(), connect(target, image, port) as device:
        watch = Monitor(device, image, known.evidence.cases.ids, known.stored, known.expected, book)
        watch.run(Schedule(every, times, cases), show)
