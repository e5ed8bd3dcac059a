"""A TFLite file as typed tensors and operators, whatever its bytes are: what makes no sense is refused by name."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tflite
from flatbuffers import number_types

from sgsc_micro.errors import SgscError

MAX_BYTES = 2**31 - 1
"""Of one tensor: offsets in the generated C are int32."""

DAMAGED = (struct.error, IndexError, TypeError, ValueError, OverflowError, AttributeError)
"""What reading a flatbuffer raises where its offsets or its values make no sense."""

_DTYPES: dict[int, str] = {
    value: name.lower() for name, value in vars(tflite.TensorType).items() if not name.startswith("_")
}
_BUILTIN_CODE = 10
"""Of OperatorCode's fields the place of the fourth in a flatbuffer's table."""
_KINDS: dict[int, str] = {
    value: name for name, value in vars(tflite.BuiltinOperator).items() if not name.startswith("_")
}
_STORED: dict[str, np.dtype[Any]] = {
    "int8": np.dtype("<i1"),
    "int4": np.dtype("<u1"),
    "int32": np.dtype("<i4"),
    "int64": np.dtype("<i8"),
    "float32": np.dtype("<f4"),
}
"""Types of constants that some operator here reads."""


class Refused(Exception):
    """Why something cannot be taken; whoever catches it knows which operator it was."""


@dataclass(frozen=True, eq=False)
class Tensor:
    """``values``: its constant as int8 (int4 unpacked), int32, int64 or float32 of ``shape``; None for an activation.

    scales float32 and zero_points int64: one, or one per index of ``axis``; empty where it is not quantised.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    scales: np.ndarray
    zero_points: np.ndarray
    axis: int
    values: np.ndarray | None

    def __str__(self) -> str:
        return f"tensor {self.index} '{self.name}'"

    @property
    def scale(self) -> float:
        """Of a tensor quantised as a whole."""
        self._check_scales(1)
        return float(self.scales[0])

    @property
    def zero_point(self) -> int:
        """Of a tensor quantised as a whole."""
        self._check_scales(1)
        return int(self.zero_points[0])

    def channel_scales(self, channels: int) -> np.ndarray:
        """float32 [channels] of symmetric weights."""
        per_channel = len(self.scales) > 1
        self._check_scales(channels if per_channel else 1)
        if self.zero_points.any():
            raise Refused(f"{self} has a zero point other than 0: weights have to be symmetric")
        if per_channel and self.shape[self.axis : self.axis + 1] != (channels,):
            raise Refused(f"{self} is quantised along axis {self.axis}, which is not that of its output channels")
        return np.ascontiguousarray(np.broadcast_to(self.scales, channels))

    def _check_scales(self, count: int) -> None:
        if len(self.scales) == 0:
            raise Refused(f"{self} is {self.dtype} without a scale: it is not quantised")
        if len(self.scales) != count or len(self.zero_points) != count:
            found = f"{len(self.scales)} scales and {len(self.zero_points)} zero points"
            raise Refused(f"{self} has {found}, not {count}")
        if not (np.isfinite(self.scales).all() and (self.scales > 0).all()):
            raise Refused(f"{self} has scale {float(self.scales.min())}")
        if self.zero_points.min() < -128 or self.zero_points.max() > 127:
            raise Refused(f"{self} has zero point {int(self.zero_points[0])}, which is not an int8")


@dataclass(frozen=True, eq=False)
class Operator:
    """``inputs`` has None where an optional input is left out."""

    index: int
    kind: str
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    table: Any
    """Its options as a flatbuffer table; None where it has none."""
    options_type: int

    def input(self, number: int) -> Tensor:
        """An input that has to be there."""
        tensor = self.optional(number)
        if tensor is None:
            raise Refused(f"has no input {number}")
        return tensor

    def optional(self, number: int) -> Tensor | None:
        """An input, or None."""
        return self.inputs[number] if number < len(self.inputs) else None

    @property
    def output(self) -> Tensor:
        """The only output."""
        if len(self.outputs) != 1:
            raise Refused(f"has {len(self.outputs)} outputs, not 1")
        return self.outputs[0]

    def options(self, name: str) -> Any:
        """Its options, of the type the schema calls ``name``."""
        if self.table is None or self.options_type != getattr(tflite.BuiltinOptions, name):
            raise Refused(f"has no {name}")
        options = getattr(tflite, name)()
        options.Init(self.table.Bytes, self.table.Pos)
        return options


@dataclass(frozen=True, eq=False)
class Model:
    """The one subgraph of a file."""

    input: Tensor
    output: Tensor
    operators: tuple[Operator, ...]


def read_model(content: bytes, source: str) -> Model:
    """The model in a file's bytes; ``source`` names it in errors.

    Errors: ``SgscError`` for bytes that are no TFLite model, several subgraphs, inputs or outputs, dynamic shapes.
    """
    if content[4:8] != b"TFL3":
        raise SgscError(f"{source}: not a TFLite model", hint="expected a .tflite flatbuffer (identifier TFL3)")
    try:
        return _Reader(content, source).run()
    except DAMAGED as error:
        raise SgscError(f"{source}: damaged: {error}", hint="export the model again") from error


def read_bytes(path: Path) -> bytes:
    """The content of a file. Errors: ``SgscError`` where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise SgscError(f"{path}: {error.strerror}", hint="check the path") from error


class _Reader:
    def __init__(self, content: bytes, source: str) -> None:
        self.source = source
        self.model = tflite.Model.GetRootAs(content)

    def run(self) -> Model:
        if self.model.SubgraphsLength() != 1:
            raise self._fault(f"{self.model.SubgraphsLength()} subgraphs", "control flow cannot be compiled")
        graph = self.model.Subgraphs(0)
        tensors = [self._tensor(index, graph.Tensors(index)) for index in range(graph.TensorsLength())]
        operators = [self._operator(index, graph.Operators(index), tensors) for index in range(graph.OperatorsLength())]
        (source,), (sink,) = (
            self._ends(what, vector, tensors)
            for what, vector in (("inputs", graph.InputsAsNumpy()), ("outputs", graph.OutputsAsNumpy()))
        )
        return Model(source, sink, tuple(operators))

    def _ends(self, what: str, indices: Any, tensors: list[Tensor]) -> list[Tensor]:
        ends = self._at(indices, tensors)
        if len(ends) != 1 or ends[0] is None:
            raise self._fault(f"{len(ends)} {what}", "networks of one input and one output can be compiled")
        return [tensor for tensor in ends if tensor is not None]

    def _at(self, indices: Any, tensors: list[Tensor]) -> list[Tensor | None]:
        """-1 stands for an optional tensor left out."""
        if isinstance(indices, int):  # an empty vector
            return []
        if any(not -1 <= index < len(tensors) for index in indices.tolist()):
            raise ValueError(f"no tensor {indices.tolist()}")
        return [None if index < 0 else tensors[index] for index in indices.tolist()]

    def _operator(self, index: int, operator: Any, tensors: list[Tensor]) -> Operator:
        code = self.model.OperatorCodes(operator.OpcodeIndex())
        number = max(_builtin_code(code), code.DeprecatedBuiltinCode())  # the old field holds codes below 127
        kind = _KINDS.get(number, f"builtin {number}")
        if kind == "CUSTOM":
            kind = f"custom '{(code.CustomCode() or b'').decode()}'"
        inputs, outputs = (self._at(v, tensors) for v in (operator.InputsAsNumpy(), operator.OutputsAsNumpy()))
        if None in outputs:
            raise ValueError(f"operator {index} has an output that is no tensor")
        table = operator.BuiltinOptions()
        options_type = operator.BuiltinOptionsType()
        present = tuple(tensor for tensor in outputs if tensor is not None)
        return Operator(index, kind, tuple(inputs), present, table, options_type)

    def _tensor(self, index: int, tensor: Any) -> Tensor:
        name = (tensor.Name() or b"").decode()
        shape = () if tensor.ShapeIsNone() else tuple(int(extent) for extent in tensor.ShapeAsNumpy())
        dtype = _DTYPES.get(tensor.Type(), f"type {tensor.Type()}")
        self._check_shape(f"tensor {index} '{name}'", tensor, shape)
        quantisation, scales, zero_points, axis = tensor.Quantization(), np.zeros(0, np.float32), np.zeros(0), 0
        if quantisation is not None and quantisation.ScaleLength():
            scales = np.array(quantisation.ScaleAsNumpy(), np.float32)
            zero_points = np.array(quantisation.ZeroPointAsNumpy(), np.int64)
            axis = quantisation.QuantizedDimension()
        values = self._values(index, name, tensor, shape, dtype)
        return Tensor(index, name, shape, dtype, scales, zero_points, axis, values)

    def _check_shape(self, named: str, tensor: Any, shape: tuple[int, ...]) -> None:
        signature = [] if tensor.ShapeSignatureIsNone() else tensor.ShapeSignatureAsNumpy().tolist()
        free = [axis for axis, extent in enumerate(signature) if extent < 0]
        if any(extent < 0 for extent in shape) or free not in ([], [0]):  # a free batch axis is compiled as one
            raise self._fault(
                f"{named} has the dynamic shape {signature or list(shape)}", "export it with a fixed shape, batch 1"
            )
        if math.prod(shape) > MAX_BYTES:
            raise self._fault(f"{named} has {math.prod(shape):,} elements", f"{MAX_BYTES:,} bytes are the most")

    def _values(self, index: int, name: str, tensor: Any, shape: tuple[int, ...], dtype: str) -> np.ndarray | None:
        if tensor.Buffer() >= self.model.BuffersLength():
            raise ValueError(f"tensor {index} '{name}' has no buffer {tensor.Buffer()}")
        buffer = self.model.Buffers(tensor.Buffer())
        if buffer.DataLength() == 0:
            return None
        if tensor.Sparsity() is not None:
            raise self._fault(f"tensor {index} '{name}' is stored sparsely", "export it dense")
        if dtype not in _STORED:
            return np.zeros(0)  # a constant of a type that no operator here reads: refused where one does
        raw, count = np.asarray(buffer.DataAsNumpy()), math.prod(shape)
        if dtype == "int4":
            return _unpack_int4(_exactly(raw, (count + 1) // 2, index, name), count).reshape(shape)
        stored = _STORED[dtype]
        values = _exactly(raw, count * stored.itemsize, index, name).view(stored)
        return values.astype(stored.newbyteorder("=")).reshape(shape)

    def _fault(self, what: str, hint: str) -> SgscError:
        return SgscError(f"{self.source}: {what}", hint=hint)


def _builtin_code(code: Any) -> int:
    """The field as it is: the package's own accessor puts the old field in its place where that is below 127."""
    offset = code._tab.Offset(_BUILTIN_CODE)
    return int(code._tab.Get(number_types.Int32Flags, offset + code._tab.Pos)) if offset else 0


def _exactly(raw: np.ndarray, size: int, index: int, name: str) -> np.ndarray:
    if len(raw) != size:
        raise ValueError(f"tensor {index} '{name}' needs {size} bytes of data, {len(raw)} are there")
    return np.ascontiguousarray(raw)


def _unpack_int4(raw: np.ndarray, count: int) -> np.ndarray:
    """int8 of two's complement nibbles, the low one first."""
    nibbles = np.stack([raw & 15, raw >> 4], axis=1).ravel()[:count].astype(np.int8)
    return (nibbles ^ 8) - 8
