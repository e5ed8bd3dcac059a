"""A board as the link sees it: its own image on Unicorn's model of the core, with the registers of tests/stm32_*.py.

For chips that QEMU does not have. Code runs until it waits for an interrupt; then the UART hands it what has arrived,
through the vector table, byte by byte. SysTick stands still.
"""

from __future__ import annotations

import collections
import struct
from typing import Any

import unicorn
from unicorn import arm_const as arm

from sgsc_micro.firmware import FirmwareImage
from sgsc_micro.targets import Target
from tests.stm32_boards import Facts
from tests.stm32_model import Registers

CORES = {
    "cortex-m0plus": arm.UC_CPU_ARM_CORTEX_M0,
    "cortex-m3": arm.UC_CPU_ARM_CORTEX_M3,
    "cortex-m4": arm.UC_CPU_ARM_CORTEX_M4,
    "cortex-m7": arm.UC_CPU_ARM_CORTEX_M7,
    "cortex-m33": arm.UC_CPU_ARM_CORTEX_M33,
}
PERIPHERALS, SYSTEM = (0x4000_0000, 0x2000_0000), (0xE000_0000, 0x10_0000)
NVIC_ISER, NVIC_ICER, VTOR, CPACR = 0xE000_E100, 0xE000_E180, 0xE000_ED08, 0xE000_ED88
PAGE = 0x1000
LATE = 3
"""Accesses that a flag takes to follow."""
RETURN = 0x1FFF_0000
"""Where handlers return to, in place of EXC_RETURN, which Unicorn leaves to its caller."""
STACKED = (
    arm.UC_ARM_REG_R0,
    arm.UC_ARM_REG_R1,
    arm.UC_ARM_REG_R2,
    arm.UC_ARM_REG_R3,
    arm.UC_ARM_REG_R12,
    arm.UC_ARM_REG_LR,
    arm.UC_ARM_REG_PC,
    arm.UC_ARM_REG_XPSR,
)


class Table:
    """Registers by address."""

    def __init__(self) -> None:
        self.values: dict[int, int] = {}
        self.accesses = 0
        self.coming: dict[tuple[int, int], tuple[int, int]] = {}  # address, mask: value, when

    def model_peek(self, address: int) -> int:
        return self.values.get(address, 0)

    def model_poke(self, address: int, value: int) -> None:
        self.values[address] = value

    def model_later(self, address: int, mask: int, value: int) -> None:
        self.coming[address, mask] = value, self.accesses + LATE


class UnicornBoard:
    """A ``Port``."""

    def __init__(self, target: Target, image: FirmwareImage, facts: Facts) -> None:
        board = target.require_board()
        core = next(flag.removeprefix("-mcpu=") for flag in board.cpu_flags if flag.startswith("-mcpu="))
        self.name, self.baud = f"Unicorn's {core}", board.serial.baud
        self.table = Table()
        self.registers = Registers(self.table, facts.family())
        self.registers.reset({})
        self._irq, self._now = facts.irq, 0.0
        self._arrived: collections.deque[int] = collections.deque()
        self._sent = bytearray()
        base = board.defines["UART_BASE"]
        offsets = (0x00, 0x04, 0x04) if board.uart == "stm32_v1" else (0x1C, 0x24, 0x28)
        self._status, self._receive, self._transmit = (base + offset for offset in offsets)

        self._cpu = unicorn.Uc(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB | unicorn.UC_MODE_MCLASS)
        self._cpu.ctl_set_cpu_model(CORES[core])
        for memory in (board.flash, board.ram, *board.arena):
            self._cpu.mem_map(memory.origin, -(-memory.bytes // PAGE) * PAGE)
        self._cpu.mem_map(RETURN, PAGE)
        self._cpu.mem_write(board.flash.origin, image.binary.read_bytes())
        for start, size in (PERIPHERALS, SYSTEM):
            self._cpu.mmio_map(start, size, self._read, start, self._write, start)
        stack, reset = struct.unpack("<2I", self._cpu.mem_read(board.flash.origin, 8))
        self._cpu.reg_write(arm.UC_ARM_REG_MSP, stack)
        self._cpu.emu_start(reset, 0)

    def now(self) -> float:
        return self._now

    def close(self) -> None:
        pass

    def write(self, data: bytes) -> None:
        self._arrived.extend(data)

    def read(self, until: float) -> bytes:
        while self._arrived:
            waiting = len(self._arrived)
            self._interrupt()
            if len(self._arrived) == waiting:
                self._arrived.popleft()  # nobody took it: the next one overwrites it
        if not self._sent:
            self._now = max(self._now, until)
        sent, self._sent = bytes(self._sent), bytearray()
        return sent

    def _interrupt(self) -> None:
        """Exception entry of the UART's interrupt, its handler, exception return; then on to the next wait."""
        enabled = self.table.model_peek(NVIC_ISER + self._irq // 32 * 4) >> self._irq % 32 & 1
        assert enabled, f"interrupt {self._irq} is not enabled"
        kept = [self._cpu.reg_read(register) for register in STACKED]
        stack = self._cpu.reg_read(arm.UC_ARM_REG_SP)
        vectors = self.table.model_peek(VTOR)
        (handler,) = struct.unpack("<I", self._cpu.mem_read(vectors + 4 * (16 + self._irq), 4))
        self._cpu.reg_write(arm.UC_ARM_REG_SP, stack - 32 & ~7)
        self._cpu.reg_write(arm.UC_ARM_REG_LR, RETURN | 1)
        self._cpu.emu_start(handler, RETURN)
        self._cpu.reg_write(arm.UC_ARM_REG_SP, stack)
        for register, value in zip(STACKED, kept, strict=True):
            self._cpu.reg_write(register, value)
        if not self._arrived:
            self._cpu.emu_start(kept[STACKED.index(arm.UC_ARM_REG_PC)] | 1, 0)

    def _read(self, _: Any, offset: int, __: int, base: int) -> int:
        address = base + offset
        self._raise_flags()
        if address == self._status:
            return 1 << 7 | bool(self._arrived) << 5  # room to send; something received
        if address == self._receive and self._arrived:
            return self._arrived.popleft()
        return self.table.model_peek(address)

    def _write(self, _: Any, offset: int, __: int, value: int, base: int) -> None:
        address = base + offset
        self._raise_flags()
        if address == self._transmit:
            self._sent.append(value & 0xFF)
        old = self.table.model_peek(address)
        if NVIC_ISER <= address < NVIC_ISER + 64:
            value |= old
        elif NVIC_ICER <= address < NVIC_ICER + 64:
            enable = address - NVIC_ICER + NVIC_ISER
            self.table.model_poke(enable, self.table.model_peek(enable) & ~value)
        self.table.model_poke(address, value)
        self.registers.changed(address, old, value)

    def _raise_flags(self) -> None:
        self.table.accesses += 1
        for (address, mask), (value, when) in list(self.table.coming.items()):
            if when <= self.table.accesses:
                del self.table.coming[address, mask]
                old = self.table.model_peek(address)
                self.table.model_poke(address, old & ~mask | value)
                self.registers.changed(address, old, old & ~mask | value)
