"""Several boards at once: each in a thread of its own, a certificate for each, one report of all."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from sgsc_micro.device.boards import Site
from sgsc_micro.errors import SgscError
from sgsc_micro.files import write_json

if TYPE_CHECKING:
    from sgsc_micro.verification import Expectation

REPORT, PAGE = "report.json", "report.html"
Note = Callable[[str], None]
"""Called with what goes on at a board, in words."""
Say = Callable[[str, str], None]
"""The same, for many: a board's name, and words. From any thread."""
Work = Callable[[Site, Note], dict[str, Any]]
"""What is done with one board; its certificate. Errors: ``SgscError``."""


StageVerdict = Literal["passed", "failed", "open"]
"""Open: not all of its boards have been taken on."""


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BoardResult(_Value):
    """What came of one board."""

    board: str
    port: str | None
    verdict: Literal["passed", "failed", "error"]
    """The certificate's; error: there is none."""
    reason: str
    """The certificate's statement, or what went wrong."""
    hint: str = ""
    certificate: str | None = None
    """Its file, beside the report."""
    cost: int | None = None
    """Of the slowest case, in the board's own unit."""


class StageResult(_Value):
    """Boards that were taken on together, and whether that went as it had to."""

    name: str
    verdict: StageVerdict = "open"
    boards: tuple[BoardResult, ...] = ()


class FleetReport(_Value):
    """All of them."""

    format: Literal[1] = 1
    project: str
    target: str
    firmware: str
    """SHA-256 of the image."""
    verdict: StageVerdict
    stages: tuple[StageResult, ...]


def verify_fleet(expectation: Expectation, sites: Mapping[str, Site], folder: Path, say: Say) -> FleetReport:
    """Replay P on every board; certificates and report go into ``folder``."""
    results = list(on_boards(sites, partial(replay, expectation), folder, say))
    results.sort(key=lambda result: list(sites).index(result.board))
    verdict: StageVerdict = "passed" if all(result.verdict == "passed" for result in results) else "failed"
    return write_fleet_report(expectation, folder, [StageResult(name="verify", verdict=verdict, boards=tuple(results))])


def replay(expectation: Expectation, site: Site, note: Note) -> dict[str, Any]:
    """The certificate of one board that has been flashed."""
    return expectation.certify(_port(site), lambda done: note(f"case {done} of {len(expectation.stored)}"))


def on_boards(sites: Mapping[str, Site], work: Work, folder: Path, say: Say) -> Generator[BoardResult]:
    """Do ``work`` on all boards at once; the results as they come. A board's certificate goes into ``folder``.

    Where the caller is interrupted, the boards stop at their next note.
    """
    stop = threading.Event()

    def note(board: str, text: str) -> None:
        if stop.is_set():
            raise SgscError("stopped")
        say(board, text)

    def one(board: str, site: Site) -> BoardResult:
        from sgsc_micro.verify import write_certificate

        name = "certificate-" + re.sub(r"[^\w.-]+", "_", board.removeprefix("/dev/")) + ".json"
        (folder / name).unlink(missing_ok=True)  # of an earlier run
        try:
            certificate = work(site, partial(note, board))
        except SgscError as error:
            return BoardResult(board=board, port=site.port, verdict="error", reason=error.message, hint=error.hint)
        write_certificate(certificate, folder / name)
        return BoardResult(
            board=board,
            port=site.port,
            verdict=certificate["verdict"],
            reason=certificate["statement"],
            certificate=name,
            cost=certificate["resources"]["cost"]["max"],
        )

    with ThreadPoolExecutor(max_workers=max(1, len(sites))) as pool:
        try:
            for future in as_completed([pool.submit(one, *item) for item in sites.items()]):
                yield future.result()
        finally:
            stop.set()


def name_sites(sites: Sequence[Site]) -> dict[str, Site]:
    """Boards by serial number, where they have one of their own; else by port.

    Errors: ``SgscError`` where one is there twice.
    """
    serials = [site.probe for site in sites]
    named: dict[str, Site] = {}
    for site in sites:
        name = site.probe if site.probe and serials.count(site.probe) == 1 else _port(site)
        if any(os.path.realpath(_port(site)) == os.path.realpath(_port(other)) for other in named.values()):
            raise SgscError(f"{site}: named twice", hint="name every board once")
        named[name] = site
    return named


def write_fleet_report(expectation: Expectation, folder: Path, stages: Sequence[StageResult]) -> FleetReport:
    """Write ``report.json`` and the page for a person into ``folder``."""
    from sgsc_micro.report import write_fleet_page

    assert expectation.image is not None
    verdicts: list[StageVerdict] = [stage.verdict for stage in stages]
    report = FleetReport(
        project=expectation.evidence.project,
        target=expectation.target.name,
        firmware=expectation.image.sha256,
        verdict=next((verdict for verdict in verdicts if verdict != "passed"), "passed"),
        stages=tuple(stages),
    )
    write_json(folder / REPORT, report.model_dump(mode="json"))
    write_fleet_page(folder / PAGE, report.model_dump(mode="json"))
    return report


def _port(site: Site) -> str:
    if site.port is None:
        raise SgscError(f"probe {site.probe}: shows no serial port", hint="is the board plugged in?")
    return site.port
