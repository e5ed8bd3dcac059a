"""A fused module as a list of operators between named tensors, and back: what the whole-network passes work on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import tvm
from tvm import relax

from sgsc_micro.errors import SgscError
from sgsc_micro.ir import bindings_of, constant_of, rounding_of, shape_of, with_rounding
from sgsc_micro.passes.operators import Operator, Quantisation, Reshape, read_composite, read_integer_operator
from sgsc_micro.passes.requantise import Rounding


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

    ``input_shape`` is the user's, ``input_axes`` the permutation to the layout stored (None: as it is). ``constants``
    are tensors that nodes read and none writes, int8.
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
    constants: dict[str, np.ndarray]
    rounding: Rounding

    def consumers(self, tensor: str) -> list[Node]:
        """The nodes that read ``tensor``."""
        return [node for node in self.nodes if tensor in node.inputs]

    def owners(self) -> dict[str, str]:
        """Tensor -> the tensor whose bytes it is: its own, or those of what it is a reshape of."""
        owner = {tensor: tensor for tensor in self.shapes}
        for node in self.nodes:
            if isinstance(node.operator, Reshape):
                owner[node.output] = owner[node.inputs[0]]
        return owner

    def in_step(self, node: Node) -> bool:
        """Whether channel c of the node's output depends on channel c of its inputs alone."""
        tensors = (*node.inputs, node.output)
        return (
            node.operator.channelwise
            and len({self.shapes[tensor][-1:] for tensor in tensors}) == 1
            and not any(tensor in self.constants for tensor in node.inputs)
        )

    def flattens(self, node: Node) -> bool:
        """Whether the node makes one row of features of an image, pixel by pixel."""
        shape = self.shapes[node.output]
        return isinstance(node.operator, Reshape) and not self.in_step(node) and int(np.prod(shape)) == shape[-1]

    def channels(self, tensor: str) -> int:
        """The last extent of ``tensor``; a number has one."""
        return self.shapes[tensor][-1] if self.shapes[tensor] else 1

    def with_operators(self, operators: dict[str, Operator]) -> Graph:
        """The same graph with the operators of the named nodes replaced; shapes are those of the old graph."""
        nodes = tuple(replace(node, operator=operators.get(node.name, node.operator)) for node in self.nodes)
        return replace(self, nodes=nodes)


def read_graph(module: tvm.IRModule) -> Graph:
    """The graph of a module after :class:`~sgsc_micro.passes.fuse.FuseQuantizedOps`.

    Errors: ``SgscError`` naming an operator that is part of no quantised one.
    """
    return _Reader(module).run()


class _Reader:
    """One walk over the bindings of ``main``."""

    def __init__(self, module: tvm.IRModule) -> None:
        self.module = module
        self.rounding = rounding_of(module)
        self.names: dict[relax.Expr, str] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.constants: dict[str, np.ndarray] = {}
        self.nodes: list[Node] = []
        self.counts: dict[str, int] = {}

    def run(self) -> Graph:
        main = self.module["main"]
        axes: dict[relax.Expr, tuple[int, ...]] = {}  # of the real tensors before the first node and after the last
        ends: dict[relax.Expr, relax.Call] = {}
        first: tuple[relax.Var, relax.Call] | None = None
        for var, value in bindings_of(main):
            operator = value.op.name if isinstance(value, relax.Call) and hasattr(value.op, "name") else ""
            if isinstance(value, relax.Var):
                ends[var] = ends[value]
                axes.update({var: axes[value]} if value in axes else {})
            elif operator == "relax.permute_dims" and var.ty.dtype == "float32":
                axes[var] = tuple(int(axis) for axis in value.attrs.axes)
                if value.args[0] in ends:
                    ends[var] = ends[value.args[0]]
            elif operator == "relax.dequantize":
                ends[var] = value
            elif operator == "relax.quantize" and first is None:
                first = (var, value)
                self._tensor(var)
            else:
                self._node(var, value)
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
            input_tensor=self.names[first[0]],
            nodes=tuple(self.nodes),
            output_tensor=self.names[ends[output].args[0]],
            output=Quantisation.of(ends[output]),
            output_axes=axes.get(output),
            shapes=self.shapes,
            constants=self.constants,
            rounding=self.rounding,
        )

    def _node(self, var: relax.Var, call: relax.Call) -> None:
        if isinstance(call.op, relax.GlobalVar):
            function = self.module[call.op]
            operator, operands = read_composite(function, self.rounding)
            arguments = dict(zip(function.params, call.args, strict=True))
            inputs = [self._name(arguments[o] if isinstance(o, relax.Var) else o) for o in operands]
        else:
            operator = read_integer_operator(call)
            operands = call.args[0].fields if isinstance(call.args[0], relax.Tuple) else call.args[:1]
            inputs = [self._name(operand) for operand in operands]
        kind = type(operator).__name__.lower()
        self.counts[kind] = self.counts.get(kind, -1) + 1
        self.nodes.append(Node(f"{kind}_{self.counts[kind]}", operator, tuple(inputs), self._tensor(var)))

    def _tensor(self, var: relax.Var) -> str:
        self.names[var] = f"t{len(self.shapes)}"
        self.shapes[self.names[var]] = shape_of(var)
        return self.names[var]

    def _name(self, operand: relax.Expr | np.ndarray) -> str:
        """Of a tensor that is read: a variable's, or a new one for a constant."""
        if isinstance(operand, relax.Var):
            return self.names[operand]
        values = operand if isinstance(operand, np.ndarray) else constant_of(operand)
        name = f"t{len(self.shapes)}"
        self.shapes[name], self.constants[name] = values.shape, values.astype(np.int8)
        return name


def write_module(graph: Graph) -> tvm.IRModule:
    """The fused Relax module of a graph: the inverse of :func:`read_graph`."""
    builder = relax.BlockBuilder()
    functions = {node.name: _composite(builder, graph, node) for node in graph.nodes if node.operator.composite}
    x = relax.Var("x", relax.TensorType(graph.input_shape, "float32"))
    tensors: dict[str, relax.Expr] = {name: relax.const(values) for name, values in graph.constants.items()}
    with builder.function("main", [x]):
        with builder.dataflow():
            real = x if graph.input_axes is None else builder.emit(relax.op.permute_dims(x, graph.input_axes))
            tensors[graph.input_tensor] = builder.emit(graph.input.quantize(real))
            for node in graph.nodes:
                if node.name in functions:
                    call = relax.Call(functions[node.name], [tensors[name] for name in _parameters(graph, node)])
                else:
                    call = node.operator.emit(builder, *(tensors[name] for name in node.inputs))
                tensors[node.output] = builder.emit(call)
            result = builder.emit(graph.output.dequantize(tensors[graph.output_tensor]))
            if graph.output_axes is not None:
                result = builder.emit(relax.op.permute_dims(result, graph.output_axes))
            output = builder.emit_output(result)
        builder.emit_func_output(output)
    return with_rounding(builder.finalize(), graph.rounding)


def _parameters(graph: Graph, node: Node) -> list[str]:
    """The tensors a composite function is given; constants are inside."""
    return [name for name in dict.fromkeys(node.inputs) if name not in graph.constants]


def _composite(builder: relax.BlockBuilder, graph: Graph, node: Node) -> relax.GlobalVar:
    names = _parameters(graph, node)
    parameters = [relax.Var(name, relax.TensorType(graph.shapes[name], "int8")) for name in names]
    by_name: dict[str, relax.Expr] = {name: relax.const(values) for name, values in graph.constants.items()}
    by_name.update({parameter.name: parameter for parameter in parameters})
    attributes = {"Composite": node.operator.composite, "Primitive": True}
    with builder.function(node.name, parameters, attrs=attributes, private=True):
        with builder.dataflow():
            arguments = [by_name[name] for name in node.inputs]
            output = builder.emit_output(node.operator.emit(builder, *arguments))
        variable = builder.emit_func_output(output)
    return variable
