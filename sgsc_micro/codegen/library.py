"""The C library in a folder that stands alone: model and weights, sgsc_kernels.h, manifest.json, maps of the arena."""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import tvm

import sgsc_micro
from sgsc_micro import kernels, reference
from sgsc_micro.codegen.emit import emit_functions
from sgsc_micro.codegen.layout import to_real, to_stored
from sgsc_micro.codegen.memory import memory_fields, memory_picture, memory_text
from sgsc_micro.compiler_flags import Optimize
from sgsc_micro.files import data_dir, sha256_bytes, write_json, write_text
from sgsc_micro.kernels import Lowered
from sgsc_micro.kernels.constants import POOLS, Constants, Entry
from sgsc_micro.kernels.lower import arena
from sgsc_micro.passes.graph import Node
from sgsc_micro.passes.operators import Residual, Weighted

KERNEL_HEADERS = sorted((Path(kernels.__file__).parent / "c").glob("*.h"))
SOURCES = ("model.c", "weights.c")
CMAKE_CONFIG = "sgsc_model-config.cmake"
_CTYPES = {"words": "uint32_t", "ints": "int32_t", "halves": "int16_t", "bytes": "int8_t"}


ZEPHYR_MODULE = data_dir("firmware_templates") / "zephyr" / "module"
"""What makes a library's folder a Zephyr module."""


def zephyr_files() -> list[Path]:
    """The files of the Zephyr module, at the places that they have in a library."""
    return sorted(path for path in ZEPHYR_MODULE.rglob("*") if path.is_file())


@dataclass(frozen=True)
class _Pool:
    """A member of ``struct model_constants``."""

    name: str
    ctype: str
    values: list[int]
    entries: list[Entry]

    def literals(self, entry: Entry) -> list[str]:
        """An entry's values as C writes them."""
        values = self.values[entry.offset : entry.offset + entry.count]
        if self.name == "words":
            return [f"0x{value:08X}u" for value in values]
        return [str(value) if value != -(2**31) else "(-2147483647 - 1)" for value in values]


def write_library(
    module: tvm.IRModule,
    folder: Path,
    name: str,
    selftest: np.ndarray | None = None,
) -> dict[str, Any]:
    """Write the library of an optimised module into ``folder``; returns the manifest.

    ``name`` is for people only. ``selftest``: inputs [N, ...], as the user's network takes them or its own int8, that
    ``model_selftest`` will run. Errors: ``SgscError`` from lowering, naming the layer, or for inputs of another shape.
    """
    lowered = kernels.lower(module)
    objective = lowered.plan.objective
    bodies = emit_functions(lowered.module)
    functions = [bodies[node.name] for node in lowered.graph.nodes if node.name in bodies] + [bodies["network"]]
    pools = _pools(lowered.constants)
    environment = _environment()
    context: dict[str, Any] = {
        "name": name,
        "version": sgsc_micro.__version__,
        "optimize": objective.optimize,
        "functions": functions,
        "pools": pools,
        "arenas": {arena(number): part for number, part in enumerate(lowered.plan.parts)},
        "arena": arena,
        "fields": lowered.fields,
        "constant_crc32": zlib.crc32(constant_image(lowered.constants)),
    }
    texts = {
        file: environment.get_template(f"{file}.j2").render(context) for file in ("weights.h", "weights.c", "model.c")
    }
    texts |= {header.name: header.read_text(encoding="utf-8") for header in KERNEL_HEADERS}
    manifest = _manifest(lowered, name)
    manifest["model_hash"] = sha256_bytes(json.dumps([texts, manifest], sort_keys=True).encode())
    places = {resident.kind: resident for resident in lowered.plan.tensors.values()}
    context["cases"] = [] if selftest is None else _selftest_cases(module, manifest, selftest)
    if context["cases"]:
        texts["selftest.c"] = environment.get_template("selftest.c.j2").render(context)
    manifest["sources"] = sorted(file for file in texts if file.endswith(".c"))
    for file in ("CMakeLists.txt", CMAKE_CONFIG):
        texts[file] = environment.get_template(f"{file}.j2").render(context, manifest=manifest)
    texts |= {str(path.relative_to(ZEPHYR_MODULE)): path.read_text(encoding="utf-8") for path in zephyr_files()}
    texts["README.md"] = readme(manifest)
    texts["model.h"] = environment.get_template("model.h.j2").render(context, manifest=manifest, places=places)
    texts["memory.txt"] = memory_text(manifest)
    texts["memory.svg"] = environment.get_template("memory.svg.j2").render(memory_picture(manifest))
    for file, text in texts.items():
        write_text(folder / file, text)
    write_json(folder / "manifest.json", manifest)
    return manifest


def readme(manifest: dict[str, Any], folder: str = "", firmware: dict[str, Any] | None = None) -> str:
    """How to use a library that lies in ``folder``, in Markdown; and its ``firmware``, if there is one."""
    optimize = Optimize(manifest["optimize"])
    context = {"manifest": manifest, "optimize": optimize, "folder": folder, "firmware": firmware}
    return _environment().get_template("README.md.j2").render(context)


def _selftest_cases(module: tvm.IRModule, manifest: dict[str, Any], x: np.ndarray) -> list[dict[str, list[int]]]:
    """Inputs as stored, and what the integer reference answers to them."""
    stored = to_stored(manifest, x)
    expected = reference.run_integers(module, to_real(manifest, stored)).reshape(len(stored), -1)
    return [{"input": q.tolist(), "output": y.tolist()} for q, y in zip(stored, expected, strict=True)]


def constant_bytes(constants: Constants) -> int:
    """``sizeof(struct model_constants)``: the pools and the padding at the end."""
    size = sum(constants.size(pool) * np.dtype(POOLS[pool]).itemsize for pool in POOLS)
    alignment = max((np.dtype(POOLS[pool]).itemsize for pool in constants.used), default=1)
    return -(-size // alignment) * alignment


def constant_image(constants: Constants) -> bytes:
    """``struct model_constants`` as it lies in the flash of a little-endian core, padding included."""
    pools = (constants.pool(name) for name in constants.used)
    packed = b"".join(pool.astype(pool.dtype.newbyteorder("<")).tobytes() for pool in pools)
    return packed.ljust(constant_bytes(constants), b"\0")


def host_main() -> str:
    """A ``main`` for the host that pipes inputs through the library."""
    return _environment().get_template("main.c.j2").render()


def _environment() -> jinja2.Environment:
    loader = jinja2.PackageLoader("sgsc_micro.codegen")
    return jinja2.Environment(
        loader=loader, undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True
    )


def _pools(constants: Constants) -> list[_Pool]:
    def entries(name: str) -> list[Entry]:
        return [entry for entry in constants.entries if entry.pool == name and entry.count]

    return [_Pool(name, _CTYPES[name], constants.pool(name).tolist(), entries(name)) for name in constants.used]


def _manifest(lowered: Lowered, name: str) -> dict[str, Any]:
    graph = lowered.graph
    live = zip(graph.nodes, lowered.plan.live, strict=True)
    layers = [_layer(lowered, node) | {"live_bytes": alive} for node, alive in live]
    input_shape, output_shape = graph.shapes[graph.input_tensor], graph.shapes[graph.output_tensor]
    return {
        "format": 1,
        "name": name,
        "sgsc_micro": sgsc_micro.__version__,
        "tvm": tvm.__version__,
        "optimize": lowered.plan.objective.optimize,
        "instruction_set": lowered.plan.objective.instruction_set,
        "input": {
            "shape": list(graph.input_shape[1:]),
            "axes": None if graph.input_axes is None else list(graph.input_axes),
            "stored_shape": list(input_shape[1:]),
            "bytes": int(np.prod(input_shape)),
            **asdict(graph.input),
        },
        "output": {
            "axes": None if graph.output_axes is None else list(graph.output_axes),
            "stored_shape": list(output_shape[1:]),
            "bytes": int(np.prod(output_shape)),
            **asdict(graph.output),
        },
        **memory_fields(lowered),
        "constant_bytes": constant_bytes(lowered.constants),
        "layers": layers,
    }


def _layer(lowered: Lowered, node: Node) -> dict[str, Any]:
    """What a person wants to know of a layer: its shape, work, widths and bytes."""
    shape = lowered.graph.shapes[node.output]
    entries = [entry for entry in lowered.constants.entries if entry.layer == node.name]
    layer: dict[str, Any] = {
        "name": node.name,
        "kind": type(node.operator).__name__,
        "shape": list(shape[1:]),
        "bytes": {entry.what: entry.count * np.dtype(POOLS[entry.pool]).itemsize for entry in entries},
    }
    weighted = node.operator.weighted if isinstance(node.operator, Residual) else node.operator
    if isinstance(weighted, Weighted):
        layer["taps"] = weighted.taps
        layer["macs"] = int(np.prod(shape)) * weighted.taps
        layer["widths"] = weighted.widths.tolist()
    return layer
