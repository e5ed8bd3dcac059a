"""Which cases are worth preserving: negative flips on held-out data, for every strategy at the same number of cases.

    python benchmarks/strategies.py --seeds 5

The digits example, compressed by the guarded loop to the same BUDGET with SIZE preserved cases; its schedule is shorter
than the project's own (CONFIG), so that the whole takes minutes. The seed is the compressor's and that of ``random``.
Held out: C and T, 897 cases that nothing was chosen or trained on. Prints a Markdown table, mean ± standard deviation
over seeds, and writes benchmarks/results/strategies.json: rows of strategy, seed, size, flips, held_out,
flips_per_case, bytes.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.progress import track

from benchmarks.digits_runs import compress_digits
from sgsc_micro import preserve
from sgsc_micro.files import write_json
from sgsc_micro.pipeline import Build
from sgsc_micro.project import Budget, CompressionConfig, example_dir, load_project
from sgsc_micro.targets import load_target

SIZE = 50
BUDGET = Budget(flash=8_000)
CONFIG = {"steps": 30, "settle": 0, "epochs": 3, "gamma": 4.0, "bits_learning_rate": 0.1}
RESULTS = Path(__file__).parent / "results" / "strategies.json"


def measure(strategy: str, seed: int, root: Path) -> dict[str, Any]:
    """One compression under a set that the strategy chose."""
    project = load_project(example_dir("digits"))
    kept = project.preserve.model_copy(update={"strategy": strategy, "size": SIZE, "seed": seed})
    build = Build(
        project.model_copy(update={"preserve": kept}), load_target("host"), "host", root, lambda stage, event: None
    )
    build.run("preserve")
    result, held_out, outputs = compress_digits(build, CompressionConfig(**CONFIG, seed=seed), budget=BUDGET)
    verdict = preserve.judge(held_out, outputs)
    flips = len(verdict.flips)
    return {
        "strategy": strategy,
        "seed": seed,
        "size": SIZE,
        "flips": flips,
        "held_out": len(held_out),
        "flips_per_case": flips / SIZE,
        "bytes": result.stored_bytes,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, a line a strategy, the fewest flips first."""
    lines = ["| strategy | flips on held-out data | per preserved case | bytes |", "|---|---|---|---|"]
    by_strategy: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_strategy.setdefault(row["strategy"], []).append(row)

    def spread(group: list[dict[str, Any]], key: str, digits: int) -> str:
        values = [row[key] for row in group]
        return f"{mean(values):,.{digits}f} ± {stdev(values) if len(values) > 1 else 0:,.{digits}f}"

    for name, group in sorted(by_strategy.items(), key=lambda item: mean(row["flips"] for row in item[1])):
        cells = spread(group, "flips", 1), spread(group, "flips_per_case", 3), spread(group, "bytes", 0)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="of the compressor and of random")
    parser.add_argument("--strategies", nargs="+", choices=list(preserve.STRATEGIES), default=list(preserve.STRATEGIES))
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the rows go")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        plans = [(strategy, seed) for strategy in given.strategies for seed in range(given.seeds)]
        rows = [measure(strategy, seed, Path(root)) for strategy, seed in track(plans, "compressing")]
    write_json(given.results, rows)
    print(table(rows))


if __name__ == "__main__":
    main()
