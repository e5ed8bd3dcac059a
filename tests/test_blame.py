"""Which channels are held after a refused step, and what is said where no case can be named."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sgsc_micro.compress import loop
from sgsc_micro.compress.blame import raised_floors
from sgsc_micro.preserve import NO_LABEL, CaseSet, Verdict, judge
from sgsc_micro.project import Policy

LABELS = np.array([[0, 0, NO_LABEL]])


class Positions(nn.Module):
    """Every position has a layer of its own, of one channel: its weight is the first class's logit there."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.layers = {
            name: SimpleNamespace(quantiser=nn.Identity(), weight=torch.tensor([[float(logit)]], requires_grad=True))
            for name, logit in zip("abc", logits, strict=True)
        }

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        own = torch.cat([layer.quantiser(layer.weight) for layer in self.layers.values()])  # [T, 1]
        return torch.cat([own, torch.zeros_like(own)], dim=1).expand(len(x), -1, -1)  # [V, T, 2]

    def widths(self) -> dict[str, list[int]]:
        return {name: [4] for name in self.layers}


def blamed(policy: Policy, *logits: float) -> set[str]:
    """Layers that are held after a step from margins of 50, 5 and 5 to these."""
    accepted, candidate = Positions(50, 5, 5), Positions(*logits)
    inputs = np.zeros((1, 3), np.float32)
    outputs = [network(torch.from_numpy(inputs)).detach().numpy() for network in (accepted, candidate)]
    cases = CaseSet(np.array(["x"]), inputs, LABELS, outputs[0], "user")
    verdict: Verdict = judge(cases, outputs[1], policy)
    assert not verdict.passed
    proposal: Any = SimpleNamespace(floors={name: torch.zeros(1) for name in "abc"})
    now: Any = candidate
    before: Any = accepted
    return set(raised_floors(now, before, cases, verdict, proposal))


def test_of_a_sequence_only_the_positions_that_flipped_count() -> None:
    """Position a fell ten times as far as b, and still decides as before; nothing is asked of c."""
    assert blamed(Policy(max_flips=0), 0.5, -0.25, -99) == {"b"}


def test_where_only_a_mean_fell_every_position_counts() -> None:
    assert blamed(Policy(max_loss_rise=0.01), 0.5, 4.9, -99) == {"a"}


def test_a_policy_that_8_bits_break_in_the_mean_says_what_it_was() -> None:
    line = {"flips": [], "diverged": [], "reason": "loss 1.0000 before, 2.0000 now"}
    assert "the policy: loss 1.0000 before" in loop.impossible([line]).message
    line = {"flips": ["7", "9"], "diverged": ["9"], "reason": "2 negative flips, 0 allowed"}
    assert "the preserved cases 7, 9: 2 negative flips" in loop.impossible([line]).message


@pytest.mark.parametrize("labels", [np.array([0, 1]), np.array([[0, NO_LABEL], [1, 1]])])
def test_a_verdict_tells_which_decisions_flipped(labels: np.ndarray) -> None:
    reference = np.eye(2, dtype=np.float32)[labels.clip(min=0)]
    cases = CaseSet(np.array(["x", "y"]), np.zeros((2, 1), np.float32), labels, reference, "user")
    flipped = judge(cases, 1 - reference, Policy(max_flips=9, max_loss_rise=9)).flipped
    assert flipped.tolist() == (labels != NO_LABEL).tolist()
