"""The picture of benchmarks/kernels.py: ratios to CMSIS-NN with goals, and instructions per MAC by layer."""

from __future__ import annotations

import io
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = {8: "#0072B2", 4: "#009E73", 2: "#E69F00", "mixed": "#CC79A7"}
INK, GREY = "#1D2430", "#8A8F98"
MARKERS = {8: "o", 4: "s", 2: "^", "mixed": "D"}
_BAR = 0.2


def picture(rows: list[dict[str, Any]], labels: dict[str, str]) -> str:
    """SVG; ``labels``: what the networks are called, by ``net``."""
    with matplotlib.style.context({"svg.hashsalt": "sgsc_micro", "font.size": 9}, after_reset=True):
        figure = Figure(figsize=(9, 9), layout="constrained")
        (top, *below) = figure.subplots(1 + len(labels), 1, height_ratios=[2, *[1] * len(labels)])
        _ratios(top, [row for row in rows if row["layer"] == "total"], labels)
        figure.legend(ncols=6, frameon=False, loc="outside upper center")
        for axes, (net, label) in zip(below, labels.items(), strict=True):
            _layers(axes, [row for row in rows if row["net"] == net and row["layer"] != "total" and row["macs"]], label)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return "".join(f"{line.rstrip()}\n" for line in buffer.getvalue().splitlines())


def _ratios(axes: Axes, totals: list[dict[str, Any]], labels: dict[str, str]) -> None:
    """Bars by network and width; a line across each at its goal."""
    nets = list(labels)
    for number, (bits, colour) in enumerate(COLOURS.items()):
        chosen = [row for row in totals if row["bits"] == bits]
        places = [nets.index(row["net"]) + (number - 1.5) * _BAR for row in chosen]
        name = "mixed widths" if bits == "mixed" else f"{bits} bits"
        axes.bar(places, [row["ratio"] for row in chosen], width=_BAR * 0.9, color=colour, label=name)
        for place, row in zip(places, chosen, strict=True):
            axes.annotate(f"{row['ratio']:.2f}", (place, row["ratio"]), (0, 2), textcoords="offset points", ha="center")
            if row["goal"] is not None:
                axes.hlines(row["goal"], place - _BAR / 2, place + _BAR / 2, colors=INK, linewidth=2)
    axes.plot([], [], color=INK, linewidth=2, label="goal")
    axes.axhline(1, color=GREY, linewidth=1, linestyle="dashed", label="CMSIS-NN, int8")
    axes.set_xticks(range(len(nets)), list(labels.values()))
    axes.set_ylabel("instructions, to CMSIS-NN's at int8")
    axes.set_ylim(0, 1.15 * max(1.0, *(row["ratio"] for row in totals)))
    axes.spines[["top", "right"]].set_visible(False)


def _layers(axes: Axes, rows: list[dict[str, Any]], label: str) -> None:
    """Instructions per MAC, logarithmic; CMSIS-NN's at int8 as dashes."""
    names = list(dict.fromkeys(row["layer"] for row in rows))
    for bits, colour in COLOURS.items():
        chosen = [row for row in rows if row["bits"] == bits]
        places = [names.index(row["layer"]) for row in chosen]
        costs = [row["insn"] / row["macs"] for row in chosen]
        axes.scatter(places, costs, s=14, color=colour, marker=MARKERS[bits])
    seen = {row["layer"]: row["cmsisnn_insn"] / row["macs"] for row in rows if row["cmsisnn_insn"]}
    axes.scatter([names.index(name) for name in seen], list(seen.values()), s=120, color=GREY, marker="_")
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xticks(range(len(names)), names, rotation=90 if len(names) > 14 else 0, fontsize=6)
    axes.set_ylabel(f"{label}\ninstructions\nper MAC")
    axes.spines[["top", "right"]].set_visible(False)
