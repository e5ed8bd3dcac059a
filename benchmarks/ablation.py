"""What of a channel's quantiser is learned: three parametrisations, to the same budget, on the digits example.

    python benchmarks/ablation.py --seeds 5

All quantise alike: integers of b bits times 2^e. Learned are the width and the reach of the range (the default here),
the width and the exponent (2301.13142), or the step and the reach, from which the width follows (1905.11452, Sony's
Mixed Precision DNNs). Without a guard, so that what is compared is accuracy on held-out data (C and T) at the budget,
and how many runs reach it at all. Prints a Markdown table, mean and standard deviation over seeds, and writes
benchmarks/results/ablation.json as they come: rows of parametrisation, seed, budget, bytes, right, cases; no bytes and
none right where the budget was not met.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any
from unittest import mock

import torch
from rich.progress import track
from torch import nn

from benchmarks.digits_runs import compress_digits
from sgsc_micro import preserve
from sgsc_micro.compress.quantisers import WeightQuantiser, round_through
from sgsc_micro.errors import SgscError
from sgsc_micro.files import write_json
from sgsc_micro.pipeline import Build
from sgsc_micro.project import Budget, CompressionConfig, Policy, example_dir, load_project
from sgsc_micro.targets import load_target

BUDGETS = (5_000, 3_000)
NO_GUARD = 1_000_000  # more flips than there are cases
RESULTS = Path(__file__).parent / "results" / "ablation.json"


class WidthAndExponent(WeightQuantiser):
    """A lost bit costs range: the exponent stays."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__(weight)
        self.exponent = nn.Parameter(self.reach.detach() - self.bits.detach() + 1)  # [C]
        del self.reach

    def scale(self) -> torch.Tensor:
        """2^e, [C]."""
        return 2 ** round_through(self.exponent)


class StepAndReach(WeightQuantiser):
    """The width is what the range holds of steps."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__(weight)
        self.step = nn.Parameter(self.reach.detach() - self.bits.detach() + 1)  # [C], its logarithm
        del self._parameters["bits"]

    @property
    def bits(self) -> torch.Tensor:  # type: ignore[override]
        """[C]."""
        return self.reach - self.step + 1

    @torch.no_grad()
    def project(self, floor: torch.Tensor, ceiling: torch.Tensor) -> None:
        """See :class:`WeightQuantiser`; the reach stays."""
        self.step.copy_(self.reach + 1 - torch.minimum(torch.maximum(self.bits, floor), ceiling))


VARIANTS: dict[str, type[WeightQuantiser]] = {
    "width and reach": WeightQuantiser,
    "width and exponent": WidthAndExponent,
    "step and reach": StepAndReach,
}


def measure(name: str, seed: int, limit: int, build: Build) -> dict[str, Any]:
    """One compression to ``limit`` bytes."""
    config = CompressionConfig(steps=30, settle=2, epochs=3, seed=seed)
    free = Policy(max_flips=NO_GUARD)
    row = {"parametrisation": name, "seed": seed, "budget": limit, "bytes": None, "right": None, "cases": None}
    with mock.patch("sgsc_micro.compress.network.WeightQuantiser", VARIANTS[name]):
        try:
            result, held_out, outputs = compress_digits(build, config, policy=free, budget=Budget(flash=limit))
        except SgscError as error:  # stuck above the budget
            print(f"{name}, seed {seed}: {error}")
            return row
    right = preserve.decisions(outputs) == held_out.labels
    return row | {"bytes": result.stored_bytes, "right": int(right.sum()), "cases": len(held_out)}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, a line a parametrisation and budget."""
    lines = ["| learned | budget | reached by | bytes | right on held-out data |", "|---|---|---|---|---|"]
    for limit in BUDGETS:
        for name in VARIANTS:
            group = [row for row in rows if (row["parametrisation"], row["budget"]) == (name, limit)]
            reached = [row for row in group if row["bytes"]]
            outcome = " | "
            if reached:
                right = [row["right"] for row in reached]
                spread = stdev(right) if len(right) > 1 else 0.0
                size = mean(row["bytes"] for row in reached)
                outcome = f"{size:,.0f} | {mean(right):.1f} ± {spread:.1f} of {reached[0]['cases']}"
            lines.append(f"| {name} | {limit:,} | {len(reached)} of {len(group)} | {outcome} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="of the compressor")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        build = Build(
            load_project(example_dir("digits")), load_target("host"), "host", Path(root), lambda stage, event: None
        )
        build.run("preserve")
        plans = [(name, seed, limit) for limit in BUDGETS for name in VARIANTS for seed in range(given.seeds)]
        rows = []
        for plan in track(plans, "compressing"):
            rows.append(measure(*plan, build))
            write_json(RESULTS, rows)
    print(table(rows))


if __name__ == "__main__":
    main()
