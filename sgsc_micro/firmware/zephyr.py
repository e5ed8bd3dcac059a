"""Zephyr: its own build of the application in firmware_templates/zephyr, with the library as a module."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from sgsc_micro.files import data_dir
from sgsc_micro.firmware import tools
from sgsc_micro.firmware.image import BINARY_NAME, ELF_NAME
from sgsc_micro.targets import ZephyrBoard
from sgsc_micro.zephyr import TEMPLATES, find_tree
from sgsc_micro.zephyr_errors import explain

_KEPT = (".config", "runners.yaml", "zephyr.bin", "zephyr.elf", "zephyr.hex")
"""Of Zephyr's build folder, with its CMakeCache.txt: what ``west flash --skip-rebuild`` reads, beside the image."""


def compile_zephyr(board: ZephyrBoard, library_dir: Path, build: Path) -> Path:
    """The folder inside ``build`` that holds the image, and for west what flashes it.

    Errors: ``SgscError`` where there is no Zephyr tree, the code does not compile, or the image does not fit.
    """
    name, tree = board.zephyr_board, find_tree()
    source, place = data_dir("firmware_templates") / TEMPLATES / "app", build / "zephyr"
    configure = [tools.require(tools.CMAKE), "-G", "Ninja", "-S", str(source), "-B", str(place)]
    configure += [f"-DBOARD={name}", f"-DZEPHYR_EXTRA_MODULES={library_dir}"]
    for command in (configure, [tools.require(tools.NINJA), "-C", str(place)]):
        result = subprocess.run(command, capture_output=True, text=True, env=tree.environment)
        if result.returncode != 0:
            raise explain(name, result.stdout + result.stderr)
    made = build / "made"
    (made / "zephyr").mkdir(parents=True)
    shutil.copy2(place / "zephyr" / "zephyr.elf", made / ELF_NAME)
    shutil.copy2(place / "zephyr" / "zephyr.bin", made / BINARY_NAME)
    for path in (place / "zephyr" / file for file in _KEPT):
        if path.is_file():
            shutil.copy2(path, made / "zephyr" / path.name)
    cache = (place / "CMakeCache.txt").read_text(encoding="utf-8").splitlines()
    kept = "\n".join(line for line in cache if str(build) not in line)  # the build folder is gone by then
    (made / "CMakeCache.txt").write_text(kept + "\n", encoding="utf-8")
    return made
