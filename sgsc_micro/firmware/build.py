"""A target and a C library into a firmware image: compile, measure, say what does not fit."""

from __future__ import annotations

import tempfile
from pathlib import Path

from sgsc_micro.errors import SgscError
from sgsc_micro.firmware.bare_metal import compile_bare_metal
from sgsc_micro.firmware.image import FirmwareImage, read_image
from sgsc_micro.firmware.zephyr import compile_zephyr
from sgsc_micro.targets import BareMetalBoard, Board, Target, ZephyrBoard


def build_firmware(target: Target, library_dir: Path, out_dir: Path) -> FirmwareImage:
    """Build ``library_dir`` (model.c, model.h, weights.c, their CMake package) for ``target`` into ``out_dir``.

    The same target and library give the same bytes, wherever they lie. Raises SgscError if the target has no
    firmware, a tool or a library file is missing, the code does not compile, or the image does not fit the board;
    then ``out_dir`` is untouched.
    """
    board = target.require_board()
    for name in ("model.h", "model.c", "weights.c", "sgsc_model-config.cmake"):
        if not (library_dir / name).is_file():
            raise SgscError(f"{library_dir / name}: not there", hint="compile the network to C first")
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out_dir.name}.", dir=out_dir.parent) as scratch:
        build = Path(scratch).resolve()
        if isinstance(board, ZephyrBoard):
            made = compile_zephyr(board, library_dir.resolve(), build)
        else:
            assert isinstance(board, BareMetalBoard)
            made = compile_bare_metal(target, board, library_dir.resolve(), build)
        _check_fit(target.name, board, read_image(made))
        out_dir.mkdir(exist_ok=True)
        for path in made.iterdir():
            path.replace(out_dir / path.name)
    return read_image(out_dir)


def _check_fit(name: str, board: Board, image: FirmwareImage) -> None:
    sizes, elsewhere = image.sizes, sum(image.arena_parts.values())
    apart = [(region, image.arena_parts.get(region.name, 0)) for region in board.arena]
    flash = {"weights": sizes.weights, "code": sizes.code, "other constants": sizes.rodata + sizes.data}
    ram = {"arena": sizes.arena - elsewhere, "stack": sizes.stack, "buffers and variables": sizes.data + sizes.bss}
    for memory, total, limit, parts in (
        ("flash", sizes.flash_total, board.flash.bytes, flash),
        ("RAM", sizes.ram_total - elsewhere, board.ram.bytes, ram),
        *((region.name, part, region.bytes, {"arena": part}) for region, part in apart),
    ):
        if total > limit:
            ranking = sorted(parts.items(), key=lambda part: -part[1])
            shares = ", ".join(f"{part} {size:,}" for part, size in ranking)
            raise SgscError(
                f"the network does not fit {name}: {memory} is {total - limit:,} bytes too small "
                f"({total:,} of {limit:,}; {shares} bytes)",
                hint=f"make the {ranking[0][0]} smaller or choose a larger target",
            )
