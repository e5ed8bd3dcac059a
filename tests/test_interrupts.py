"""Interrupts may come at any instruction of a network, and calls of assembly may destroy what the ABI lets them.

The firmware's SysTick interrupt becomes one that comes every few dozen instructions and leaves nothing as it was that a
handler need not keep. What the assembly kept below the stack pointer would be gone, and the outputs wrong.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tvm

pytest.importorskip("tflite_micro", reason="tflite-micro is not installed")

from benchmarks.networks import requantised
from sgsc_micro import reference
from sgsc_micro.codegen import to_stored, write_library
from sgsc_micro.compiler_flags import Objective, Optimize
from sgsc_micro.device import connect
from sgsc_micro.files import data_dir
from sgsc_micro.firmware import bare_metal, build_firmware
from sgsc_micro.passes import optimise
from sgsc_micro.targets import load_target
from tests.conftest import edit
from tests.graphs import graph_of
from tests.test_guard import WEIGHTED, WIDTHS, network

PERIOD = 151
"""Instructions between two interrupts, a prime; the handler takes about 90 of them."""

COUNTING_HANDLER = """void systick_handler(void)
{
    wraps = wraps + 1u;
}
"""
# Sixteen words below the frame that the hardware pushed, the registers that a caller saves, Helium's too, the flags.
DESTROYING_HANDLER = """__attribute__((naked)) void systick_handler(void)
{
    __asm volatile(".syntax unified\\n mov r0, sp\\n lsls r0, r0, #29\\n bne 2f\\n"
                   " ldr r1, =wraps\\n ldr r0, [r1]\\n adds r0, #1\\n str r0, [r1]\\n"
                   " ldr r2, =0xBAD00BAD\\n mov r0, sp\\n movs r1, #16\\n"
                   "1: subs r0, #4\\n str r2, [r0]\\n subs r1, #1\\n bne 1b\\n"
#if defined(__ARM_FEATURE_MVE)
                   " vdup.32 q0, r2\\n vdup.32 q1, r2\\n vdup.32 q2, r2\\n vdup.32 q3, r2\\n"
#endif
                   " mov r0, r2\\n mov r1, r2\\n mov r3, r2\\n mov ip, r2\\n cmn r2, r2\\n bx lr\\n"
                   "2: udf #0\\n .ltorg\\n"); /* a stack that is not aligned by 8: a fault */
}
"""

RETURN = "pop {r4-r11, pc}"
DESTROYING_RETURN = rf"mov r0, #0xBD\n mov r1, r0\n mov r2, r0\n mov r3, r0\n mov ip, r0\n {RETURN}"


def _interrupt(monkeypatch: pytest.MonkeyPatch, folder: Path, target_name: str) -> int:
    """Firmware built from now on is interrupted; how often, in ticks of SysTick."""
    emulator = load_target(target_name).require_board().emulator
    assert emulator is not None
    period = round(PERIOD * emulator.ticks_per_instruction)
    shutil.copytree(data_dir("firmware_templates"), folder / "firmware_templates")
    measure = folder / "firmware_templates" / "bare_metal" / "measure.c"
    edit(measure, COUNTING_HANDLER, DESTROYING_HANDLER)
    edit(measure, "(1u << 24)", f"{period}u")
    monkeypatch.setattr(bare_metal, "data_dir", lambda name: folder / name)
    return period


def _outputs(library: Path, target_name: str, stored: np.ndarray) -> tuple[np.ndarray, int]:
    """int8 [N, bytes] of the library's firmware, and the ticks of the first run."""
    target = load_target(target_name)
    image = build_firmware(target, library, library.parent / f"firmware-{target_name}")
    with connect(target, image) as device:
        results = [device.run(case, row.tobytes()) for case, row in enumerate(stored)]
    return np.stack([np.frombuffer(result.output, np.int8) for result in results]), results[0].count


def _library(
    module: tvm.IRModule, x: np.ndarray, folder: Path, target_name: str = "qemu-m4"
) -> tuple[Path, np.ndarray, np.ndarray]:
    """A network's library for a target, its inputs as stored and the reference's outputs, int8 [N, bytes]."""
    optimised = optimise(module, objective=Objective(load_target(target_name).instruction_set, Optimize.BALANCED))
    manifest = write_library(optimised, folder / "library", "interrupted")
    return folder / "library", to_stored(manifest, x), reference.run_integers(module, x).reshape(len(x), -1)


@pytest.mark.parametrize(
    ("name", "bits", "target_name"),
    [
        ("resnet", 4, "qemu-m4"),
        ("mobilenet", None, "qemu-m4"),
        ("autoencoder", None, "qemu-m4"),
        ("mobilenet", 4, "qemu-m0"),
        ("resnet", None, "qemu-m55"),
    ],
)
def test_interrupts_everywhere_change_nothing(
    name: str, bits: int | None, target_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, x = network(name)
    library, stored, expected = _library(requantised(module, bits), x, tmp_path, target_name)
    period = _interrupt(monkeypatch, tmp_path, target_name)
    found, ticks = _outputs(library, target_name, stored)
    assert np.array_equal(found, expected)
    assert ticks > 100 * period


def test_what_lies_below_the_stack_pointer_does_not_survive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without interrupts it does, and no other test would know."""
    library, stored, expected = _library(*network("resnet"), tmp_path)
    header, turn = library / "sgsc_rows.h", r"subs r2, #1\n bne 1b"
    edit(header, r'" push {r4-r11, lr}\n ldm r1', r'" push {r4-r11, lr}\n str r3, [sp, #-8]\n ldm r1')
    edit(header, turn, rf"ldr r3, [sp, #-8]\n {turn}")
    assert np.array_equal(_outputs(library, "qemu-m4", stored)[0], expected)
    _interrupt(monkeypatch, tmp_path, "qemu-m4")
    assert not np.array_equal(_outputs(library, "qemu-m4", stored)[0], expected)


@pytest.mark.parametrize("seed", range(2))
def test_callers_of_assembly_keep_nothing_in_registers_that_it_may_destroy(seed: int, tmp_path: Path) -> None:
    """Such a function destroys r0 to r3 and ip at its end: whatever it leaves of them now, no caller knows it."""
    library, stored, expected = _library(*graph_of(seed, WEIGHTED, WIDTHS[seed]), tmp_path)
    changed = 0
    for header in library.glob("sgsc_*.h"):
        text = header.read_text()
        changed += text.count(RETURN)
        header.write_text(text.replace(RETURN, DESTROYING_RETURN))
    assert changed > 5
    assert np.array_equal(_outputs(library, "qemu-m4", stored)[0], expected)
