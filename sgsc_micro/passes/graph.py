"""A fused module as a list of operators between named tensors, and back: what the whole-network passes work on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import tvm
from tvm import relax

from sgsc_micro.errors import SgscError
from sgsc_micro.ir import bindings_of, shape_of
from sgsc_micro.passes.operators import (
    Add,
    Flatten,
    MaxPool,
    Operator,
    Quantisation,
    read_composite,
    read_integer_operator,
)


@dataclass(frozen=True)
class Node:
    """``output = operator(*inputs)``; names of tensors. ``name`` is the layer's, for people and for C."""

    name: str
    operator: Operator
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class Graph:
    """A network between its first quantize and its last dequantize.

    ``input_shape`` is the user's, ``input_axes`` the permutation to the layout stored (None: as it is).
    """

    input_shape: tuple[int, ...]
    input_axes: tuple[int, ...] | None
    input: Quantisation
    input_tensor: str
    nodes: tuple[Node, ...]
    output_tensor: str
    output: Quantisation
    output_axes: tuple[int, ...] | None
    shapes: dict[str, tuple[int, ...]]

    def consumers(self, tensor: str) -> list[Node]:
        """The nodes that read ``tensor``."""
        return [node for node in self.nodes if tensor in node.inputs]

    def channels(self, tensor: str) -> int:
        """The last extent of ``tensor``."""
        return self.shapes[tensor][-1]

    def with_operators(self, operators: dict[str, Operator]) -> Graph:
        """The same graph with the operators of the named nodes replaced; shapes are those of the old graph."""
        nodes = tuple(replace(node, operator=operators.get(node.name, node.operator)) for node in self.nodes)
        return replace(self, nodes=nodes)


def read_graph(module: tvm.IRModule) -> Graph:
    """The graph of a module after :class:`~sgsc_micro.passes.fuse.FuseQuantizedOps`.

    Errors: ``SgscError`` naming an operator that is part of no quantised one.
    """
    main = module["main"]
    names: dict[relax.Expr, str] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    axes: dict[relax.Expr, tuple[int, ...]] = {}
    nodes: list[Node] = []
    counts: dict[str, int] = {}
    ends: dict[relax.Expr, relax.Call] = {}
    first: tuple[relax.Var, relax.Call] | None = None

    for var, value in bindings_of(main):
        if isinstance(value, relax.Var):
            ends[var] = ends[value]
            axes.update({var: axes[value]} if value in axes else {})
            continue
        operator_name = value.op.name_hint if isinstance(value.op, relax.GlobalVar) else value.op.name
        if operator_name == "relax.permute_dims":
            axes[var] = tuple(int(axis) for axis in value.attrs.axes)
            if value.args[0] in ends:
                ends[var] = ends[value.args[0]]
            continue
        if operator_name == "relax.dequantize":
            ends[var] = value
            continue
        tensor = f"t{len(names)}"
        names[var], shapes[tensor] = tensor, shape_of(var)
        if operator_name == "relax.quantize" and first is None:
            first = (var, value)
            continue
        if isinstance(value.op, relax.GlobalVar):
            operator = read_composite(module[value.op])
        else:
            operator = read_integer_operator(value)
        kind = type(operator).__name__.lower()
        counts[kind] = counts.get(kind, -1) + 1
        inputs = [names[argument] for argument in value.args if argument in names]
        if isinstance(operator, Add):
            inputs = [inputs[0], inputs[-1]]  # add(x, x) has one argument
        nodes.append(Node(f"{kind}_{counts[kind]}", operator, tuple(inputs), tensor))

    output = main.body.body
    if first is None or output not in ends:
        raise SgscError(
            "the network is not quantised from its input to its output", hint="quantise the input and the output"
        )
    (parameter,) = main.params
    return Graph(
        input_shape=shape_of(parameter),
        input_axes=axes.get(first[1].args[0]),
        input=Quantisation.of(first[1]),
        input_tensor=names[first[0]],
        nodes=tuple(nodes),
        output_tensor=names[ends[output].args[0]],
        output=Quantisation.of(ends[output]),
        output_axes=axes.get(output),
        shapes=shapes,
    )


def write_module(graph: Graph) -> tvm.IRModule:
    """The fused Relax module of a graph: the inverse of :func:`read_graph`."""
    builder = relax.BlockBuilder()
    functions = {
        node.name: _composite(builder, graph, node)
        for node in graph.nodes
        if not isinstance(node.operator, MaxPool | Flatten)
    }
    x = relax.Var("x", relax.TensorType(graph.input_shape, "float32"))
    tensors: dict[str, relax.Expr] = {}
    with builder.function("main", [x]):
        with builder.dataflow():
            real = x if graph.input_axes is None else builder.emit(relax.op.permute_dims(x, graph.input_axes))
            tensors[graph.input_tensor] = builder.emit(graph.input.quantize(real))
            for node in graph.nodes:
                inputs = [tensors[name] for name in node.inputs]
                function = functions.get(node.name)
                call = (
                    node.operator.emit(builder, *inputs)
                    if function is None
                    else relax.Call(function, [*dict.fromkeys(inputs)])
                )
                tensors[node.output] = builder.emit(call)
            result = builder.emit(graph.output.dequantize(tensors[graph.output_tensor]))
            if graph.output_axes is not None:
                result = builder.emit(relax.op.permute_dims(result, graph.output_axes))
            output = builder.emit_output(result)
        builder.emit_func_output(output)
    return builder.finalize()


def _composite(builder: relax.BlockBuilder, graph: Graph, node: Node) -> relax.GlobalVar:
    assert not isinstance(node.operator, MaxPool | Flatten)  # those work on the integers as they are
    parameters = [relax.Var(name, relax.TensorType(graph.shapes[name], "int8")) for name in dict.fromkeys(node.inputs)]
    by_name = {parameter.name: parameter for parameter in parameters}
    attributes = {"Composite": node.operator.composite, "Primitive": True}
    with builder.function(node.name, parameters, attrs=attributes, private=True):
        with builder.dataflow():
            arguments = [by_name[name] for name in node.inputs]
            output = builder.emit_output(node.operator.emit(builder, *arguments))
        variable = builder.emit_func_output(output)
    return variable
