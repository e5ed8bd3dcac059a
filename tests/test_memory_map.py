"""memory.txt and memory.svg say what the plan is, and the plan is in the manifest."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from sgsc_micro.codegen import write_library
from sgsc_micro.codegen.memory import memory_picture
from sgsc_micro.passes import optimise
from sgsc_micro.passes.plan import read_plan
from tests.graphs import random_graph
from tests.test_arena_regions import FAST, board_with

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(params=range(6))
def library(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    target = board_with({"name": "fast", "origin": FAST, "bytes": 500}) if request.param % 2 else None
    module = optimise(random_graph(request.param)[0], target and target.board)
    manifest = write_library(module, tmp_path, "a <network>")
    plan = read_plan(module)
    assert manifest["arena_bytes"] == sum(part["bytes"] for part in manifest["arena_parts"]) == plan.arena_bytes
    assert len(manifest["memory"]) == len(plan.tensors) + len(plan.scratch)
    return tmp_path, manifest


def test_the_table_has_a_row_for_everything(library: tuple[Path, dict[str, Any]]) -> None:
    folder, manifest = library
    head, parts, _, _, *rows = (folder / "memory.txt").read_text().splitlines()
    total, live = manifest["arena_bytes"], max(layer["live_bytes"] for layer in manifest["layers"])
    assert head.startswith(f"a <network>: arena {total:,} bytes; {live:,} are needed at once, in ")
    assert head.endswith(f"{total - live:,} bytes ({100 * (total - live) / live:.1f} %) above that")
    assert all(f"{part['memory']} {part['bytes']:,}" in parts for part in manifest["arena_parts"])
    assert len(rows) == len(manifest["memory"])
    for text, row in zip(rows, manifest["memory"], strict=True):
        layers = [manifest["layers"][row[end]]["name"] for end in ("first", "last")]
        assert re.search(
            rf"\b{row['offset']:,}\s+{row['bytes']:,}\s+.*\b{row['name']}\b.*{layers[0]}\s+{layers[1]}", text
        )
        assert text.endswith(f"over {row['over']}") == bool(row["over"])


def test_the_picture_shows_every_byte_once(library: tuple[Path, dict[str, Any]]) -> None:
    folder, manifest = library
    root = ElementTree.parse(folder / "memory.svg").getroot()
    titled = [rect for rect in root.iter(f"{SVG}rect") if rect.find(f"{SVG}title") is not None]
    assert len(titled) == len(manifest["memory"])
    picture = memory_picture(manifest)
    canvas = np.zeros((2000, 400 * len(picture["layers"])), np.int8)
    down, across = 2000 / (picture["bottom"] - picture["top"]), 400 / picture["column"]
    for rect in titled:
        x, y, width, height = (float(rect.attrib[key]) for key in ("x", "y", "width", "height"))
        assert picture["left"] <= x and x + width <= picture["right"] + 0.1
        rows = slice(round((y - picture["top"]) * down) + 8, round((y + height - picture["top"]) * down) - 8)
        canvas[rows, round((x - picture["left"]) * across) + 8 : round((x + width - picture["left"]) * across) - 8] += 1
    assert canvas.max() == 1
