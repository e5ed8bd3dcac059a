"""The guarded loop: every step is a proposal, judged in exact integers against the frozen reference.

What is proposed, and how it is carried out, is a :class:`Method`; what is accepted is decided here alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import tvm

from sgsc_micro import reference
from sgsc_micro.compress.journal import Journal, Line
from sgsc_micro.errors import SgscError
from sgsc_micro.footprint import Footprint
from sgsc_micro.preserve import CaseSet, Verdict, judge, safe_prefix
from sgsc_micro.project import Budget, Policy

START, PRESS = "start", "press"
"""Phases of a proposal: the network at 8 bits; one that must make it smaller. There may be others."""

Raised = dict[str, dict[str, int]]
"""Layer -> channel -> the width below which it may no longer go."""


class Step(Protocol):
    """A proposal. Together with the accepted state and the journal it decides every byte of the outcome."""

    @property
    def step(self) -> int:
        """Its number, from 0."""

    @property
    def phase(self) -> str:
        """See ``START``."""


P = TypeVar("P", bound=Step)
S = TypeVar("S")


class Method(Protocol[P, S]):
    """A way of compressing, over states S that are never changed once they are made."""

    def propose(self, lines: list[Line], accepted: S) -> P | None:
        """What to try after these journal lines, or None at the end; a resumed run goes the same way."""

    def settings(self, proposal: P) -> Line:
        """What the journal says of it, beside step and phase."""

    def carry_out(self, proposal: P, accepted: S) -> S:
        """The candidate."""

    def export(self, state: S) -> tvm.IRModule:
        """In integers. Errors: ``SgscError`` where there are none for it."""

    def blame(self, proposal: P, candidate: S, accepted: S, verdict: Verdict) -> Raised:
        """Channels that are held from now on, because of a verdict that failed."""

    def to_arrays(self, state: S) -> dict[str, np.ndarray]:
        """For a file."""

    def from_arrays(self, arrays: dict[str, np.ndarray]) -> S:
        """The inverse."""


@dataclass(frozen=True)
class Judged:
    """A candidate in integers, and what the guard says."""

    module: tvm.IRModule
    footprint: Footprint
    verdict: Verdict


@dataclass(frozen=True)
class Guard:
    """What a candidate is judged by."""

    cases: CaseSet
    policy: Policy
    measure: Callable[[tvm.IRModule], Footprint]
    budget: Budget
    calibration: CaseSet | None = None  # C, where the policy asks for a flip rate on unseen data

    def judged(self, module: tvm.IRModule) -> Judged:
        """Exact integer inference on the preserved cases, and what the candidate takes."""
        verdict = judge(self.cases, reference.run(module, self.cases.inputs), self.policy)
        return Judged(module, self.measure(module), verdict)

    def nearer(self, found: Footprint, accepted: Line) -> bool:
        """Whether a candidate is smaller than what was accepted, as far as anything is to be."""
        return self.budget.excess(found) < self.budget.excess(footprint_of(accepted))


def run(
    method: Method[P, S], start: S, guard: Guard, journal: Journal, progress: Callable[[Line], None]
) -> tuple[S, Judged]:
    """The last accepted state, never another; ``progress`` gets every line of the journal. Where the policy has a flip
    rate, the last that C shows to keep it.

    Called again with the same arguments, a run that was killed goes on, to the bytes it would have had.

    Raises SgscError where the budget is not met, or C shows no state to keep the rate.
    """
    last = journal.accepted
    accepted = method.from_arrays(journal.load_state(last["step"])) if last else start
    while (proposal := method.propose(journal.lines, accepted)) is not None:
        began = time.monotonic()
        head = {"step": proposal.step, "phase": proposal.phase, **method.settings(proposal)}
        candidate = accepted
        try:
            candidate = method.carry_out(proposal, accepted)
            found = guard.judged(method.export(candidate))
        except SgscError as error:  # no integers for it: too large an accumulator, say
            if journal.accepted is None:
                raise
            line = head | _refused(error, journal.accepted)
        else:
            line = head | _judged(proposal, found, journal.accepted, guard)
            if not found.verdict.passed:
                line["raised"] = method.blame(proposal, candidate, accepted, found.verdict)
        line["seconds"] = round(time.monotonic() - began, 3)
        journal.append(line, method.to_arrays(candidate))
        if line["accepted"]:
            accepted = candidate
        progress(line)
    if guard.policy.max_flip_rate is not None:
        accepted = _tested(method, guard, journal)
    found = guard.judged(method.export(accepted))
    if guard.budget.limits and not is_enough(guard.budget, found.footprint):
        raise _unmet(guard.budget, found.footprint)
    return accepted, found


def _tested(method: Method[P, S], guard: Guard, journal: Journal) -> S:
    """The last of the accepted states that Learn then Test still calls safe, in the order of their acceptance."""
    rate, cases = guard.policy.max_flip_rate, guard.calibration
    assert rate is not None and cases is not None
    path = [method.from_arrays(journal.load_state(line["step"])) for line in journal.lines if line["accepted"]]
    flips = [len(judge(cases, reference.run(method.export(state), cases.inputs)).flips) for state in path]
    safe = safe_prefix(flips, len(cases), rate)
    if safe == 0:
        raise SgscError(
            f"compress: {flips[0]} flips in the {len(cases)} cases of C, at 8 bits: no rate of {rate:.2%} can be shown",
            hint="a larger C, or a larger max_flip_rate",
        )
    return path[safe - 1]


def impossible(lines: list[Line]) -> SgscError:
    """P cannot be held even by the network at its start."""
    last = lines[-1]
    cases = ", ".join(dict.fromkeys(last["flips"] + last["diverged"]))
    broken = f"the preserved cases {cases}" if cases else "the policy"  # a mean belongs to no case
    return SgscError(
        f"compress: even 8 bits break {broken}: {last['reason']}",
        hint="loosen the policy, train the network to wider margins, or take these cases out of the set",
    )


def footprint_of(line: Line) -> Footprint:
    """What a journal's line says."""
    return Footprint(line["bytes"], line["ram"], line["instructions"])


def is_enough(budget: Budget, footprint: Footprint) -> bool:
    """Whether there is a budget, and it is met."""
    return bool(budget.limits) and budget.excess(footprint) == 0


def _unmet(budget: Budget, footprint: Footprint) -> SgscError:
    """How far a budget was missed."""
    limits = budget.limits.items()
    reached = ", ".join(f"{name} {getattr(footprint, name):,} of {limit:,.0f}" for name, limit in limits)
    return SgscError(
        f"compress: the budget is not met: {reached}",
        hint="more steps or epochs, a larger budget, or a policy that allows more; the last accepted state is kept",
    )


def _judged(proposal: Step, found: Judged, accepted: Line | None, guard: Guard) -> Line:
    """A candidate's line in the journal; a step that presses must also be smaller to be accepted."""
    verdict = found.verdict
    smaller = proposal.phase != PRESS or accepted is None or guard.nearer(found.footprint, accepted)
    reason = "" if smaller else "no smaller than what was accepted"
    if not verdict.passed:
        reason = "; ".join(verdict.violations)
    return _outcome(reason, accepted) | {
        "bytes": found.footprint.flash,
        "ram": found.footprint.ram,
        "instructions": found.footprint.instructions,
        "flips": list(verdict.flips),
        "diverged": list(verdict.diverged),
        "smallest_margin": round(float(verdict.margins.min()), 6),
        "divergence": round(verdict.divergence, 6),
        "passed": verdict.passed,
        "raised": {},
    }


def _refused(error: SgscError, accepted: Line) -> Line:
    """The line of a candidate that has no integers; its size is unknown, so that of the accepted state stands."""
    nothing_seen: Line = {"flips": [], "diverged": [], "smallest_margin": None, "divergence": None, "raised": {}}
    unknown: Line = {key: accepted[key] for key in ("bytes", "ram", "instructions")} | {"passed": False}
    return _outcome(error.message, accepted) | nothing_seen | unknown


def _outcome(reason: str, accepted: Line | None) -> Line:
    """What became of a proposal: accepted where there is no ``reason`` against it."""
    return {
        "accepted": not reason,
        "reason": reason,
        "restored": accepted["step"] if accepted and reason else None,
    }
