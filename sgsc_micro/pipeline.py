"""The way through: every stage in order, each reading the files of the one before and writing its own.

Heavy imports (torch, TVM) happen inside the stages, so that ``sgsc --help`` and a build with nothing to do are quick.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgsc_micro.errors import SgscError
from sgsc_micro.files import sha256_bytes, sha256_file, write_json
from sgsc_micro.project import Policy, Project
from sgsc_micro.stages import altered_files, code_hash, run_stage
from sgsc_micro.targets import Board, Target

if TYPE_CHECKING:
    import numpy as np
    import tvm

    from sgsc_micro.preserve import CaseSet
    from sgsc_micro.user_code import UserCode
    from sgsc_micro.verify import Place

Event = dict[str, Any]
Progress = Callable[[str, Event], None]
"""Called with a stage's name and what happened: {"done", "of"} or a line of the journal or {"note"}."""

THREADS = 2
"""Of torch: how a sum is split over threads changes its last bit, and the same seed must give the same bytes."""

STAGES = ("reference", "preserve", "compress", "assess", "library", "firmware", "verify", "report")


@dataclass(frozen=True)
class Build:
    """One project on one target: where its files lie and how each stage makes them."""

    project: Project
    target: Target
    target_name: str
    """As the user wrote it: names the folder."""
    root: Path
    progress: Progress

    @property
    def shared(self) -> Path:
        """What does not depend on the target."""
        return self.root / self.project.name

    @property
    def folder(self) -> Path:
        """What does."""
        return self.root / f"{self.project.name}-{self.target_name}"

    def run(self, until: str, port: str | None = None) -> dict[str, Any] | None:
        """Every stage up to ``until``; the certificate, where it was reached.

        Errors: ``SgscError`` from any stage; what earlier stages made stays, and the next build goes on from there.
        """
        certificate = None
        for name in STAGES[: STAGES.index(until) + 1]:
            began = time.monotonic()
            if name == "verify":
                certificate = Verification(self.folder, self.target, self.progress).run(port)
                fresh = True
            elif name == "report":
                write_build_report(self.folder)
                fresh = True
            else:
                fresh = getattr(self, f"_{name}")()
            self.progress(name, {"finished": round(time.monotonic() - began, 1), "fresh": fresh})
        return certificate

    @cached_property
    def _user(self) -> UserCode:
        from sgsc_micro.user_code import UserCode

        return UserCode(self.project)

    def _reference(self) -> bool:
        """The trained network as torch exports it, its layers known to lower before anything is trained."""
        import torch

        from sgsc_micro.compress import check_supported

        def export(network: torch.nn.Module) -> torch.export.ExportedProgram:
            program = torch.export.export(network, (torch.from_numpy(self._user.data["train"].inputs[:1]),))
            check_supported(program)
            return program

        def work(folder: Path) -> None:
            torch.export.save(export(self._user.trained_network()), folder / "network.pt2")

        torch.set_num_threads(THREADS)
        if not self._user.checkpoint.is_file():
            export(self._user.network().eval())
            self._user.train(lambda line: self.progress("reference", {"note": line}))
        inputs = {
            "source": self._user.source_hash,
            "checkpoint": sha256_file(self._user.checkpoint),
            "data": self._user.data_hash,
            "torch": torch.__version__,
            "code": code_hash("compress/graph.py"),
        }
        return run_stage(self.shared / "reference", inputs, work)

    def _preserve(self) -> bool:
        """P out of the training side, C and T, all with the reference's outputs, none overlapping another."""
        from sgsc_micro import preserve

        def work(folder: Path) -> None:
            answer = self._reference_answers()
            splits = {
                name: preserve.CaseSet(
                    _ids(name, split.labels), split.inputs, split.labels, answer(split.inputs), "all"
                )
                for name, split in self._user.data.items()
            }
            chosen = self._chosen(splits["train"], answer)
            preserve.check_disjoint(chosen, splits["calibration"], splits["test"], splits["train"])
            for name, cases in (("P", chosen), ("C", splits["calibration"]), ("T", splits["test"])):
                preserve.save(cases, folder / f"{name}.npz")

        own = self.project.preserve.cases
        inputs = self.project.preserve.model_dump(mode="json") | {
            "reference": _record(self.shared / "reference"),
            "cases": sha256_file(self.project.path(own)) if own else None,
            "code": code_hash("preserve"),
        }
        return run_stage(self.shared / "preserve", inputs, work)

    def _chosen(self, train: CaseSet, answer: Callable[[np.ndarray], np.ndarray]) -> CaseSet:
        from sgsc_micro import preserve

        settings = self.project.preserve
        sets = []
        if settings.size:
            sets.append(preserve.choose(train.inputs, train.labels, train.reference, settings.size, settings.strategy))
        if settings.cases:
            sets.append(preserve.load_user_cases(self.project.path(settings.cases), train.inputs.shape[1:], answer))
        return preserve.merge(sets)

    def _compress(self) -> bool:
        """Guarded self-compression; the accepted network as Relax QDQ."""
        import numpy as np
        import torch

        from sgsc_micro import preserve
        from sgsc_micro.codegen import stored_bytes
        from sgsc_micro.compress import compress
        from sgsc_micro.passes import optimise

        torch.set_num_threads(THREADS)
        cases = preserve.load(self.shared / "preserve" / "P.npz")

        def work(folder: Path) -> None:
            train = self._user.data["train"]
            free = ~np.isin(_ids("train", train.labels), cases.ids)
            result = compress(
                torch.export.load(self.shared / "reference" / "network.pt2"),
                train.inputs[free],
                train.labels[free],
                cases,
                lambda module: stored_bytes(optimise(module)),
                folder,
                self.project.compress,
                self.project.policy,
                lambda line: self.progress("compress", line),
            )
            torch.export.save(result.program, folder / "network.pt2")
            write_json(
                folder / "summary.json", {"stored_bytes": result.stored_bytes, "start_bytes": result.start_bytes}
            )

        inputs = {
            "compress": self.project.compress.model_dump(mode="json"),
            "policy": self.project.policy.model_dump(mode="json"),
            "reference": _record(self.shared / "reference"),
            "preserve": _record(self.shared / "preserve"),
            "code": code_hash("compress", "reference", "importers", "passes", "kernels", "storage.py"),
        }
        return run_stage(self.shared / "compress", inputs, work)

    def _assess(self) -> bool:
        """The bound on C and the result on T, of the frozen network."""
        from sgsc_micro import preserve
        from sgsc_micro.verify import assess

        def work(folder: Path) -> None:
            sets = (preserve.load(self.shared / "preserve" / f"{name}.npz") for name in "CT")
            assessment = assess(read_network(self.shared / "compress"), *sets)
            write_json(folder / "assessment.json", assessment.to_json())

        inputs = {
            "preserve": _record(self.shared / "preserve"),
            "compress": _record(self.shared / "compress"),
            "code": code_hash("verify/assessment.py", "reference"),
        }
        return run_stage(self.shared / "assess", inputs, work)

    def _library(self) -> bool:
        """The C library, and beside it the evidence that a verification of it rests on."""
        from sgsc_micro.codegen import write_library
        from sgsc_micro.passes import optimise

        def library(folder: Path) -> None:
            write_library(optimise(read_network(self.shared / "compress")), folder, self.project.name)

        def evidence(folder: Path) -> None:
            for stage, name in (("preserve", "P.npz"), ("compress", "network.pt2"), ("compress", "journal.jsonl"),
                                ("compress", "summary.json"), ("assess", "assessment.json")):  # fmt: skip
                shutil.copy2(self.shared / stage / name, folder / name)
            write_json(folder / "policy.json", self.project.policy.model_dump(mode="json"))
            write_json(folder / "project.json", {"name": self.project.name})

        compressed = _record(self.shared / "compress")
        sources = {"compress": compressed, "code": code_hash("passes", "kernels", "codegen", "storage.py")}
        made = run_stage(self.folder / "library", sources, library)
        sets = {"compress": compressed, "assess": _record(self.shared / "assess")}
        return run_stage(self.folder / "evidence", sets, evidence) or made

    def _firmware(self) -> bool:
        """The image for the board; nothing on a target that has none."""
        from sgsc_micro.files import data_dir
        from sgsc_micro.firmware import build_firmware

        if self.target.board is None:
            return False
        templates = [path for path in sorted(data_dir("firmware_templates").rglob("*")) if path.is_file()]
        inputs = {
            "library": _record(self.folder / "library"),
            "target": self.target.model_dump(mode="json"),
            "templates": sha256_bytes("".join(map(sha256_file, templates)).encode()),
            "code": code_hash("firmware"),
        }

        def work(folder: Path) -> None:
            build_firmware(self.target, self.folder / "library", folder)

        return run_stage(self.folder / "firmware", inputs, work)

    def _reference_answers(self) -> Callable[[np.ndarray], np.ndarray]:
        """float32 [N, ...] to the float reference's outputs float32 [N, classes]."""
        import numpy as np
        import torch

        network = self._user.trained_network()

        def answer(inputs: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                batches = torch.from_numpy(np.asarray(inputs, dtype=np.float32)).split(256)
                return torch.cat([network(batch) for batch in batches]).numpy()

        return answer


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

        if self.target.board is None and (self.folder / "firmware").exists():
            raise SgscError(
                f"{self.folder}: was built for a board", hint="verify it there; `sgsc run --on host` runs it here"
            )
        check_whole(self.folder, self.target)
        library, evidence_folder = self.folder / "library", self.folder / "evidence"
        manifest, cases = read_manifest(library), load(evidence_folder / "P.npz")
        evidence = Evidence(
            project=_json(evidence_folder / "project.json")["name"],
            manifest=manifest,
            cases=cases,
            policy=Policy.model_validate(_json(evidence_folder / "policy.json")),
            assessment=Assessment(**_json(evidence_folder / "assessment.json")),
            start_constant_bytes=_json(evidence_folder / "summary.json")["start_bytes"],
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
        write_certificate(certificate, self.folder / "certificate.json")
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
    stages = ["library", "evidence", *(["firmware"] if target.board else [])]
    for stage in stages:
        if altered := altered_files(folder / stage):
            raise SgscError(
                f"{folder / stage / altered[0]}: missing, or altered since it was built", hint="build the project again"
            )
    records = {stage: _json(folder / stage / "stage.json")["inputs"] for stage in stages}
    same = records["library"]["compress"] == records["evidence"]["compress"]
    if target.board:
        same = same and records["firmware"]["library"] == _record(folder / "library")
        if records["firmware"]["target"] != target.model_dump(mode="json"):
            raise SgscError(
                f"{folder}: was not built for target {target.name}", hint=f"build with --target {target.name}"
            )
    if not same:
        raise SgscError(f"{folder}: its parts are of different builds", hint="build the project again")


def write_build_report(folder: Path) -> Path:
    """The page for a person, from the files of a verified build."""
    from sgsc_micro.codegen import read_manifest
    from sgsc_micro.report import write_report
    from sgsc_micro.verify import read_certificate

    lines = (folder / "evidence" / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    journal = [json.loads(line) for line in lines[1:]]  # the first says what the run was of
    return write_report(
        folder, read_manifest(folder / "library"), journal, read_certificate(folder / "certificate.json")
    )


def read_network(folder: Path) -> tvm.IRModule:
    """The compressed network that a stage left in ``folder``, as Relax QDQ."""
    from sgsc_micro.importers import from_torch, load_torch

    return from_torch(load_torch(folder / "network.pt2"))


def _ids(split: str, labels: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.array([f"{split}/{row}" for row in range(len(labels))])


def _record(folder: Path) -> str:
    """What a finished stage is known by: the hash of its record, which holds the hashes of its inputs and outputs."""
    return sha256_file(folder / "stage.json")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise SgscError(f"{path}: {error}", hint="build the project again") from error
