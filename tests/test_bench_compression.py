"""Behind `make bench-compression`: rows, their table and pictures, of a task that takes seconds."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.compression.data import Part, Splits
from benchmarks.compression.measure import WAY, Row, Run, Task, rows_of
from benchmarks.compression.plots import draw_run, front
from benchmarks.compression.tables import table
from sgsc_micro.project import CompressionConfig, Policy
from tests.small import make_task


def bars(policy: Policy) -> Task:
    """Bars in three directions, under the name of a real task; the second budget cannot be met."""
    network, inputs, labels, _ = make_task()
    parts = [Part(inputs[rows], labels[rows]) for rows in (slice(0, 60), slice(60, 75), slice(75, 90))]
    config = CompressionConfig(steps=3, settle=1, epochs=3, batch=16, bits_learning_rate=0.5)
    return Task("mnist", "accuracy", Splits(*parts), network, 0.5, 12, config, policy, (220, 3), 220)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Row, Run | None]]:
    """Every row."""
    return list(rows_of(bars(Policy()), tmp_path_factory.mktemp("runs")))


def test_every_method_has_its_row(found: list[tuple[Row, Run | None]]) -> None:
    rows = {row.method: row for row, _ in found if WAY not in row.method}
    assert list(rows) == [
        "float", "uniform 8 bits", "uniform 4 bits", "unguarded, 0.22 kB", "guarded, 0.22 kB", "guarded, 0.003 kB"
    ]  # fmt: skip
    assert rows["uniform 4 bits"].weight_bytes < 0.7 * rows["uniform 8 bits"].weight_bytes
    assert rows["uniform 8 bits"].weight_bytes < 0.3 * rows["float"].bytes
    assert rows["guarded, 0.22 kB"].bytes <= 220 < rows["uniform 8 bits"].bytes
    assert rows["guarded, 0.003 kB"].bytes > 3  # as far as it came
    assert rows["guarded, 0.22 kB"].flips_P == rows["guarded, 0.003 kB"].flips_P == 0
    assert all(0 < row.bound <= 1 for name, row in rows.items() if name != "float")


def test_what_was_accepted_on_the_way_is_a_row_too(found: list[tuple[Row, Run | None]]) -> None:
    way = [row for row, _ in found if row.method.startswith("guarded, 0.003 kB")]
    (run,) = [run for row, run in found if row.method == "guarded, 0.003 kB"]
    assert run is not None
    accepted = [line for line in run.journal if line["accepted"]]
    assert [row.bytes for row in way[:-1]] == [line["bytes"] for line in accepted[:-1] if line["phase"] != "settle"]
    assert way[-1].bytes == accepted[-1]["bytes"]
    assert [row.minutes for row in way] == sorted(row.minutes for row in way)


def test_a_set_that_not_even_8_bits_hold_leaves_no_row(tmp_path: Path) -> None:
    assert list(rows_of(bars(Policy(max_divergence=1e-9)), tmp_path, ["guarded, 0.22"])) == []


def test_the_table_leaves_the_way_out_and_names_the_peers(found: list[tuple[Row, Run | None]]) -> None:
    text = table([asdict(row) for row, _ in found])
    assert WAY not in text and "public ports* | 98.20 % | 18,075" in text
    assert f"| {found[0][0].bytes:,} |" in text


def test_pictures_show_every_point(found: list[tuple[Row, Run | None]], tmp_path: Path) -> None:
    rows = json.loads(json.dumps([asdict(row) for row, _ in found]))
    picture = front("mnist", rows)
    ElementTree.fromstring(picture)
    fewer = front("mnist", [row for row in rows if WAY not in row["method"]])
    assert picture.count("<use ") - fewer.count("<use ") >= sum(WAY in row["method"] for row in rows) > 0
    run = next(run for _, run in found if run is not None)
    draw_run(tmp_path, "run", run.module, run.journal)
    for name in ("run-widths.svg", "run-journal.svg"):
        ElementTree.parse(tmp_path / name)
