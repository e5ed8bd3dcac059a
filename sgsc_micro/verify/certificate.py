"""The certificate: what one image was shown to do with one preservation set on one target (certificate.schema.json)."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from importlib import resources
from pathlib import Path
from statistics import median
from typing import Any, Literal

import jsonschema
import numpy as np
import tvm

import sgsc_micro
from sgsc_micro.codegen import from_stored
from sgsc_micro.errors import SgscError
from sgsc_micro.files import sha256_bytes, write_json
from sgsc_micro.firmware import FirmwareImage
from sgsc_micro.preserve import CONFIDENCE, CaseSet, Verdict, decisions, judge
from sgsc_micro.project import Policy
from sgsc_micro.targets import Target
from sgsc_micro.verify.assessment import Assessment
from sgsc_micro.verify.replay import Outcome

CLOPPER_PEARSON = "one-sided Clopper-Pearson, of a network that C had no part in choosing"
LEARN_THEN_TEST = (
    "Learn then Test, fixed sequence: of all networks of the path that were found safe, so of the one chosen"
)


@dataclass(frozen=True)
class Place:
    """Where a replay ran: host, emulated or board, and its name: host, the machine's or the port's."""

    kind: Literal["host", "emulated", "board"]
    name: str


@dataclass(frozen=True)
class Evidence:
    """What a certificate rests on besides the replay itself."""

    project: str
    manifest: dict[str, Any]
    cases: CaseSet
    policy: Policy
    assessment: Assessment
    start_constant_bytes: int
    """The same network at 8 bits."""


def policy_hash(policy: Policy) -> str:
    """SHA-256 of the policy's canonical JSON."""
    return sha256_bytes(json.dumps(policy.model_dump(), sort_keys=True).encode())


def certify(
    evidence: Evidence,
    target: Target,
    place: Place,
    image: FirmwareImage | None,
    outcomes: list[Outcome],
    expected: np.ndarray,
) -> dict[str, Any]:
    """The certificate of a replay; ``expected`` int8 [N, bytes] is what the host computed.

    A byte that differs from the host's makes the verdict "failed", whatever the decision it leads to.
    """
    cases, manifest = evidence.cases, evidence.manifest
    outputs = np.stack([outcome.output for outcome in outcomes])
    real = from_stored(manifest, outputs).reshape(cases.reference.shape)
    verdict = judge(cases, real, evidence.policy)
    exact = (outputs == expected).all(axis=1)
    mismatches = cases.ids[~exact].tolist()
    passed = verdict.passed and not mismatches
    bound = _bound(evidence.assessment)
    certificate: dict[str, Any] = {
        "format": 1,
        "verdict": "passed" if passed else "failed",
        "statement": _statement(verdict, mismatches, place, bound["words"]),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "project": evidence.project,
        "target": {"name": target.name, "description": target.description, "kind": place.kind, "ran_on": place.name},
        "hashes": {
            "model": manifest["model_hash"],
            "firmware": image.sha256 if image else None,
            "preservation_set": cases.content_hash,
            "calibration_set": evidence.assessment.calibration_hash,
            "test_set": evidence.assessment.test_hash,
            "policy": policy_hash(evidence.policy),
        },
        "preservation": {
            "strategy": cases.strategy,
            "policy": evidence.policy.resolved(cases.labels.ndim == 2).model_dump(),
            "cases": len(cases),
            "negative_flips": list(verdict.flips),
            "diverged": list(verdict.diverged),
            "violations": list(verdict.violations),
            "slices": {name: asdict(change) for name, change in verdict.slices.items()},
            "loss": asdict(verdict.loss),
            "agreement": verdict.agreement,
            "mismatches": mismatches,
        },
        "bound": bound,
        "test": {
            "cases": evidence.assessment.test_cases,
            "decisions": evidence.assessment.test_decisions,
            "reference_right": evidence.assessment.test_reference_right,
            "compressed_right": evidence.assessment.test_compressed_right,
            "negative_flips": evidence.assessment.test_flips,
            "slices": evidence.assessment.test_slices,
            "loss": evidence.assessment.test_loss,
        },
        "resources": _resources(evidence, image, outcomes),
        "cases": _cases(cases, real, outcomes, exact, verdict.flips, verdict.diverged),
        "versions": {
            "sgsc_micro": sgsc_micro.__version__,
            "apache-tvm": tvm.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }
    jsonschema.validate(certificate, _schema())
    return certificate


def write_certificate(certificate: dict[str, Any], path: Path) -> None:
    """Write it, whole or not at all."""
    write_json(path, certificate)


def read_certificate(path: Path) -> dict[str, Any]:
    """A certificate that fits the schema. Errors: ``SgscError`` naming the file."""
    try:
        certificate: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        jsonschema.validate(certificate, _schema())
    except (OSError, json.JSONDecodeError, jsonschema.ValidationError) as error:
        raise SgscError(f"{path}: not a certificate: {error}", hint="verify the build again") from error
    return certificate


def _schema() -> dict[str, Any]:
    text = resources.files("sgsc_micro.verify").joinpath("certificate.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def _bound(assessment: Assessment) -> dict[str, Any]:
    percent = Decimal(str(100 * assessment.upper_bound)).quantize(Decimal("0.01"), ROUND_CEILING)
    return {
        "cases": assessment.calibration_cases,
        "negative_flips": assessment.calibration_flips,
        "slices": assessment.calibration_slices,
        "confidence": CONFIDENCE,
        "upper_bound": assessment.upper_bound,
        "method": LEARN_THEN_TEST if assessment.chosen_by_rate else CLOPPER_PEARSON,
        "words": f"at most {percent} % negative flips at {CONFIDENCE:.0%} on i.i.d. unseen data "
        f"({assessment.calibration_flips} seen in {assessment.calibration_cases} cases of C)",
    }


def _statement(verdict: Verdict, mismatches: list[str], place: Place, bound: str) -> str:
    where = {"host": "the host", "emulated": f"the emulated target ({place.name})", "board": "target"}[place.kind]
    parts = [f"{len(verdict.flips) or 'zero'} negative flips on P ({len(verdict.margins)} cases)"]
    if verdict.violations:
        parts.append(f"against the policy: {'; '.join(verdict.violations)}")
    parts.append(f"{len(mismatches)} cases not bit-exact on {where}" if mismatches else f"bit-exact on {where}")
    return f"{', '.join(parts)}; {bound}"


def _resources(evidence: Evidence, image: FirmwareImage | None, outcomes: list[Outcome]) -> dict[str, Any]:
    costs = [outcome.cost for outcome in outcomes if outcome.cost is not None]
    stacks = [outcome.stack_bytes for outcome in outcomes if outcome.stack_bytes is not None]
    return {
        "optimize": evidence.manifest["optimize"],
        "constant_bytes": evidence.manifest["constant_bytes"],
        "start_constant_bytes": evidence.start_constant_bytes,
        "arena_bytes": evidence.manifest["arena_bytes"],
        "stack_bytes": max(stacks, default=None),
        "firmware": asdict(image.sizes) if image else None,
        "unit": outcomes[0].unit,
        "cost": {"min": min(costs), "median": int(median(costs)), "max": max(costs)} if costs else None,
    }


def _cases(
    cases: CaseSet,
    real: np.ndarray,
    outcomes: list[Outcome],
    exact: np.ndarray,
    flips: tuple[str, ...],
    diverged: tuple[str, ...],
) -> list[dict[str, Any]]:
    verdicts = dict.fromkeys(diverged, "diverged") | dict.fromkeys(flips, "flipped")
    rows = zip(
        cases.ids.tolist(), cases.labels, decisions(cases.reference), decisions(real), outcomes, exact, strict=True
    )
    return [
        {
            "id": name,
            "label": label.tolist(),
            "reference": before.tolist(),
            "decision": after.tolist(),
            "verdict": verdicts.get(name, "preserved") if bit_exact else "mismatch",
            "bit_exact": bool(bit_exact),
            "cost": outcome.cost,
            "stack_bytes": outcome.stack_bytes,
        }
        for name, label, before, after, outcome, bit_exact in rows
    ]
