"""Bare metal: render the board's files, run CMake and Ninja."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import jinja2

from sgsc_micro.errors import SgscError
from sgsc_micro.files import data_dir
from sgsc_micro.firmware import tools
from sgsc_micro.firmware.image import BINARY_NAME, ELF_NAME
from sgsc_micro.targets import BareMetalBoard, Target

_TEMPLATES = ("board.h", "link.ld")
_ERROR = re.compile(r"error:|undefined reference|CMake Error")
_ERROR_LINES = 15


def compile_bare_metal(target: Target, board: BareMetalBoard, library_dir: Path, build: Path) -> Path:
    """The folder inside ``build`` that holds the image and nothing else.

    Errors: ``SgscError`` with the compiler's words.
    """
    _render(target, board, build)
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
            raise SgscError(f"firmware for {target.name} does not build:\n" + "\n".join(errors[:_ERROR_LINES]))
    made = build / "made"
    made.mkdir()
    for name in (ELF_NAME, BINARY_NAME):
        (build / name).replace(made / name)
    return made


def _render(target: Target, board: BareMetalBoard, folder: Path) -> None:
    loader = jinja2.FileSystemLoader(data_dir("firmware_templates") / "bare_metal")
    environment = jinja2.Environment(
        loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    for name in _TEMPLATES:
        text = environment.get_template(f"{name}.j2").render(target=target, board=board)
        (folder / name).write_text(text, encoding="utf-8")
