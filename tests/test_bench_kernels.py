"""The counting behind `make bench-kernels`: against code of known length, whole against parts; rows well-formed."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile

from sgsc_micro.firmware import build_firmware, tools
from sgsc_micro.importers import from_tflite
from sgsc_micro.targets import load_target
from tests.dummy_library import write_library
from tests.tflite_networks import mobilenet, network_inputs, resnet

pytest.importorskip("tflite_micro", reason="tflite-micro is not installed")

from benchmarks import kernels, optimize
from benchmarks.counter import Count, Counter
from benchmarks.networks import MIXED, NETWORKS, Network, Peers, cmsisnn_figures, requantised
from benchmarks.plain import write_plain_library
from sgsc_micro.compress.layers import layers_of

NEEDED = (tools.CROSS_COMPILER, tools.QEMU, tools.CMAKE, tools.NINJA, tools.HOST_COMPILER)
MISSING = [program for program in NEEDED if shutil.which(program) is None]
emulated = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")

CALL = 16
"""Instructions that a call may take, with its arguments and what the callee saves."""
KNOWN = """
#include "model.h"
int8_t model_arena[MODEL_ARENA_BYTES] __attribute__((aligned(16)));
#define BODY(text) __asm volatile(text : : "r"(at) : "r2", "r3", "r12", "cc", "memory")
static __attribute__((noinline)) void shared(int8_t *at) { BODY(".rept 1000\\n nop\\n .endr"); }
static __attribute__((noinline)) void twice_0(int8_t *at) { shared(at); shared(at); }
static __attribute__((noinline)) void once_0(int8_t *at) { shared(at); }
#define INLINE static inline __attribute__((always_inline))
INLINE void loads_0(int8_t *at) { BODY(".rept 100\\n ldr r2, [%0]\\n .endr"); }
INLINE void apart_0(int8_t *at) { BODY(".rept 100\\n nop\\n ldr r2, [%0]\\n .endr"); }
INLINE void multiple_0(int8_t *at)
{
    BODY(".rept 100\\n ldm %0, {r2, r3, r12}\\n ldrd r2, r3, [%0]\\n str r2, [%0]\\n .endr");
}
INLINE void branches_0(int8_t *at)
{
    BODY("movw r2, #500\\n 1: subs r2, #1\\n bne 1b");
}
INLINE void conditional_0(int8_t *at)
{
    BODY("cmp %0, %0\\n .rept 100\\n ite ne\\n addne r2, #1\\n addeq r3, #1\\n .endr");
}
static void network(int8_t *at)
{
  twice_0(at);
  loads_0(at);
  apart_0(at);
  once_0(at);
  multiple_0(at);
  branches_0(at);
  conditional_0(at);
}
void model_run(const int8_t *input, int8_t *output) { (void)input; (void)output; network(model_arena); }
"""
# Instructions and cycles by hand. Of the loop, 499 branches are taken; an instruction whose condition fails takes one.
EXPECTED = {
    "twice_0": Count(2000, 2000),
    "loads_0": Count(100, 101),
    "apart_0": Count(200, 300),
    "once_0": Count(1000, 1000),
    "multiple_0": Count(300, 100 * (4 + 3 + 1)),
    "branches_0": Count(1001, 1001 + 2 * 499),
    "conditional_0": Count(301, 301),
}


@emulated
@pytest.mark.parametrize("core", [core for core in kernels.CORES if core != "m0"])  # which has no movw, ldrd, it
def test_code_of_known_length_is_counted_where_it_belongs(core: str, tmp_path: Path) -> None:
    """Inlined or called, and in a function that two layers share."""
    library = write_library(tmp_path / "library", size=16)
    (library.folder / "model.c").write_text(KNOWN)
    target = load_target(kernels.CORES[core].target)
    image = build_firmware(target, library.folder, tmp_path / "firmware")
    first, again = Counter(target, image, library.folder).run(np.zeros((2, 16), np.int8))
    assert first.layers.keys() == EXPECTED.keys()
    for name, expected in EXPECTED.items():
        found = first.layers[name]
        slack = {"twice_0": 3 * CALL, "once_0": 2 * CALL}.get(name, 2)  # inlined: the argument's address at most
        slack += CALL if name == "conditional_0" else 0  # the return goes with the last
        assert 0 <= found.instructions - expected.instructions <= slack, name
        assert 0 <= found.cycles - expected.cycles <= 3 * slack, name
    assert (first.total, first.layers) == (again.total, again.layers)
    assert (first.agrees, first.interrupts) == (True, 0)
    assert 0 < first.systick_instructions - first.total.instructions <= CALL


def tiny() -> bytes:
    return mobilenet(0, 16, 2, 2)


@pytest.fixture
def network() -> Network:
    return Network("tiny", tiny, lambda count: network_inputs(tiny(), 0, count), {"8": 1.0}, random=True)


@emulated
@pytest.mark.parametrize(("core", "bits"), [*((core, "4") for core in kernels.CORES), ("m4", "mixed")])
def test_a_network_is_its_layers_and_their_calls(core: str, network: Network, bits: str, tmp_path: Path) -> None:
    *layers, total = kernels.measure(core, "vww", network, bits, cmsisnn_figures("m4", "vww"), tmp_path)
    check_rows([*layers, total])
    for key in ("insn", "cycles_model") if core == "m4" else ("insn",):
        assert 0 <= total[key] - sum(row[key] for row in layers) <= 2 * CALL * len(layers), key


@emulated
def test_outputs_are_compared(network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = kernels.reference.run_integers
    monkeypatch.setattr(kernels.reference, "run_integers", lambda module, x: run(module, x) ^ 1)
    figures = cmsisnn_figures("m4", "vww")
    assert not any(row["checked"] for row in kernels.measure("m4", "vww", network, "8", figures, tmp_path))


def small_resnet() -> bytes:
    return resnet(0, 8, 4, 1)


PLAIN_CORES = [name for name, core in kernels.CORES.items() if core.plain]
PLAIN_NETWORKS = {"tiny": tiny, "resnet": small_resnet}


@emulated
@pytest.mark.parametrize("core", PLAIN_CORES)
@pytest.mark.parametrize("name", PLAIN_NETWORKS)
def test_plain_loops_give_the_same_bytes_and_count_every_layer(core: str, name: str, tmp_path: Path) -> None:
    model = PLAIN_NETWORKS[name]()
    network = Network(name, lambda: model, lambda count: network_inputs(model, 0, count), {}, random=True)
    figures = kernels.others_of(core, name, network, tmp_path)
    peers = Peers(figures)
    *layers, total = kernels.measure(core, name, network, "8", figures, tmp_path)
    assert total["plain_insn"] == peers.total.insn == sum(peer.insn for _, peer in figures)
    assert sum(row["plain_insn"] for row in layers) == total["plain_insn"]  # every layer has its counterpart
    assert total["plain_insn"] > 4 * total["macs"]


@emulated
@pytest.mark.parametrize("core", PLAIN_CORES)
def test_plain_loops_are_compiled_as_with_o3(core: str, tmp_path: Path) -> None:
    """Whatever the firmware's own options are."""
    (tmp_path / "m.tflite").write_bytes(small_resnet())
    write_plain_library(from_tflite(tmp_path / "m.tflite"), tmp_path / "library")
    target = load_target(kernels.CORES[core].target)
    image = build_firmware(target, tmp_path / "library", tmp_path / "firmware")
    command = ["arm-none-eabi-gcc", *target.require_board().cpu_flags, "-O3", "-fdata-sections", "-c"]
    subprocess.run([*command, str(tmp_path / "library" / "model.c"), "-o", str(tmp_path / "o3.o")], check=True)
    expected, found = function_sizes(tmp_path / "o3.o"), function_sizes(image.elf)
    assert len(expected) > 1
    assert {name: found[name] for name in expected} == expected


def function_sizes(elf: Path) -> dict[str, int]:
    with elf.open("rb") as stream:
        symbols = ELFFile(stream).get_section_by_name(".symtab").iter_symbols()
        return {s.name: s["st_size"] for s in symbols if s["st_info"]["type"] == "STT_FUNC"}


@emulated
def test_plain_loops_with_a_wrong_byte_are_no_peer(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = kernels.tflite_micro_outputs
    monkeypatch.setattr(kernels, "tflite_micro_outputs", lambda model, x: outputs(model, x) ^ 1)
    with pytest.raises(SystemExit, match="not tflite-micro's"):
        kernels.others_of("m3", "tiny", network, tmp_path)


def check_rows(rows: list[dict[str, Any]]) -> None:
    """One network at one width."""
    *layers, total = rows
    assert total["layer"] == "total"
    assert len({row["layer"] for row in rows}) == len(rows)
    assert sum(row["macs"] for row in layers) == total["macs"]
    for row in rows:
        assert (row["net"], row["core"], row["bits"]) == (total["net"], total["core"], total["bits"])
        assert row["checked"] is True and row["insn"] > 0
        assert row["cycles_model"] is None or row["insn"] < row["cycles_model"] < 4 * row["insn"]
        assert (row["cycles_model"] is None) == (row["core"] != "cortex-m4")
        others = [row[key] for key in ("cmsisnn_insn", "plain_insn") if row[key] is not None]
        if others:
            assert math.isclose(row["ratio"], row["insn"] / others[0], abs_tol=1e-4) and len(others) == 1
        else:
            assert row["ratio"] is None


WORK = {"resnet8": 12_501_632, "dscnn": 2_656_768, "vww": 7_489_664, "ad": 264_192}
CMSISNN = {
    "m4": {"resnet8": 29_851_131, "dscnn": 7_844_982, "vww": 24_710_584, "ad": 579_320},
    "m7": {"resnet8": 29_899_013, "dscnn": 7_760_914, "vww": 24_473_813, "ad": 579_420},
    "m55": {"resnet8": 4_807_906, "dscnn": 1_784_991, "vww": 6_423_094, "ad": 146_782},
}


def test_the_results_kept_are_whole_and_of_the_same_work_as_others() -> None:
    rows = json.loads((kernels.RESULTS / "kernels.json").read_text(encoding="utf-8"))
    expected = [
        (core, net, bits if bits == "mixed" else int(bits))
        for core, fields in kernels.CORES.items()
        for net in NETWORKS
        for bits in fields.widths
    ]
    for core, net, bits in expected:
        name = kernels.CORES[core].name
        chosen = [row for row in rows if (row["core"], row["net"], row["bits"]) == (name, net, bits)]
        check_rows(chosen)
        *layers, total = chosen
        other = "plain_insn" if kernels.CORES[core].plain else "cmsisnn_insn"
        assert total["macs"] == WORK[net]
        assert total[other] == sum(row[other] for row in layers)  # every layer has its counterpart
        assert other == "plain_insn" or total[other] == CMSISNN[core][net]
    assert len(expected) == len([row for row in rows if row["layer"] == "total"])


def test_the_three_choices_stand_beside_cmsis_nn() -> None:
    sizes = {"size": (900, 300), "balanced": (1000, 200), "speed": (2000, 100)}
    rows = [
        {"net": "ad", "bits": bits, "optimize": choice, "code_bytes": code, "insn": insn}
        for choice, (code, insn) in sizes.items()
        for bits in (8, "mixed")
    ]
    start = "900 (1.50) | 1,000 (1.00) | 2,000 (0.50)"
    assert optimize.table(rows).splitlines()[2:] == [
        f"| autoencoder | 8 | {start} | 1,562 | 3,988 |",
        f"| autoencoder | mixed | {start} |  |  |",
    ]


def test_each_figure_of_cmsis_nn_is_given_out_once() -> None:
    peers = Peers(cmsisnn_figures("m4", "resnet8"))
    add, softmax = {"kind": "Add"}, {"kind": "Softmax"}
    last = peers.take({"kind": "Residual", "macs": 131_072})
    assert last is not None and last.insn == 562_886 + 1_325_165
    assert [bool(peers.take(add)) for _ in range(3)] == [True, True, False]
    assert peers.take({"kind": "Reshape"}) is None
    assert peers.take(softmax) is not None and peers.take(softmax) is None


@pytest.mark.parametrize("bits", [8, 4, 2, None])
def test_requantised_weights_are_near_and_narrow(bits: int | None, tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(mobilenet(0, 16, 8, 2))
    before = from_tflite(tmp_path / "m.tflite")
    after = requantised(before, bits)
    widths = np.concatenate([layer.constants.widths for layer in layers_of(after)])
    assert set(np.unique(widths)) <= ({1, *MIXED} if bits is None else {bits - 1, bits})
    assert bits is None or (widths == bits).mean() > 0.9
    for old, new in zip(layers_of(before), layers_of(after), strict=True):
        shape = (-1,) + (1,) * (old.constants.weights.ndim - 1)
        real, near = (layer.constants.weights * layer.constants.channel_scales.reshape(shape) for layer in (old, new))
        loss = ((near - real) ** 2).sum() / (real**2).sum()
        assert loss < {8: 1e-4, 4: 0.03, 2: 0.4, None: 0.3}[bits], old.name
        sums = old.constants.bias * old.constants.channel_scales, new.constants.bias * new.constants.channel_scales
        assert np.abs(sums[0] - sums[1]).max() <= new.constants.channel_scales.max()
