"""A target and a C library into a firmware image: render the board's files, run CMake and Ninja, measure."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path

import jinja2

from sgsc_micro.errors import SgscError
from sgsc_micro.files import data_dir
from sgsc_micro.firmware import tools
from sgsc_micro.firmware.image import BINARY_NAME, ELF_NAME, FirmwareImage, read_image
from sgsc_micro.targets import Board, Target

_TEMPLATES = ("board.h", "link.ld")
_ERROR = re.compile(r"error:|undefined reference|CMake Error")
_ERROR_LINES = 15


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
        _render(target, build)
        _compile(target.name, board, library_dir.resolve(), build)
        _check_fit(target.name, board, read_image(build))
        out_dir.mkdir(exist_ok=True)
        for name in (ELF_NAME, BINARY_NAME):
            (build / name).replace(out_dir / name)
    return read_image(out_dir)


def _render(target: Target, folder: Path) -> None:
    loader = jinja2.FileSystemLoader(data_dir("firmware_templates") / "bare_metal")
    environment = jinja2.Environment(
        loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    for name in _TEMPLATES:
        text = environment.get_template(f"{name}.j2").render(target=target, board=target.board)
        (folder / name).write_text(text, encoding="utf-8")


def _compile(name: str, board: Board, library_dir: Path, build: Path) -> None:
    tools.require(tools.CROSS_COMPILER)
    ninja = tools.require(tools.NINJA)
    source = data_dir("firmware_templates") / "bare_metal"
    configure = [tools.require(tools.CMAKE), "-S", str(source), "-B", str(build), "-G", "Ninja"]
    configure += [f"-DCMAKE_TOOLCHAIN_FILE={source / 'toolchain.cmake'}", f"-DCPU_FLAGS={';'.join(board.cpu_flags)}"]
    configure += [f"-DCHIP={board.chip}", f"-DUART={board.uart}"]
    configure += [f"-DLIBRARY_DIR={library_dir}", f"-DBOARD_DIR={build}"]
    # The user's own flags for other compilers must not reach the image.
    environment = {key: value for key, value in os.environ.items() if key not in ("CFLAGS", "LDFLAGS")}
    for command in (configure, [ninja, "-C", str(build)]):
        result = subprocess.run(command, capture_output=True, text=True, env=environment)
        if result.returncode != 0:
            lines = (result.stdout + result.stderr).strip().splitlines()
            errors = [line for line in lines if _ERROR.search(line)] or lines
            raise SgscError(f"firmware for {name} does not build:\n" + "\n".join(errors[:_ERROR_LINES]))


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
