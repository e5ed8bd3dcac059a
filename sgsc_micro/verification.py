"""A finished build, verified where it runs: whole, all of one make, and every preserved case replayed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgsc_micro.artifacts import FIRMWARE, LIBRARY, check_artifacts, check_unaltered
from sgsc_micro.errors import SgscError
from sgsc_micro.files import read_json
from sgsc_micro.project import Policy
from sgsc_micro.sources import read_network
from sgsc_micro.stages import RECORD
from sgsc_micro.targets import Board, Target

if TYPE_CHECKING:
    import numpy as np

    from sgsc_micro.codegen import HostLibrary
    from sgsc_micro.firmware import FirmwareImage
    from sgsc_micro.verify import Evidence, Place

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
        from sgsc_micro.verify import write_certificate

        if self.target.board is None and port is not None:
            raise SgscError("the host has no port", hint="leave --port away, or name the board's target")
        expectation = expect(self.folder, self.target)
        of = len(expectation.stored)
        certificate = expectation.certify(port, lambda done: self.progress("verify", {"done": done, "of": of}))
        write_certificate(certificate, self.folder / CERTIFICATE)
        return certificate


@dataclass(frozen=True)
class Expectation:
    """A build that is whole, and what every preserved case has to give; threads may share it."""

    target: Target
    image: FirmwareImage | None
    evidence: Evidence
    host: HostLibrary
    stored: np.ndarray
    """int8 [N, bytes]: the cases as the network takes them."""
    expected: np.ndarray
    """int8 [N, bytes]: on the host, equal to the integer reference's."""

    def certify(self, port: str | None, done: Callable[[int], None]) -> dict[str, Any]:
        """The certificate of a replay on the host, the twin or the board on ``port``; ``done`` gets a number of cases.

        Errors: ``SgscError`` where the link fails for good, or not this image answers.
        """
        from sgsc_micro.device import connect
        from sgsc_micro.verify import Place, certify, replay_on_device, replay_on_host

        if self.image is None:
            place, outcomes = Place("host", "host"), replay_on_host(self.host, self.stored)
        else:
            place = _place(self.target.require_board(), port)
            with connect(self.target, self.image, port) as device:
                if device.hello().model_hash != self.evidence.manifest["model_hash"]:
                    raise SgscError(
                        f"{place.name}: runs another model than the library's",
                        hint="build and flash the firmware again",
                    )
                outcomes = replay_on_device(device, self.stored, done)
        return certify(self.evidence, self.target, place, self.image, outcomes, self.expected)


def expect(folder: Path, target: Target) -> Expectation:
    """What a replay of the build in ``folder`` is held against.

    Errors: ``SgscError`` where it is not whole, not for ``target``, or its library and the reference differ.
    """
    import numpy as np

    from sgsc_micro import reference
    from sgsc_micro.codegen import HostLibrary, read_manifest, to_stored
    from sgsc_micro.firmware import read_image
    from sgsc_micro.preserve import load
    from sgsc_micro.verify import Assessment, Evidence

    if target.board is None and (folder / FIRMWARE).exists():
        raise SgscError(f"{folder}: was built for a board", hint="verify it there; `sgsc run --on host` runs it here")
    if not (folder / EVIDENCE).exists():
        raise SgscError(
            f"{folder}: has no preserved cases to verify",
            hint="`sgsc build` makes a build with them; `sgsc run` runs this one",
        )
    check_whole(folder, target)
    library, evidence_folder = folder / LIBRARY, folder / EVIDENCE
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
    image = read_image(folder / FIRMWARE) if target.board else None
    return Expectation(target, image, evidence, host, stored, expected)


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
