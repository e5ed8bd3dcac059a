"""What registers of the newer STM32 families mean, as in tests/stm32_families.py."""

from __future__ import annotations

from tests.stm32_families import F4, MHZ, divider, wait_states
from tests.stm32_model import Family, Registers, State

CCR, CCSIDR, ICIALLU, DCISW = 0xE000ED14, 0xE000ED80, 0xE000EF50, 0xE000EF60


class M7(Family):
    """A Cortex-M7's caches: empty before they are on. A data cache of 4 ways and lines of 32 bytes."""

    write_only = (ICIALLU, DCISW)
    sets = 0

    def __init__(self) -> None:
        self.emptied: set[int] = set()

    def written(self, registers: Registers, address: int, value: int) -> None:
        if address in self.write_only:
            self.emptied.add(value if address == DCISW else -1)
        if address == CCR:
            lines = {way << 30 | line << 5 for way in range(4) for line in range(self.sets)}
            if (value >> 16 & 1 and not lines <= self.emptied) or (value >> 17 & 1 and -1 not in self.emptied):
                registers.faults.append("a cache is on before it was emptied")


class F7(M7, F4):
    """RM0385."""

    sets = 32
    reset = (*F4.reset, (CCSIDR, 31 << 13 | 3 << 3 | 1))
    clocked = (
        (range(F4.PWR, F4.PWR + 8), (F4.APB1ENR, 28)),
        (range(F4.GPIOA + 0xC00, F4.GPIOA + 0x1000), (F4.AHB1ENR, 3)),
        (range(0x40004800, 0x40004C00), (F4.APB1ENR, 18)),
    )
    overdrive_hz, most, apb1_most, apb2_most = 180 * MHZ, 216 * MHZ, 54 * MHZ, 108 * MHZ


class H7(M7):
    """RM0433; `revision` Y has no scale 0."""

    sets = 128
    RCC, PWR, FLASH, ODEN = 0x58024400, 0x58024800, 0x52002000, 0x5800042C
    CR, CFGR, DIVR = RCC, RCC + 0x10, RCC + 0x30
    GPIOA = 0x58020000
    revision, vco_most = 0x2003, 960 * MHZ
    AXI_READS = 0x51008108
    reset = (
        (CR, 0x25),
        (FLASH, 0x37),
        (PWR + 4, 1 << 13),
        (PWR + 0xC, 6),
        (PWR + 0x18, 0x4000),
        (RCC + 0x28, 0x02020200),
        (RCC + 0x2C, 0x01FF0000),
        (DIVR, 0x01010280),
        (0x5C001000, 0x20036450),
        (CCSIDR, 127 << 13 | 3 << 3 | 1),
    )
    ready = (
        ((CR, 24), (CR, 25)),
        ((PWR + 0xC, 1), (PWR + 4, 13)),
        ((PWR + 0x18, 15), (PWR + 0x18, 13)),
    )
    switch = (CFGR, 3, 7)
    frozen = ((DIVR, 0xFFFFFFFF, (CR, 24)), (RCC + 0x28, 0x3F3, (CR, 24)), (RCC + 0x2C, 0x1000F, (CR, 24)))
    clocked = (
        (range(GPIOA + 0xC00, GPIOA + 0x1000), (RCC + 0xE0, 3)),
        (range(0x40004800, 0x40004C00), (RCC + 0xE8, 18)),
        (range(0x58000400, 0x58000800), (RCC + 0xF4, 1)),
    )

    def state(self, read: Registers) -> State:
        vco_in = 64 * MHZ / max(1, read.bits(self.RCC + 0x28, 4, 63))
        vco = vco_in * (read.bits(self.DIVR, 0, 511) + 1)
        pll = vco / (read.bits(self.DIVR, 9, 127) + 1)
        on_pll = read.bits(self.CFGR, 3, 7) == 3
        core = pll if on_pll else 64 * MHZ
        axi = core / {0: 1, 8: 2}[read.bits(self.RCC + 0x18, 0, 15)]
        apb1 = axi / divider(read.bits(self.RCC + 0x1C, 4, 7))
        apb2 = axi / divider(read.bits(self.RCC + 0x1C, 8, 7))
        apb3 = axi / divider(read.bits(self.RCC + 0x18, 4, 7))
        apb4 = axi / divider(read.bits(self.RCC + 0x20, 4, 7))
        scale = 4 - read.bits(self.PWR + 0x18, 14, 3)  # 1 to 3
        boosted = scale == 1 and read.bit((self.ODEN, 0)) and self.revision >= 0x2003
        most = 480 * MHZ if boosted else {1: 400 * MHZ, 2: 300 * MHZ, 3: 200 * MHZ}[scale]
        steps = (70, 140, 210, 225, 240) if scale == 1 else (45, 90, 135, 180, 225)
        apb_most = max(most / 4, 64 * MHZ)  # a reset's own clock is no fault
        limits = [
            ("the core's clock", core, 0, most),
            ("AXI", axi, 0, most / 2),
            *((f"APB{n}", hz, 0, apb_most) for n, hz in ((1, apb1), (2, apb2), (3, apb3), (4, apb4))),
            ("wait states", read.bits(self.FLASH, 0, 15), sum(axi > step * MHZ for step in steps), 15),
            (
                "AXI SRAM's reads at a time",
                read.bit((self.AXI_READS, 0)),
                self.revision < 0x2000,
                self.revision < 0x2000,
            ),
            ("the flash's signal delay", read.bits(self.FLASH, 4, 3), 2 if axi > 185 * MHZ else 0, 3),
        ]
        if on_pll:
            limits += [
                ("PLL ready", read.bit((self.CR, 25)), 1, 1),
                ("voltage ready", read.bit((self.PWR + 24, 13)), 1, 1),
            ]
        if (read.bit((self.CR, 24)) and not read.bit((self.CR, 25))) or on_pll:
            low = 1 << read.bits(self.RCC + 0x2C, 2, 3)
            limits += [("PLL input", vco_in, low * MHZ, 2 * low * MHZ), ("VCO", vco, 192 * MHZ, self.vco_most)]
        return State(int(core), int(apb1), tuple(limits))


class H7Y(H7):
    """Revision Y; ES0392: reads of AXI SRAM may be corrupt, unless they come one at a time."""

    revision, vco_most = 0x1003, 836 * MHZ
    reset = (*H7.reset, (0x5C001000, 0x10036450))


class L4(Family):
    """RM0432 (L4R5)."""

    core_hz = 4 * MHZ
    RCC, PWR, FLASH = 0x40021000, 0x40007000, 0x40022000
    CR, CFGR, PLLCFGR = RCC, RCC + 8, RCC + 0xC
    GPIOA = 0x48000000
    reset = ((CR, 0x63), (PLLCFGR, 0x1000), (FLASH, 0x600), (PWR, 0x200), (PWR + 0x80, 0x100))
    settled = ((CR, 0xF0, (CR, 1)),)
    ready = (((CR, 8), (CR, 10)), ((CR, 24), (CR, 25)))
    switch = (CFGR, 2, 3)
    frozen = ((PLLCFGR, 0x06007FF3, (CR, 24)),)
    clocked = (
        (range(PWR, PWR + 0x100), (RCC + 0x58, 28)),
        (range(GPIOA + 0x1800, GPIOA + 0x1C00), (RCC + 0x4C, 6)),
        (range(0x40008000, 0x40008400), (RCC + 0x5C, 0)),
    )

    def written(self, registers: Registers, address: int, value: int) -> None:
        if address == self.CR:
            registers.later((self.CR, 1), 1, value & 1)  # MSI is ready
        core = self.state(registers).core_hz
        if core > 80 * MHZ and self.core_hz < core / 2:
            registers.faults.append("past 80 MHz in one step")
        self.core_hz = core
        if address in range(self.GPIOA + 0x1800, self.GPIOA + 0x1C00) and not registers.bit((self.PWR + 4, 9)):
            registers.faults.append("port G is used without its supply")

    def state(self, read: Registers) -> State:
        msi = {6: 4 * MHZ, 8: 16 * MHZ}[read.bits(self.CR, 4, 15)]
        vco_in = 16 * MHZ / (read.bits(self.PLLCFGR, 4, 15) + 1)
        vco = vco_in * read.bits(self.PLLCFGR, 8, 127)
        pll = vco / (2 * read.bits(self.PLLCFGR, 25, 3) + 2)
        on_pll = read.bits(self.CFGR, 2, 3) == 3
        divided = read.bits(self.CFGR, 4, 15)
        system = pll if on_pll else msi
        core = system / (1 if divided < 8 else 2 << divided - 8)
        boost = not read.bit((self.PWR + 0x80, 8))
        limits = [
            ("the core's clock", core, 0, (120 if boost else 80) * MHZ),
            ("wait states", read.bits(self.FLASH, 0, 15), wait_states(core, 20 * MHZ), 15),
        ]
        if on_pll:
            good = read.bit((self.CR, 10)) and read.bit((self.CR, 25)) and read.bit((self.PLLCFGR, 24))
            limits.append(("PLL ready, its source too", bool(good), 1, 1))
        if read.bit((self.CR, 24)):
            source = read.bits(self.PLLCFGR, 0, 3)
            limits += [("HSI as source", source, 2, 2), ("PLL input", vco_in, 2.66 * MHZ, 8 * MHZ)]
            limits.append(("VCO", vco, 64 * MHZ, 344 * MHZ))
        return State(int(core), int(core / divider(read.bits(self.CFGR, 8, 7))), tuple(limits))


class G0(Family):
    """RM0444 (G071)."""

    RCC, FLASH = 0x40021000, 0x40022000
    CR, CFGR, PLLCFGR = RCC, RCC + 8, RCC + 0xC
    GPIOA = 0x50000000
    reset = ((CR, 0x500), (PLLCFGR, 0x1000), (FLASH, 0x40600))
    ready = (((CR, 24), (CR, 25)),)
    switch = (CFGR, 3, 7)
    frozen = ((PLLCFGR, 0xE0007F73, (CR, 24)),)
    clocked = ((range(GPIOA, GPIOA + 0x400), (RCC + 0x34, 0)), (range(0x40004400, 0x40004800), (RCC + 0x3C, 17)))

    def state(self, read: Registers) -> State:
        vco_in = 16 * MHZ / (read.bits(self.PLLCFGR, 4, 7) + 1)
        vco = vco_in * read.bits(self.PLLCFGR, 8, 127)
        on_pll = read.bits(self.CFGR, 3, 7) == 2
        core = vco / (read.bits(self.PLLCFGR, 29, 7) + 1) if on_pll else 16 * MHZ / (1 << read.bits(self.CR, 11, 7))
        limits = [
            ("the core's clock", core, 0, 64 * MHZ),
            ("wait states", read.bits(self.FLASH, 0, 7), wait_states(core, 24 * MHZ), 2),
        ]
        if on_pll:
            limits.append(("PLL ready", read.bit((self.CR, 25)) and read.bit((self.PLLCFGR, 28)), 1, 1))
        if read.bit((self.CR, 24)):
            limits += [("HSI as source", read.bits(self.PLLCFGR, 0, 3), 2, 2), ("VCO", vco, 64 * MHZ, 344 * MHZ)]
        return State(int(core), int(core / divider(read.bits(self.CFGR, 12, 7))), tuple(limits))


class U5(Family):
    """RM0456 (U575)."""

    RCC, FLASH, VOSR = 0x46020C00, 0x40022000, 0x4602080C
    CR, CFGR, PLLCFGR, DIVR = RCC, RCC + 0x1C, RCC + 0x28, RCC + 0x34
    GPIOA = 0x42020000
    reset = ((CR, 0x35), (RCC + 8, 0x44000000), (DIVR, 0x01010280), (VOSR, 0x8000))
    settled = ((RCC + 8, 0xF0000000, (CR, 2)),)
    ready = (
        ((CR, 8), (CR, 10)),
        ((CR, 24), (CR, 25)),
        ((VOSR, 16), (VOSR, 15)),
        ((VOSR, 18), (VOSR, 14)),
    )
    switch = (CFGR, 2, 3)
    frozen = (
        (PLLCFGR, 0xFFFF, (CR, 24)),
        (PLLCFGR, 0xF003, (VOSR, 18)),
        (DIVR, 0xFFFFFFFF, (CR, 24)),
    )
    clocked = (
        (range(0x46020800, 0x46020C00), (RCC + 0x94, 2)),
        (range(GPIOA, GPIOA + 0x400), (RCC + 0x8C, 0)),
        (range(0x40013800, 0x40013C00), (RCC + 0xA4, 14)),
    )

    def written(self, registers: Registers, address: int, value: int) -> None:
        if address == self.CR:
            registers.later((self.CR, 2), 1, value & 1)  # MSIS is ready

    def state(self, read: Registers) -> State:
        vco_in = 16 * MHZ / (read.bits(self.PLLCFGR, 8, 15) + 1)
        vco = vco_in * (read.bits(self.DIVR, 0, 511) + 1)
        on_pll = read.bits(self.CFGR, 2, 3) == 3
        ranged = read.bit((self.RCC + 8, 23))  # else 4 MHz, MSISSRANGE's
        msi = (48, 24, 16, 12, 4, 2, 1.33, 1)[read.bits(self.RCC + 8, 28, 7)] * MHZ if ranged else 4 * MHZ
        core = vco / (read.bits(self.DIVR, 24, 127) + 1) if on_pll else msi
        top = read.bits(self.VOSR, 16, 3) == 3 and read.bit((self.VOSR, 15))
        boost = read.bit((self.VOSR, 14))
        limits = [
            ("the core's clock", core, 0, (160 if boost else 55) * MHZ if top else 24 * MHZ),
            ("wait states", read.bits(self.FLASH, 0, 15), wait_states(core, (32 if top else 8) * MHZ), 15),
        ]
        if read.bit((self.VOSR, 18)):
            field = read.bits(self.PLLCFGR, 12, 15)
            source = read.bits(self.PLLCFGR, 0, 3) == 2 and read.bit((self.CR, 10))
            limits.append(("the booster's clock", 16 * MHZ / max(1, 2 * field) * source, 4 * MHZ, 16 * MHZ))
        if on_pll:
            limits.append(("PLL ready", read.bit((self.CR, 25)) and read.bit((self.PLLCFGR, 18)), 1, 1))
        if read.bit((self.CR, 24)):
            wide = read.bits(self.PLLCFGR, 2, 3) == 3
            limits += [("PLL input", vco_in, (8 if wide else 4) * MHZ, (16 if wide else 8) * MHZ)]
            limits += [("VCO", vco, 128 * MHZ, 544 * MHZ)]
        return State(int(core), int(core), tuple(limits))
