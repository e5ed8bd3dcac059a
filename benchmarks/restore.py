"""What a refused step should teach the next one: about channels, about cases, or nothing.

    python benchmarks/restore.py --seeds 3

The digits example under zero flips, pressed as far as the guard lets it. After a refused step all of them restore the
last accepted state and aim nearer, which is all that ``retraining only`` does; ``blame`` also holds the channels that
did most of the harm (compress/blame.py), ``random`` as many channels drawn at random, at floors found the same way;
``cases`` weighs the cases that were lost twice as much as before. Held out: C and T.
Prints a Markdown table, mean ± standard deviation over seeds, and writes benchmarks/results/restore.json: rows of
restore, seed, bytes, accepted, refused, flips, held_out.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any
from unittest import mock

import numpy as np
import torch
from rich.progress import track

from benchmarks.digits_runs import compress_digits
from sgsc_micro import preserve
from sgsc_micro.compress import guarded, proposals
from sgsc_micro.compress.blame import raised_floors
from sgsc_micro.compress.journal import Line
from sgsc_micro.compress.loop import Raised
from sgsc_micro.compress.network import QuantisedNetwork
from sgsc_micro.compress.proposals import lost_cases
from sgsc_micro.compress.training import Proposal
from sgsc_micro.files import write_json
from sgsc_micro.pipeline import Build
from sgsc_micro.preserve import CaseSet, Verdict
from sgsc_micro.project import CompressionConfig, example_dir, load_project
from sgsc_micro.storage import MAX_BITS
from sgsc_micro.targets import load_target

CONFIG = {"settle": 0}
RESULTS = Path(__file__).parent / "results" / "restore.json"

Floors = Callable[[QuantisedNetwork, QuantisedNetwork, CaseSet, Verdict, Proposal], Raised]


def of_random_channels(
    candidate: QuantisedNetwork, accepted: QuantisedNetwork, cases: CaseSet, verdict: Verdict, proposal: Proposal
) -> Raised:
    """As many channels as blame would hold, whoever did it."""
    count = sum(map(len, raised_floors(candidate, accepted, cases, verdict, proposal).values()))
    widths = accepted.widths()
    channels = [(name, channel) for name, layer in widths.items() for channel in range(len(layer))]
    raised: Raised = {}
    for index in np.random.default_rng(proposal.step).choice(len(channels), count, replace=False):
        name, channel = channels[index]
        floor = max(widths[name][channel], int(proposal.floors[name][channel]) + 1)
        raised.setdefault(name, {})[str(channel)] = min(MAX_BITS, floor)
    return raised


def nothing(*_: Any) -> dict[str, Any]:
    """Restored and trained again, no more."""
    return {}


@dataclass(frozen=True)
class Variant:
    """What a refused step teaches."""

    floors: Floors = nothing
    lost: Callable[[list[Line]], dict[str, int]] = nothing


VARIANTS = {
    "retraining only": Variant(),
    "random": Variant(of_random_channels),
    "blame": Variant(raised_floors),
    "cases": Variant(lost=lost_cases),
    "blame and cases": Variant(raised_floors, lost_cases),
}


def measure(variant: str, seed: int, build: Build) -> dict[str, Any]:
    """One compression whose floors come from the variant."""
    lines: list[dict[str, Any]] = []
    config = CompressionConfig.model_validate({**CONFIG, "seed": seed})
    taught = VARIANTS[variant]
    with (
        mock.patch.object(guarded, "raised_floors", taught.floors),
        mock.patch.object(proposals, "lost_cases", taught.lost),
    ):
        result, held_out, outputs = compress_digits(build, config, progress=lines.append)
    verdict = preserve.judge(held_out, outputs)
    accepted = sum(line["accepted"] for line in lines)
    return {
        "restore": variant,
        "seed": seed,
        "bytes": result.stored_bytes,
        "accepted": accepted,
        "refused": len(lines) - accepted,
        "flips": len(verdict.flips),
        "held_out": len(held_out),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, a line a variant, the smallest networks first."""
    lines = [
        "| taught by a refused step | bytes | steps accepted | refused | flips held out |",
        "|---|---|---|---|---|",
    ]
    groups = {variant: [row for row in rows if row["restore"] == variant] for variant in VARIANTS}

    def spread(group: list[dict[str, Any]], key: str, digits: int) -> str:
        values = [row[key] for row in group]
        return f"{mean(values):,.{digits}f} ± {stdev(values) if len(values) > 1 else 0:,.{digits}f}"

    for name, group in sorted(groups.items(), key=lambda item: mean(row["bytes"] for row in item[1])):
        cells = (spread(group, key, digits) for key, digits in (("bytes", 0), ("accepted", 1), ("refused", 1)))
        lines.append(f"| {name} | {' | '.join(cells)} | {spread(group, 'flips', 1)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="of the compressor")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the rows go")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        project, host = load_project(example_dir("digits")), load_target("host")
        build = Build(project, host, "host", Path(root), lambda stage, event: None)
        build.run("preserve")
        plans = [(variant, seed) for seed in range(given.seeds) for variant in VARIANTS]
        rows = [measure(variant, seed, build) for variant, seed in track(plans, "compressing")]
    write_json(given.results, rows)
    print(table(rows))


if __name__ == "__main__":
    main()
