"""``sgsc verify`` and ``sgsc rollout``: one board or many."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from sgsc_micro.artifacts import built_for
from sgsc_micro.errors import SgscError
from sgsc_micro.files import locked
from sgsc_micro.show import Screen, show_board, show_certificate, show_fleet
from sgsc_micro.targets import Target, load_target
from sgsc_micro.terminal import BUILD_FOLDER, console, reports_errors
from sgsc_micro.verification import Verification, write_build_report

BOARDS = "boards"
"""The folder, in a build's, of a verification of several boards."""


@click.command()
@BUILD_FOLDER
@click.option("--on", "target_name", help="Where to run it: the target it was built for, which is the default.")
@click.option(
    "--port", "ports", multiple=True, help="The serial port of a board; without it, the emulated twin. Repeat it."
)
@click.option("--all", "every", is_flag=True, help="Every board of the target that is plugged in.")
@reports_errors
def verify(folder: Path, target_name: str | None, ports: tuple[str, ...], every: bool) -> None:
    """Replay the preservation set of the build in FOLDER and write its certificate anew.

    Several boards are verified at once, with a certificate for each and one report, in FOLDER/boards.
    """
    target = load_target(target_name) if target_name else built_for(folder)
    if every or len(ports) > 1:
        _verify_fleet(folder, target, ports, every)
        return
    with locked(folder), Screen(console, ("verify", "report")) as screen:
        certificate = Verification(folder, target, screen.update).run(ports[0] if ports else None)
        write_build_report(folder)
    show_certificate(console, certificate, folder)
    sys.exit(certificate["verdict"] != "passed")


def _verify_fleet(folder: Path, target: Target, ports: tuple[str, ...], every: bool) -> None:
    from sgsc_micro.device.boards import find_site, find_sites, no_board
    from sgsc_micro.fleet import name_sites, verify_fleet
    from sgsc_micro.verification import expect

    target.require_board()
    if every and ports:
        raise SgscError("--all and --port", hint="give one of them")
    found = find_sites(target) if every else [find_site(target, port) for port in ports]
    if not found:
        raise no_board(target)
    sites = name_sites(found)
    with locked(folder), _several() as say:
        report = verify_fleet(expect(folder, target), sites, folder / BOARDS, say)
    show_fleet(console, report.model_dump(), folder / BOARDS)
    sys.exit(report.verdict != "passed")


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@reports_errors
def rollout(file: Path) -> None:
    """Flash and verify many boards stage by stage, as FILE (.toml) says.

    Report and certificates go into a folder of the file's name. Killed or stopped, it goes on where it was.
    """
    from sgsc_micro.rollout import run_rollout

    folder = file.with_suffix("")
    if folder == file:
        raise SgscError(f"{file}: has no suffix", hint="name it .toml: its results go into a folder of that name")
    with locked(folder), _several() as say:
        report = run_rollout(file, folder, say, lambda result: show_board(console, result.model_dump()))
    show_fleet(console, report.model_dump(), folder)


@contextmanager
def _several() -> Iterator[Callable[[str, str], None]]:
    """What goes on at each board, on one line; to be called from any thread."""
    doing: dict[str, str] = {}
    lock = threading.Lock()
    with console.status("checking the build") as status:

        def say(board: str, text: str) -> None:
            with lock:
                doing[board] = text
                status.update(", ".join(f"{name}: {words}" for name, words in sorted(doing.items())))

        yield say
