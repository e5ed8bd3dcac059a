"""The pictures of a task: its front beside its peers', and of one run the widths and the journal."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import tvm
from matplotlib.figure import Figure

from benchmarks.compression.measure import WAY
from benchmarks.compression.tables import PEERS
from sgsc_micro.codegen import write_library
from sgsc_micro.files import write_text
from sgsc_micro.passes import optimise
from sgsc_micro.report import charts

STYLES: dict[str, dict[str, Any]] = {
    "guarded": {"marker": "o", "color": charts.BLUE},
    "guarded, on the way": {"marker": ".", "color": charts.BLUE, "alpha": 0.4},
    "unguarded": {"marker": "^", "color": charts.VERMILLION},
    "unguarded, on the way": {"marker": "2", "color": charts.VERMILLION, "alpha": 0.6},
    "uniform": {"marker": "s", "color": charts.GREY},
    "peers": {"marker": "x", "color": charts.INK},
}


def front(task: str, rows: list[dict[str, Any]]) -> str:
    """SVG: the metric on T against all bytes of constants, on a logarithmic axis."""
    metric = rows[0]["metric"]
    points: dict[str, list[tuple[float, float]]] = {style: [] for style in STYLES}
    for row in rows:
        kind = row["method"].split(",")[0].split(" ")[0]
        style = f"{kind}, on the way" if WAY in row["method"] else kind
        if style in points:
            points[style].append((row["bytes"], row["value"]))
    points["peers"] = [(size, value) for _, value, size in PEERS[task]]
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    for style, found in points.items():
        if found:
            axes.scatter(*zip(*found, strict=True), label=style, zorder=3, **STYLES[style])
    for row in rows:
        if row["method"] == "float":
            axes.axhline(row["value"], color=charts.GREY, linestyle=":", linewidth=1, label="float")
    axes.set_xscale("log")
    for axis in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        axis(lambda size, _: f"{size / 1000:g}")
    axes.set_xlabel("stored constants, kB")
    axes.set_ylabel({"accuracy": "right on T, share", "loss": "loss on T, nats"}[metric])
    axes.grid(color=charts.FAINT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def draw_run(folder: Path, name: str, module: tvm.IRModule, journal: list[dict[str, Any]]) -> None:
    """``name``-widths.svg and ``name``-journal.svg in ``folder``."""
    with tempfile.TemporaryDirectory() as library:
        layers = write_library(optimise(module), Path(library), "model")["layers"]
    write_text(folder / f"{name}-widths.svg", charts.widths(layers))
    write_text(folder / f"{name}-journal.svg", charts.guarded_loop(journal))
