"""The way through: every stage in order, each reading the files of the one before and writing its own.

Heavy imports (torch, TVM) happen inside the stages, so that ``sgsc --help`` and a build with nothing to do are quick.
"""

from __future__ import annotations

import functools
import re
import shutil
import time
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgsc_micro.artifacts import make_firmware, make_library, write_readme
from sgsc_micro.compiler_flags import ANY_TARGET, Objective
from sgsc_micro.errors import SgscError
from sgsc_micro.files import sha256_file, write_json
from sgsc_micro.project import Project
from sgsc_micro.sources import Source, read_network, source_of
from sgsc_micro.stages import RECORD, code_hash, record_hash, run_stage
from sgsc_micro.targets import Board, Target, load_target
from sgsc_micro.user_code import SPLITS
from sgsc_micro.verification import CERTIFICATE, EVIDENCE, REPORT, Progress, Verification, write_build_report

if TYPE_CHECKING:
    import numpy as np

    from sgsc_micro.preserve import CaseSet

STAGES = ("reference", "preserve", "compress", "assess", "library", "firmware", "verify", "report")

ABOUT = "about.json"
"""Beside P: what it holds, what it does not cover, how it came about."""

KEPT = {
    "preserve": ("P.npz",),
    "compress": ("journal.jsonl", "summary.json"),
    "assess": ("assessment.json",),
}
"""What a certificate rests on, by stage, beside the network: copied to the library, so that a build folder can be
moved."""

COMPRESSING = (
    *("compress", "reference", "importers", "passes", "kernels", "codegen"),
    *("arrays.py", "blocking.py", "compiler_flags.py", "costs.py", "fixed_point.py", "ir.py", "storage.py"),
)
"""The rooms that decide what comes out of the compressor, besides the source's own."""


@dataclass(frozen=True)
class Build:
    """One project on one target: where its files lie and how each stage makes them."""

    project: Project
    target: Target
    target_name: str
    """As the user wrote it: names the folder; where it is a file, the file's name."""
    root: Path
    progress: Progress
    resume: bool = False
    """Nothing may be started anew that was begun."""

    @property
    def shared(self) -> Path:
        """What does not depend on the target."""
        return self.root / self.project.name

    @property
    def folder(self) -> Path:
        """What does."""
        name = self.target.name if self.target_name.endswith(".toml") else self.target_name
        return self.root / f"{self.project.name}-{re.sub('[:/]', '-', name)}"

    def run(self, until: str, port: str | None = None) -> dict[str, Any] | None:
        """Every stage up to ``until``; the certificate, where it was reached.

        Errors: ``SgscError`` from any stage; what earlier stages made stays, and the next build goes on from there.
        With ``resume`` also where nothing was begun, or what was begun does not fit the project any more.
        """
        if self.resume and not any(self.shared.glob(f"*/{RECORD}")):
            raise SgscError(f"{self.shared}: nothing to resume", hint="build without --resume, or give its --output")
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
    def _source(self) -> Source:
        return source_of(self.project)

    def _reference(self) -> bool:
        """The network that every later one is compared with, its layers known to lower before anything is trained."""
        inputs = self._source.prepare(lambda line: self.progress("reference", {"note": line}))
        return run_stage(self.shared / "reference", inputs, self._source.save, self.resume)

    def _preserve(self) -> bool:
        """P out of the training side, C and T, all with the reference's outputs, none overlapping another."""
        from sgsc_micro import preserve

        def work(folder: Path) -> None:
            splits = {name: self.cases_of(name) for name in SPLITS}
            preserve.check_reference(splits["train"], "data().train")
            chosen = self._chosen(splits["train"])
            preserve.check_reference(chosen, "P")
            preserve.check_disjoint(chosen, splits["calibration"], splits["test"], splits["train"])
            for name, cases in (("P", chosen), ("C", splits["calibration"]), ("T", splits["test"])):
                preserve.save(cases, folder / f"{name}.npz")
            described, everywhere = (self.features(cases) for cases in (chosen, splits["train"]))
            about = {
                "counts": preserve.counts(chosen),
                "gaps": preserve.gaps(chosen, splits["train"]),
                "holes": preserve.holes(described, everywhere, splits["train"]),
                "label_conflicts": preserve.label_conflicts(splits["train"]),
                "history": self.history,
            }
            write_json(folder / ABOUT, about)

        own = self.project.preserve.cases
        inputs = self.project.preserve.model_dump(mode="json") | {
            "reference": record_hash(self.shared / "reference"),
            "cases": sha256_file(self.project.path(own)) if own else None,
            "code": code_hash("preserve", "sources", "compress/graph.py"),
        }
        return run_stage(self.shared / "preserve", inputs, work, self.resume)

    def cases_of(self, name: str) -> CaseSet:
        """A whole split of ``data()`` with the reference's outputs."""
        from sgsc_micro import preserve

        split = self._source.code.data[name]
        answers = self._source.answer(split.inputs)
        return preserve.CaseSet(ids=_ids(name, split.labels), reference=answers, strategy="all", **vars(split))

    def features(self, cases: CaseSet) -> np.ndarray:
        """What cases are compared by, [N, F]: what the network's last layer sees, or their inputs."""
        from sgsc_micro import preserve

        found = self._source.features(cases.inputs, cases.labels, preserve.Features.PENULTIMATE)
        return cases.inputs.reshape(len(cases), -1) if found is None else found

    def own_cases(self, path: Path) -> CaseSet:
        """Cases of the user's, from a file."""
        from sgsc_micro import preserve

        shape = self._source.code.data["train"].inputs.shape[1:]
        return preserve.load_user_cases(path, shape, self._source.answer)

    def field_cases(self, path: Path) -> CaseSet:
        """Cases from the field, from a file that need not have labels."""
        from sgsc_micro import preserve

        shape = self._source.code.data["train"].inputs.shape[1:]
        return preserve.read_field(path, shape, self._source.answer)

    @property
    def history(self) -> list[dict[str, Any]]:
        """The versions of the user's own cases."""
        from sgsc_micro import preserve

        own = self.project.preserve.cases
        return preserve.history_of(self.project.path(own)) if own else []

    def _chosen(self, train: CaseSet) -> CaseSet:
        """What the strategy takes of the training side, and the user's own."""
        from sgsc_micro import preserve

        settings, source = self.project.preserve, self._source
        sets = []
        if settings.size:
            kind = preserve.strategy_of(settings.strategy).features
            features = source.features(train.inputs, train.labels, kind) if kind else None
            if features is None and kind is preserve.Features.GRAD_CAM:
                raise SgscError(
                    f"preserve: strategy '{settings.strategy}' needs a torch network with a convolution and one label "
                    "a case",
                    hint="take another strategy: k_center spreads cases over what any network is given",
                )
            sets.append(preserve.choose(train, settings.size, settings.strategy, features, settings.seed))
        if settings.cases:
            sets.append(self.own_cases(self.project.path(settings.cases)))
        return preserve.merge(sets)

    def _compress(self) -> bool:
        """Fewer bits under the guard; the accepted network in integers."""
        import numpy as np

        from sgsc_micro import preserve
        from sgsc_micro.codegen import footprint
        from sgsc_micro.passes import optimise

        cases, calibration = (preserve.load(self.shared / "preserve" / f"{name}.npz") for name in "PC")
        board, objective = self._budgeted()

        def work(folder: Path) -> None:
            train = self._source.code.data["train"]
            free = ~np.isin(_ids("train", train.labels), cases.ids)
            summary = self._source.compress(
                self.shared / "reference",
                train.subset(free),
                cases,
                calibration,
                lambda module: footprint(optimise(module, board, objective)),
                folder,
                lambda line: self.progress("compress", line),
            )
            write_json(folder / "summary.json", summary)

        inputs = {
            "compress": self.project.compress.model_dump(mode="json"),
            "budget": self.project.budget.model_dump(mode="json"),
            "policy": self.project.policy.model_dump(mode="json"),
            "reference": record_hash(self.shared / "reference"),
            "preserve": record_hash(self.shared / "preserve"),
            "code": code_hash("sources", *COMPRESSING),
            "tvm": version("apache-tvm"),
        }
        return run_stage(self.shared / "compress", inputs, work, self.resume)

    def _budgeted(self) -> tuple[Board | None, Objective]:
        """What a candidate's footprint is taken on."""
        if (name := self.project.budget.target) is None:
            return None, ANY_TARGET
        target = load_target(name)
        return target.board, Objective(target.instruction_set, self.project.library.optimize)

    def _assess(self) -> bool:
        """The bound on C and the result on T, of the frozen network."""
        from sgsc_micro import preserve
        from sgsc_micro.verify import assess

        def work(folder: Path) -> None:
            calibration, test = (preserve.load(self.shared / "preserve" / f"{name}.npz") for name in "CT")
            rate = self.project.policy.max_flip_rate
            assessment = assess(read_network(self.shared / "compress"), calibration, test, rate)
            write_json(folder / "assessment.json", assessment.to_json())

        inputs = {
            "preserve": record_hash(self.shared / "preserve"),
            "compress": record_hash(self.shared / "compress"),
            "code": code_hash("verify/assessment.py", "reference"),
        }
        return run_stage(self.shared / "assess", inputs, work)

    def _library(self) -> bool:
        """The C library, and beside it the evidence that a verification of it rests on."""

        def evidence(folder: Path) -> None:
            self._withdraw()
            copied = [(stage, name) for stage, names in KEPT.items() for name in names]
            for stage, name in copied + [("compress", name) for name in self._source.files]:
                shutil.copy2(self.shared / stage / name, folder / name)
            write_json(folder / "policy.json", self.project.policy.model_dump(mode="json"))
            write_json(folder / "project.json", {"name": self.project.name})

        compressed = record_hash(self.shared / "compress")
        network = functools.partial(read_network, self.shared / "compress")
        names, optimize, cases = {"compress": compressed}, self.project.library.optimize, self._selftest()
        made = make_library(
            self.folder, self.target, self.project.name, names, network, optimize, cases, self._withdraw
        )
        sets = {"compress": compressed, "assess": record_hash(self.shared / "assess")}
        return run_stage(self.folder / EVIDENCE, sets, evidence) or made

    def _selftest(self) -> np.ndarray | None:
        """Inputs of the preserved cases to embed, if any."""
        import numpy as np

        from sgsc_micro import preserve

        if self.project.library.selftest == 0:
            return None
        cases = preserve.load(self.shared / "preserve" / "P.npz")
        narrowest = np.argsort(preserve.smallest_margins(cases, cases.reference), kind="stable")
        return cases.inputs[narrowest[: self.project.library.selftest]]

    def _firmware(self) -> bool:
        """The image for the board; nothing on a target that has none."""
        made = make_firmware(self.folder, self.target, self._withdraw)
        write_readme(self.folder, self.target)
        return made

    def _withdraw(self) -> None:
        """What is certified is about to change: no certificate of the old may lie beside the new."""
        for name in (CERTIFICATE, REPORT):
            (self.folder / name).unlink(missing_ok=True)


def _ids(split: str, labels: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.array([f"{split}/{row}" for row in range(len(labels))])
