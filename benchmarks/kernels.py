"""The kernels on an emulated Cortex-M4: executed instructions of the MLPerf Tiny networks, beside CMSIS-NN's.

    python benchmarks/kernels.py [--nets resnet8 dscnn] [--widths 8 4] [--optimize speed]

Each network with weights of 8, 4, 2 and mixed bits (drawn per channel from ``networks.MIXED``): compiled, run on
inputs, the first one twice, which must count the same. Every output byte is compared with the NumPy reference's, and
with tflite-micro's where the network is a file as it came.
Prints a Markdown table, writes a picture and benchmarks/results/kernels.json, rows of net, layer (or "total"), core,
bits, macs, insn, cycles_model, cmsisnn_insn (int8), cmsisnn_int4_insn, cmsisnn_cycles_model (int8), ratio (of insn to
CMSIS-NN's at int8; null where it has no counterpart), checked; totals also goal, code_bytes and cmsisnn_code_bytes.
Needs the data in SGSC_DATA. README.md beside this file says how it counts.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.counter import Count, Counter
from benchmarks.kernels_plot import picture
from benchmarks.networks import NETWORKS, Network, Peer, Peers, peer_code_bytes, requantised
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
TARGET, CORE = "qemu-m4", "cortex-m4"
WIDTHS: dict[str, int | None] = {"8": 8, "4": 4, "2": 2, "mixed": None}
INPUTS = 3


def measure(
    name: str, network: Network, bits: str, folder: Path, optimize: Optimize = Optimize.BALANCED
) -> list[dict[str, Any]]:
    """Rows of one network at one width: its layers, then the total."""
    target = load_target(TARGET)
    path = folder / "model.tflite"
    path.write_bytes(network.model())
    module, as_it_came = from_tflite(path), bits == "8" and not network.random
    if not as_it_came:
        module = requantised(module, WIDTHS[bits])
    manifest = write_library(optimise(module, target.board), folder / "library", name, optimize)
    image = build_firmware(target, folder / "library", folder / "firmware")
    counter = Counter(target, image, folder / "library")

    images = network.inputs(INPUTS)
    stored = to_stored(manifest, images)
    first, *others = counter.run(np.concatenate([stored[:1], stored]))
    if (first.total, first.layers) != (others[0].total, others[0].layers):
        raise SystemExit(f"{name}, {bits} bits: two runs count differently: {first.total}, {others[0].total}")
    if not all(run.agrees for run in (first, *others)):
        raise SystemExit(f"{name}, {bits} bits: plugin and SysTick disagree: {first}")
    found = np.stack([run.output for run in others])
    answers = [reference.run_integers(module, to_real(manifest, stored))]
    if as_it_came:
        answers.append(tflite_micro_outputs(network.model(), images))
    checked = all(np.array_equal(found, answer.reshape(found.shape)) for answer in answers)

    peers = Peers(name)
    common = {"net": name, "core": CORE, "bits": bits if bits == "mixed" else int(bits), "checked": checked}
    rows = []
    for layer in manifest["layers"]:
        if count := first.layers.get(layer["name"]):  # a reshape is no code
            figures = _figures(layer.get("macs", 0), count, peers.take(layer))
            rows.append(common | {"layer": layer["name"]} | figures)
    macs = sum(row["macs"] for row in rows)
    sizes = {"code_bytes": counter.kernel_bytes, "cmsisnn_code_bytes": peer_code_bytes(name, bits)}
    total = common | {"layer": "total"} | _figures(macs, first.total, peers.total)
    return [*rows, total | {"goal": network.goals.get(bits)} | sizes]


def _figures(macs: int, count: Count, peer: Peer | None) -> dict[str, Any]:
    return {
        "macs": macs,
        "insn": count.instructions,
        "cycles_model": count.cycles,
        "cmsisnn_insn": peer and peer.insn,
        "cmsisnn_int4_insn": peer and peer.int4_insn,
        "cmsisnn_cycles_model": peer and peer.cycles,
        "ratio": peer and round(count.instructions / peer.insn, 4),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: totals, as instructions over CMSIS-NN's at int8."""
    lines = [
        "| network | bits | instructions | to CMSIS-NN int8 | goal | CMSIS-NN int4 | modelled cycles | code "
        "| CMSIS-NN's code | outputs |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row["layer"] == "total":
            goal = "" if row["goal"] is None else f"{row['goal']:.2f}"
            int4 = f"{row['cmsisnn_int4_insn'] / row['cmsisnn_insn']:.2f}" if row["bits"] == 4 else ""
            code = "" if row["cmsisnn_code_bytes"] is None else f"{row['cmsisnn_code_bytes']:,}"
            lines.append(
                f"| {NETWORKS[row['net']].label} | {row['bits']} | {row['insn']:,} | {row['ratio']:.2f} | {goal} "
                f"| {int4} | {row['cycles_model']:,} ({row['cycles_model'] / row['cmsisnn_cycles_model']:.2f}) "
                f"| {row['code_bytes']:,} | {code} | {'equal' if row['checked'] else 'DIFFER'} |"
            )
    return "\n".join(lines)


def measured(nets: list[str], widths: list[str], optimize: Optimize) -> Iterator[dict[str, Any]]:
    """Every network at every width, one after another."""
    for name in nets:
        for bits in widths:
            print(f"{name}, {bits} bits ...", file=sys.stderr)
            with tempfile.TemporaryDirectory(prefix="sgsc-bench-") as folder:
                yield from measure(name, NETWORKS[name], bits, Path(folder), optimize)


def main() -> None:
    """Measure, print, and write what was measured in full; exit 1 where an output differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--widths", nargs="+", choices=WIDTHS, default=list(WIDTHS))
    parser.add_argument("--optimize", type=Optimize, choices=list(Optimize), default=Optimize.BALANCED)
    options = parser.parse_args()
    rows = list(measured(options.nets, options.widths, options.optimize))
    if (options.nets, options.widths, options.optimize) == (list(NETWORKS), list(WIDTHS), Optimize.BALANCED):
        write_json(RESULTS / "kernels.json", rows)
        write_text(RESULTS / "kernels.svg", picture(rows, {name: network.label for name, network in NETWORKS.items()}))
    print(table(rows))
    if not all(row["checked"] for row in rows):
        raise SystemExit("outputs differ from the reference's")


if __name__ == "__main__":
    main()
