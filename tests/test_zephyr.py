"""Zephyr: what needs no tree is tested always, the firmware on emulated boards where ZEPHYR_BASE is set."""

from __future__ import annotations

import os
import re
import zlib
from pathlib import Path

import pytest

from sgsc_micro.codegen.library import ZEPHYR_MODULE, zephyr_files
from sgsc_micro.device import LinkError, connect
from sgsc_micro.errors import SgscError
from sgsc_micro.files import data_dir
from sgsc_micro.firmware import FirmwareImage, build_firmware
from sgsc_micro.targets import Target, list_targets, load_target
from sgsc_micro.zephyr import QEMU_SYSTICK_HZ, link_baud, make_target, parse_config, twin_of, unknown_board
from tests.dummy_library import CRASH, OVERFLOW, SPIN, DummyLibrary, write_library

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
    return make_target("some_board", "3.4.0", config, 115_200, None)


def test_a_target_is_what_zephyr_s_configuration_says() -> None:
    target = made()
    board = target.require_board()
    assert (target.name, target.instruction_set, board.stack_bytes) == ("zephyr:some_board", "dsp", 4096)
    assert (board.flash.origin, board.flash.bytes) == (0x800_0000, 512 * 1024)
    assert (board.ram.origin, board.ram.bytes) == (0x2000_0000, 96 * 1024)


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


def test_unknown_board_names_the_near_ones() -> None:
    said = "No board named 'mps2_an38' found.\narm:\n  mps2_an385\n  mps2_an521\n  nucleo_f446re\n"
    assert "mps2_an385" in str(unknown_board("mps2_an38", said))
    assert "west boards" in str(unknown_board("zzz", said))


def test_the_module_names_its_own_files_and_the_application_its_option() -> None:
    module = (ZEPHYR_MODULE / "zephyr" / "module.yml").read_text()
    entries = dict(re.findall(r"^ *(\w+): (\S+)$", module, re.MULTILINE))
    assert entries == {"name": "sgsc_model", "cmake": "zephyr", "kconfig": "zephyr/Kconfig"}
    assert (ZEPHYR_MODULE / entries["cmake"] / "CMakeLists.txt").is_file()
    symbols = re.findall(r"^config (\w+)$", (ZEPHYR_MODULE / entries["kconfig"]).read_text(), re.MULTILINE)
    assert symbols == ["SGSC_MODEL"]
    assert "CONFIG_SGSC_MODEL=y\n" in (APP / "prj.conf").read_text()


def test_every_source_that_the_application_names_is_there() -> None:
    text = (APP / "CMakeLists.txt").read_text()
    sources = re.findall(r"\bsrc/[\w.]+", text)
    assert len(sources) >= 6
    assert all((APP / source).is_file() for source in sources)
    assert {path.name for path in (APP / "src").glob("*.[c]")} == {Path(s).name for s in sources if s.endswith(".c")}


def zephyr_library(folder: Path) -> DummyLibrary:
    library = write_library(folder)
    for path in zephyr_files():
        copy = library.folder / path.relative_to(ZEPHYR_MODULE)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(path.read_bytes())
    return library


@pytest.fixture(scope="module", params=["mps2_an385", "mps3_an547"])
def built(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Target, DummyLibrary, FirmwareImage]:
    if not os.environ.get("ZEPHYR_BASE"):
        pytest.skip("ZEPHYR_BASE is not set: no Zephyr tree to build with")
    folder = tmp_path_factory.mktemp(request.param)
    target, library = load_target(f"zephyr:{request.param}"), zephyr_library(folder / "library")
    return target, library, build_firmware(target, library.folder, folder / "firmware")


@pytest.mark.zephyr
def test_an_emulated_board_runs_what_was_built(built: tuple[Target, DummyLibrary, FirmwareImage]) -> None:
    target, library, image = built
    assert (image.sizes.weights, image.sizes.arena) == (library.weights, library.arena)
    with connect(target, image) as device:
        hello = device.hello()
        assert hello.image_bytes == image.sizes.flash_total == image.binary.stat().st_size
        assert hello.image_crc32 == zlib.crc32(image.binary.read_bytes())
        assert hello.stack_bytes == target.require_board().stack_bytes
        for case in range(20):
            data = bytes((case * 7 + i) % 251 for i in range(library.size))
            assert device.run(case, data).output == library.expected(data)
        counts = [
            device.run(0, (SPIN + times.to_bytes(4, "little")).ljust(library.size, b"\0")).count for times in (1, 1001)
        ]
        assert counts[1] - counts[0] == 2 * 1000


@pytest.mark.zephyr
@pytest.mark.parametrize(("start", "words"), [(CRASH, r"crashed \(exception 6, pc 0x"), (OVERFLOW, "stack overflow")])
def test_a_crash_is_named_and_the_next_case_runs(
    built: tuple[Target, DummyLibrary, FirmwareImage], start: bytes, words: str
) -> None:
    target, library, image = built
    with connect(target, image) as device:
        with pytest.raises(LinkError, match=words):
            device.run(0, start.ljust(library.size, b"\0"))
        data = bytes(library.size)
        assert device.run(1, data).output == library.expected(data)


@pytest.mark.zephyr
def test_same_sources_same_bytes_wherever_they_lie(
    built: tuple[Target, DummyLibrary, FirmwareImage], tmp_path: Path
) -> None:
    target, _, image = built
    again = build_firmware(target, zephyr_library(tmp_path / "elsewhere").folder, tmp_path / "out")
    assert again.binary.read_bytes() == image.binary.read_bytes()
