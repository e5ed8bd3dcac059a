"""An arena in several memories: planned, linked and run on an emulated board that has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile
from pydantic import ValidationError

from sgsc_micro import reference
from sgsc_micro.codegen import HostLibrary, to_stored, write_library
from sgsc_micro.device import connect
from sgsc_micro.errors import SgscError
from sgsc_micro.firmware import build_firmware
from sgsc_micro.passes import optimise
from sgsc_micro.passes.plan import read_plan
from sgsc_micro.targets import BareMetalTarget, load_target
from tests.graphs import GraphBuilder

FAST, PSRAM = 0x2020_0000, 0x2100_0000


def board_with(*arena: dict[str, Any], ram: int = 0x20_0000) -> BareMetalTarget:
    """QEMU's MPS2 with these memories for the arena beside ``ram`` bytes of RAM."""
    fields = load_target("qemu-m4").model_dump()
    fields["board"] |= {"arena": arena, "ram": {"origin": 0x2000_0000, "bytes": ram}}
    return BareMetalTarget.model_validate(fields)


def network() -> Any:
    body = ["conv", "residual", "lookup", "residual", "max_pool", "residual"]
    return GraphBuilder(np.random.default_rng(3)).build((16, 12, 6), body, [2, 5, 8])


def test_the_parts_lie_where_the_board_says_and_the_bytes_are_right(tmp_path: Path) -> None:
    whole = read_plan(optimise(network())).arena_bytes
    fast = {"name": "fast", "origin": FAST, "bytes": whole // 2}
    psram = {"name": "psram", "origin": PSRAM, "bytes": 0x10_0000}
    target = board_with(fast, psram)
    module = optimise(network(), target.board)
    manifest = write_library(module, tmp_path / "library", "graph")
    parts = {part.memory: part.bytes for part in read_plan(module).parts}
    assert set(parts) == {"fast", "psram"} and 0 < parts["fast"] <= whole // 2

    image = build_firmware(target, tmp_path / "library", tmp_path / "firmware")
    with image.elf.open("rb") as stream:
        sections = {s.name: (s["sh_addr"], s["sh_size"], s["sh_type"]) for s in ELFFile(stream).iter_sections()}
    assert sections[".arena.fast"] == (FAST, parts["fast"], "SHT_NOBITS")
    assert sections[".arena.psram"] == (PSRAM, parts["psram"], "SHT_NOBITS")
    assert image.sizes.arena == manifest["arena_bytes"] == sum(parts.values())

    x = np.random.default_rng(4).normal(0, 3, (3, 6, 16, 12)).astype(np.float32)
    expected = reference.run_integers(network(), x).reshape(3, -1)
    assert np.array_equal(HostLibrary(tmp_path / "library").run(to_stored(manifest, x)), expected)
    with connect(target, image) as device:
        for case, row in enumerate(to_stored(manifest, x)):
            assert np.frombuffer(device.run(case, row.tobytes()).output, np.int8).tolist() == expected[case].tolist()


def test_what_the_first_memory_has_no_room_for_goes_to_ram(tmp_path: Path) -> None:
    target = board_with({"name": "fast", "origin": FAST, "bytes": 400})
    module = optimise(network(), target.board)
    manifest = write_library(module, tmp_path / "library", "graph")
    image = build_firmware(target, tmp_path / "library", tmp_path / "firmware")
    assert [part.memory for part in read_plan(module).parts] == ["fast", "ram"]
    assert 0 < image.arena_parts["fast"] <= 400 < image.sizes.arena == manifest["arena_bytes"]
    assert image.sizes.ram_total >= image.sizes.arena + image.sizes.stack + image.sizes.bss
    with connect(target, image) as device:
        assert device.hello().arena_bytes == manifest["arena_bytes"]


def test_a_tensor_that_no_memory_has_room_for_is_named() -> None:
    target = board_with({"name": "fast", "origin": FAST, "bytes": 400}, ram=4096 + 900)
    complaint = r"^(input|\w+_\d+|scratch of \w+): no room for its [\d,]+ bytes .* the memories have fast 400, ram 900;"
    with pytest.raises(SgscError, match=complaint):
        optimise(network(), target.board)


def test_an_image_beyond_a_memory_of_its_own_is_refused(tmp_path: Path) -> None:
    fast = {"name": "fast", "origin": FAST, "bytes": 0x1000}
    module = optimise(network(), board_with(fast).board)
    write_library(module, tmp_path / "library", "graph")
    smaller = board_with(fast | {"bytes": 64})
    with pytest.raises(SgscError, match=r"fast is [\d,]+ bytes too small .* make the arena smaller"):
        build_firmware(smaller, tmp_path / "library", tmp_path / "firmware")


@pytest.mark.parametrize(
    ("arena", "fault"),
    [
        ([{"name": "ram", "origin": FAST, "bytes": 8}], "of one name"),
        ([{"name": "a", "origin": FAST, "bytes": 8}, {"name": "a", "origin": PSRAM, "bytes": 8}], "of one name"),
        ([{"name": "a", "origin": FAST, "bytes": 8}, {"name": "b", "origin": FAST + 4, "bytes": 8}], "a and b overlap"),
        ([{"name": "a", "origin": 0x2000_0000, "bytes": 8}], "ram and a overlap"),
    ],
)
def test_memories_that_cannot_be_are_refused(arena: list[dict[str, Any]], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        board_with(*arena)
