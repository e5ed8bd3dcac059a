"""Targets: those that ship are sound, and a bad name or file is refused with words that help."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from sgsc_micro import targets
from sgsc_micro.errors import SgscError
from sgsc_micro.files import data_dir
from sgsc_micro.firmware import tools
from sgsc_micro.targets import list_targets, load_target

GOOD = """
description = "A board"
aliases = ["also"]
instruction_set = "dsp"
[board]
cpu_flags = ["-mcpu=cortex-m4"]
chip = "stm32f4"
uart = "stm32_v1"
stack_bytes = 4096
flash = { origin = 0x0800_0000, bytes = 0x8_0000 }
ram = { origin = 0x2000_0000, bytes = 0x2_0000 }
defines = { UART_BASE = 0x4000_4400, UART_IRQ = 38 }
[board.serial]
baud = 115_200
usb_ids = ["0483:374b"]
[board.emulator]
machine = "netduinoplus2"
serial = 1
systick_hz = 168_000_000
icount_shift = 7
"""


@pytest.fixture
def own_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(targets, "data_dir", lambda name: tmp_path)
    return tmp_path


def test_alias_finds_the_board() -> None:
    assert load_target("stm32") is load_target("nucleo-f446re")


def test_names_and_aliases_are_unique() -> None:
    names = [name for target in list_targets() for name in (target.name, *target.aliases)]
    assert len(names) == len(set(names))


def test_host_has_no_board() -> None:
    with pytest.raises(SgscError, match="host has no firmware"):
        load_target("host").require_board()


@pytest.mark.parametrize("target", list_targets(), ids=lambda target: target.name)
def test_what_a_target_names_is_there(target: targets.Target) -> None:
    if target.board is None:
        return
    sources = data_dir("firmware_templates") / "bare_metal"
    assert (sources / f"chip_{target.board.chip}.c").is_file()
    assert (sources / f"uart_{target.board.uart}.c").is_file()
    if target.board.emulator is not None:
        assert target.board.emulator.ticks_per_instruction >= 4


@pytest.mark.skipif(shutil.which(tools.CROSS_COMPILER) is None, reason=f"{tools.CROSS_COMPILER} is not installed")
@pytest.mark.parametrize("target", list_targets(), ids=lambda target: target.name)
def test_the_compiler_finds_the_instruction_set_that_a_target_names(target: targets.Target) -> None:
    if target.board is None:
        assert target.instruction_set == "c"
        return
    command = [tools.require(tools.CROSS_COMPILER), *target.board.cpu_flags, "-dM", "-E", "-x", "c", "-"]
    macros = subprocess.run(command, input="", capture_output=True, text=True, check=True).stdout
    assert ("#define __ARM_FEATURE_DSP 1\n" in macros) == (target.instruction_set != "c")
    assert ("#define __ARM_FEATURE_MVE " in macros) == (target.instruction_set == "helium")


def test_unknown_target_lists_the_near_ones_and_all() -> None:
    with pytest.raises(SgscError, match=r"no target 'nucleo-f446'.*did you mean nucleo-f446re or [^?]*\?.*host.*stm32"):
        load_target("nucleo-f446")


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        ("stack_bytes", "stak_bytes", r"board\.stak_bytes"),
        ('instruction_set = "dsp"', 'instruction_set = "mmx"', "instruction_set"),
        ("bytes = 0x8_0000", "bytes = 0", r"board\.flash\.bytes"),
        ("0483:374b", "ST-LINK", r"usb_ids"),
        ("aliases = [", "aliases = ", "not TOML"),
        ("[board]", 'name = "other"\n[board]', "name: not a key: a target has its file's name"),
    ],
)
def test_bad_file_is_refused_by_name(own_targets: Path, right: str, wrong: str, complaint: str) -> None:
    assert right in GOOD
    (own_targets / "mine.toml").write_text(GOOD.replace(right, wrong))
    with pytest.raises(SgscError, match=rf"mine\.toml: .*{complaint}"):
        load_target("mine")


def test_a_child_has_its_parents_keys_but_their_names(own_targets: Path) -> None:
    (own_targets / "_family.toml").write_text(GOOD)
    (own_targets / "mother.toml").write_text(
        'description = "B"\naliases = ["m"]\ninherits = "_family"\nboard.ram.bytes = 0x1000\n'
        "board.defines = { UART_IRQ = 7 }\n"
    )
    (own_targets / "child.toml").write_text(
        'description = "C"\ninherits = "mother"\ninstruction_set = "c"\nboard.cpu_flags = ["-mcpu=cortex-m3"]\n'
        "board.defines = { MORE = 3 }\n"
    )
    assert [target.name for target in list_targets()] == ["child", "mother"]
    child, board = load_target("child"), load_target("child").require_board()
    assert (child.description, child.aliases, child.instruction_set) == ("C", (), "c")
    assert board.cpu_flags == ("-mcpu=cortex-m3",)  # lists are replaced
    assert board.defines == {"UART_BASE": 0x4000_4400, "UART_IRQ": 7, "MORE": 3}  # tables are merged
    assert (board.ram.origin, board.ram.bytes) == (0x2000_0000, 0x1000)
    assert board.serial.usb_ids == ("0483:374b",)
    assert load_target("m").require_board().cpu_flags == ("-mcpu=cortex-m4",)


def test_a_fault_is_laid_at_the_file_that_brought_it(own_targets: Path) -> None:
    (own_targets / "_family.toml").write_text(GOOD.replace("4096", "-1"))
    (own_targets / "mine.toml").write_text('description = "C"\ninherits = "_family"\nboard.ram.bytes = 0\n')
    with pytest.raises(SgscError, match=r"_family\.toml: board\.stack_bytes: .*mine\.toml: board\.ram\.bytes: "):
        load_target("mine")
    (own_targets / "mine.toml").write_text('inherits = "_family"\n')
    with pytest.raises(SgscError, match=r"mine\.toml: description: "):
        load_target("mine")


@pytest.mark.parametrize(
    ("parent", "complaint"),
    [
        ('"famly"', r"mine\.toml: inherits: no target 'famly'.*did you mean family"),
        ('"mine"', r"mine\.toml: inherits: a cycle: mine -> mine"),
        ('"other"', r"mine\.toml: inherits: a cycle: mine -> other -> mine"),
        ("[1]", r"mine\.toml: inherits: should be the name of one target"),
    ],
)
def test_bad_parents_are_named(own_targets: Path, parent: str, complaint: str) -> None:
    (own_targets / "family.toml").write_text(GOOD)
    (own_targets / "other.toml").write_text('description = "O"\ninherits = "mine"\n')
    (own_targets / "mine.toml").write_text(f'description = "M"\ninherits = {parent}\n')
    with pytest.raises(SgscError, match=complaint):
        load_target("mine")


def test_a_board_of_one_s_own_is_a_file(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('description = "With less RAM"\ninherits = "nucleo-f446re"\nboard.ram.bytes = 0x8000\n')
    target = load_target(str(mine))
    assert (target.name, target.require_board().ram.bytes, target.aliases) == ("mine", 0x8000, ())
    with pytest.raises(SgscError, match=r"none\.toml: No such file"):
        load_target(str(tmp_path / "none.toml"))


README = data_dir("targets") / "README.md"


def keys_of(model: type[BaseModel]) -> set[str]:
    """Every key that a file may have, in any table."""
    found = set(model.model_fields)
    kinds = [field.annotation for field in model.model_fields.values()]
    while kinds:
        kind = kinds.pop()
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= keys_of(kind)
        kinds += get_args(kind)
    return found


def documented() -> tuple[set[str], set[str]]:
    """The words between backticks of the table of keys: in its first column, and in all of it."""
    rows = re.findall(r"^\| (.*?) \| (.*) \|$", README.read_text(encoding="utf-8").split("| target |")[0], re.MULTILINE)
    spans = [[re.findall(r"`(.*?)`", cell) for cell in row] for row in rows]
    first, rest = ({word for row in spans for span in row[n] for word in re.findall(r"\w+", span)} for n in (0, 1))
    return first, first | rest


def test_the_readme_has_every_key_and_no_other() -> None:
    keys = keys_of(type(load_target("stm32"))) - {"name"}  # which is the file's
    assert {"usb_ids", "icount_shift", "origin"} < keys
    first, every = documented()
    assert keys <= every, keys - every
    assert first <= keys | {"inherits"}, first - keys


def test_the_readme_has_every_constant_that_a_target_defines_and_the_firmware_asks_for() -> None:
    sources = "".join(path.read_text() for path in (data_dir("firmware_templates") / "bare_metal").glob("*.[ch]"))
    used = set(re.findall(r"\b(?:UART_[A-Z_]+|CORE_HZ)\b", sources)) - set(re.findall(r"#define (\w+)", sources))
    defined = {name for target in list_targets() if target.board for name in target.board.defines}
    assert defined <= set(re.findall(r"\w+", sources)), "a constant that nothing reads"
    assert used - {"UART_BAUD"} == defined <= documented()[1]  # UART_BAUD: from [board.serial]


def test_the_readme_s_board_is_one(tmp_path: Path) -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    (tmp_path / "mine.toml").write_text("\n".join(line[4:] for line in lines if line.startswith("    ")))
    assert load_target(str(tmp_path / "mine.toml")).require_board().ram.bytes == 0x8000


def test_the_readme_lists_every_target_with_its_memory() -> None:
    rows = dict(re.findall(r"^\| (`.*?) \| (.*) \|$", README.read_text(encoding="utf-8").split("| target |")[1], re.M))
    names = {re.findall(r"`(.*?)`", cell)[0]: (cell, row) for cell, row in rows.items()}
    assert set(names) == {target.name for target in list_targets()}
    for target in list_targets():
        cell, row = names[target.name]
        assert all(f"`{alias}`" in cell for alias in target.aliases)
        if target.board is not None:
            flash, ram = (_kilobytes(memory.bytes) for memory in (target.board.flash, target.board.ram))
            assert f"| {flash}, {ram}" in row, row
            assert (f"`{target.board.emulator.machine}`" if target.board.emulator else "| |") in f"{row} |"


def _kilobytes(count: int) -> str:
    return f"{count >> 20} MB" if count % (1 << 20) == 0 else f"{count >> 10} kB"
