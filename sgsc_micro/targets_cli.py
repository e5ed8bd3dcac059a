"""``sgsc targets`` and ``sgsc doctor``: what firmware can be built for, and what this machine has for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click
from pydantic import BaseModel
from rich.markup import escape
from rich.table import Table

from sgsc_micro.targets import (
    Board,
    Memory,
    Region,
    Target,
    ZephyrTarget,
    lineage,
    list_targets,
    load_target,
    target_file,
)
from sgsc_micro.terminal import console, reports_errors

_KERNELS = {
    "c": "plain C",
    "dsp": "dual 16-bit multiplications (the DSP extension)",
    "helium": "vectors (Helium, MVE)",
}


@click.group(invoke_without_command=True)
@click.pass_context
@reports_errors
def targets(context: click.Context) -> None:
    """List what firmware can be built for."""
    if context.invoked_subcommand is not None:
        return
    table = Table("target", "also", "flash", "RAM", "twin", "description", box=None, pad_edge=False)
    for target in list_targets():
        board = target.board
        sizes = [f"{memory.bytes // 1024:,} kB" for memory in (board.flash, board.ram)] if board else ["", ""]
        twin = board.emulator.machine if board and board.emulator else ""
        table.add_row(target.name, ", ".join(target.aliases), *sizes, twin, target.description)
    console.print(table)
    console.print(
        "\none of them: sgsc targets show TARGET; a board of your own: targets/README.md; Zephyr's: zephyr:BOARD"
    )


@targets.command()
@click.argument("name")
@reports_errors
def show(name: str) -> None:
    """Say all about the target NAME: of `sgsc targets`, a .toml file of your own, or zephyr:BOARD."""
    target = load_target(name)
    console.print(f"[bold]{target.name}[/]: {escape(target.description)}")
    files = [] if isinstance(target, ZephyrTarget) else lineage(target_file(name))
    for what, words in [*_about(target, files), *_needs(target)]:
        console.print(f"  {what:<10} {words}", markup=False)


@click.command()
@reports_errors
def doctor() -> None:
    """Say what this machine has, and which package brings what it lacks."""
    from sgsc_micro.device.doctor import checks

    colours = {"ok": "green", "missing": "red", "refused": "red", "optional": "yellow"}
    found = checks()
    table = Table("", "what", "found", "to do", box=None, pad_edge=False)
    for check in found:
        verdict = f"[{colours[check.verdict]}]{check.verdict}[/]"
        table.add_row(verdict, check.name, escape(check.detail), escape(check.hint))
    console.print(table)
    sys.exit(any(check.stands_in_the_way for check in found))


def _about(target: Target, files: list[Path]) -> list[tuple[str, str]]:
    rows = [("file", str(files[0]))] if files else []
    rows += [("inherits", ", ".join(file.stem for file in files[1:]))] if files[1:] else []
    rows += [("also", ", ".join(target.aliases))] if target.aliases else []
    rows.append(("kernels", _KERNELS[target.instruction_set]))
    if target.board is None:
        return [*rows, ("runs", "on this computer, as a library; there is no firmware")]
    return rows + [row for row in _about_board(target.board) if row[1]]


def _about_board(board: Board) -> Iterator[tuple[str, str]]:
    """Core, memories, clock, port, twin in a person's words; a key that this page does not know as it is."""
    keys = dict(board)
    flags = dict(flag.lstrip("-").split("=") for flag in keys.pop("cpu_flags", ()) if "=" in flag)
    defines: dict[str, int] = keys.pop("defines", {})
    if "mcpu" in flags:
        yield "core", flags["mcpu"] + (f" with {flags['mfpu']}" if "mfpu" in flags else "")
    if "CORE_HZ" in defines:
        yield "clock", f"{defines['CORE_HZ'] / 1e6:g} MHz, which SysTick counts"
    for name in ("flash", "ram", "arena"):
        yield name, _words(keys.pop(name))
    arena = board.ram.bytes - board.stack_bytes + sum(region.bytes for region in board.arena)
    yield "takes", f"an arena of {arena:,} bytes, a stack of {keys.pop('stack_bytes'):,}; less what the firmware takes"
    serial = keys.pop("serial")
    usb = f", USB {' '.join(serial.usb_ids)}" if serial.usb_ids else ""
    yield "port", f"{serial.baud:,} baud{_pins(defines)}{usb}"
    yield "drivers", ", ".join(f"{kind}_{keys.pop(kind)}.c" for kind in ("chip", "uart") if kind in keys)
    twin = keys.pop("emulator")
    del keys["flashers"]  # below, with what they need
    yield from ((key, _words(value)) for key, value in keys.items())
    small = f", with {twin.ram_bytes:,} bytes of RAM" if twin and twin.ram_bytes else ""
    yield "twin", f"QEMU's {twin.machine}{small}" if twin else "none: verify it on the board"


def _pins(defines: dict[str, int]) -> str:
    """As ST names them, where the target says which."""
    if not {"UART_PORT", "UART_TX", "UART_RX"} <= defines.keys():
        return ""
    port = chr(ord("A") + defines["UART_PORT"])
    return f" on P{port}{defines['UART_TX']} (out) and P{port}{defines['UART_RX']} (in)"


def _words(value: object) -> str:
    """A value of a target's file: memories by size and place, tables key by key, nothing for nothing."""
    if isinstance(value, Memory):
        name = f"{value.name}: " if isinstance(value, Region) else ""
        return f"{name}{value.bytes:,} bytes at {value.origin:#010x}"
    if isinstance(value, BaseModel):
        return ", ".join(f"{key} {words}" for key, inner in value if (words := _words(inner)))
    if isinstance(value, tuple):
        return ", ".join(map(_words, value))
    return "" if value is None else str(value)


def _needs(target: Target) -> list[tuple[str, str]]:
    """What builds and flashes, and how to get what is not here."""
    from sgsc_micro.device.doctor import flasher_checks, programs_for

    found = {"needs": programs_for(target)}
    if target.board is not None:
        found["flashers"] = flasher_checks([target.board.flashers])
    words = {
        what: ", ".join(check.name if check.ok else f"{check.name} (missing: {check.hint})" for check in checks)
        for what, checks in found.items()
    }
    return [(what, text) for what, text in words.items() if text]
