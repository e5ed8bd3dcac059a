"""From a planned Relax module to TIR: one PrimFunc a layer, and one that calls them in order over the arena.

before: fused_conv2d(q), Composite "sgsc.conv2d"; main's plan says where q and the result lie
after:  conv2d_0(in0, out, scratch, words, ints, ...)     loops over micro-kernels of c/sgsc_kernels.h
        network(in0, out, arena, words, ints, ...)        conv2d_0(&in0[0], &arena[128], ...) and so on, in order
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from sgsc_micro.compiler_flags import Objective
from sgsc_micro.costs import PLANES, SHAPES
from sgsc_micro.kernels import conv, depthwise, elementwise, move, pool, reduce
from sgsc_micro.kernels.builder import Kernel, Shapes, parameters, pool_shapes, run
from sgsc_micro.kernels.constants import Constants, Entry
from sgsc_micro.passes.graph import Graph, Node, read_graph
from sgsc_micro.passes.operators import (
    Add,
    AveragePool,
    BatchMatMul,
    Concatenate,
    Conv2D,
    Embedding,
    LayerNorm,
    Lookup,
    MaxPool,
    Mean,
    Multiply,
    Operator,
    Pad,
    Requantize,
    Residual,
    ResizeBilinear,
    Slice,
    Softmax,
    Subtract,
    Take,
    Transpose,
    Weighted,
)
from sgsc_micro.passes.plan import Plan, Resident, read_plan

Builder = Callable[..., Kernel]

BUILDERS: dict[type, Builder] = {
    Add: elementwise.add,
    Subtract: elementwise.add,
    Multiply: elementwise.multiply,
    Requantize: elementwise.requantize,
    Lookup: elementwise.lookup,
    AveragePool: pool.average_pool,
    MaxPool: pool.max_pool,
    ResizeBilinear: pool.resize_bilinear,
    Mean: reduce.mean,
    Softmax: reduce.softmax,
    LayerNorm: reduce.layer_norm,
    BatchMatMul: reduce.matmul,
    Transpose: move.transpose,
    Slice: move.strided_slice,
    Concatenate: move.concatenate,
    Pad: move.pad,
    Take: move.take,
    Embedding: move.embedding,
}

DOT_SHAPES = (*SHAPES, PLANES, "bytes4", "bytes1")


def _builder(operator: Operator, objective: Objective) -> Builder:
    alone = operator.weighted if isinstance(operator, Residual) else operator
    if not isinstance(alone, Weighted):
        return BUILDERS[type(alone)]
    build = depthwise.depthwise if isinstance(alone, Conv2D) and alone.is_depthwise else conv.weighted
    return partial(build, objective=objective)


@dataclass(frozen=True)
class Lowered:
    """TIR functions in an IRModule, the constants they read, and the graph and plan they came from."""

    module: tvm.IRModule
    constants: Constants
    tensors: dict[str, Entry]
    """Where constant tensors lie among the constants."""
    graph: Graph
    plan: Plan
    fields: dict[str, int]
    """The field widths of the dot products that are needed, as bits of a number, by shape."""


def lower(module: tvm.IRModule) -> Lowered:
    """Build every kernel of a module that went through :func:`sgsc_micro.passes.optimise`.

    Errors: ``SgscError`` naming the layer whose accumulator could overflow.
    """
    graph, plan = read_graph(module), read_plan(module)
    owners = graph.owners()
    constants = Constants("constants")
    tensors = {name: constants.integers("operand", values.ravel()) for name, values in graph.constants.items()}
    functions: dict[str, tirx.PrimFunc] = {}
    calls: list[tuple[Node, Kernel, dict[str, int]]] = []
    for node in graph.nodes:
        if owners[node.output] != node.output:
            continue
        shapes = [graph.shapes[tensor] for tensor in node.inputs]
        build = _builder(node.operator, plan.objective)
        built = build(node.name, node.operator, shapes, graph.shapes[node.output])
        functions[node.name] = built.function
        calls.append((node, built, constants.append(built.constants)))
    used = {dot for _, built, _ in calls for dot in built.dots}
    fields = {shape: sum(1 << bits for name, bits in used if name == shape) for shape in DOT_SHAPES}
    lowered = Lowered(tvm.IRModule(functions), constants, tensors, graph, plan, fields)
    lowered.module["network"] = _network(lowered, calls)
    return lowered


def _network(lowered: Lowered, calls: list[tuple[Node, Kernel, dict[str, int]]]) -> tirx.PrimFunc:
    """``network(in0, out, arenas..., pools...)``: each kernel on its places; ``in0`` and ``out`` may be among them."""
    graph, plan, owners = lowered.graph, lowered.plan, lowered.graph.owners()

    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name("network")
            T.func_attr({"global_symbol": "network"})
            shapes: Shapes = {
                "in0": ((int(np.prod(graph.shapes[graph.input_tensor])),), "int8"),
                "out": ((int(np.prod(graph.shapes[graph.output_tensor])),), "int8"),
            }
            shapes |= {arena(number): ((part.bytes,), "int8") for number, part in enumerate(plan.parts)}
            buffers = parameters(shapes | pool_shapes(lowered.constants))
            callers = {owners[graph.input_tensor]: buffers["in0"], owners[graph.output_tensor]: buffers["out"]}

            def lies(resident: Resident) -> Any:
                return T.address_of(buffers[arena(resident.part)][resident.offset])

            def place(tensor: str) -> Any:
                owner = owners[tensor]
                if owner in lowered.tensors:
                    entry = lowered.tensors[owner]
                    return T.address_of(buffers[entry.pool][entry.offset])
                if owner in callers:
                    return T.address_of(callers[owner][0])
                return lies(plan.tensors[owner])

            for node, built, bases in calls:
                arguments = [*(place(tensor) for tensor in node.inputs), place(node.output)]
                if "scratch" in built.buffers:
                    arguments.append(lies(plan.scratch[node.name]))
                arguments += [T.address_of(buffers[name][bases[name]]) for name in built.constants.used]
                run(node.name, *arguments)
    return builder.get()


def arena(part: int) -> str:
    """The name in C of a part of the arena, behind ``model_``."""
    return f"arena_{part}" if part else "arena"
