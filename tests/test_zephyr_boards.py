"""Zephyr's own build and emulated boards, where ZEPHYR_BASE is set: firmware, errors, an application of one's own."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tflite_micro", reason="models are written with the schema of tflite-micro's package")

from sgsc_micro import reference
from sgsc_micro.codegen.library import ZEPHYR_MODULE, zephyr_files
from sgsc_micro.device import LinkError, connect
from sgsc_micro.device.boards import Site
from sgsc_micro.device.flash.base import Job
from sgsc_micro.device.flash.programs import WestFlasher
from sgsc_micro.errors import SgscError
from sgsc_micro.firmware import FirmwareImage, build_firmware, read_image, tools
from sgsc_micro.targets import Target, West, load_target
from sgsc_micro.verification import read_network
from sgsc_micro.zephyr import find_tree, zephyr_target
from tests.bars import INPUT, write_project
from tests.conftest import ROOT, build_project, sgsc
from tests.dummy_library import CRASH, OVERFLOW, SPIN, DummyLibrary, write_library

BASE = os.environ.get("ZEPHYR_BASE")
OUT_OF_TREE = ROOT / "tests" / "zephyr_root"
"""Has QEMU's Cortex-M4 as a board; Zephyr's tree has no Cortex-M4 that QEMU runs."""

pytestmark = [
    pytest.mark.zephyr,
    pytest.mark.skipif(not BASE, reason="ZEPHYR_BASE is not set: no Zephyr tree to build with"),
]


@pytest.fixture(scope="module", autouse=True)
def _roots() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for root in ("BOARD_ROOT", "SOC_ROOT"):
            patch.setenv(root, str(OUT_OF_TREE))
        yield


def zephyr(board: str) -> str:
    """The target's name, where the tree has the board."""
    if board == "mps2_an386" and not (Path(BASE or "") / "soc" / "arm" / "common" / "cortex_m").is_dir():
        pytest.skip(f"{OUT_OF_TREE} is for trees whose boards lie by architecture, as up to Zephyr 3.6")
    return f"zephyr:{board}"


def zephyr_library(folder: Path, arena: int = 777) -> DummyLibrary:
    library = write_library(folder, arena=arena)
    for path in zephyr_files():
        copy = library.folder / path.relative_to(ZEPHYR_MODULE)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(path.read_bytes())
    return library


@pytest.fixture(scope="module", params=["mps2_an385", "mps3_an547"])
def built(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Target, DummyLibrary, FirmwareImage]:
    folder = tmp_path_factory.mktemp(request.param)
    target, library = load_target(f"zephyr:{request.param}"), zephyr_library(folder / "library")
    return target, library, build_firmware(target, library.folder, folder / "firmware")


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


@pytest.mark.parametrize("built", ["mps2_an385"], indirect=True)
def test_same_sources_same_bytes_wherever_they_lie(
    built: tuple[Target, DummyLibrary, FirmwareImage], tmp_path: Path
) -> None:
    target, _, image = built
    again = build_firmware(target, zephyr_library(tmp_path / "elsewhere").folder, tmp_path / "out")
    assert again.binary.read_bytes() == image.binary.read_bytes()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bars")
    write_project(folder)
    return folder


@pytest.mark.parametrize(
    ("board", "machine", "kernels"),
    [
        ("mps2_an385", "mps2-an385", "c"),
        ("mps2_an386", "mps2-an386", "dsp"),
        ("mps3_an547", "mps3-an547", "helium"),
    ],
)
def test_from_a_network_to_a_certificate_on_an_emulated_board(
    project: Path, board: str, machine: str, kernels: str, tmp_path: Path
) -> None:
    target = zephyr(board)
    assert load_target(target).instruction_set == kernels
    done = build_project(project, target=target)
    assert done.exit_code == 0, done.output
    build = project / "build" / f"bars-zephyr-{board}"
    certificate = json.loads((build / "certificate.json").read_text())
    assert certificate["verdict"] == "passed"
    assert certificate["preservation"]["negative_flips"] == certificate["preservation"]["mismatches"] == []
    assert (certificate["target"]["name"], certificate["target"]["kind"]) == (target, "emulated")
    assert certificate["target"]["ran_on"] == machine
    inputs = bars_inputs(project)[:5]
    np.save(tmp_path / "x.npy", inputs)
    done = sgsc("run", build, "--on", target, "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy")
    assert done.exit_code == 0, done.output
    assert np.array_equal(np.load(tmp_path / "y.npy"), exact(build, inputs))


def test_west_hands_the_image_to_the_board_s_flasher(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a workspace whose pyocd, the flasher that the board's own file names, only keeps what it is told."""
    if shutil.which("west") is None:
        pytest.skip("west is not installed")
    target = zephyr("mps2_an386")
    done = build_project(project, "--until", "firmware", target=target)
    assert done.exit_code == 0, done.output
    board = load_target(target).require_board()
    image = read_image(project / "build" / "bars-zephyr-mps2_an386" / "firmware")
    (tmp_path / ".west").mkdir()
    (tmp_path / ".west" / "config").write_text("[manifest]\npath = zephyr\n[zephyr]\nbase = zephyr\n")
    (tmp_path / "zephyr").symlink_to(BASE or "")
    pyocd = tmp_path / "pyocd"
    pyocd.write_text(f'#!/bin/sh\nfor word; do echo "$word"; done > {tmp_path}/told\n')
    pyocd.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    site = Site("/dev/null")
    WestFlasher(West()).write(Job(image, board.flash.origin, board.flash.bytes, site), lambda text: None)
    command, *words, file = (tmp_path / "told").read_text().splitlines()
    assert command == "flash" and "cortex_m" in words
    subprocess.run(["arm-none-eabi-objcopy", "-I", "ihex", "-O", "binary", file, tmp_path / "bin"], check=True)
    assert (tmp_path / "bin").read_bytes() == image.binary.read_bytes()


def bars_inputs(project: Path) -> np.ndarray:
    with np.load(project / "bars.npz") as file:
        return np.asarray(file["inputs"][180:])


def exact(build: Path, inputs: np.ndarray) -> np.ndarray:
    """What the integer reference makes of them, int8 [N, 3]."""
    reals = ((inputs.astype(np.float64) - INPUT.zero_point) * INPUT.scale).astype(np.float32)
    return reference.run_integers(read_network(build / "evidence"), reals)


def test_three_lines_add_the_library_to_an_application(project: Path, tmp_path: Path) -> None:
    """Those of docs/zephyr.md, in an application that knows nothing else of sgsc_micro."""
    section = (ROOT / "docs" / "zephyr.md").read_text().split("\n## ")[1]
    cmake, kconfig, call = re.findall(r"^    (.+)$", section, re.MULTILINE)
    done = build_project(project, "--until", "library", target="zephyr:mps2_an385")
    assert done.exit_code == 0, done.output
    build = project / "build" / "bars-zephyr-mps2_an385"
    inputs = bars_inputs(project)
    rows = ",".join("{" + ",".join(map(str, row)) + "}" for row in inputs.reshape(len(inputs), -1).tolist())
    app = tmp_path / "app"
    (app / "src").mkdir(parents=True)
    (app / "library").symlink_to(build / "library")
    (app / "CMakeLists.txt").write_text(_CMAKE.replace("LINE", cmake))
    (app / "prj.conf").write_text(kconfig + "\n")
    (app / "src" / "main.c").write_text(_MAIN.replace("LINE", call).replace("ROWS", rows))
    made = tmp_path / "made"
    configure = ["cmake", "-G", "Ninja", "-S", str(app), "-B", str(made), "-DBOARD=mps2_an385"]
    for command in (configure, ["ninja", "-C", str(made)]):
        result = subprocess.run(command, capture_output=True, text=True, env=find_tree().environment)
        assert result.returncode == 0, result.stdout + result.stderr
    printed = until_the_end(made / "zephyr" / "zephyr.elf")
    found = [[int(number) for number in line.split()] for line in printed if re.fullmatch(r"(-?\d+ )+\n", line)]
    assert np.array_equal(found, exact(build, inputs).reshape(len(inputs), -1))


_CMAKE = """
cmake_minimum_required(VERSION 3.20)
LINE
find_package(Zephyr REQUIRED HINTS $ENV{ZEPHYR_BASE})
project(app C)
target_sources(app PRIVATE src/main.c)
"""

_MAIN = """
#include <string.h>
#include <zephyr/kernel.h>
#include <zephyr/sys/printk.h>
#include "model.h"

static const int8_t inputs[][MODEL_INPUT_BYTES] = {ROWS};

int main(void)
{
    for (size_t i = 0; i < ARRAY_SIZE(inputs); ++i) {
        memcpy(MODEL_INPUT, inputs[i], MODEL_INPUT_BYTES);
        LINE
        for (int k = 0; k < MODEL_OUTPUT_BYTES; ++k)
            printk("%d ", MODEL_OUTPUT[k]);
        printk("\\n");
    }
    printk("end\\n");
    return 0;
}
"""


def until_the_end(elf: Path) -> list[str]:
    """The lines that an mps2_an385 prints before "end"."""
    command = [tools.require(tools.QEMU), "-M", "mps2-an385", "-display", "none", "-monitor", "none"]
    with subprocess.Popen([*command, "-serial", "stdio", "-kernel", elf], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        limit = threading.Timer(60, process.kill)
        limit.start()
        try:
            return list(itertools.takewhile(lambda line: line != "end\n", process.stdout))
        finally:
            limit.cancel()
            process.kill()


@pytest.mark.parametrize(
    ("board", "environment", "words"),
    [
        ("mps2_an38", {}, "Zephyr has no such board did you mean .*mps2_an385"),
        ("qemu_cortex_m3", {"ZEPHYR_TOOLCHAIN_VARIANT": "unheard-of"}, "Zephyr has no toolchain 'unheard-of'"),
        (
            "qemu_cortex_m3",
            {"ZEPHYR_TOOLCHAIN_VARIANT": "gnuarmemb", "GNUARMEMB_TOOLCHAIN_PATH": "/nowhere"},
            "GNUARMEMB_TOOLCHAIN_PATH: no toolchain in /nowhere",
        ),
    ],
)
def test_what_cannot_be_configured_is_named(
    board: str, environment: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(SgscError) as caught:
        load_target(f"zephyr:{board}")
    assert re.search(words, f"{caught.value.message} {caught.value.hint}")
    assert "\n" not in caught.value.message


def test_an_overlay_chooses_the_port_and_makes_another_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The port alone: an image for the board as it is would be silent on the other one."""
    usual = load_target("zephyr:mps2_an385")
    overlay = tmp_path / "link.overlay"
    overlay.write_text("/ { chosen { sgsc,link = &uart1; }; };")
    monkeypatch.setenv("EXTRA_DTC_OVERLAY_FILE", str(overlay))
    zephyr_target.cache_clear()
    other = load_target("zephyr:mps2_an385")
    zephyr_target.cache_clear()
    assert (usual.require_board().serial, usual.name) == (other.require_board().serial, other.name)
    assert usual != other


def test_targets_show_asks_zephyr() -> None:
    done = sgsc("targets", "show", zephyr("mps2_an386"))
    assert done.exit_code == 0, done.output
    for words in ("zephyr:mps2_an386", "DSP", "4,194,304 bytes", "115,200 baud", "mps2-an386"):
        assert words in done.output


def test_an_image_that_is_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SgscError, match=r"zephyr:mps2_an385: .* does not fit: RAM is [\d,]+ bytes too small"):
        library = zephyr_library(tmp_path / "library", arena=5_000_000)
        build_firmware(load_target("zephyr:mps2_an385"), library.folder, tmp_path / "firmware")
    assert not (tmp_path / "firmware").exists()
