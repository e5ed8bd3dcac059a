"""The results beside what others reached."""

from __future__ import annotations

from typing import Any

from benchmarks.compression.measure import WAY

PEERS: dict[str, list[tuple[str, float, int]]] = {
    "mnist": [
        ("safety-guided self-compression, authors' code", 0.9935, 211_666),
        ("self-compression, public ports", 0.9820, 18_075),
    ],
    "cifar": [
        ("joint pruning and channel-wise search (2407.01054)", 0.844, 26_400),
        ("the same", 0.819, 15_300),
        ("uniform w4a8", 0.855, 39_000),
        ("int8", 0.863, 77_000),
    ],
    "names": [
        ("safety-guided self-compression, authors' code", 1.6625, 481_967),
        ("the same, best", 1.626, 481_967),
    ],
    "keywords": [],
}
"""Task -> name, metric, bytes, as published."""


HEADS = {"accuracy": "T right", "loss": "loss on T, nats"}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a part a task."""
    parts = []
    for task, peers in PEERS.items():
        mine = [row for row in rows if row["task"] == task and WAY not in row["method"]]
        if not mine:
            continue
        lines = [
            f"### {task}",
            f"| method | {HEADS[mine[0]['metric']]} | bytes | of them weights | flips on P | flips on T | bound, 95 % "
            "| minutes |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for row in sorted(mine, key=lambda row: -row["bytes"]):
            learned = row["method"] != "float"
            flips = f"{row['flips_P']} | {row['flips_T']} | {100 * row['bound']:.2f} %" if learned else "– | – | –"
            sizes = f"{row['bytes']:,} | {row['weight_bytes']:,}"
            lines.append(f"| {row['method']} | {_value(row)} | {sizes} | {flips} | {row['minutes']:.0f} |")
        lines += [
            f"| *{name}* | {_value({**mine[0], 'value': value})} | {size:,} | | | | | |" for name, value, size in peers
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _value(row: dict[str, Any]) -> str:
    """A share, or nats."""
    return f"{100 * row['value']:.2f} %" if row["metric"] == "accuracy" else f"{row['value']:.3f}"
