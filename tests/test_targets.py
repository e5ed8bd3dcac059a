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

GOOD = (data_dir("targets") / "nucleo-f446re.toml").read_text()


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
    with pytest.raises(SgscError, match=r"no target 'nucleo-f446'.*did you mean nucleo-f446re\?.*host.*stm32"):
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
