"""Code bytes and instructions at each size-speed choice, beside the code of CMSIS-NN's kernels.

    python -m benchmarks.optimize [--nets resnet8 dscnn] [--widths 8 4]

Prints a Markdown table and writes benchmarks/results/optimize.json: rows of net, bits, optimize, code_bytes, insn,
checked. Both are counted as `make bench-kernels` counts them.
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.kernels import MAIN, RESULTS, WIDTHS, measured
from benchmarks.networks import NETWORKS, peer_code_bytes
from sgsc_micro.compiler_flags import Optimize
from sgsc_micro.files import write_json

KEYS = ("net", "bits", "code_bytes", "insn", "checked")


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line a network and width, code bytes (and instructions, over those of "balanced")."""
    lines = [
        f"| network | bits | {' | '.join(Optimize)} | CMSIS-NN -Os | CMSIS-NN -Ofast |",
        f"|---|---|{'---|' * len(Optimize)}---|---|",
    ]
    found = {(row["net"], str(row["bits"]), row["optimize"]): row for row in rows}
    for net, bits in dict.fromkeys(key[:2] for key in found):
        chosen = [found[net, bits, choice] for choice in Optimize]
        balanced = found[net, bits, Optimize.BALANCED]["insn"]
        cells = [NETWORKS[net].label, bits]
        cells += [f"{row['code_bytes']:,} ({row['insn'] / balanced:.2f})" for row in chosen]
        peers = [peer_code_bytes(net, bits, optimisation) for optimisation in ("-Os", "-Ofast")]
        cells += ["" if peer is None else f"{peer:,}" for peer in peers]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print; write what was measured in full; exit 1 where an output differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--widths", nargs="+", choices=WIDTHS, default=list(WIDTHS))
    options = parser.parse_args()
    rows = [
        {key: row[key] for key in KEYS} | {"optimize": choice}
        for choice in Optimize
        for row in measured([MAIN], options.nets, options.widths, choice)
        if row["layer"] == "total"
    ]
    if (options.nets, options.widths) == (list(NETWORKS), list(WIDTHS)):
        write_json(RESULTS / "optimize.json", rows)
    print(table(rows))
    if not all(row["checked"] for row in rows):
        raise SystemExit("outputs differ from the reference's")


if __name__ == "__main__":
    main()
