"""What the frozen, compressed network does on data it was neither trained nor selected on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import tvm

from sgsc_micro import reference
from sgsc_micro.preserve import NO_LABEL, CaseSet, Verdict, decisions, judge, upper_bound


@dataclass(frozen=True)
class Assessment:
    """Flips on C and their bound; what is right on T; both by slice; the hashes of both sets.

    Cases are counted, but for what is right: that is decisions, several a case of a sequence.

    The bound is Clopper-Pearson's, or, where the network was chosen along its path by C, the rate that Learn then Test
    kept: ``chosen_by_rate``.
    """

    calibration_hash: str
    calibration_cases: int
    calibration_flips: int
    calibration_slices: dict[str, Any]  # slice -> share of right decisions, {"reference": ..., "candidate": ...}
    upper_bound: float
    chosen_by_rate: bool
    test_hash: str
    test_cases: int
    test_decisions: int
    test_reference_right: int
    test_compressed_right: int
    test_flips: int
    test_slices: dict[str, Any]
    test_loss: dict[str, float]  # mean cross-entropy of a decision, nats, {"reference": ..., "candidate": ...}

    def to_json(self) -> dict[str, Any]:
        """As JSON's types."""
        return asdict(self)


def assess(module: tvm.IRModule, calibration: CaseSet, test: CaseSet, rate: float | None = None) -> Assessment:
    """Exact integer inference over C and T, compared with the reference. T is touched here and nowhere else.

    ``rate``: what the network was chosen to keep on unseen data, if it was.
    """
    on_calibration = judge(calibration, reference.run(module, calibration.inputs))
    outputs = reference.run(module, test.inputs)
    on_test = judge(test, outputs)
    flips = len(on_calibration.flips)
    return Assessment(
        calibration_hash=calibration.content_hash,
        calibration_cases=len(calibration),
        calibration_flips=flips,
        calibration_slices=_by_slice(on_calibration),
        upper_bound=upper_bound(flips, len(calibration)) if rate is None else rate,
        chosen_by_rate=rate is not None,
        test_hash=test.content_hash,
        test_cases=len(test),
        test_decisions=int((test.labels != NO_LABEL).sum()),
        test_reference_right=int((decisions(test.reference) == test.labels).sum()),
        test_compressed_right=int((decisions(outputs) == test.labels).sum()),
        test_flips=len(on_test.flips),
        test_slices=_by_slice(on_test),
        test_loss=asdict(on_test.loss),
    )


def _by_slice(verdict: Verdict) -> dict[str, Any]:
    return {name: asdict(change) for name, change in verdict.slices.items()}
