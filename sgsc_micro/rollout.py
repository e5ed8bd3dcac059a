"""A build onto many boards, stage by stage: each is flashed and verified, and certificates open the next stage."""

from __future__ import annotations

import contextlib
import math
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sgsc_micro.artifacts import FIRMWARE, built_for
from sgsc_micro.device.boards import Site, find_site, find_sites, no_board
from sgsc_micro.errors import SgscError
from sgsc_micro.files import read_json
from sgsc_micro.fleet import (
    REPORT,
    BoardResult,
    FleetReport,
    Note,
    Say,
    StageResult,
    name_sites,
    on_boards,
    replay,
    write_fleet_report,
)
from sgsc_micro.verification import expect

if TYPE_CHECKING:
    from sgsc_micro.targets import Target


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Stage(_Table):
    """Boards that are taken on at once, and what must hold of them before the next stage begins."""

    name: Annotated[str, Field(min_length=1)]
    boards: tuple[str, ...] = ()
    """Serial numbers of USB, or ports."""
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    """Instead: of all boards of the target that are plugged in, rounded up, earlier stages' counted."""
    max_failed: Annotated[int, Field(ge=0)] = 0
    """So many may fail."""
    max_cost: Annotated[int, Field(gt=0)] | None = None
    """Of the slowest case, in the board's own unit (cycles)."""

    @model_validator(mode="after")
    def _boards_or_share(self) -> Self:
        if bool(self.boards) == (self.share is not None):
            raise ValueError("name either boards or a share")
        return self

    def fault(self, result: BoardResult) -> str | None:
        """Why a board does not count as good; None if it does."""
        if result.verdict != "passed":
            return result.reason
        if self.max_cost is not None and result.cost is not None and result.cost > self.max_cost:
            return f"its slowest case took {result.cost:,}, max_cost is {self.max_cost:,}"
        return None


class Rollout(_Table):
    """A roll-out file."""

    build: Path
    """The build's folder, relative to the file."""
    method: str | None = None
    """One of the target's flashers; None: the first that reaches the board and is installed."""
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        for what, names in (
            ("stages", [stage.name for stage in self.stages]),
            ("boards", [board for stage in self.stages for board in stage.boards]),
        ):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{what} named twice: {', '.join(twice)}")
        return self


def read_rollout(path: Path) -> Rollout:
    """The roll-out at ``path``. Errors: ``SgscError`` naming the file and the key that is wrong."""
    try:
        return Rollout.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise SgscError(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        faults = [f"{path}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise SgscError("; ".join(faults), hint="docs/boards.md lists the keys") from error
    except ValueError as error:  # of tomllib, or of the text's encoding
        raise SgscError(f"{path}: not TOML: {error}") from error


def run_rollout(path: Path, folder: Path, say: Say, ended: Callable[[BoardResult], None]) -> FleetReport:
    """Flash and verify, stage by stage, until one is not good enough. Report and certificates go into ``folder``.

    What an earlier run wrote there is gone on from: boards that passed are left alone. ``ended`` gets each result.

    Errors: ``SgscError`` where a gate stays shut, naming stage, boards and reasons; where ``folder`` is of another
    image.
    """
    from sgsc_micro.device.flash import flash
    from sgsc_micro.firmware import read_image

    rollout = read_rollout(path)
    build = path.parent / rollout.build
    target = built_for(build)
    target.require_board()
    image = read_image(build / FIRMWARE)
    before = _passed(folder, image.sha256)
    expectation = expect(build, target)
    passed = {result.board: result for boards in before.values() for result in boards}

    def work(site: Site, note: Note) -> dict[str, Any]:
        flash(target, image, site, note, method=rollout.method)
        return replay(expectation, site, note)

    stages = [StageResult(name=stage.name, boards=before.get(stage.name, ())) for stage in rollout.stages]
    for index, stage in enumerate(rollout.stages):
        sites = _sites(stage, target, [result for ended_stage in stages[:index] for result in ended_stage.boards])
        results = {board: passed[board] for board in sites if board in passed}
        rest = {board: site for board, site in sites.items() if board not in passed}
        with contextlib.closing(on_boards(rest, work, folder, say)) as fresh:
            for result in fresh:
                results[result.board] = result
                # On disk before anything else happens: a roll-out that is killed goes on from here.
                stages[index] = StageResult(name=stage.name, boards=tuple(results.values()))
                write_fleet_report(expectation, folder, stages)
                ended(result)
        faults = {board: fault for board in sites if (fault := stage.fault(results[board]))}
        is_open = len(faults) <= stage.max_failed and len(faults) < max(1, len(sites))
        boards = tuple(results[board] for board in sites)
        stages[index] = StageResult(name=stage.name, verdict="passed" if is_open else "failed", boards=boards)
        report = write_fleet_report(expectation, folder, stages)
        if not is_open:
            raise _stopped(stage, boards, faults)
    return report


def _stopped(stage: Stage, boards: Sequence[BoardResult], faults: Mapping[str, str]) -> SgscError:
    named = "; ".join(f"{board}: {fault}" for board, fault in faults.items())
    hints = {result.hint for result in boards if result.board in faults} - {""}
    return SgscError(
        f"stopped at stage {stage.name}, {len(faults)} of {len(boards)} boards failed: {named}",
        hint="; ".join([*sorted(hints), "then the same command goes on with the boards that have not passed"]),
    )


def _sites(stage: Stage, target: Target, earlier: Sequence[BoardResult]) -> dict[str, Site]:
    """The stage's boards by the names that the file or USB gives them."""
    if stage.share is None:
        return {
            board: find_site(target, port=board) if "/" in board else find_site(target, probe=board)
            for board in stage.boards
        }
    plugged = name_sites(find_sites(target))
    if not plugged:
        raise no_board(target)
    taken = {os.path.realpath(result.port) for result in earlier if result.port}
    rest = {board: site for board, site in plugged.items() if os.path.realpath(site.port or "") not in taken}
    count = math.ceil(round(stage.share * len(plugged), 9)) - (len(plugged) - len(rest))
    return {board: rest[board] for board in sorted(rest)[: max(0, count)]}


def _passed(folder: Path, firmware: str) -> dict[str, tuple[BoardResult, ...]]:
    """By stage, the boards that have passed in an earlier run, which was killed or stopped."""
    if not (folder / REPORT).is_file():
        return {}
    try:
        report = FleetReport.model_validate(read_json(folder / REPORT))
    except ValidationError as error:
        raise SgscError(f"{folder / REPORT}: not a report of this program", hint="remove it to start anew") from error
    if report.firmware != firmware:
        raise SgscError(
            f"{folder}: is the roll-out of another image ({report.firmware[:12]}, not {firmware[:12]})",
            hint="remove the folder, or name the roll-out file otherwise",
        )
    return {
        stage.name: tuple(result for result in stage.boards if result.verdict == "passed") for stage in report.stages
    }
