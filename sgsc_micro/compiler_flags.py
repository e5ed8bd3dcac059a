"""The size-speed choice: what the generated library is compiled with, wherever it is compiled."""

from __future__ import annotations

from enum import StrEnum


class Optimize(StrEnum):
    """What the code of a library favours. In order of size: the position is ``SGSC_OPTIMIZE`` of sgsc_kernels.h."""

    SIZE = "size"
    BALANCED = "balanced"
    SPEED = "speed"

    @property
    def level(self) -> int:
        """What ``SGSC_OPTIMIZE`` is defined as."""
        return list(Optimize).index(self)

    @property
    def flag(self) -> str:
        """Of any compiler that takes gcc's flags."""
        return ("-Os", "-O2", "-O3")[self.level]


GCC_FLAGS = ("-fno-schedule-insns",)
"""Of gcc alone, at every choice: scheduling before register allocation spills what the micro-kernels keep in
registers, most where fields of many widths are unpacked."""
