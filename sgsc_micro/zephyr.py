"""A Zephyr tree on this machine: where it is, what its build wants of the environment, what a board of its is."""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sgsc_micro.errors import SgscError
from sgsc_micro.files import data_dir, sha256_bytes
from sgsc_micro.targets import ZEPHYR, Emulator, Flashers, Memory, Serial, West, ZephyrBoard, ZephyrTarget
from sgsc_micro.zephyr_errors import explain

TEMPLATES = "zephyr"
"""In ``firmware_templates``: ``app`` is the firmware, ``module`` what makes a library a Zephyr module."""

QEMU_SYSTICK_HZ = {
    "lm3s6965evb": 12_500_000,
    "mps2-an385": 25_000_000,
    "mps2-an386": 25_000_000,
    "mps2-an500": 25_000_000,
    "mps2-an521": 20_000_000,
    "mps3-an547": 32_000_000,
}
"""How fast QEMU lets a machine's SysTick run, whatever Zephyr believes: its instructions can be counted."""

_DSP = ("CONFIG_CPU_CORTEX_M4", "CONFIG_CPU_CORTEX_M7", "CONFIG_ARMV8_M_DSP")
_COMPILER_VARIABLES = ("CFLAGS", "LDFLAGS")


@dataclass(frozen=True)
class Tree:
    """A Zephyr source tree, and the environment that its build runs in."""

    base: Path
    version: str
    environment: dict[str, str]


def find_tree() -> Tree:
    """The tree that ZEPHYR_BASE names; where no toolchain is chosen, the system's arm-none-eabi-gcc.

    Errors: ``SgscError`` where it is not set, or no tree lies there.
    """
    named = os.environ.get("ZEPHYR_BASE")
    if not named:
        raise SgscError("ZEPHYR_BASE is not set", hint="set it to your Zephyr tree: docs/zephyr.md")
    base = Path(named).resolve()
    try:
        fields = dict(re.findall(r"^(\w+) *= *(\d+)", (base / "VERSION").read_text(encoding="utf-8"), re.MULTILINE))
        version = ".".join(fields[key] for key in ("VERSION_MAJOR", "VERSION_MINOR", "PATCHLEVEL"))
    except (OSError, KeyError) as error:
        raise SgscError(
            f"ZEPHYR_BASE: no Zephyr tree in {base}", hint="it is the folder with Zephyr's VERSION"
        ) from error
    # The user's own flags for other compilers must not reach the image.
    environment = {key: value for key, value in os.environ.items() if key not in _COMPILER_VARIABLES}
    environment["ZEPHYR_BASE"] = str(base)
    compiler = shutil.which("arm-none-eabi-gcc")
    if compiler and not {"ZEPHYR_TOOLCHAIN_VARIANT", "ZEPHYR_SDK_INSTALL_DIR"} & environment.keys():
        environment["ZEPHYR_TOOLCHAIN_VARIANT"] = "gnuarmemb"
        environment["GNUARMEMB_TOOLCHAIN_PATH"] = str(Path(compiler).parents[1])
    return Tree(base, version, environment)


@functools.cache
def zephyr_target(board: str) -> ZephyrTarget:
    """The target ``zephyr:<board>``, as Zephyr's own configuration has it: some seconds.

    Errors: ``SgscError`` where there is no tree, it does not know the board, or the board cannot run such firmware.
    """
    tree = find_tree()
    with tempfile.TemporaryDirectory() as folder:
        _configure(tree, board, Path(folder))
        config = parse_config((Path(folder) / "zephyr" / ".config").read_text(encoding="utf-8"))
        devicetree = (Path(folder) / "zephyr" / "dts.cmake").read_text(encoding="utf-8")
        twin = twin_of((Path(folder) / "twin.txt").read_text(encoding="utf-8"))
    return make_target(board, tree.version, config, devicetree, twin)


def _configure(tree: Tree, board: str, folder: Path) -> None:
    templates = data_dir("firmware_templates") / TEMPLATES
    command = ["cmake", f"-DBOARD={board}", f"-DZEPHYR_EXTRA_MODULES={templates / 'module'}"]
    command += ["-S", str(templates / "app"), "-B", str(folder), "-P", str(templates / "describe.cmake")]
    try:
        result = subprocess.run(command, capture_output=True, text=True, env=tree.environment)
    except FileNotFoundError as error:
        raise SgscError("cmake is not installed", hint="sudo apt install cmake") from error
    if result.returncode != 0:
        raise explain(board, result.stdout + result.stderr)


def parse_config(text: str) -> dict[str, str]:
    """A ``.config`` as a dict: what is off is absent, quotes are gone."""
    return {key: value.strip('"') for key, value in re.findall(r"^(CONFIG_\w+)=(.*)$", text, re.MULTILINE)}


def link_baud(devicetree: str) -> int:
    """The speed of the chosen ``sgsc,link``, or else ``zephyr,console``, in the text of Zephyr's ``dts.cmake``."""
    for chosen in ("sgsc,link", "zephyr,console"):
        if port := re.search(rf'"DT_CHOSEN\|{chosen}" "([^"]+)"', devicetree):
            speed = re.search(rf'"DT_PROP\|{re.escape(port[1])}\|current-speed" "(\d+)"', devicetree)
            if speed is None:
                raise SgscError(f"{port[1]}, the chosen {chosen}, has no current-speed", hint="set it in an overlay")
            return int(speed[1])
    raise SgscError(
        "the board's devicetree chooses no zephyr,console", hint="choose sgsc,link in an overlay: docs/zephyr.md"
    )


def twin_of(qemu_options: str) -> Emulator | None:
    """The twin that a board's QEMU options name, a CMake list; None without one, or where its SysTick is not known."""
    options = qemu_options.split(";")
    names = [value for key, value in itertools.pairwise(options) if key in ("-machine", "-M")]
    if not names or names[0] not in QEMU_SYSTICK_HZ:
        return None
    hz = QEMU_SYSTICK_HZ[names[0]]
    shift = next(n for n in range(11) if hz * 2**n >= 4 * 10**9)
    return Emulator(machine=names[0], serial=0, systick_hz=hz, icount_shift=shift)


def make_target(
    board: str, version: str, config: dict[str, str], devicetree: str, twin: Emulator | None
) -> ZephyrTarget:
    """The target of a board whose ``.config`` is known, and the text of its ``dts.cmake``.

    Errors: ``SgscError`` where it is no Cortex-M, does not run from flash, or has no port for the link.
    """
    if "CONFIG_CPU_CORTEX_M" not in config:
        raise SgscError(f"Zephyr's {board} is no Cortex-M", hint="the firmware runs on Cortex-M alone")
    offset = _number(config, "CONFIG_FLASH_LOAD_OFFSET")
    flash = _number(config, "CONFIG_FLASH_LOAD_SIZE") or 1024 * _number(config, "CONFIG_FLASH_SIZE") - offset
    if "CONFIG_XIP" not in config or flash <= 0:
        raise SgscError(f"Zephyr's {board} does not run from flash", hint="take a board or a configuration that does")
    if offset:
        raise SgscError(f"Zephyr's {board} starts behind a boot loader", hint="set CONFIG_FLASH_LOAD_OFFSET=0")
    instruction_set: Literal["c", "dsp", "helium"] = "dsp" if any(key in config for key in _DSP) else "c"
    if "CONFIG_ARMV8_1_M_MVEI" in config and "CONFIG_FPU" in config:
        instruction_set = "helium"
    ram = {"origin": _number(config, "CONFIG_SRAM_BASE_ADDRESS"), "bytes": 1024 * _number(config, "CONFIG_SRAM_SIZE")}
    return ZephyrTarget(
        name=ZEPHYR + board,
        description=f"Zephyr {version} on {board}",
        instruction_set=instruction_set,
        board=ZephyrBoard(
            zephyr_board=board,
            zephyr_version=version,
            configuration=sha256_bytes((json.dumps(config, sort_keys=True) + devicetree).encode()),
            stack_bytes=_number(config, "CONFIG_MAIN_STACK_SIZE"),
            flash=Memory(origin=_number(config, "CONFIG_FLASH_BASE_ADDRESS"), bytes=flash),
            ram=Memory.model_validate(ram),
            serial=Serial(baud=link_baud(devicetree)),
            flashers=Flashers(west=West()),
            emulator=twin,
        ),
    )


def _number(config: dict[str, str], key: str) -> int:
    return int(config.get(key, "0"), 0)
