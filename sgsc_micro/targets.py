"""A board as data: ``targets/<name>.toml``, validated. See targets/README.md for how to add one."""

from __future__ import annotations

import difflib
import functools
import itertools
import tomllib
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sgsc_micro.errors import SgscError
from sgsc_micro.files import data_dir

PositiveInt = Annotated[int, Field(gt=0)]
UsbId = Annotated[str, Field(pattern=r"^[0-9a-f]{4}:[0-9a-f]{4}$")]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Memory(_Table):
    """A contiguous memory; both numbers in bytes."""

    origin: Annotated[int, Field(ge=0)]
    bytes: PositiveInt


class Region(Memory):
    """A memory for the arena alone."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class Serial(_Table):
    """The port that carries the link."""

    baud: PositiveInt
    usb_ids: tuple[UsbId, ...] = ()
    """``vendor:product`` of the USB serial ports that this board shows itself with."""


class Emulator(_Table):
    """The QEMU machine that runs the board's own image."""

    machine: str
    properties: dict[str, Annotated[int, Field(ge=0)]] = {}
    """QEMU's device properties, ``driver.property``, that are not as the machine has them."""
    serial: Annotated[int, Field(ge=0)]
    """Which of the machine's serial ports carries the link, counted as QEMU's ``-serial`` options."""
    systick_hz: PositiveInt
    """How fast QEMU lets this machine's SysTick run, whatever clock the firmware believes in."""
    icount_shift: Annotated[int, Field(ge=0, le=10)]
    """An instruction takes 2**icount_shift ns of virtual time."""

    @property
    def ticks_per_instruction(self) -> Fraction:
        """At least 4: start and end are each seen up to a tick off, and the count must round to the instruction."""
        return Fraction(self.systick_hz * 2**self.icount_shift, 10**9)


class Board(_Table):
    """What a bare-metal image is made of, and how to reach what runs it."""

    cpu_flags: tuple[str, ...]
    chip: str
    """``firmware_templates/bare_metal/chip_<chip>.c``: clocks and pins."""
    uart: str
    """``firmware_templates/bare_metal/uart_<uart>.c``: the driver of the serial port."""
    stack_bytes: PositiveInt
    flash: Memory
    ram: Memory
    arena: tuple[Region, ...] = ()
    """Memories that the arena fills before ``ram``, in this order (a core-coupled memory, an external RAM)."""
    defines: dict[str, Annotated[int, Field(ge=0, lt=2**32)]]
    """Constants that the chip and uart files want from ``board.h``; UART_IRQ always."""
    serial: Serial
    emulator: Emulator | None = None

    @model_validator(mode="after")
    def _memories_are_apart(self) -> Self:
        named = {"flash": self.flash, "ram": self.ram} | {region.name: region for region in self.arena}
        if len(named) < 2 + len(self.arena):
            raise ValueError("two memories of one name")
        for (a, one), (b, other) in itertools.combinations(named.items(), 2):
            if one.origin < other.origin + other.bytes and other.origin < one.origin + one.bytes:
                raise ValueError(f"the memories {a} and {b} overlap")
        return self


class Target(_Table):
    """One board with or without an emulated twin, or (without ``board``) just this computer."""

    name: str
    description: str
    aliases: tuple[str, ...] = ()
    instruction_set: Literal["c", "dsp", "helium"]
    """Which micro-kernels the C library may use."""
    board: Board | None = None

    def require_board(self) -> Board:
        """The board; SgscError where there is none."""
        if self.board is None:
            raise SgscError(f"target {self.name} has no firmware", hint="it is run and verified on the host")
        return self.board


def list_targets() -> list[Target]:
    """Every target that ships, by name."""
    return [_read(path) for path in sorted(data_dir("targets").glob("*.toml"))]


def load_target(name: str) -> Target:
    """The target called ``name``, or with ``name`` among its aliases.

    Raises SgscError naming the near ones if there is none, or the key that is wrong in its file.
    """
    targets = list_targets()
    by_name = {known: target for target in targets for known in (target.name, *target.aliases)}
    if name in by_name:
        return by_name[name]
    near = difflib.get_close_matches(name, by_name, n=3, cutoff=0.5)
    guess = f"did you mean {' or '.join(near)}? " if near else ""
    raise SgscError(f"no target {name!r}", hint=f"{guess}There are {', '.join(sorted(by_name))}")


@functools.cache
def _read(path: Path) -> Target:
    try:
        return Target.model_validate({"name": path.stem, **tomllib.loads(path.read_text(encoding="utf-8"))})
    except tomllib.TOMLDecodeError as error:
        raise SgscError(f"{path}: not TOML: {error}") from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise SgscError(f"{path}: {faults}", hint="targets/README.md lists the keys") from error
