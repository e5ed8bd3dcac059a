"""The digits example: learned widths against the same network at 8 bits, on both emulated boards.

    python benchmarks/digits.py --seeds 3

Prints a Markdown table and writes benchmarks/results/digits.json: rows of method, seed, target, constant_bytes,
flash_bytes, ram_bytes, instructions (median of one inference), test_right, test_reference_right, test_cases, flips_P,
flips_T, bound, rejected.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path
from typing import Any

from rich.progress import track

from sgsc_micro.files import write_json
from sgsc_micro.pipeline import Build
from sgsc_micro.project import Project, example_dir, load_project
from sgsc_micro.targets import load_target

TARGETS = ("qemu-m4", "stm32")
RESULTS = Path(__file__).parent / "results" / "digits.json"


def measure(project: Project, method: str, root: Path) -> list[dict[str, Any]]:
    """Build, verify and read off the certificates: a row a target."""
    rows = []
    for target in TARGETS:
        build = Build(project, load_target(target), target, root, lambda stage, event: None)
        certificate = build.run("verify")
        assert certificate is not None
        journal = (build.shared / "compress" / "journal.jsonl").read_text(encoding="utf-8").splitlines()[1:]
        resources, test = certificate["resources"], certificate["test"]
        rows.append(
            {
                "method": method,
                "seed": project.compress.seed,
                "target": target,
                "constant_bytes": resources["constant_bytes"],
                "flash_bytes": resources["firmware"]["flash_total"],
                "ram_bytes": resources["firmware"]["ram_total"],
                "instructions": resources["cost"]["median"],
                "test_right": test["compressed_right"],
                "test_reference_right": test["reference_right"],
                "test_cases": test["cases"],
                "flips_P": len(certificate["preservation"]["negative_flips"]),
                "flips_T": test["negative_flips"],
                "bound": certificate["bound"]["upper_bound"],
                "rejected": sum(not json.loads(line)["passed"] for line in journal),
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, ratios to the same network at 8 bits on the same target."""
    lines = [
        "| method, target | constants | flash | RAM | instructions | T right (float) | flips on P | bound | undone |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    base = {row["target"]: row for row in rows if row["method"] == "8 bits"}
    for row in rows:
        reference = base[row["target"]]

        def ratio(key: str, row: dict[str, Any] = row, reference: dict[str, Any] = reference) -> str:
            return f"{row[key]:,} ({row[key] / reference[key]:.2f})"

        name = row["method"] if row is reference else f"{row['method']}, seed {row['seed']}"
        lines.append(
            f"| {name}, {row['target']} | {ratio('constant_bytes')} | {ratio('flash_bytes')} | {ratio('ram_bytes')} "
            f"| {ratio('instructions')} | {row['test_right']} ({row['test_reference_right']}) of {row['test_cases']} "
            f"| {row['flips_P']} | {math.ceil(1e4 * row['bound']) / 100:.2f} % | {row['rejected']} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="of the compressor")
    seeds = range(parser.parse_args().seeds)
    project = load_project(example_dir("digits"))
    plans = [("8 bits", project.compress.model_copy(update={"steps": 0, "settle": 0}))]
    plans += [("learned", project.compress.model_copy(update={"seed": seed})) for seed in seeds]
    rows = []
    with tempfile.TemporaryDirectory() as root:
        for method, config in track(plans, "building"):
            rows += measure(project.model_copy(update={"compress": config}), method, Path(root))
    write_json(RESULTS, rows)
    print(table(rows))


if __name__ == "__main__":
    main()
