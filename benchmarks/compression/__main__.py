"""Compression of real tasks, beside the same networks uncompressed, uniformly quantised and unguarded.

    python -m benchmarks.compression --task mnist

Every row is written to benchmarks/results/compression.json as soon as it is known; a killed run goes on where it was.
The table is printed from there, peers beside it. Beside the rows lie pictures: the front of every task, the widths and
the journal of every run under the guard.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import asdict

import torch

from benchmarks.compression import keywords
from benchmarks.compression.data import ROOT
from benchmarks.compression.measure import Row, Run, file_name, rows_of
from benchmarks.compression.plots import draw_run, front
from benchmarks.compression.tables import table
from benchmarks.compression.tasks import TASKS
from sgsc_micro.files import write_json, write_text
from sgsc_micro.sources.torch import THREADS

RESULTS = ROOT / "benchmarks" / "results" / "compression.json"
FOLDER = ROOT / "build" / "compression"


def keep(row: Row) -> None:
    """Put a row among the results, in the place of an older one of the same task, method and seed."""
    rows = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    key = (row.task, row.method, row.seed)
    rows = [old for old in rows if (old["task"], old["method"], old["seed"]) != key] + [asdict(row)]
    write_json(RESULTS, sorted(rows, key=lambda old: (old["task"], -old["bytes"])))


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*TASKS, "keywords"]
    parser.add_argument("--task", choices=names, action="append", help="one of them; all by default")
    parser.add_argument("--method", action="append", help="only those whose names begin so")
    parser.add_argument("--threads", type=int, default=THREADS, help="of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.task or names:
        if name == "keywords":
            found: Iterable[tuple[Row, Run | None]] = ((row, None) for row in keywords.rows(FOLDER))
        else:
            found = rows_of(TASKS[name](), FOLDER, options.method)
        for row, run in found:
            keep(row)
            if run is not None:
                draw_run(RESULTS.parent, file_name(row.task, row.method), run.module, run.journal)
        rows = json.loads(RESULTS.read_text(encoding="utf-8"))
        write_text(RESULTS.with_name(f"{name}-front.svg"), front(name, [row for row in rows if row["task"] == name]))
    print(table(rows))


if __name__ == "__main__":
    main()
