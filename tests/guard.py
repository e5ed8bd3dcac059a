"""Every load and store that a network makes on an emulated core, against what its layer may touch.

``guard.c``, a plugin of QEMU, sees them all while ``model_run`` runs, in the image that a user would flash. A layer may
read its inputs, its output, its scratch and its own constants; it may write its output and its scratch: the places that
the arena's plan and the list of constants give them, to the byte. Each may use the stack below the frame of who called
``model_run``, and read the literals of the code and the library's tables.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tvm

from benchmarks.plugin import OUTSIDE, SHARED, ImageCode, plugged
from sgsc_micro import kernels
from sgsc_micro.firmware import FirmwareImage
from sgsc_micro.kernels import Lowered
from sgsc_micro.kernels.constants import POOLS
from sgsc_micro.kernels.lower import arena
from sgsc_micro.passes.plan import ALIGNMENT, Resident
from sgsc_micro.targets import Target

PLUGIN = Path(__file__).with_suffix(".c")
ALL = ""
"""The layer of what every layer may touch."""


@dataclass(frozen=True)
class Place:
    """Bytes that a layer may touch; ``layer`` is ``ALL`` for whatever each of them may."""

    layer: str
    what: str
    first: int
    end: int
    writes: bool = False


@dataclass(frozen=True)
class Violation:
    """The access of one instruction outside its layer's places."""

    layer: str
    function: str
    pc: int
    address: int
    bytes: int
    store: bool

    def __str__(self) -> str:
        verb = "writes" if self.store else "reads"
        return f"{self.layer}: {self.function} at {self.pc:#x} {verb} {self.bytes} bytes at {self.address:#x}"


@dataclass(frozen=True)
class Run:
    """One inference under the guard."""

    output: np.ndarray
    """int8 [bytes]."""
    stack_bytes: int
    """Of ``model_run`` and what it calls, from its caller's frame down."""
    accesses: int
    violations: tuple[Violation, ...]
    """The first few."""
    touched: dict[Place, range]
    """From the first to the last byte touched of each place; places that are not there were not touched."""


class Guard:
    """Watches runs of one image; ``module`` is the optimised network that ``library`` was written from."""

    def __init__(self, target: Target, image: FirmwareImage, library: Path, module: tvm.IRModule) -> None:
        self._target, self._image = target, image
        self._code = ImageCode(image, library)
        self._instructions = self._code.instructions()
        self.places = [*self._tables(), *self._of_layers(kernels.lower(module))]

    def run(self, inputs: np.ndarray, places: Sequence[Place] | None = None) -> list[Run]:
        """int8 ``inputs`` [N, bytes], as stored, one after another; ``places`` in place of those found."""
        places = self.places if places is None else places
        owners = {ALL: SHARED} | {name: number for number, name in enumerate(self._code.layers, 1)}
        with tempfile.TemporaryDirectory(prefix="sgsc-guard-") as name:
            files = {what: Path(name) / what for what in ("code", "places", "out")}
            files["code"].write_text("".join(f"{i.address} {i.owner}\n" for i in self._instructions))
            lines = (f"{owners[p.layer]} {p.first} {p.end} {p.writes:d}\n" for p in places)
            files["places"].write_text("".join(lines))
            stack = self._code.sections[".stack"]
            arguments = {"entry": self._code.entry, "bottom": stack.start, "top": stack.stop, **files}
            with plugged(self._target, self._image, PLUGIN, Path(name), **arguments) as device:
                outputs = [device.run(case, row.tobytes()).output for case, row in enumerate(inputs)]
            runs = list(self._runs(files["out"], outputs, places))
        assert len(runs) == len(outputs), "the plugin and the link disagree on how often the network ran"
        return runs

    def _runs(self, out: Path, outputs: list[bytes], places: Sequence[Place]) -> Iterator[Run]:
        violations: list[Violation] = []
        touched: dict[Place, range] = {}
        answers = iter(outputs)
        for line in out.read_text().splitlines():
            kind, *words = line.split()
            numbers = list(map(int, words))
            if kind == "violation":
                pc, address, size, store, owner = numbers
                layer = self._code.layers[owner - 1] if owner else "network"
                violations.append(Violation(layer, self._function(pc), pc, address, size, bool(store)))
            elif kind == "touched":
                touched[places[numbers[0]]] = range(numbers[1], numbers[2])
            else:
                stack_bytes, accesses, count = numbers
                assert bool(count) == bool(violations)
                output = np.frombuffer(next(answers), np.int8)
                yield Run(output, stack_bytes, accesses, tuple(violations), touched)
                violations, touched = [], {}

    def _function(self, pc: int) -> str:
        return next(s.name for s in self._code.functions if s.address <= pc < s.address + s.bytes)

    def _tables(self) -> Iterator[Place]:
        """The code that a run may be in, for its literals, and every constant object but the network's."""
        inside = [i for i in self._instructions if i.owner != OUTSIDE]
        for symbol in self._code.symbols:
            end = symbol.address + symbol.bytes
            run = symbol.kind == "STT_FUNC" and any(symbol.address <= i.address < end for i in inside)
            if run or (symbol.kind == "STT_OBJECT" and symbol.section == ".rodata"):
                yield Place(ALL, symbol.name, symbol.address, end)

    def _of_layers(self, lowered: Lowered) -> Iterator[Place]:
        graph, plan, owners = lowered.graph, lowered.plan, lowered.graph.owners()
        objects = {symbol.name: symbol.address for symbol in self._code.symbols if symbol.kind == "STT_OBJECT"}
        pools, end = {}, objects["model_constants"]
        for pool in POOLS:
            pools[pool] = end
            end += lowered.constants.size(pool) * np.dtype(POOLS[pool]).itemsize

        def resident(layer: str, what: str, where: Resident, writes: bool = False) -> Place:
            first = objects[f"model_{arena(where.part)}"] + where.offset
            # A compiler that sees memcpy(out, arena + 48, 3) may load the word: what fills it up is nobody's. It does
            # not see whose buffer the network's input is.
            filled = -where.bytes % ALIGNMENT if where.kind == "tensor" and not writes else 0
            return Place(layer, what, first, first + where.bytes + filled, writes)

        def constant(layer: str, what: str, pool: str, first: int, count: int) -> Place:
            size = np.dtype(POOLS[pool]).itemsize
            return Place(layer, what, pools[pool] + size * first, pools[pool] + size * (first + count))

        for node in graph.nodes:
            if node.name not in self._code.layers:
                continue  # a reshape is no code
            for tensor in node.inputs:
                owner = owners[tensor]
                if owner in lowered.tensors:
                    entry = lowered.tensors[owner]
                    yield constant(node.name, "input", entry.pool, entry.offset, entry.count)
                else:
                    yield resident(node.name, "input", plan.tensors[owner])
            yield resident(node.name, "output", plan.tensors[owners[node.output]], writes=True)
            if node.name in plan.scratch:
                yield resident(node.name, "scratch", plan.scratch[node.name], writes=True)
            for pool in POOLS:
                entries = [e for e in lowered.constants.entries if e.layer == node.name and e.pool == pool and e.count]
                if entries:
                    first = min(e.offset for e in entries)
                    end = max(e.offset + e.count for e in entries)
                    yield constant(node.name, pool, pool, first, end - first)
