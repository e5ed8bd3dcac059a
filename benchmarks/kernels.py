"""The kernels on emulated Cortex-M cores: executed instructions of the MLPerf Tiny networks, beside others'.

    python benchmarks/kernels.py [--nets resnet8 dscnn] [--widths 8 4] [--cores m4 m0] [--optimize speed]

Each network with weights of 8, 4, 2 and mixed bits (drawn per channel from ``networks.MIXED``) on a Cortex-M4, of 8 and
4 bits on the others: compiled, run on inputs, the first one twice, which must count the same. Every output byte is
compared with the NumPy reference's, and with tflite-micro's where the network is a file as it came. The others are
CMSIS-NN (M4, M7, M55) and plain loops at -O3 (M0+, M3; ``plain.h``), which are run here as well.
Prints Markdown tables, writes a picture and benchmarks/results/kernels.json, rows of net, layer (or "total"), core,
bits, macs, insn, cycles_model (M4), cmsisnn_insn (int8), cmsisnn_int4_insn, cmsisnn_cycles_model (int8), plain_insn,
ratio (of insn to cmsisnn_insn or plain_insn; null where it has no counterpart), checked; totals also goal, code_bytes
and cmsisnn_code_bytes (M4). Needs the data in SGSC_DATA. README.md beside this file says how it counts.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.counter import Count, Counter, Run
from benchmarks.kernels_plot import picture
from benchmarks.kernels_tables import cores_table, widths_table
from benchmarks.networks import (
    NETWORKS,
    Figure,
    Network,
    Peer,
    Peers,
    cmsisnn_figures,
    peer_code_bytes,
    requantised,
    works_of,
)
from benchmarks.plain import write_plain_library
from sgsc_micro import reference
from sgsc_micro.codegen import write_library
from sgsc_micro.codegen.layout import to_real, to_stored
from sgsc_micro.compiler_flags import Optimize
from sgsc_micro.files import write_json, write_text
from sgsc_micro.firmware import build_firmware
from sgsc_micro.importers import from_tflite
from sgsc_micro.passes import optimise
from sgsc_micro.targets import load_target
from tests.tflite_oracles import tflite_micro_outputs

RESULTS = Path(__file__).parent / "results"
WIDTHS: dict[str, int | None] = {"8": 8, "4": 4, "2": 2, "mixed": None}
INPUTS = 3
MAIN = "m4"
"""The core whose rows are shown in full: all widths, modelled cycles, code."""


@dataclass(frozen=True)
class Core:
    """What is measured on it."""

    target: str
    name: str
    widths: tuple[str, ...] = ("8", "4")
    goals: dict[str, float] | None = None
    """By width, to its peers' instructions; None: each network has its own."""
    plain: bool = False
    """Whether its peers are plain loops, not CMSIS-NN."""


_PLAIN_GOALS = dict.fromkeys(WIDTHS, 0.8)
CORES = {
    "m4": Core("qemu-m4", "cortex-m4", widths=tuple(WIDTHS)),
    "m0": Core("qemu-m0", "cortex-m0", goals=_PLAIN_GOALS, plain=True),
    "m3": Core("qemu-m3", "cortex-m3", goals=_PLAIN_GOALS, plain=True),
    "m7": Core("qemu-m7", "cortex-m7", goals={}),
    "m55": Core("qemu-m55", "cortex-m55", goals={"8": 1.0, "4": 1.0}),
}


def measure(
    core: str,
    name: str,
    network: Network,
    bits: str,
    others: list[Figure],
    folder: Path,
    optimize: Optimize = Optimize.BALANCED,
) -> list[dict[str, Any]]:
    """Rows of one network at one width on one core: its layers, then the total; ``others``: see :func:`others_of`."""
    target = load_target(CORES[core].target)
    path = folder / "model.tflite"
    path.write_bytes(network.model())
    module, as_it_came = from_tflite(path), bits == "8" and not network.random
    if not as_it_came:
        module = requantised(module, WIDTHS[bits])
    manifest = write_library(optimise(module, target.board, target.packing), folder / "library", name, optimize)
    counter = Counter(target, build_firmware(target, folder / "library", folder / "firmware"), folder / "library")

    images = network.inputs(INPUTS)
    stored = to_stored(manifest, images)
    first, found = _counted(counter, stored, f"{name}, {bits} bits")
    answers = [reference.run_integers(module, to_real(manifest, stored))]
    if as_it_came:
        answers.append(tflite_micro_outputs(network.model(), images))
    checked = all(np.array_equal(found, answer.reshape(found.shape)) for answer in answers)

    peers = Peers(others)
    width = bits if bits == "mixed" else int(bits)
    common = {"net": name, "core": CORES[core].name, "bits": width, "checked": checked}
    rows = []
    for layer in manifest["layers"]:
        if count := first.layers.get(layer["name"]):  # a reshape is no code
            figures = _figures(core, layer.get("macs", 0), count, peers.take(layer))
            rows.append(common | {"layer": layer["name"]} | figures)
    macs = sum(row["macs"] for row in rows)
    goals = CORES[core].goals
    total = common | {"layer": "total"} | _figures(core, macs, first.total, peers.total)
    total |= {"goal": (network.goals if goals is None else goals).get(bits), "code_bytes": counter.kernel_bytes}
    return [*rows, total | {"cmsisnn_code_bytes": peer_code_bytes(name, bits) if core == MAIN else None}]


def others_of(core: str, name: str, network: Network, folder: Path) -> list[Figure]:
    """What a network is compared with on ``core``, at every width; plain loops are measured, in ``folder``."""
    if not CORES[core].plain:
        return cmsisnn_figures(core, name)
    target = load_target(CORES[core].target)
    path = folder / "model.tflite"
    path.write_bytes(network.model())
    layers = write_plain_library(from_tflite(path), folder / "library")
    counter = Counter(target, build_firmware(target, folder / "library", folder / "firmware"), folder / "library")
    images = network.inputs(INPUTS)
    first, found = _counted(counter, images.reshape(INPUTS, -1), f"{name}, plain loops")
    if not np.array_equal(found, tflite_micro_outputs(network.model(), images).reshape(found.shape)):
        raise SystemExit(f"{name}: the plain loops' outputs are not tflite-micro's")
    return [(work, Peer(first.layers[layer["name"]].instructions)) for layer in layers for work in works_of(layer)]


def _counted(counter: Counter, stored: np.ndarray, what: str) -> tuple[Run, np.ndarray]:
    """The first input's run, and all outputs int8 [N, bytes]; two counts of a run must agree, and two runs."""
    first, *others = counter.run(np.concatenate([stored[:1], stored]))
    if (first.total, first.layers) != (others[0].total, others[0].layers):
        raise SystemExit(f"{what}: two runs count differently: {first.total}, {others[0].total}")
    if not all(run.agrees for run in (first, *others)):
        raise SystemExit(f"{what}: plugin and SysTick disagree: {first}")
    return first, np.stack([run.output for run in others])


def _figures(core: str, macs: int, count: Count, peer: Peer | None) -> dict[str, Any]:
    plain = CORES[core].plain
    return {
        "macs": macs,
        "insn": count.instructions,
        "cycles_model": count.cycles if core == MAIN else None,
        "cmsisnn_insn": None if plain else peer and peer.insn,
        "cmsisnn_int4_insn": None if plain else peer and peer.int4_insn,
        "cmsisnn_cycles_model": peer and peer.cycles,
        "plain_insn": peer and peer.insn if plain else None,
        "ratio": peer and round(count.instructions / peer.insn, 4),
    }


def measured(
    cores: list[str], nets: list[str], widths: list[str] | None, optimize: Optimize
) -> Iterator[dict[str, Any]]:
    """Every network on every core at ``widths``, or at the core's own, one after another."""
    for core in cores:
        for name in nets:
            with tempfile.TemporaryDirectory(prefix="sgsc-bench-") as folder:
                others = others_of(core, name, NETWORKS[name], Path(folder))
            for bits in widths or CORES[core].widths:
                print(f"{name} on {core}, {bits} bits ...", file=sys.stderr)
                with tempfile.TemporaryDirectory(prefix="sgsc-bench-") as folder:
                    yield from measure(core, name, NETWORKS[name], bits, others, Path(folder), optimize)


def main() -> None:
    """Measure, print, and write what was measured in full; exit 1 where an output differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", nargs="+", choices=CORES, default=list(CORES))
    parser.add_argument("--nets", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--widths", nargs="+", choices=WIDTHS)
    parser.add_argument("--optimize", type=Optimize, choices=list(Optimize), default=Optimize.BALANCED)
    options = parser.parse_args()
    rows = list(measured(options.cores, options.nets, options.widths, options.optimize))
    labels = {name: network.label for name, network in NETWORKS.items()}
    everything = list(CORES), list(NETWORKS), None, Optimize.BALANCED
    if (options.cores, options.nets, options.widths, options.optimize) == everything:
        write_json(RESULTS / "kernels.json", rows)
        write_text(RESULTS / "kernels.svg", picture([row for row in rows if row["core"] == CORES[MAIN].name], labels))
    totals = [row for row in rows if row["layer"] == "total"]
    print(widths_table([row for row in totals if row["core"] == CORES[MAIN].name], labels))
    print()
    print(cores_table([row for row in totals if row["core"] != CORES[MAIN].name], labels))
    if not all(row["checked"] for row in rows):
        raise SystemExit("outputs differ from the reference's")


if __name__ == "__main__":
    main()
