"""The arena's plan: where every tensor and every kernel's scratch lies, decided before any C is written.

conv2d_0(input) -> t1         input  offset 0    steps 0 to 0
lookup_0(t1)    -> t2         t1     offset 256  steps 0 to 1
dense_0(t2)     -> output     t2     offset 256  steps 1 to 2: over t1, which nobody reads again
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import tvm

from sgsc_micro.passes.graph import Graph, Node, read_graph
from sgsc_micro.passes.placement import Block, Room, allot, height
from sgsc_micro.storage import Packing
from sgsc_micro.targets import Board

ALIGNMENT = 4
RAM = "ram"
Kind = Literal["input", "output", "tensor", "scratch"]
_ATTRIBUTE = "sgsc.plan"


@dataclass(frozen=True)
class Resident:
    """What lies in the arena: ``bytes`` from ``offset`` of a part of it, needed from step ``first`` to ``last``."""

    name: str
    """``input``, or of the layer that writes it."""
    kind: Kind
    part: int
    offset: int
    bytes: int
    first: int
    last: int
    over: str | None = None
    """The name of the tensor that it is written over, in step ``first``."""


@dataclass(frozen=True)
class Part:
    """A piece of the arena; ``memory`` is RAM, where variables lie too, or one of the board's for the arena alone."""

    memory: str
    bytes: int


@dataclass(frozen=True)
class Plan:
    """Residents by the tensor whose bytes they are, scratch by its layer's name; bytes alive by step."""

    tensors: dict[str, Resident]
    scratch: dict[str, Resident]
    parts: tuple[Part, ...]
    live: tuple[int, ...]
    packing: Packing
    """Of the weights, which scratch depends on."""

    @property
    def arena_bytes(self) -> int:
        """All parts together."""
        return sum(part.bytes for part in self.parts)

    @property
    def live_bytes(self) -> int:
        """The most bytes alive in one step: no arena can be smaller."""
        return max(self.live)


@tvm.transform.module_pass(opt_level=0, name="PlanMemory")
class PlanMemory:
    """Writes the plan onto ``main`` as an attribute; :func:`read_plan` reads it. The functions are unchanged."""

    def __init__(self, board: Board | None = None, packing: Packing = Packing.LANES) -> None:
        """The arena's parts are the board's memories, in order; without a board it is one part that nothing limits."""
        self.rooms, self.packing = [Room(RAM)], packing
        if board is not None:
            free = board.ram.bytes - board.stack_bytes
            self.rooms = [*(Room(region.name, region.bytes) for region in board.arena), Room(RAM, free)]

    def transform_module(self, module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """The module with its plan. Errors: ``SgscError`` naming a tensor that no room has place for."""
        module = module.clone()
        text = json.dumps(asdict(plan(read_graph(module), self.rooms, self.packing)))
        module["main"] = module["main"].with_attr(_ATTRIBUTE, text)
        return module


def read_plan(module: tvm.IRModule) -> Plan:
    """The plan that :class:`PlanMemory` wrote."""
    fields = json.loads(str(module["main"].attrs[_ATTRIBUTE]))
    tensors, scratch = (
        {name: Resident(**resident) for name, resident in fields[key].items()} for key in ("tensors", "scratch")
    )
    parts = tuple(Part(**part) for part in fields["parts"])
    return Plan(tensors, scratch, parts, tuple(fields["live"]), Packing(fields["packing"]))


def plan(
    graph: Graph, rooms: Sequence[Room] = (Room(RAM),), packing: Packing = Packing.LANES, in_place: bool = True
) -> Plan:
    """Places for every tensor, the network's input and output among them, and every scratch row.

    ``in_place``: results lie over what dies there, where the kernels allow it.
    """
    alive, over = lifetimes(graph), overwritten(graph) if in_place else {}
    names = {graph.input_tensor: "input"} | {node.output: node.name for node in graph.nodes}
    first_written = {tensor: tensor for tensor in alive}
    for tensor, below in over.items():  # in the order of their layers
        first_written[tensor] = first_written[below]
    sizes = {tensor: int(np.prod(graph.shapes[tensor])) for tensor in alive}
    blocks: dict[str, Block] = {}
    for tensor, (first, last) in alive.items():
        name = names[first_written[tensor]]
        known = blocks.get(name, Block(_aligned(sizes[tensor]), first, last))
        blocks[name] = Block(known.size, min(known.first, first), max(known.last, last))
    scratch = {node.name: node.operator.scratch_bytes(graph.shapes[node.output], packing) for node in graph.nodes}
    rows = {name: f"scratch of {name}" for name, size in scratch.items() if size}
    for step, node in enumerate(graph.nodes):
        if node.name in rows:
            blocks[rows[node.name]] = Block(_aligned(scratch[node.name]), step, step)
    allotted = allot(blocks, rooms)
    used = [number for number, offsets in enumerate(allotted) if offsets]
    places = {name: (used.index(number), offset) for number in used for name, offset in allotted[number].items()}
    ends: dict[str, Kind] = {graph.owners()[graph.output_tensor]: "output", graph.input_tensor: "input"}
    return Plan(
        tensors={
            tensor: Resident(
                names[tensor],
                ends.get(tensor, "tensor"),
                *places[names[first_written[tensor]]],
                sizes[tensor],
                first,
                last,
                names[over[tensor]] if tensor in over else None,
            )
            for tensor, (first, last) in alive.items()
        },
        scratch={
            node.name: Resident(node.name, "scratch", *places[rows[node.name]], scratch[node.name], step, step)
            for step, node in enumerate(graph.nodes)
            if node.name in rows
        },
        parts=tuple(Part(rooms[number].name, height(blocks, allotted[number])) for number in used),
        live=tuple(
            sum(block.size for block in blocks.values() if block.first <= step <= block.last)
            for step in range(max(len(graph.nodes), 1))
        ),
        packing=packing,
    )


def lifetimes(graph: Graph) -> dict[str, tuple[int, int]]:
    """The first and the last step that every tensor with bytes of its own, or a reshape of it, is needed in.

    The input is there from the first step on, the output to the last. Constants lie elsewhere.
    """
    owners, end = graph.owners(), max(len(graph.nodes) - 1, 0)
    first = {graph.input_tensor: 0} | {node.output: step for step, node in enumerate(graph.nodes)}
    last = {owner: first[owner] for owner in owners.values() if owner not in graph.constants}
    for step, node in enumerate(graph.nodes):
        for tensor in node.inputs:
            if owners[tensor] in last:
                last[owners[tensor]] = step
    if owners[graph.output_tensor] in last:
        last[owners[graph.output_tensor]] = end
    return {owner: (first[owner], last[owner]) for owner in last}


def overwritten(graph: Graph) -> dict[str, str]:
    """Tensor -> the tensor that it is written over, in the order of their layers."""
    owners, alive = graph.owners(), lifetimes(graph)
    kept = {owners[graph.output_tensor], *graph.constants}

    def dies(tensor: str, node: Node, step: int) -> bool:
        readings = {number for number, name in enumerate(node.inputs) if owners[name] == owners[tensor]}
        return (
            owners[tensor] not in kept
            and alive[owners[tensor]][1] == step
            and readings <= set(node.operator.overwrites)
            and np.prod(graph.shapes[tensor]) == np.prod(graph.shapes[node.output])
        )

    result: dict[str, str] = {}
    for step, node in enumerate(graph.nodes):
        for number in node.operator.overwrites:
            if node.output not in result and dies(node.inputs[number], node, step):
                result[node.output] = owners[node.inputs[number]]
    return result


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
