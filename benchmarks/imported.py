"""TFLite models as they come: bit-exactness with tflite-micro, memory, speed of compiling.

    python benchmarks/imported.py --images 1000

For ResNet8 and DS-CNN of MLPerf Tiny, and ResNet8 with 4-bit weights by ai-edge-quantizer: compiles for the emulated
Cortex-M4, runs every input on the host and the first ones on the emulated core, and compares every output byte with
tflite-micro. Prints a Markdown table and writes benchmarks/results/imported.json: rows of model, inputs, differing (of
them, on the host), emulated, differing_emulated, right (of the labelled keywords), arena_bytes, live_bytes,
tflite_micro_arena_bytes, constant_bytes, flash_bytes, ram_bytes, instructions (median of one inference), compile_s.
Needs the data in SGSC_DATA.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sgsc_micro.codegen import HostLibrary, read_manifest
from sgsc_micro.device import connect
from sgsc_micro.files import write_json
from sgsc_micro.firmware import read_image
from sgsc_micro.targets import load_target
from sgsc_micro.verify import replay_on_device
from tests.real_data import cifar_images, data_file, four_bit_resnet8, keywords
from tests.tflite_oracles import tflite_micro_arena_bytes, tflite_micro_outputs

RESULTS = Path(__file__).parent / "results" / "imported.json"
TARGET = "qemu-m4"
Inputs = tuple[np.ndarray, np.ndarray | None]


def measure(name: str, model: bytes, inputs: Inputs, emulated: int, folder: Path) -> dict[str, Any]:
    """One model: int8 inputs [N, ...] and their labels, if there are any."""
    path, out = folder / f"{name}.tflite", folder / name
    path.write_bytes(model)
    began = time.monotonic()
    command = [sys.executable, "-m", "sgsc_micro", "compile", str(path), "--target", TARGET, "-o", str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - began
    images, labels = inputs
    stored = images.reshape(len(images), -1)
    expected = tflite_micro_outputs(model, images).reshape(len(images), -1)
    found = HostLibrary(out / "library").run(stored)
    image, manifest = read_image(out / "firmware"), read_manifest(out / "library")
    with connect(load_target(TARGET), image) as device:
        outcomes = replay_on_device(device, stored[:emulated], lambda done: None)
    there = np.stack([outcome.output for outcome in outcomes])
    return {
        "model": name,
        "inputs": len(images),
        "differing": int((found != expected).any(axis=1).sum()),
        "emulated": emulated,
        "differing_emulated": int((there != expected[:emulated]).any(axis=1).sum()),
        "right": None if labels is None else int((found.argmax(axis=1) == labels).sum()),
        "arena_bytes": manifest["arena_bytes"],
        "live_bytes": manifest["live_bytes"],
        "tflite_micro_arena_bytes": tflite_micro_arena_bytes(model),
        "constant_bytes": manifest["constant_bytes"],
        "flash_bytes": image.sizes.flash_total,
        "ram_bytes": image.sizes.ram_total,
        "instructions": int(np.median([outcome.cost for outcome in outcomes])),
        "compile_s": round(seconds, 1),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown; the arena beside tflite-micro's own for the same file."""
    lines = [
        "| model | differ on the host | emulated | right | arena | tflite-micro's | constants | flash | instructions "
        "| compiled in |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ratio = row["arena_bytes"] / row["tflite_micro_arena_bytes"]
        right = "" if row["right"] is None else f"{row['right']} of {row['inputs']:,}"
        lines.append(
            f"| {row['model']} | {row['differing']} of {row['inputs']:,} | {row['differing_emulated']} of "
            f"{row['emulated']} | {right} | {row['arena_bytes']:,} ({ratio:.2f}) | {row['tflite_micro_arena_bytes']:,} "
            f"(1.00) | {row['constant_bytes']:,} | {row['flash_bytes']:,} | {row['instructions']:,} | "
            f"{row['compile_s']:.1f} s |"
        )
    return "\n".join(lines)


def main() -> None:
    """Every model, one after another."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--images", type=int, default=1000, help="of CIFAR-10")
    arguments.add_argument("--emulated", type=int, default=20, help="inputs on the emulated core")
    options = arguments.parse_args()
    images: Inputs = cifar_images(options.images), None
    models: dict[str, tuple[Callable[[], bytes], Inputs]] = {
        "ic_resnet8_int8": (lambda: data_file("tflite/ic_resnet8_int8.tflite").read_bytes(), images),
        "ic_resnet8, 4-bit weights": (four_bit_resnet8, images),
        "kws_dscnn_int8": (lambda: data_file("tflite/kws_dscnn_int8.tflite").read_bytes(), keywords()),
    }
    rows = []
    with tempfile.TemporaryDirectory(prefix="sgsc-bench-") as folder:
        for name, (model, inputs) in models.items():
            print(f"{name} ...", file=sys.stderr)
            rows.append(measure(name, model(), inputs, options.emulated, Path(folder)))
    write_json(RESULTS, rows)
    print(table(rows))


if __name__ == "__main__":
    main()
