"""Targets: those that ship are sound, and a bad name or file is refused with words that help."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

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
