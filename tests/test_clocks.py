"""Clocks, pins and UART of every STM32 board, run on the host against models of the chips' registers."""

from __future__ import annotations

import ctypes
import shutil

import pytest

from sgsc_micro.targets import list_targets, load_target
from tests.stm32_boards import BOARDS, Facts
from tests.stm32_families import F1, F4, MHZ
from tests.stm32_model import Bit, Clocks, Registers, compile_board, wait_flags
from tests.stm32_newer import CCR, H7Y, M7

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no host compiler")

MOST_ACCESSES = 2_000_000
"""A second or so at a reset clock."""


Libraries = dict[str, ctypes.CDLL]


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Libraries:
    return {
        name: compile_board(load_target(name).require_board(), tmp_path_factory.mktemp(name)) for name in sorted(BOARDS)
    }


def run(
    libraries: Libraries, name: str, *broken: Bit, reset: dict[int, int] | None = None
) -> tuple[Facts, Registers, Clocks]:
    facts = BOARDS[name]
    registers = Registers(libraries[name], facts.family(), frozenset(broken))
    clocks = registers.run(reset or {}, load_target(name).require_board().serial.baud)
    accesses = ctypes.c_uint64.in_dll(libraries[name], "model_accesses").value
    assert accesses < MOST_ACCESSES
    return facts, registers, clocks


def assert_sound(name: str, facts: Facts, registers: Registers, clocks: Clocks, hz: int) -> None:
    """What is reported is what the registers say, all in bounds, and the UART divides it down to the baud rate."""
    assert registers.faults == []
    state = registers.family.state(registers)
    assert clocks.core_hz == state.core_hz == hz
    assert clocks.uart_hz == state.uart_hz
    board = load_target(name).require_board()
    divider = registers[board.defines["UART_BASE"] + (8 if board.uart == "stm32_v1" else 12)]
    assert state.uart_hz * facts.scale / divider == pytest.approx(board.serial.baud, rel=0.01)


def test_every_stm32_board_is_here() -> None:
    boards = {target.name for target in list_targets() if target.board and target.board.chip.startswith("stm32")}
    assert set(BOARDS) == boards


@pytest.mark.parametrize("name", BOARDS)
def test_full_speed(libraries: Libraries, name: str) -> None:
    facts, registers, clocks = run(libraries, name)
    assert_sound(name, facts, registers, clocks, facts.hz)
    assert facts.hz == load_target(name).require_board().defines["CORE_HZ"]


@pytest.mark.parametrize("name", BOARDS)
def test_a_boot_rom_s_clocks_are_left_first(libraries: Libraries, name: str) -> None:
    facts = BOARDS[name]
    facts, registers, clocks = run(libraries, name, reset=dict(facts.boot_rom))
    assert_sound(name, facts, registers, clocks, facts.hz)


@pytest.mark.parametrize(
    ("name", "flag"),
    [(name, flag) for name, facts in BOARDS.items() for flag in wait_flags(facts.family())],
    ids=lambda value: f"{value[0]:#x}.{value[1]}" if isinstance(value, tuple) else value,
)
def test_a_flag_that_never_comes_ends_on_the_reset_clock(libraries: Libraries, name: str, flag: Bit) -> None:
    facts, registers, clocks = run(libraries, name, flag)
    assert_sound(name, facts, registers, clocks, facts.slow_hz)


@pytest.mark.parametrize("name", BOARDS)
def test_pins_and_interrupt(libraries: Libraries, name: str) -> None:
    facts, registers, _ = run(libraries, name)
    for end in (facts.tx, facts.rx):
        port, number = facts.family.GPIOA + 0x400 * (ord(end[1]) - ord("A")), int(end[2:])
        if facts.family is F1:
            mode = registers.bits(port + 4 * (number // 8), 4 * (number % 8), 15)
            assert mode == (0xB if end == facts.tx else 8)  # alternate push-pull; input with a pull
            assert end == facts.tx or registers.bit((port + 0xC, number))  # up
        else:
            assert registers.bits(port, 2 * number, 3) == 2  # alternate function
            assert registers.bits(port + 0xC, 2 * number, 3) == 1  # up
            assert registers.bits(port + 0x20 + number // 8 * 4, number % 8 * 4, 15) == facts.function
    assert load_target(name).require_board().defines["UART_IRQ"] == facts.irq


def test_the_model_sees_a_clock_too_fast_for_its_wait_states(libraries: Libraries) -> None:
    """The check checks: the same code on a chip whose flash is slower, or whose buses may run less fast."""
    for worse in ({"wait_hz": 25 * MHZ}, {"apb1_most": 40 * MHZ}, {"frozen": ((F4.FLASH, 0xF, (F4.CR, 24)),)}):
        slower = type("Slower", (F4,), worse)
        registers = Registers(libraries["nucleo-f446re"], slower())
        registers.run({}, 115_200)
        assert registers.faults


@pytest.mark.parametrize("name", [name for name, facts in BOARDS.items() if issubclass(facts.family, M7)])
def test_caches_are_on(libraries: Libraries, name: str) -> None:
    _, registers, _ = run(libraries, name)
    assert registers.bits(CCR, 16, 3) == 3


def test_older_silicon_runs_as_fast_as_it_may(libraries: Libraries) -> None:
    registers = Registers(libraries["nucleo-h743zi"], H7Y())
    clocks = registers.run({}, 115_200)
    assert_sound("nucleo-h743zi", BOARDS["nucleo-h743zi"], registers, clocks, 400 * MHZ)


def test_an_overrun_does_not_interrupt_for_ever(libraries: Libraries) -> None:
    _, registers, _ = run(libraries, "nucleo-g071rb")
    base = load_target("nucleo-g071rb").require_board().defines["UART_BASE"]
    registers[base + 0x1C], registers[base + 0x24] = 1 << 5 | 1 << 3, 0x5A
    registers.library.uart_interrupt()
    assert registers[base + 0x20] == 1 << 3
    assert ctypes.c_uint32.in_dll(registers.library, "model_received").value & 0xFF == 0x5A
