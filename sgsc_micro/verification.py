"""A finished build, verified where it runs: whole, all of one make, and every preserved case replayed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgsc_micro.artifacts import LIBRARY, check_artifacts, check_unaltered
from sgsc_micro.errors import SgscError
from sgsc_micro.files import read_json
from sgsc_micro.project import Policy
from sgsc_micro.sources import read_network
from sgsc_micro.stages import RECORD
from sgsc_micro.targets import Board, Target

if TYPE_CHECKING:
    from sgsc_micro.verify import Place

Event = dict[str, Any]
Progress = Callable[[str, Event], None]
"""Called with a stage's name and what happened: {"done", "of"} or a line of the journal or {"note"}."""

CERTIFICATE, REPORT = "certificate.json", "report.html"
EVIDENCE = "evidence"
"""The folder of what a certificate rests on."""


@dataclass(frozen=True)
class Verification:
    """A finished build, verified where it runs."""

    folder: Path
    target: Target
    progress: Progress

    def run(self, port: str | None) -> dict[str, Any]:
        """Replay P on the host, the twin or the board on ``port``; write and return the certificate.

        Errors: ``SgscError`` where the build is not whole, or the link fails for good.
        """
        import numpy as np

        from sgsc_micro import reference
        from sgsc_micro.codegen import HostLibrary, read_manifest, to_stored
        from sgsc_micro.device import connect
        from sgsc_micro.firmware import read_image
        from sgsc_micro.preserve import load
        from sgsc_micro.verify import (
            Assessment,
            Evidence,
            Place,
            certify,
            replay_on_device,
            replay_on_host,
            write_certificate,
        )

        if self.target.board is None and port is not None:
            raise SgscError("the host has no port", hint="leave --port away, or name the board's target")
        if self.target.board is None and (self.folder / "firmware").exists():
            raise SgscError(
                f"{self.folder}: was built for a board", hint="verify it there; `sgsc run --on host` runs it here"
            )
        if not (self.folder / EVIDENCE).exists():
            raise SgscError(
                f"{self.folder}: has no preserved cases to verify",
                hint="`sgsc build` makes a build with them; `sgsc run` runs this one",
            )
        check_whole(self.folder, self.target)
        library, evidence_folder = self.folder / LIBRARY, self.folder / EVIDENCE
        manifest, cases = read_manifest(library), load(evidence_folder / "P.npz")
        evidence = Evidence(
            project=read_json(evidence_folder / "project.json")["name"],
            manifest=manifest,
            cases=cases,
            policy=Policy.model_validate(read_json(evidence_folder / "policy.json")),
            assessment=Assessment(**read_json(evidence_folder / "assessment.json")),
            start_constant_bytes=read_json(evidence_folder / "summary.json")["start_bytes"],
        )
        stored = to_stored(manifest, cases.inputs)
        host = HostLibrary(library)
        expected = host.run(stored)
        exact = reference.run_integers(read_network(evidence_folder), cases.inputs).reshape(expected.shape)
        if not np.array_equal(expected, exact):
            wrong = cases.ids[(expected != exact).any(axis=1)].tolist()
            raise SgscError(
                f"the C library and the integer reference differ on {', '.join(wrong)}", hint="report this as a bug"
            )
        if self.target.board is None:
            image, place, outcomes = None, Place("host", "host"), replay_on_host(host, stored)
        else:
            image = read_image(self.folder / "firmware")
            place = _place(self.target.board, port)
            with connect(self.target, image, port) as device:
                if device.hello().model_hash != manifest["model_hash"]:
                    raise SgscError(
                        f"{place.name}: runs another model than {library}", hint="build and flash the firmware again"
                    )
                outcomes = replay_on_device(device, stored, self._count(len(cases)))
        certificate = certify(evidence, self.target, place, image, outcomes, expected)
        write_certificate(certificate, self.folder / CERTIFICATE)
        return certificate

    def _count(self, cases: int) -> Callable[[int], None]:
        return lambda done: self.progress("verify", {"done": done, "of": cases})


def _place(board: Board, port: str | None) -> Place:
    from sgsc_micro.verify import Place

    if port is not None:
        return Place("board", port)
    return Place("emulated", board.emulator.machine if board.emulator else "no twin")


def check_whole(folder: Path, target: Target) -> None:
    """Errors: ``SgscError`` where a build's files are missing, altered, or of different builds."""
    check_artifacts(folder, target)
    check_unaltered(folder / EVIDENCE)
    inputs = [read_json(folder / stage / RECORD)["inputs"] for stage in (LIBRARY, EVIDENCE)]
    if inputs[0].get("compress") != inputs[1]["compress"]:
        raise SgscError(f"{folder}: its parts are of different builds", hint="build the project again")


def write_build_report(folder: Path) -> Path:
    """The page for a person, from the files of a verified build."""
    from sgsc_micro.codegen import read_manifest
    from sgsc_micro.report import write_report
    from sgsc_micro.verify import read_certificate

    lines = (folder / "evidence" / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    journal = [json.loads(line) for line in lines[1:]]  # the first says what the run was of
    memory_map = (folder / "library" / "memory.svg").read_text(encoding="utf-8")
    certificate = read_certificate(folder / CERTIFICATE)
    return write_report(folder, read_manifest(folder / "library"), memory_map, journal, certificate)
