"""What registers of STM32 families mean: clock trees and limits, from ST's reference manuals and data sheets."""

from __future__ import annotations

from tests.stm32_model import Family, Registers, State

MHZ = 1_000_000


def divider(field: int) -> int:
    """PPRE and its like: below 4 by 1, then 2, 4, 8, 16."""
    return 1 if field < 4 else 2 << field - 4


def wait_states(hclk: float, step: float) -> int:
    """How many the flash needs: each ``step`` Hz of clock one more."""
    return -(-int(hclk) // int(step)) - 1


class F4(Family):
    """RM0390 (F446; `most` 180 MHz with over-drive), RM0090 (F407; no over-drive)."""

    RCC, FLASH, PWR = 0x40023800, 0x40023C00, 0x40007000
    CR, PLLCFGR, CFGR = RCC, RCC + 4, RCC + 8
    AHB1ENR, APB1ENR = RCC + 0x30, RCC + 0x40
    GPIOA = 0x40020000
    reset = ((CR, 0x83), (PLLCFGR, 0x24003010), (PWR, 0xC000), (AHB1ENR, 0x100000))
    ready = (((CR, 24), (CR, 25)), ((PWR, 16), (PWR + 4, 16)), ((PWR, 17), (PWR + 4, 17)))
    switch = (CFGR, 2, 3)
    frozen = ((PLLCFGR, 0x0F43FFFF, (CR, 24)),)
    clocked = (
        (range(PWR, PWR + 8), (APB1ENR, 28)),
        (range(GPIOA, GPIOA + 0x400), (AHB1ENR, 0)),
        (range(0x40004400, 0x40004800), (APB1ENR, 17)),
    )
    wait_hz = 30 * MHZ
    overdrive_hz, most, apb1_most, apb2_most = 168 * MHZ, 180 * MHZ, 45 * MHZ, 90 * MHZ

    def state(self, read: Registers) -> State:
        vco_in = 16 * MHZ / read.bits(self.PLLCFGR, 0, 63)
        vco = vco_in * read.bits(self.PLLCFGR, 6, 511)
        pll = vco / (2 * read.bits(self.PLLCFGR, 16, 3) + 2)
        core = {0: 16 * MHZ, 2: pll}[read.bits(self.CFGR, 2, 3)]
        apb1, apb2 = (core / divider(read.bits(self.CFGR, shift, 7)) for shift in (10, 13))
        drive = read.bit((self.PWR + 4, 17)) and read.bit((self.PWR + 4, 16))
        limits = [
            ("the core's clock", core, 0, self.most if drive else min(self.most, self.overdrive_hz)),
            ("APB1", apb1, 0, self.apb1_most),
            ("APB2", apb2, 0, self.apb2_most),
            ("wait states", read.bits(self.FLASH, 0, 15), wait_states(core, self.wait_hz), 15),
        ]
        if read.bit((self.CR, 24)):
            limits += [
                ("the PLL's input", vco_in, 1 * MHZ, 2 * MHZ),
                ("its VCO", vco, 100 * MHZ, 432 * MHZ),
                ("its 48 MHz output", vco / read.bits(self.PLLCFGR, 24, 15), 0, 48 * MHZ),
            ]
            if core == pll:
                limits.append(("PLL ready", read.bit((self.CR, 25)), 1, 1))
        return State(int(core), int(apb1), tuple(limits))


class F407(F4):
    most, apb1_most, apb2_most = 168 * MHZ, 42 * MHZ, 84 * MHZ
    ready = (((F4.CR, 24), (F4.CR, 25)),)


class F1(Family):
    """RM0008."""

    RCC, FLASH = 0x40021000, 0x40022000
    CR, CFGR, APB2ENR = RCC, RCC + 4, RCC + 0x18
    GPIOA = 0x40010800
    reset = ((CR, 0x83), (FLASH, 0x30), (GPIOA, 0x44444444), (GPIOA + 4, 0x44444444))
    ready = (((CR, 16), (CR, 17)), ((CR, 24), (CR, 25)))
    switch = (CFGR, 2, 3)
    frozen = ((CFGR, 0x3F0000, (CR, 24)),)
    clocked = ((range(GPIOA, GPIOA + 0x400), (APB2ENR, 2)), (range(0x40013800, 0x40013C00), (APB2ENR, 14)))
    write_only = (GPIOA + 0x10,)

    def written(self, registers: Registers, address: int, value: int) -> None:
        if address == self.GPIOA + 0x10:
            registers[self.GPIOA + 0xC] |= value & 0xFFFF

    def state(self, read: Registers) -> State:
        crystal = 8 * MHZ if read.bit((self.CR, 17)) else 0
        source = crystal if read.bit((self.CFGR, 16)) else 4 * MHZ
        pll = source * (read.bits(self.CFGR, 18, 15) + 2)
        core = {0: 8 * MHZ, 2: pll}[read.bits(self.CFGR, 2, 3)]
        apb1, apb2 = (core / divider(read.bits(self.CFGR, shift, 7)) for shift in (8, 11))
        limits = [
            ("the core's clock", core, 8 * MHZ, 72 * MHZ),
            ("APB1", apb1, 0, 36 * MHZ),
            ("wait states", read.bits(self.FLASH, 0, 7), wait_states(core, 24 * MHZ), 2),
        ]
        if read.bits(self.CFGR, 2, 3) == 2:
            limits.append(("PLL ready", read.bit((self.CR, 25)), 1, 1))
        if read.bit((self.CR, 24)):
            limits.append(("the PLL's output", pll, 16 * MHZ, 72 * MHZ))
        return State(int(core), int(apb2), tuple(limits))
