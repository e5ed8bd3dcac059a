"""A board as data: ``targets/<name>.toml``, validated. See targets/README.md for how to add one."""

from __future__ import annotations

import difflib
import functools
import itertools
import tomllib
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sgsc_micro.errors import SgscError
from sgsc_micro.files import data_dir

PositiveInt = Annotated[int, Field(gt=0)]
_OWN = ("description", "aliases")
"""What a file says of one board alone: nobody inherits it."""
ZEPHYR = "zephyr:"
"""What a target's name begins with that a Zephyr tree describes, and no file."""
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


class OpenOcd(_Table):
    """openocd, through a debug probe."""

    config: Annotated[tuple[str, ...], Field(min_length=1)]
    """Its configuration files: the probe's, then the chip's."""


class PyOcd(_Table):
    """pyocd, through a debug probe."""

    chip: str
    """A name of ``pyocd list --targets``, or one that its packs bring."""


class Stm32Loader(_Table):
    """The USART boot ROM of an STM32 (ST AN3155), on the port that carries the link unless the user names another."""

    chip_id: Annotated[int, Field(ge=0, le=0xFFF)]
    """What the boot ROM's Get ID answers."""
    family: Literal["F0", "F1", "F3", "F4", "F7", "G0", "H7", "L0", "L4"] | None = None
    """Where stm32loader finds the flash's size; None: it is believed to be what ``flash`` says."""
    parity: Literal["even", "none"] = "even"
    """Even on every STM32; none on a line that has no parity."""
    reset_lines: bool = False
    """DTR is wired to the chip's reset, RTS to BOOT0."""


class West(_Table):
    """``west flash``, for an image that Zephyr's build made."""

    runner: str | None = None
    """One of Zephyr's runners; None: what the board has as default."""


class Flashers(_Table):
    """How the image gets into the flash; the first that is installed and reaches the board is taken."""

    openocd: OpenOcd | None = None
    pyocd: PyOcd | None = None
    stm32loader: Stm32Loader | None = None
    west: West | None = None


class Emulator(_Table):
    """The QEMU machine that runs the board's own image."""

    machine: str
    properties: dict[str, Annotated[int, Field(ge=0)]] = {}
    """QEMU's device properties, ``driver.property``, that are not as the machine has them."""
    serial: Annotated[int, Field(ge=0)]
    """Which of the machine's serial ports carries the link, counted as QEMU's ``-serial`` options."""
    systick_hz: PositiveInt
    """How fast QEMU lets this machine's SysTick run, whatever clock the firmware believes in."""
    ram_bytes: PositiveInt | None = None
    """Its RAM, where that is smaller than the board's: a larger image runs on the board alone."""
    icount_shift: Annotated[int, Field(ge=0, le=10)]
    """An instruction takes 2**icount_shift ns of virtual time."""

    @property
    def ticks_per_instruction(self) -> Fraction:
        """At least 4: start and end are each seen up to a tick off, and the count must round to the instruction."""
        return Fraction(self.systick_hz * 2**self.icount_shift, 10**9)


class Board(_Table):
    """Where an image lies, and how to reach what runs it."""

    stack_bytes: PositiveInt
    flash: Memory
    ram: Memory
    arena: tuple[Region, ...] = ()
    """Memories that the arena fills before ``ram``, in this order (a core-coupled memory, an external RAM)."""
    serial: Serial
    flashers: Flashers = Flashers()
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


class BareMetalBoard(Board):
    """What a bare-metal image is made of."""

    cpu_flags: tuple[str, ...]
    chip: str
    """``firmware_templates/bare_metal/chip_<chip>.c``: clocks and pins."""
    uart: str
    """``firmware_templates/bare_metal/uart_<uart>.c``: the driver of the serial port."""
    defines: dict[str, Annotated[int, Field(ge=0, lt=2**32)]]
    """Constants that the chip and uart files want from ``board.h``; UART_IRQ always."""


class ZephyrBoard(Board):
    """A board as a Zephyr tree knows it."""

    zephyr_board: str
    zephyr_version: str
    configuration: str
    """Hash of its Kconfig and devicetree, with the firmware's settings: an image of another one is not its own."""


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


class BareMetalTarget(Target):
    """What a file describes."""

    board: BareMetalBoard | None = None


class ZephyrTarget(Target):
    """What a Zephyr tree describes."""

    board: ZephyrBoard


def list_targets() -> list[BareMetalTarget]:
    """Every target that ships, by name; files whose name begins with ``_`` are there for others to inherit."""
    return [read_target(path) for path in sorted(data_dir("targets").glob("[!_]*.toml"))]


def load_target(name: str) -> Target:
    """The target called ``name``, or with ``name`` among its aliases; or the one in the file ``name``, a .toml.

    ``zephyr:<board>`` is the board as a Zephyr tree has it.

    Raises SgscError naming the near ones if there is none, or the file and key that is wrong.
    """
    if name.startswith(ZEPHYR):
        from sgsc_micro.zephyr import zephyr_target  # which is made of what is above

        return zephyr_target(name.removeprefix(ZEPHYR))
    return read_target(target_file(name))


def target_file(name: str) -> Path:
    """The file that ``load_target`` reads; SgscError naming the near ones if there is none."""
    if name.endswith(".toml"):
        return Path(name).resolve()
    files = {target.name: data_dir("targets") / f"{target.name}.toml" for target in list_targets()}
    files |= {alias: files[target.name] for target in list_targets() for alias in target.aliases}
    if name in files:
        return files[name]
    near = difflib.get_close_matches(name, files, n=3, cutoff=0.5)
    guess = f"did you mean {' or '.join(near)}? " if near else ""
    raise SgscError(f"no target {name!r}", hint=f"{guess}There are {', '.join(sorted(files))}")


@functools.cache
def read_target(path: Path) -> BareMetalTarget:
    """The target in the file ``path``, with what it inherits; SgscError naming the file and the key that is wrong."""
    merged: dict[str, Any] = {}
    origins: dict[tuple[str, ...], Path] = {}
    for file in reversed(lineage(path)):
        own = _parse(file)
        own.pop("inherits", None)
        if file != path:
            own = {key: value for key, value in own.items() if key not in _OWN}
        _merge(merged, own, file, origins, ())
    if "name" in merged:
        raise SgscError(f"{origins['name',]}: name: not a key: a target has its file's name")
    try:
        return BareMetalTarget.model_validate({"name": path.stem, **merged})
    except ValidationError as error:
        faults = [_say(fault["loc"], fault["msg"], origins, path) for fault in error.errors()]
        raise SgscError("; ".join(faults), hint="targets/README.md lists the keys") from error


def lineage(path: Path) -> list[Path]:
    """``path``, the file that it inherits, the one that this inherits, and so on."""
    files = [path]
    while (parent := _parse(files[-1]).get("inherits")) is not None:
        files.append(_find_parent(files[-1], parent))
        if files[-1] in files[:-1]:
            round_trip = " -> ".join(file.stem for file in files[files.index(files[-1]) :])
            raise SgscError(f"{path}: inherits: a cycle: {round_trip}", hint="let one of them inherit nothing")
    return files


def _find_parent(child: Path, parent: object) -> Path:
    """The file ``parent``.toml beside ``child``, else among those that ship."""
    if not isinstance(parent, str):
        raise SgscError(f"{child}: inherits: should be the name of one target, not {parent!r}")
    places = [child.parent / f"{parent}.toml", data_dir("targets") / f"{parent}.toml"]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        known = sorted({file.stem for place in places for file in place.parent.glob("*.toml")} - {child.stem})
        near = difflib.get_close_matches(parent, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"There are {', '.join(known)}"
        raise SgscError(f"{child}: inherits: no target {parent!r}", hint=hint)
    return found


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SgscError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SgscError(f"{path}: not TOML: {error}") from error


def _merge(
    merged: dict[str, Any], own: dict[str, Any], file: Path, origins: dict[tuple[str, ...], Path], at: tuple[str, ...]
) -> None:
    """Tables are merged key by key; everything else, lists too, is replaced. ``origins`` tells where each came from."""
    for key, value in own.items():
        place = (*at, key)
        if isinstance(value, dict):
            inner = merged.get(key)
            merged[key] = dict(inner) if isinstance(inner, dict) else {}
            _merge(merged[key], value, file, origins, place)
        else:
            merged[key] = value
        origins[place] = file


def _say(loc: tuple[int | str, ...], message: str, origins: dict[tuple[str, ...], Path], path: Path) -> str:
    """A fault with the file that brought the key, or the nearest one around it."""
    key = tuple(map(str, loc))
    file = next((origins[key[:n]] for n in range(len(key), 0, -1) if key[:n] in origins), path)
    return f"{file}: {'.'.join(key)}: {message}"
