"""One static arena: where every tensor and every kernel's scratch lies, decided before any C is written."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tvm

from sgsc_micro.passes.graph import Graph, Node, read_graph
from sgsc_micro.passes.operators import Reshape, Weighted
from sgsc_micro.storage import row_bytes

ALIGNMENT = 4
INPUT, OUTPUT = -1, -2
"""Places outside the arena: the caller's buffers."""


@dataclass(frozen=True)
class Block:
    """``size`` bytes wanted from step ``first`` to step ``last``, both included."""

    size: int
    first: int
    last: int


@dataclass(frozen=True)
class Plan:
    """Offsets in bytes: a tensor's (or INPUT, OUTPUT), a node's scratch; the arena's size and its lower bound."""

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
    """Offsets for every tensor and scratch row. A flattened image is the image itself."""
    home = {tensor: tensor for tensor in graph.shapes}
    for node in graph.nodes:
        if isinstance(node.operator, Reshape):
            home[node.output] = home[node.inputs[0]]
    outside = {home[graph.output_tensor]: OUTPUT, home[graph.input_tensor]: INPUT}
    first = {graph.input_tensor: 0} | {node.output: step for step, node in enumerate(graph.nodes)}
    last = dict.fromkeys(home.values(), 0)
    for step, node in enumerate(graph.nodes):
        for tensor in (*node.inputs, node.output):
            last[home[tensor]] = max(last[home[tensor]], step)
    blocks = {
        f"tensor {head}": Block(_aligned(int(np.prod(graph.shapes[head]))), first[head], last[head])
        for head in last
        if head not in outside and head not in graph.constants
    }
    for step, node in enumerate(graph.nodes):
        if size := scratch_bytes(node):
            blocks[f"scratch {node.name}"] = Block(_aligned(size), step, step)
    offsets = place(blocks)
    return Plan(
        tensors={tensor: outside.get(head, offsets.get(f"tensor {head}", 0)) for tensor, head in home.items()},
        scratch={node.name: offsets.get(f"scratch {node.name}", 0) for node in graph.nodes},
        arena_bytes=max((offset + blocks[name].size for name, offset in offsets.items()), default=0),
        live_bytes=max(
            (sum(b.size for b in blocks.values() if b.first <= step <= b.last) for step in range(len(graph.nodes))),
            default=0,
        ),
    )


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


def scratch_bytes(node: Node) -> int:
    """The widened activations of one pixel and group, as far as the widest-reading channel reads."""
    operator = node.operator
    if not isinstance(operator, Weighted):
        return 0
    return max(row_bytes(int(bits), operator.taps) for bits in np.unique(operator.widths))


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
