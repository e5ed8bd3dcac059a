"""The page's two pictures as inline SVG: plain functions of the data, drawn without pyplot's global state."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from sgsc_micro.storage import MAX_BITS

WIDTH = 9.0  # inches; the page scales it
ROW = 0.30  # inches a layer takes
# Okabe and Ito's palette, which colour-blind readers can tell apart; markers differ in shape as well.
BLUE, VERMILLION, GREY, INK = "#0072B2", "#D55E00", "#8A8F98", "#1D2430"
FAINT = "#E3E6EB"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, in the page's own font
    "svg.hashsalt": "sgsc_micro",  # the same picture, the same bytes
    "text.parse_math": False,  # a name may hold a dollar sign
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}


def widths(layers: list[dict[str, Any]]) -> str:
    """SVG: of every weighted layer, how many channels have each width, and the bytes its constants take."""
    weighted = [layer for layer in layers if "widths" in layer]
    names = [layer["name"] for layer in weighted]
    counts = np.array([np.bincount(layer["widths"], minlength=MAX_BITS + 1) for layer in weighted])  # [L, 9]
    stored = [sum(layer["bytes"].values()) for layer in weighted]
    with _figure(len(weighted) * ROW + 0.75) as figure:
        heat, bars = figure.subplots(1, 2, width_ratios=(3, 1.3), sharey=True)
        _heat(heat, counts)
        heat.set_yticks(range(len(names)), names)
        heat.set_ylim(len(names) - 0.5, -0.5)
        bars.barh(range(len(stored)), stored, height=0.6, color=BLUE)
        for row, size in enumerate(stored):
            bars.annotate(f"{size:,}", (size, row), (3, 0), textcoords="offset points", va="center")
        bars.set_xlim(0, 1.3 * max(stored))
        bars.set_xticks([])
        bars.set_xlabel("stored constants, bytes")
        bars.spines[["top", "right", "bottom"]].set_visible(False)
        bars.tick_params(left=False)
        return _svg(figure)


def _heat(axes: Axes, counts: np.ndarray) -> None:
    """Channels of each layer at each width, int [L, 9]: the number, on a blue as deep as its share of the layer."""
    shares = counts / counts.sum(axis=1, keepdims=True)
    depths = shares / shares.max()
    columns, rows = (np.arange(size + 1) - 0.5 for size in reversed(counts.shape))  # the edges of the cells
    axes.pcolormesh(columns, rows, np.ma.masked_equal(depths, 0), cmap="Blues", vmin=-0.1, vmax=1.2, edgecolors="white")
    for (row, bits), count in np.ndenumerate(counts):
        colour = GREY if count == 0 else INK if depths[row, bits] < 0.6 else "white"
        axes.text(bits, row, str(count or "·"), color=colour, ha="center", va="center")
    axes.set_xticks(range(MAX_BITS + 1))
    axes.set_xlabel("bits per weight (number of channels in each cell)")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def guarded_loop(journal: list[dict[str, Any]]) -> str:
    """SVG: what every step of the guarded loop proposed, in bytes, and what became of it."""
    sizes = {line["step"]: line["bytes"] for line in journal}
    kept = [line["step"] for line in journal if line["accepted"]]
    broke = [line["step"] for line in journal if not line["passed"]]
    larger = [step for step in sizes if step not in kept and step not in broke]
    restored = {line["step"]: sizes[line["restored"]] for line in journal if line["restored"] is not None}
    with _figure(3.3) as figure:
        axes = figure.subplots()
        path = [*kept, max(sizes)]
        axes.step(path, [sizes[step] for step in kept] + [sizes[kept[-1]]], where="post", color=BLUE, linewidth=1.2)
        axes.vlines(
            list(restored), [sizes[step] for step in restored], list(restored.values()), colors=GREY, linestyles=":"
        )
        for label, steps, marker in (
            ("accepted", kept, {"marker": "o", "color": BLUE}),
            ("rejected: broke preserved cases", broke, {"marker": "x", "color": VERMILLION, "linewidth": 2.0}),
            ("rejected: not smaller", larger, {"marker": "s", "facecolor": "white", "edgecolor": GREY}),
        ):
            if steps:
                axes.scatter(steps, [sizes[step] for step in steps], s=38, zorder=3, label=label, **marker)
        for step in {kept[0], kept[-1]}:
            axes.annotate(f"{sizes[step]:,}", (step, sizes[step]), (0, 8), textcoords="offset points", ha="center")
        axes.set_ylim(0, 1.12 * max(sizes.values()))
        axes.set_xlabel("step")
        axes.set_ylabel("stored constants, bytes")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.grid(axis="y", color=FAINT)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(length=0)
        figure.legend(loc="outside upper left", ncols=3)
        return _svg(figure)


@contextmanager
def _figure(height: float) -> Iterator[Figure]:
    """A figure in our style, whatever the user's own matplotlib settings are."""
    with matplotlib.style.context(_STYLE, after_reset=True):
        yield Figure(figsize=(WIDTH, height), layout="constrained")


def _svg(figure: Figure) -> str:
    """The figure as an <svg> element, without the ids that would occur twice on a page with two figures."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    return re.sub(r'<g id="[^"]*_\d+"', "<g", text[text.index("<svg") :])
