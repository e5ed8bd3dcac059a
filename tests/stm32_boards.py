"""STM32 boards as their user manuals and the chips' data sheets have them."""

from __future__ import annotations

import dataclasses

from tests.stm32_families import F1, F4, F407, MHZ
from tests.stm32_model import Family
from tests.stm32_newer import F7, G0, H7, L4, U5


@dataclasses.dataclass(frozen=True)
class Facts:
    """``hz`` is full speed, ``slow_hz`` a reset's clock."""

    family: type[Family]
    hz: int
    slow_hz: int
    tx: str
    rx: str
    function: int
    """Alternate function of both pins; F1 has none."""
    irq: int
    boot_rom: tuple[tuple[int, int], ...]
    """Registers as a boot ROM may leave them: the core runs from a PLL."""
    scale: int = 1
    """256 for an LPUART, whose divider counts 256ths."""


BOARDS = {
    "nucleo-f446re": Facts(F4, 180 * MHZ, 16 * MHZ, "PA2", "PA3", 7, 38, ((F4.CR, 0x3000083), (F4.CFGR, 0xA))),
    "stm32f4-discovery": Facts(F407, 168 * MHZ, 16 * MHZ, "PA2", "PA3", 7, 38, ((F4.CR, 0x3000083), (F4.CFGR, 0xA))),
    "bluepill-f103": Facts(
        F1, 72 * MHZ, 8 * MHZ, "PA9", "PA10", 0, 37, ((F1.CR, 0x3000083), (F1.CFGR, 0x10000A), (F1.FLASH, 0x31))
    ),
    "nucleo-f746zg": Facts(F7, 216 * MHZ, 16 * MHZ, "PD8", "PD9", 7, 39, ((F7.CR, 0x3000083), (F7.CFGR, 0xA))),
    "nucleo-h743zi": Facts(
        H7,
        480 * MHZ,
        64 * MHZ,
        "PD8",
        "PD9",
        7,
        39,
        (
            (H7.CR, 0x3000025),
            (H7.CFGR, 0x1B),
            (H7.DIVR, 0x101065F),
            (H7.RCC + 0x2C, 0x1FF0004),
            (H7.PWR + 0x18, 0x6000),
        ),
    ),
    "nucleo-l4r5zi": Facts(
        L4,
        120 * MHZ,
        4 * MHZ,
        "PG7",
        "PG8",
        8,
        70,
        ((L4.CR, 0x3000580), (L4.CFGR, 0xF), (L4.PLLCFGR, 0x3001412), (L4.FLASH, 0x604)),  # MSI is off
        256,
    ),
    "nucleo-u575zi-q": Facts(
        U5,
        160 * MHZ,
        4 * MHZ,
        "PA9",
        "PA10",
        7,
        61,
        (  # MSIS is off, at 48 MHz
            (U5.CR, 0x3000530),
            (U5.CFGR, 0xF),
            (U5.RCC + 8, 0x800000),
            (U5.VOSR, 0x7C000),
            (U5.PLLCFGR, 0x41302),
            (U5.DIVR, 0x101024F),
            (U5.FLASH, 4),
        ),
    ),
    "nucleo-g071rb": Facts(
        G0,
        64 * MHZ,
        16 * MHZ,
        "PA2",
        "PA3",
        1,
        28,
        ((G0.CR, 0x3000500), (G0.CFGR, 0x12), (G0.PLLCFGR, 0x70000802), (G0.FLASH, 0x40601)),
    ),
}
