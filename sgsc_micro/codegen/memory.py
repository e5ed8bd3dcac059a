"""The arena for a person: what lies where, from layer to layer, as a table and as a picture."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sgsc_micro.kernels import Lowered

Manifest = dict[str, Any]

WIDTH, HEIGHT, LEFT, TOP = 860.0, 360.0, 70.0, 46.0  # pixels of the drawing, and where it begins
LEAST_COLUMN = 13.0  # pixels a layer takes at least: its name stands upright below
LETTER, LINE = 6.0, 11.0  # pixels of a label


def memory_fields(lowered: Lowered) -> Manifest:
    """What a manifest says of the arena: its parts, and what lies in them, by part and offset."""
    plan = lowered.plan
    residents = [*plan.tensors.values(), *plan.scratch.values()]
    return {
        "arena_bytes": plan.arena_bytes,
        "live_bytes": plan.live_bytes,
        "arena_parts": [asdict(part) for part in plan.parts],
        "memory": [asdict(r) for r in sorted(residents, key=lambda r: (r.part, r.offset, r.first, r.kind))],
    }


def memory_text(manifest: Manifest) -> str:
    """``memory.txt``: the arena's size, the least it could be, and a row for each tensor and scratch row."""
    layers = [layer["name"] for layer in manifest["layers"]]
    rows = [("offset", "bytes", "what", "first layer", "last layer", "")]
    for row in manifest["memory"]:
        place = f"{row['offset']:,}"
        if len(manifest["arena_parts"]) > 1:
            place = f"{manifest['arena_parts'][row['part']]['memory']} {place}"
        over = f"over {row['over']}" if row["over"] else ""
        rows.append((place, f"{row['bytes']:,}", _label(row), layers[row["first"]], layers[row["last"]], over))
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    lines = [
        "  ".join([row[0].rjust(widths[0]), row[1].rjust(widths[1]), *map(str.ljust, row[2:], widths[2:])]).rstrip()
        for row in rows
    ]
    parts = ", ".join(f"{part['memory']} {part['bytes']:,}" for part in manifest["arena_parts"])
    return "\n".join([f"{manifest['name']}: {_summary(manifest)}", f"parts: {parts}", "", *lines, ""])


@dataclass(frozen=True)
class _Box:
    """A rectangle of the picture, in pixels."""

    kind: str
    x: float
    y: float
    width: float
    height: float
    title: str
    label: str


def memory_picture(manifest: Manifest) -> Manifest:
    """What ``memory.svg.j2`` draws: layers from left to right, bytes from the bottom up, parts on top of each other."""
    layers, parts = manifest["layers"], manifest["arena_parts"]
    column, pixel = max(LEAST_COLUMN, WIDTH / len(layers)), HEIGHT / manifest["arena_bytes"]
    bases = [sum(part["bytes"] for part in parts[:number]) for number in range(len(parts))]
    overwritten = {row["over"]: row["first"] for row in manifest["memory"] if row["over"]}

    def y(position: float) -> float:
        return round(TOP + HEIGHT - position * pixel, 2)

    boxes = []
    for row in manifest["memory"]:
        over = row["kind"] != "scratch" and row["name"] in overwritten
        begin = row["first"] + (0.5 if row["over"] else 0.0)  # one tensor becomes another within a layer
        end = overwritten[row["name"]] + 0.5 if over else row["last"] + 1.0
        top = bases[row["part"]] + row["offset"] + row["bytes"]
        width, height = (end - begin) * column, row["bytes"] * pixel
        fits = len(_label(row)) * LETTER < width and height > LINE
        title = f"{_label(row)}: {row['bytes']:,} bytes at {row['offset']:,}"
        x = round(LEFT + begin * column, 2)
        label = _label(row) if fits else ""
        seen = round(max(height, 1.0), 2)  # a few bytes can be less than a pixel
        boxes.append(_Box(row["kind"], x, y(top), round(width, 2), seen, title, label))
    return {
        "summary": _summary(manifest),
        "boxes": boxes,
        "live": [(round(LEFT + step * column, 2), y(layer["live_bytes"])) for step, layer in enumerate(layers)],
        "layers": [(round(LEFT + (step + 0.5) * column, 2), layer["name"]) for step, layer in enumerate(layers)],
        "edges": [(y(base), base, part["memory"]) for base, part in zip(bases, parts, strict=True)],
        "top": TOP,
        "bottom": TOP + HEIGHT,
        "left": LEFT,
        "column": round(column, 2),
        "right": round(LEFT + column * len(layers), 2),
        "width": round(LEFT + column * len(layers) + 20, 2),
        "height": round(TOP + HEIGHT + 20 + LETTER * max(len(layer["name"]) for layer in layers), 2),
        "total": manifest["arena_bytes"],
        "kinds": sorted({box.kind for box in boxes}),
    }


def _label(row: Manifest) -> str:
    """``input``, a layer's name for what it writes, its scratch by that word."""
    name = str(row["name"])
    return f"scratch of {name}" if row["kind"] == "scratch" else f"{name}, output" if row["kind"] == "output" else name


def _summary(manifest: Manifest) -> str:
    total, live = manifest["arena_bytes"], manifest["live_bytes"]
    busiest = max(manifest["layers"], key=lambda layer: int(layer["live_bytes"]))["name"]
    return (
        f"arena {total:,} bytes; {live:,} are needed at once, in {busiest}; "
        f"{total - live:,} bytes ({100 * (total - live) / live:.1f} %) above that"
    )
