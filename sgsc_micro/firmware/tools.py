"""The programs that firmware needs, and where a Debian user gets them."""

from __future__ import annotations

import shutil

from sgsc_micro.errors import SgscError

CROSS_COMPILER = "arm-none-eabi-gcc"
CMAKE = "cmake"
NINJA = "ninja"
QEMU = "qemu-system-arm"
HOST_COMPILER = "cc"

DEBIAN_PACKAGE = {
    CROSS_COMPILER: "gcc-arm-none-eabi libnewlib-arm-none-eabi",
    CMAKE: "cmake",
    NINJA: "ninja-build",
    QEMU: "qemu-system-arm",
    HOST_COMPILER: "gcc",
}


def require(program: str) -> str:
    """The path of ``program``; SgscError naming the Debian package if it is not installed."""
    path = shutil.which(program)
    if path is None:
        raise SgscError(f"{program} is not installed", hint=f"sudo apt install {DEBIAN_PACKAGE[program]}")
    return path
