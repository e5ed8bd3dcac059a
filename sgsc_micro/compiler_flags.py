"""The size-speed choice: what the generated library is compiled with, wherever it is compiled."""

from __future__ import annotations

from dataclasses import dataclass
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
        return "-Os" if self is Optimize.SIZE else "-O2"

    @property
    def gcc_flags(self) -> tuple[str, ...]:
        """Of gcc beside it: no scheduling before register allocation, which would spill what the micro-kernels keep in
        registers; for speed the two parts of -O3 that bring its speed. Not -O3: that takes arrays in the generated code
        for shorter than they are, and warns.
        """
        faster = ("-fipa-cp-clone", "-fpeel-loops") if self is Optimize.SPEED else ()
        return ("-fno-schedule-insns", *faster)


@dataclass(frozen=True)
class Objective:
    """What a library is made for: a target's instruction set, and what its code favours."""

    instruction_set: str
    optimize: Optimize


ANY_TARGET = Objective("dsp", Optimize.BALANCED)
"""What stands for them all where the compressor, whose result is every target's, counts bytes."""
