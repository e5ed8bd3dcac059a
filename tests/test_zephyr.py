"""Zephyr, as far as it needs no tree: what a target is made of, errors. test_zephyr_boards.py has the rest."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from sgsc_micro.artifacts import built_for
from sgsc_micro.codegen.library import ZEPHYR_MODULE
from sgsc_micro.device.doctor import checks
from sgsc_micro.errors import SgscError
from sgsc_micro.files import data_dir
from sgsc_micro.targets import Target, list_targets, load_target
from sgsc_micro.zephyr import QEMU_SYSTICK_HZ, link_baud, make_target, parse_config, twin_of
from sgsc_micro.zephyr_errors import explain

APP = data_dir("firmware_templates") / "zephyr" / "app"
CONFIG = """
CONFIG_CPU_CORTEX_M=y
CONFIG_CPU_CORTEX_M4=y
# CONFIG_FPU is not set
CONFIG_XIP=y
CONFIG_BOARD="some_board"
CONFIG_FLASH_BASE_ADDRESS=0x8000000
CONFIG_FLASH_SIZE=512
CONFIG_FLASH_LOAD_OFFSET=0x0
CONFIG_SRAM_BASE_ADDRESS=0x20000000
CONFIG_SRAM_SIZE=96
CONFIG_MAIN_STACK_SIZE=4096
"""
DEVICETREE = """
set_target_properties(devicetree_target PROPERTIES "DT_CHOSEN|zephyr,console" "/soc/uart@1")
set_target_properties(devicetree_target PROPERTIES "DT_PROP|/soc/uart@1|current-speed" "9600")
set_target_properties(devicetree_target PROPERTIES "DT_PROP|/soc/uart@2|current-speed" "921600")
"""


def made(**changes: str) -> Target:
    config = {key: value for key, value in (parse_config(CONFIG) | changes).items() if value != "n"}
    return make_target("some_board", "3.4.0", config, DEVICETREE, None)


def test_a_target_is_what_zephyr_s_configuration_says() -> None:
    target = made()
    board = target.require_board()
    assert (target.name, target.instruction_set, board.stack_bytes) == ("zephyr:some_board", "dsp", 4096)
    assert (board.flash.origin, board.flash.bytes) == (0x800_0000, 512 * 1024)
    assert (board.ram.origin, board.ram.bytes) == (0x2000_0000, 96 * 1024)
    assert board.serial.baud == 9600
    assert made() == target != made(CONFIG_FPU="y")


@pytest.mark.parametrize("target", [made(), load_target("nucleo-f446re")], ids=["zephyr", "bare metal"])
def test_a_build_says_what_it_was_built_for(tmp_path: Path, target: Target) -> None:
    (tmp_path / "library").mkdir()
    (tmp_path / "firmware").mkdir()
    record = {"inputs": {"target": target.model_dump(mode="json")}}
    (tmp_path / "firmware" / "stage.json").write_text(json.dumps(record))
    assert built_for(tmp_path) == target
    del record["inputs"]["target"]["board"]["serial"]
    (tmp_path / "firmware" / "stage.json").write_text(json.dumps(record))
    with pytest.raises(SgscError, match="does not say what it was built for"):
        built_for(tmp_path)


def test_zephyr_s_west_flashes_its_boards() -> None:
    ways = made().require_board().flashers
    assert ways.west and not (ways.openocd or ways.pyocd or ways.stm32loader)


@pytest.mark.parametrize(
    ("changes", "kernels"),
    [
        ({"CONFIG_CPU_CORTEX_M4": "n"}, "c"),
        ({"CONFIG_ARMV8_1_M_MVEI": "y", "CONFIG_FPU": "y"}, "helium"),
        ({"CONFIG_ARMV8_1_M_MVEI": "y"}, "dsp"),  # Helium's registers are the FPU's
    ],
)
def test_the_kernels_are_what_the_core_can(changes: dict[str, str], kernels: str) -> None:
    assert made(**changes).instruction_set == kernels


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"CONFIG_CPU_CORTEX_M": "n"}, "no Cortex-M"),
        ({"CONFIG_XIP": "n"}, "does not run from flash"),
        ({"CONFIG_FLASH_SIZE": "0"}, "does not run from flash"),
        ({"CONFIG_FLASH_LOAD_OFFSET": "0x10000"}, "boot loader"),
    ],
)
def test_a_board_that_cannot_run_it_is_refused(changes: dict[str, str], complaint: str) -> None:
    with pytest.raises(SgscError, match=complaint):
        made(**changes)


def test_the_link_is_the_chosen_port() -> None:
    assert link_baud(DEVICETREE) == 9600
    assert link_baud(DEVICETREE + '"DT_CHOSEN|sgsc,link" "/soc/uart@2"') == 921_600
    with pytest.raises(SgscError, match=r"chooses no zephyr,console"):
        link_baud("")
    with pytest.raises(SgscError, match=r"/soc/uart@3.*no current-speed"):
        link_baud('"DT_CHOSEN|zephyr,console" "/soc/uart@3"')


def test_twins_count_instructions_as_those_of_bare_metal() -> None:
    twin = twin_of("-cpu;cortex-m3;-machine;mps2-an385;-nographic")
    assert twin is not None and twin.machine == "mps2-an385" and twin.ticks_per_instruction >= 4
    assert twin_of("") is None and twin_of("-machine;unheard-of") is None
    shipped = [target.board.emulator for target in list_targets() if target.board and target.board.emulator]
    common = [emulator for emulator in shipped if emulator.machine in QEMU_SYSTICK_HZ]
    assert len(common) >= 4
    for emulator in common:
        found = twin_of(f"-machine;{emulator.machine}")
        assert found is not None
        assert (found.systick_hz, found.icount_shift) == (emulator.systick_hz, emulator.icount_shift)


def test_without_a_tree_the_error_says_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ZEPHYR_BASE", raising=False)
    with pytest.raises(SgscError, match="ZEPHYR_BASE is not set"):
        load_target("zephyr:unbuilt_board")
    monkeypatch.setenv("ZEPHYR_BASE", str(tmp_path))
    with pytest.raises(SgscError, match="no Zephyr tree in"):
        load_target("zephyr:unbuilt_board")


def test_doctor_says_which_tree_there_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ZEPHYR_BASE", raising=False)
    (absent,) = (check for check in checks() if check.name == "Zephyr")
    assert (absent.verdict, absent.detail, absent.stands_in_the_way) == ("optional", "ZEPHYR_BASE is not set", False)
    assert "docs/zephyr.md" in absent.hint
    (tmp_path / "VERSION").write_text("VERSION_MAJOR = 3\nVERSION_MINOR = 7\nPATCHLEVEL = 2\n")
    monkeypatch.setenv("ZEPHYR_BASE", str(tmp_path))
    (found,) = (check for check in checks() if check.name == "Zephyr")
    assert found.ok and found.detail == f"3.7.2 in {tmp_path.resolve()}"


SAID = {
    "No board named 'mps2_an38' found.\n\nPlease choose:\narm:\n  mps2_an385\n  nucleo_f446re\n": (
        "zephyr:b: Zephyr has no such board",
        "did you mean mps2_an385?",
    ),
    "No board named 'zzz' found.\n\nPlease choose:\narm:\n  mps2_an385\n": (
        "zephyr:b: Zephyr has no such board",
        "`west boards` lists them; BOARD_ROOT names a folder with more",
    ),
    "ld: zephyr.elf section `.arena' will not fit\nld: region `RAM' overflowed by 1234 bytes\n": (
        "zephyr:b: the network does not fit: RAM is 1,234 bytes too small",
        "make the network smaller or choose a larger board",
    ),
    "CMake Error at zephyr_module.cmake:77:\n  ModuleNotFoundError: No module named 'ruamel.yaml'\n": (
        "zephyr:b: Zephyr's build needs the Python package ruamel",
        "pip install -r $ZEPHYR_BASE/scripts/requirements-base.txt",
    ),
    "prj.conf:1: warning: attempt to assign the value 'y' to the undefined symbol SGSC_MODEL\n\nerror: Aborting": (
        "zephyr:b: Zephyr's build finds no modules: west is not installed",
        "pip install west. `west update` fetches Zephyr's modules; elsewhere ZEPHYR_MODULES names their folders",
    ),
    "  Nothing found at GNUARMEMB_TOOLCHAIN_PATH: '/nowhere'\n": (
        "zephyr:b: GNUARMEMB_TOOLCHAIN_PATH: no toolchain in /nowhere",
        "it is the folder above its bin",
    ),
    '  Could not find a package configuration file provided by "Zephyr-sdk"\n  (requested version 0.15)\n': (
        "zephyr:b: no toolchain: neither arm-none-eabi-gcc nor a Zephyr SDK is there",
        "sudo apt install gcc-arm-none-eabi, or name the SDK in ZEPHYR_SDK_INSTALL_DIR",
    ),
    "  include could not find requested file:\n\n    /tree/cmake/toolchain/funny/generic.cmake\nCall Stack": (
        "zephyr:b: ZEPHYR_TOOLCHAIN_VARIANT: Zephyr has no toolchain 'funny'",
        "gnuarmemb is arm-none-eabi-gcc, zephyr the SDK",
    ),
    "b.dts:9:10: fatal error: st/f4/stm32f446r(c-e)tx-pinctrl.dtsi: No such file or directory\n": (
        "zephyr:b: st/f4/stm32f446r(c-e)tx-pinctrl.dtsi, of one of Zephyr's modules, is not there",
        "`west update` fetches Zephyr's modules; elsewhere ZEPHYR_MODULES names their folders",
    ),
    "[1/9] cc\nmodel.c:3:1: error: expected ';'\nninja: stopped\n": (
        "firmware for zephyr:b does not build:\nmodel.c:3:1: error: expected ';'",
        "",
    ),
}


@pytest.mark.parametrize("said", SAID)
def test_what_a_failed_build_says_becomes_a_cause_and_what_to_do(said: str) -> None:
    error = explain("b", said)
    assert (error.message, error.hint) == SAID[said]


def test_the_module_names_its_own_files_and_the_application_its_option() -> None:
    module = (ZEPHYR_MODULE / "zephyr" / "module.yml").read_text()
    entries = dict(re.findall(r"^ *(\w+): (\S+)$", module, re.MULTILINE))
    assert entries == {"name": "sgsc_model", "cmake": "zephyr", "kconfig": "zephyr/Kconfig"}
    assert (ZEPHYR_MODULE / entries["cmake"] / "CMakeLists.txt").is_file()
    symbols = re.findall(r"^config (\w+)$", (ZEPHYR_MODULE / entries["kconfig"]).read_text(), re.MULTILINE)
    assert symbols[0] == "SGSC_MODEL"
    assert "CONFIG_SGSC_MODEL=y\n" in (APP / "prj.conf").read_text()


def test_every_source_that_the_application_names_is_there() -> None:
    text = (APP / "CMakeLists.txt").read_text()
    sources = re.findall(r"\bsrc/[\w.]+", text)
    assert len(sources) >= 6
    assert all((APP / source).is_file() for source in sources)
    assert {path.name for path in (APP / "src").glob("*.[c]")} == {Path(s).name for s in sources if s.endswith(".c")}
