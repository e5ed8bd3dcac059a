"""STM32 clock set-up, compiled for the host, against a model of its registers.

The models (tests/stm32_families.py) are written from the reference manuals; they share nothing with the C but the
addresses. Whatever the code writes, what then holds has to be within the chip's limits at that very moment: a clock too
fast for its voltage or its wait states, a PLL changed while it runs, a write to a peripheral without a clock.
"""

from __future__ import annotations

import ctypes
import dataclasses
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from sgsc_micro.files import data_dir
from sgsc_micro.targets import Board

TEMPLATES = data_dir("firmware_templates") / "bare_metal"
MODEL = Path(__file__).with_suffix(".c")
CORTEX_M = """#pragma once
#include <stdint.h>
volatile uint32_t *model_register(uint32_t address);
#define REGISTER(address) (*model_register(address))
static inline void barrier(void) {}
"""
CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_uint32)
Bit = tuple[int, int]
"""Address and number."""


class Clocks(ctypes.Structure):
    """``struct clocks``, both in Hz."""

    _fields_ = [("core_hz", ctypes.c_uint32), ("uart_hz", ctypes.c_uint32)]
    core_hz: int
    uart_hz: int


@dataclasses.dataclass(frozen=True)
class State:
    """What the registers stand for: clocks in Hz, and (what, value, lowest, highest) that the chip allows."""

    core_hz: int
    uart_hz: int
    limits: tuple[tuple[str, float, float, float], ...]


class Family:
    """One family's registers. Subclasses say what a reset leaves, and what the registers mean."""

    GPIOA = 0
    reset: tuple[tuple[int, int], ...] = ()
    ready: tuple[tuple[Bit, Bit], ...] = ()
    """Bits that ask for something, and the flag that then follows each."""
    switch: tuple[int, int, int] = (0, 0, 0)
    """Register, shift and mask of SWS, which follows SW at its bottom."""
    write_only: tuple[int, ...] = ()
    clocked: tuple[tuple[range, Bit], ...] = ()
    """Peripherals by address, and the bit without which writes to them are lost."""
    frozen: tuple[tuple[int, int, Bit], ...] = ()
    """Register, mask and the bit that must be off while these bits change."""
    settled: tuple[tuple[int, int, Bit], ...] = ()
    """Register, mask and the flag that must be on before these bits change."""

    def state(self, read: Registers) -> State:
        """What ``read`` holds means this."""
        raise NotImplementedError

    def written(self, registers: Registers, address: int, value: int) -> None:
        """More that hardware does."""


class RegisterTable(Protocol):
    """Registers by address, all 0 at first; the functions are those of stm32_model.c."""

    def model_peek(self, address: int) -> int: ...

    def model_poke(self, address: int, value: int) -> None: ...

    def model_later(self, address: int, mask: int, value: int) -> None: ...


@dataclasses.dataclass
class Registers:
    """A run of ``chip_init`` and ``uart_init``: what was written wrong, and the registers it left."""

    library: ctypes.CDLL | RegisterTable
    family: Family
    broken: frozenset[Bit] = frozenset()
    """Flags that never come; SW for a switch that never happens."""
    faults: list[str] = dataclasses.field(default_factory=list)

    def __getitem__(self, address: int) -> int:
        return int(self.library.model_peek(address))

    def __setitem__(self, address: int, value: int) -> None:
        self.library.model_poke(address, value)

    def bits(self, address: int, shift: int, mask: int) -> int:
        return self[address] >> shift & mask

    def bit(self, where: Bit) -> int:
        return self.bits(*where, 1)

    def run(self, reset: dict[int, int], baud: int) -> Clocks:
        """From the registers ``reset`` to a UART that is set up."""
        assert isinstance(self.library, ctypes.CDLL)
        self._callback = CALLBACK(self.changed)  # the library goes on to call it
        self.library.model_start(self._callback)
        self.reset(reset)
        self.library.chip_init.restype = Clocks
        clocks: Clocks = self.library.chip_init()
        self.library.uart_init(clocks.uart_hz, baud)
        self.library.model_settle()
        return clocks

    def reset(self, more: dict[int, int]) -> None:
        """What a reset leaves, and then ``more``."""
        write_only = dict.fromkeys(self.family.write_only, 2**32 - 1)
        for address, value in {**write_only, **dict(self.family.reset), **more}.items():
            self[address] = value
        for flag in self.broken:
            self._put(flag, 0)

    def changed(self, address: int, old: int, value: int) -> None:
        """The register at ``address`` was ``old``, and is ``value``: hardware follows, faults are noted."""
        try:
            self._react(address, old, value)
        except Exception as error:  # ctypes would swallow it
            self.faults.append(repr(error))

    def _react(self, address: int, old: int, value: int) -> None:
        family = self.family
        for where, enable in family.clocked:
            if address in where and not self.bit(enable):
                self.faults.append(f"{address:#x} is written and has no clock")
                self[address] = old
        for register, mask, off in family.frozen:
            if address == register and (old ^ value) & mask and self.bit(off):
                self.faults.append(f"{address:#x} is changed while it is in use: {old:#x} to {value:#x}")
        for register, mask, on in family.settled:
            if address == register and (old ^ value) & mask and not self.bit(on):
                self.faults.append(f"{address:#x} is changed before it has settled: {old:#x} to {value:#x}")
        for request, flag in family.ready:
            if address == request[0] and flag not in self.broken:
                self.later(flag, 1, self.bit(request))
        register, shift, mask = family.switch
        if address == register and (register, shift) not in self.broken:
            self.later((register, shift), mask, self[address] & mask)
        family.written(self, address, value)
        for what, amount, low, high in family.state(self).limits:
            if not low <= amount <= high:
                self.faults.append(f"{what} is {amount:,}, not {low:,} to {high:,}, after {address:#x} = {value:#x}")

    def later(self, where: Bit, mask: int, value: int) -> None:
        """The field of ``mask`` at ``where`` follows, some accesses from now."""
        address, shift = where
        self.library.model_later(address, mask << shift, value << shift)

    def _put(self, where: Bit, value: int) -> None:
        address, number = where
        self[address] = self[address] & ~(1 << number) | value << number


def compile_board(board: Board, folder: Path) -> ctypes.CDLL:
    """The chip's and the UART's own C, as they are, on top of the table of registers."""
    names = (f"chip_{board.chip}.c", f"uart_{board.uart}.c")
    for path in (*(TEMPLATES / name for name in names), *TEMPLATES.glob("stm32*.h"), TEMPLATES / "chip.h", MODEL):
        (folder / path.name).write_text(path.read_text())
    for path in TEMPLATES.glob("cortex_m7*.h"):
        (folder / path.name).write_text(path.read_text())
    (folder / "cortex_m.h").write_text(CORTEX_M)
    defines = {"UART_BAUD": board.serial.baud, **board.defines}
    (folder / "board.h").write_text("".join(f"#define {name} {value}u\n" for name, value in defines.items()))
    command = [
        "cc",
        "-std=gnu11",
        "-O1",
        "-shared",
        "-fPIC",
        "-Wall",
        "-Wextra",
        "-Wconversion",
        "-Werror",
        "-o",
        "x.so",
    ]
    subprocess.run([*command, *names, MODEL.name], cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "x.so"))


def wait_flags(family: Family) -> Iterator[Bit]:
    """All that chip_init may wait for in vain."""
    yield from (flag for _, flag in family.ready)
    yield family.switch[0], family.switch[1]
