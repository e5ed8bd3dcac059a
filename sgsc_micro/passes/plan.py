"""One static arena: where every tensor and every kernel's scratch lies, decided before any C is written."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import tvm

from sgsc_micro.passes.graph import Graph, read_graph

ALIGNMENT = 4


@dataclass(frozen=True)
class Block:
    """``size`` bytes wanted from step ``first`` to step ``last``, both included."""

    size: int
    first: int
    last: int


@dataclass(frozen=True)
class Plan:
    """Offsets in bytes: a tensor's, a node's scratch; the arena's size and its lower bound. Constants have no place."""

    tensors: dict[str, int]
    scratch: dict[str, int]
    arena_bytes: int
    live_bytes: int


@tvm.transform.module_pass(opt_level=0, name="PlanMemory")
class PlanMemory:
    """Writes the plan onto ``main`` as attributes that begin with ``sgsc.``; :func:`read_plan` reads them."""

    def transform_module(self, module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """The module with its plan; the functions are unchanged."""
        planned = plan(read_graph(module))
        attributes = {
            "sgsc.tensors": planned.tensors,
            "sgsc.scratch": planned.scratch,
            "sgsc.arena_bytes": planned.arena_bytes,
            "sgsc.live_bytes": planned.live_bytes,
        }
        module = module.clone()
        module["main"] = module["main"].with_attrs(attributes)
        return module


def read_plan(module: tvm.IRModule) -> Plan:
    """The plan that :class:`PlanMemory` wrote."""
    attributes = module["main"].attrs
    tensors, scratch = (
        {str(name): int(offset) for name, offset in attributes[key].items()} for key in ("sgsc.tensors", "sgsc.scratch")
    )
    return Plan(tensors, scratch, int(attributes["sgsc.arena_bytes"]), int(attributes["sgsc.live_bytes"]))


def plan(graph: Graph) -> Plan:
    """Offsets for every tensor, the network's input and output among them, and every scratch row."""
    owners = graph.owners()
    blocks = {
        f"tensor {owner}": Block(_aligned(int(np.prod(graph.shapes[owner]))), first, last)
        for owner, (first, last) in lifetimes(graph).items()
    }
    for step, node in enumerate(graph.nodes):
        if size := node.operator.scratch_bytes:
            blocks[f"scratch {node.name}"] = Block(_aligned(size), step, step)
    offsets = place(blocks)
    return Plan(
        tensors={
            tensor: offsets[f"tensor {owner}"] for tensor, owner in owners.items() if owner not in graph.constants
        },
        scratch={node.name: offsets[f"scratch {node.name}"] for node in graph.nodes if node.operator.scratch_bytes},
        arena_bytes=max(offset + blocks[name].size for name, offset in offsets.items()),
        live_bytes=live_bytes(blocks.values()),
    )


def lifetimes(graph: Graph) -> dict[str, tuple[int, int]]:
    """The first and the last step that every tensor with bytes of its own, or a reshape of it, is needed in.

    The input is there from the first step on, the output to the last.
    """
    owners, end = graph.owners(), len(graph.nodes) - 1
    first = {graph.input_tensor: 0} | {node.output: step for step, node in enumerate(graph.nodes)}
    last = {owner: first[owner] for owner in owners.values() if owner not in graph.constants}
    for step, node in enumerate(graph.nodes):
        for tensor in node.inputs:
            if owners[tensor] in last:
                last[owners[tensor]] = step
    last |= {owner: end for owner in [owners[graph.output_tensor]] if owner in last}
    return {owner: (first[owner], last[owner]) for owner in last}


def place(blocks: dict[str, Block]) -> dict[str, int]:
    """Greedy by size: each block, largest first, at the lowest offset where nothing alive at the same time lies."""
    offsets: dict[str, int] = {}
    for name, block in sorted(blocks.items(), key=lambda item: (-item[1].size, item[1].first, item[0])):
        taken = sorted(
            (offsets[other], offsets[other] + blocks[other].size)
            for other in offsets
            if blocks[other].first <= block.last and block.first <= blocks[other].last
        )
        offset = 0
        for begin, end in taken:
            if offset + block.size <= begin:
                break
            offset = max(offset, end)
        offsets[name] = offset
    return offsets


def live_bytes(blocks: Collection[Block]) -> int:
    """What no arena for these blocks can be smaller than: the most bytes alive in one step."""
    return max(sum(b.size for b in blocks if b.first <= step <= b.last) for step in {block.first for block in blocks})


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
