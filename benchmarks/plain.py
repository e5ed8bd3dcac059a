"""A network as one writes it by hand: loops over int8 weights (plain.h), as a C library that firmware is built of.

For cores that no other engine's figures are at hand for.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from sgsc_micro.codegen.library import CMAKE_CONFIG
from sgsc_micro.errors import SgscError
from sgsc_micro.files import write_text
from sgsc_micro.fixed_point import exp_table
from sgsc_micro.passes import FoldConstants, FuseQuantizedOps
from sgsc_micro.passes.graph import Graph, Node, read_graph
from sgsc_micro.passes.operators import Add, AveragePool, Conv2D, Dense, Output, Reshape, Softmax, Weighted
from sgsc_micro.passes.plan import plan
from sgsc_micro.passes.requantise import ADD_BITS, Multiplier, multiplier_of

LOOPS = Path(__file__).with_suffix(".h")
MODEL_H = """
#ifndef MODEL_H
#define MODEL_H
#include <stdint.h>
#define MODEL_INPUT_BYTES {inputs}
#define MODEL_OUTPUT_BYTES {outputs}
#define MODEL_ARENA_BYTES {arena}
#define MODEL_HASH "{hash:064}"
#define MODEL_CONSTANTS ((const uint8_t *)MODEL_HASH) /* none that the firmware should check */
#define MODEL_CONSTANT_BYTES 0
#define MODEL_CONSTANT_CRC32 0u
extern int8_t model_arena[MODEL_ARENA_BYTES];
#define MODEL_INPUT (model_arena + {input})
#define MODEL_OUTPUT (model_arena + {output})
void model_run(const int8_t *input, int8_t *output);
#endif
"""
_PACKAGE = """
add_library(sgsc_model STATIC ${CMAKE_CURRENT_LIST_DIR}/model.c ${CMAKE_CURRENT_LIST_DIR}/weights.c)
target_compile_options(sgsc_model PRIVATE -O3)
target_include_directories(sgsc_model PUBLIC ${CMAKE_CURRENT_LIST_DIR})
add_library(sgsc::model ALIAS sgsc_model)
"""
_MODEL_C = """
#include "model.h"
#include "plain.h"
{declarations}
int8_t model_arena[MODEL_ARENA_BYTES] __attribute__((aligned(4)));
{functions}
static void network(const int8_t *input, int8_t *output)
{{
{calls}
}}
void model_run(const int8_t *input, int8_t *output)
{{
    network(input, output);
}}
"""


def write_plain_library(module: tvm.IRModule, folder: Path) -> list[dict[str, Any]]:
    """Write the library of an imported TFLite network; its layers as a manifest has them: name, kind, macs.

    Errors: ``SgscError`` for an operator that none of the four networks has.
    """
    graph = read_graph(tvm.transform.Sequential([FuseQuantizedOps(), FoldConstants()])(module))
    owners, planned = graph.owners(), plan(graph, in_place=False)
    places = {tensor: planned.tensors[owner] for tensor, owner in owners.items()}
    ends = {owners[graph.input_tensor]: "input", owners[graph.output_tensor]: "output"}
    nodes = [node for node in graph.nodes if not isinstance(node.operator, Reshape)]
    calls, functions, constants = [], [], dict[str, str]()
    for node in nodes:
        tensors = node.output, *node.inputs
        arguments = [ends.get(owners[tensor], f"model_arena + {places[tensor].offset}") for tensor in tensors]
        calls.append(f"  {node.name}({', '.join(arguments)});")
        parameters = ", ".join(["int8_t *y", *(f"const int8_t *x{i}" for i in range(len(node.inputs)))])
        layer = _Layer(graph, node, constants)
        functions.append(f"static void {node.name}({parameters})\n{{\n    {layer.body()}\n}}\n")
    write_text(
        folder / "model.h",
        MODEL_H.format(
            inputs=places[graph.input_tensor].bytes,
            outputs=places[graph.output_tensor].bytes,
            arena=planned.arena_bytes,
            hash=0,
            input=places[graph.input_tensor].offset,
            output=places[graph.output_tensor].offset,
        ),
    )
    declarations = "\n".join(f"extern const {name};" for name in constants)
    text = _MODEL_C.format(declarations=declarations, functions="\n".join(functions), calls="\n".join(calls))
    write_text(folder / "model.c", text)
    definitions = [f"extern const {name};\nconst {name} = {{{values}}};\n" for name, values in constants.items()]
    write_text(folder / "weights.c", "\n".join(["#include <stdint.h>", *definitions]))
    write_text(folder / CMAKE_CONFIG, _PACKAGE)
    write_text(folder / LOOPS.name, LOOPS.read_text(encoding="utf-8"))
    return [_described(graph, node) for node in nodes]


def _described(graph: Graph, node: Node) -> dict[str, Any]:
    layer: dict[str, Any] = {"name": node.name, "kind": type(node.operator).__name__}
    if isinstance(node.operator, Weighted):
        layer["macs"] = int(np.prod(graph.shapes[node.output])) * node.operator.taps
    return layer


class _Layer:
    """The C of one layer; what it reads goes into ``constants``, values by declaration."""

    def __init__(self, graph: Graph, node: Node, constants: dict[str, str]) -> None:
        self._node, self._constants = node, constants
        self._to, self._from = (graph.shapes[tensor] for tensor in (node.output, node.inputs[0]))

    def body(self) -> str:
        """One statement."""
        return f"{self._function()}({', '.join(map(str, self._arguments()))});"

    def _function(self) -> str:
        operator = self._node.operator
        if isinstance(operator, Conv2D):
            return "plain_depthwise" if operator.is_depthwise else "plain_conv"
        names = {Dense: "plain_dense", Add: "plain_add", AveragePool: "plain_average", Softmax: "plain_softmax"}
        if type(operator) not in names:
            raise SgscError(f"{self._node.name}: no plain loop for {type(operator).__name__}")
        return names[type(operator)]

    def _arguments(self) -> Iterator[Any]:
        operator = self._node.operator
        yield "y"
        if isinstance(operator, Conv2D):
            sides = operator.weights.shape[1], operator.weights.shape[2]
            yield from (_shape(self._to), "x0", _shape(self._from))
            yield _window(sides, operator.strides, operator.padding)
        elif isinstance(operator, Dense):
            yield from (len(operator.weights), "x0", operator.taps)
        if isinstance(operator, Weighted):
            yield self._constant("int8_t", "weights", operator.weights)
            yield self._constant("int32_t", "bias", operator.bias)
            yield from self._ratios([operator.output.multiplier(float(s)) for s in operator.accumulator_scales()])
            yield from (operator.input.zero_point, _end(operator.output))
        elif isinstance(operator, Add):
            a, b = operator.inputs
            largest = 2 * max(a.scale, b.scale)
            each = [multiplier_of(scale / largest, "tflite") for scale in (a.scale, b.scale)]
            each.append(operator.output.multiplier(largest / 2**ADD_BITS))
            yield from ("x0", "x1", int(np.prod(self._to)), a.zero_point, b.zero_point)
            yield from self._ratios(each)
            yield _end(operator.output)
        elif isinstance(operator, AveragePool):
            yield from (_shape(self._to), "x0", _shape(self._from))
            yield _window(operator.size, operator.strides, operator.padding)
            yield _end(operator.output, zero=0)
        elif isinstance(operator, Softmax):
            table = exp_table(operator.input.scale)
            yield from ("x0", self._to[-1], self._constant("int32_t", "table", table), len(table))

    def _ratios(self, ratios: list[Multiplier]) -> Iterator[str]:
        yield self._constant("int32_t", "multipliers", [ratio.m for ratio in ratios])
        yield self._constant("int32_t", "shifts", [ratio.left - ratio.right for ratio in ratios])

    def _constant(self, ctype: str, what: str, values: Any) -> str:
        name = f"{self._node.name}_{what}"
        numbers = np.asarray(values).reshape(-1).tolist()
        self._constants[f"{ctype} {name}[{len(numbers)}]"] = ", ".join(map(str, numbers))
        return name


def _shape(shape: tuple[int, ...]) -> str:
    return f"(struct plain_shape){{{', '.join(map(str, shape[1:]))}}}"


def _window(sides: tuple[int, int], strides: tuple[int, int], padding: tuple[int, int, int, int]) -> str:
    return f"(struct plain_window){{{', '.join(map(str, (*sides, *strides, *padding[:2])))}}}"


def _end(output: Output, zero: int | None = None) -> str:
    low, high = output.bounds
    return f"(struct plain_end){{{output.zero_point if zero is None else zero}, {low}, {high}}}"
