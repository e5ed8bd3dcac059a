"""Writes int8 TFLite models, one method an operator, for tests of the importer: no TensorFlow needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import flatbuffers
import numpy as np
from tflite_micro.tensorflow.lite.micro.python import schema_py_generated as schema

DTYPES = {
    "float32": np.float32,
    "int32": np.int32,
    "int16": np.int16,
    "int8": np.int8,
    "int4": np.int8,  # a value a byte here; packed two a byte in the file
    "int64": np.int64,
    "uint8": np.uint8,
    "bool": np.bool_,
}

OPTIONS = {
    "CONV_2D": "Conv2D",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2D",
    "FULLY_CONNECTED": "FullyConnected",
    "AVERAGE_POOL_2D": "Pool2D",
    "MAX_POOL_2D": "Pool2D",
    "MEAN": "Reducer",
    "PADV2": "PadV2",
    "BATCH_MATMUL": "BatchMatMul",
    **dict.fromkeys(["LOGISTIC", "TANH", "RELU", "RELU6", "RELU_N1_TO_1", "CEIL", "FLOOR", "CUSTOM"]),
}
"""Options tables whose name does not follow from the operator's; None: the operator has none."""


class Quantization(NamedTuple):
    """Parameters of one int8 tensor."""

    scale: float
    zero_point: int


class Tensor(NamedTuple):
    """A tensor of the model under construction."""

    number: int
    shape: tuple[int, ...]
    dtype: str
    quantization: Quantization | None = None
    """None: not quantised, or per channel."""

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def pack_int4(values: np.ndarray) -> np.ndarray:
    """Bytes of values in [-8, 7], two a byte, the first in the low half."""
    nibbles = np.append(values.reshape(-1), np.zeros(values.size % 2, np.int8)).astype(np.uint8) & 15
    return nibbles[0::2] | nibbles[1::2] << 4


class ModelWriter:
    """One subgraph, built tensor by tensor and operator by operator."""

    def __init__(self) -> None:
        self.tensors: list[Any] = []
        self.operators: list[Any] = []
        self.codes: list[str] = []
        self.buffers: list[Any] = [schema.BufferT()]

    def tensor(
        self,
        shape: Sequence[int],
        dtype: str = "int8",
        scales: Sequence[float] = (),
        zero_points: Sequence[int] = (),
        quantized_dimension: int = 0,
        data: np.ndarray | None = None,
        name: str | None = None,
    ) -> Tensor:
        """Add a tensor; ``data`` makes it a constant."""
        made = schema.TensorT()
        made.name = name or f"tensor{len(self.tensors)}"
        made.shape = [int(side) for side in shape]
        made.type = getattr(schema.TensorType, dtype.upper())
        made.hasRank = True
        if len(scales):
            parameters = schema.QuantizationParametersT()
            parameters.scale = [float(np.float32(scale)) for scale in scales]
            parameters.zeroPoint = [int(point) for point in zero_points] or [0] * len(scales)
            parameters.quantizedDimension = quantized_dimension
            made.quantization = parameters
        if data is not None:
            made.buffer = len(self.buffers)
            buffer = schema.BufferT()
            raw: np.ndarray = np.ascontiguousarray(data, DTYPES[dtype])
            buffer.data = pack_int4(raw) if dtype == "int4" else np.frombuffer(raw.tobytes(), np.uint8)
            self.buffers.append(buffer)
        self.tensors.append(made)
        single = None
        if len(scales) == 1:
            single = Quantization(made.quantization.scale[0], made.quantization.zeroPoint[0])
        return Tensor(len(self.tensors) - 1, tuple(made.shape), dtype, single)

    def activation(self, shape: Sequence[int], quantization: Quantization) -> Tensor:
        """An int8 tensor that some operator writes, or the model's input."""
        return self.tensor(shape, "int8", [quantization.scale], [quantization.zero_point])

    def constant(self, values: np.ndarray | Sequence[int] | int, quantization: Quantization | None = None) -> Tensor:
        """int8 where quantised, else int32."""
        data = np.asarray(values, np.int32 if quantization is None else np.int8)
        if quantization is None:
            return self.tensor(data.shape, "int32", data=data)
        return self.tensor(data.shape, "int8", [quantization.scale], [quantization.zero_point], data=data)

    def operator(
        self, code: str, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor], **options: object
    ) -> None:
        """Add an operator; an input of None is an optional one left out (index -1)."""
        if code not in self.codes:
            self.codes.append(code)
        made = schema.OperatorT()
        made.opcodeIndex = self.codes.index(code)
        made.inputs = [-1 if tensor is None else tensor.number for tensor in inputs]
        made.outputs = [tensor.number for tensor in outputs]
        table = OPTIONS.get(code, code.title().replace("_", ""))
        if table is not None:
            made.builtinOptions = getattr(schema, f"{table}OptionsT")()
            made.builtinOptionsType = getattr(schema.BuiltinOptions, f"{table}Options")
            for name, value in options.items():
                assert hasattr(made.builtinOptions, name), name
                setattr(made.builtinOptions, name, value)
        self.operators.append(made)

    def copy(self) -> ModelWriter:
        """The model so far, to go on with elsewhere."""
        made = ModelWriter()
        made.tensors, made.operators = list(self.tensors), list(self.operators)
        made.codes, made.buffers = list(self.codes), list(self.buffers)
        return made

    def bytes(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> bytes:
        """The file."""
        graph = schema.SubGraphT()
        graph.name = "main"
        graph.tensors, graph.operators = self.tensors, self.operators
        graph.inputs, graph.outputs = [x.number for x in inputs], [x.number for x in outputs]
        model = schema.ModelT()
        model.version = 3
        model.description = "random test model"
        model.operatorCodes = [_operator_code(code) for code in self.codes]
        model.subgraphs, model.buffers = [graph], self.buffers
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    # Layers with weights. Weights are int8 values; scales one a channel, or one.

    def conv_2d(
        self,
        x: Tensor,
        weights: np.ndarray,
        scales: np.ndarray,
        bias: np.ndarray | None,
        output: Quantization,
        *,
        strides: tuple[int, int] = (1, 1),
        dilations: tuple[int, int] = (1, 1),
        padding: str = "SAME",
        activation: str = "NONE",
        weight_type: str = "int8",
    ) -> Tensor:
        """Weights [O, KH, KW, I / groups]."""
        options = {**_strides(strides), **_dilations(dilations), **_padding(padding), **_fused(activation)}
        sides = _window(x.shape[1:3], weights.shape[1:3], strides, dilations, padding)
        made = self.activation((x.shape[0], *sides, weights.shape[0]), output)
        inputs = self._weighted(x, weights, scales, bias, 0, weight_type)
        self.operator("CONV_2D", inputs, [made], **options)
        return made

    def depthwise_conv_2d(
        self,
        x: Tensor,
        weights: np.ndarray,
        scales: np.ndarray,
        bias: np.ndarray | None,
        output: Quantization,
        *,
        strides: tuple[int, int] = (1, 1),
        dilations: tuple[int, int] = (1, 1),
        padding: str = "SAME",
        activation: str = "NONE",
        weight_type: str = "int8",
    ) -> Tensor:
        """Weights [1, KH, KW, I * multiplier]."""
        options = {**_strides(strides), **_dilations(dilations), **_padding(padding), **_fused(activation)}
        sides = _window(x.shape[1:3], weights.shape[1:3], strides, dilations, padding)
        made = self.activation((x.shape[0], *sides, weights.shape[3]), output)
        inputs = self._weighted(x, weights, scales, bias, 3, weight_type)
        options["depthMultiplier"] = weights.shape[3] // x.shape[3]
        self.operator("DEPTHWISE_CONV_2D", inputs, [made], **options)
        return made

    def transpose_conv(
        self,
        x: Tensor,
        weights: np.ndarray,
        scales: np.ndarray,
        bias: np.ndarray | None,
        output: Quantization,
        sides: tuple[int, int],
        *,
        strides: tuple[int, int] = (1, 1),
        padding: str = "SAME",
    ) -> Tensor:
        """Weights [O, KH, KW, I]; ``sides`` are the output's height and width."""
        made = self.activation((x.shape[0], *sides, weights.shape[0]), output)
        _, filters, *biases = self._weighted(x, weights, scales, bias, 0, "int8")
        inputs = [self.constant(made.shape), filters, x, *biases]
        self.operator("TRANSPOSE_CONV", inputs, [made], **_strides(strides), **_padding(padding))
        return made

    def fully_connected(
        self,
        x: Tensor,
        weights: np.ndarray,
        scales: np.ndarray,
        bias: np.ndarray | None,
        output: Quantization,
        *,
        keep_num_dims: bool = False,
        activation: str = "NONE",
        weight_type: str = "int8",
    ) -> Tensor:
        """Weights [O, I]; the input's values in rows of I."""
        outputs, depth = weights.shape
        rows = x.shape[:-1] if keep_num_dims else (x.size // depth,)
        made = self.activation((*rows, outputs), output)
        inputs = self._weighted(x, weights, scales, bias, 0, weight_type)
        inputs += [None] if bias is None else []
        self.operator("FULLY_CONNECTED", inputs, [made], keepNumDims=keep_num_dims, **_fused(activation))
        return made

    def _weighted(
        self, x: Tensor, weights: np.ndarray, scales: np.ndarray, bias: np.ndarray | None, axis: int, weight_type: str
    ) -> list[Tensor | None]:
        """Input, filter and bias (where there is one), the bias at the product of the scales."""
        assert x.quantization is not None
        filters = self.tensor(weights.shape, weight_type, list(scales), (), axis, weights)
        if bias is None:
            return [x, filters]
        product = np.float32(x.quantization.scale) * np.asarray(scales, np.float32)
        return [x, filters, self.tensor(bias.shape, "int32", list(product), data=bias)]

    # Layers without weights.

    def batch_matmul(
        self, a: Tensor, b: Tensor, output: Quantization, adj_x: bool = False, adj_y: bool = False
    ) -> Tensor:
        """[..., M, K] times [..., K, N], the last two axes of either swapped where told."""
        rows, columns = a.shape[-1 if adj_x else -2], b.shape[-2 if adj_y else -1]
        made = self.activation((*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), rows, columns), output)
        self.operator("BATCH_MATMUL", [a, b], [made], adjX=adj_x, adjY=adj_y)
        return made

    def binary(self, code: str, a: Tensor, b: Tensor, output: Quantization, activation: str = "NONE") -> Tensor:
        """ADD, SUB, MUL, MINIMUM, MAXIMUM; broadcasting."""
        made = self.activation(np.broadcast_shapes(a.shape, b.shape), output)
        self.operator(code, [a, b], [made], **({} if code in ("MINIMUM", "MAXIMUM") else _fused(activation)))
        return made

    def unary(self, code: str, x: Tensor, output: Quantization, **options: object) -> Tensor:
        """One input of the output's shape: SOFTMAX, LOGISTIC, RELU, LEAKY_RELU, QUANTIZE, HARD_SWISH, ..."""
        made = self.activation(x.shape, output)
        self.operator(code, [x], [made], **options)
        return made

    def pool(
        self,
        code: str,
        x: Tensor,
        size: tuple[int, int],
        strides: tuple[int, int],
        padding: str,
        activation: str = "NONE",
    ) -> Tensor:
        """AVERAGE_POOL_2D or MAX_POOL_2D, at the input's scale."""
        made = self._like(x, (x.shape[0], *_window(x.shape[1:3], size, strides, (1, 1), padding), x.shape[3]))
        options = {"filterHeight": size[0], "filterWidth": size[1], **_padding(padding), **_fused(activation)}
        self.operator(code, [x], [made], **_strides(strides), **options)
        return made

    def mean(self, x: Tensor, axes: Sequence[int], output: Quantization, keep_dims: bool = True) -> Tensor:
        """Over ``axes``, which may count from the end."""
        made = self.activation(np.zeros(x.shape).mean(tuple(axes), keepdims=keep_dims).shape, output)
        self.operator("MEAN", [x, self.constant(axes)], [made], keepDims=keep_dims)
        return made

    def resize(self, code: str, x: Tensor, sides: tuple[int, int], align_corners: bool, half_pixel: bool) -> Tensor:
        """RESIZE_BILINEAR or RESIZE_NEAREST_NEIGHBOR to height and width ``sides``."""
        made = self._like(x, (x.shape[0], *sides, x.shape[3]))
        options = {"alignCorners": align_corners, "halfPixelCenters": half_pixel}
        self.operator(code, [x, self.constant(sides)], [made], **options)
        return made

    def arranged(self, code: str, x: Tensor, shape: Sequence[int], *operands: Tensor, **options: object) -> Tensor:
        """Values moved, none changed: PAD, PADV2, RESHAPE, EXPAND_DIMS, SQUEEZE, TRANSPOSE, SLICE, STRIDED_SLICE."""
        made = self._like(x, shape)
        self.operator(code, [x, *operands], [made], **options)
        return made

    def joined(self, code: str, parts: Sequence[Tensor], axis: int) -> Tensor:
        """CONCATENATION or PACK of tensors of one quantisation."""
        join = np.stack if code == "PACK" else np.concatenate
        made = self._like(parts[0], join([np.zeros(part.shape, bool) for part in parts], axis=axis).shape)
        counted = {"valuesCount": len(parts)} if code == "PACK" else {}
        self.operator(code, parts, [made], axis=axis, **counted)
        return made

    def split(self, x: Tensor, sizes: Sequence[int], axis: int, *, sized: bool) -> list[Tensor]:
        """SPLIT_V where ``sized``, else SPLIT into parts of one size."""
        made = [self._like(x, (*x.shape[:axis], size, *x.shape[axis:][1:])) for size in sizes]
        if sized:
            self.operator("SPLIT_V", [x, self.constant(sizes), self.constant(axis)], made, numSplits=len(sizes))
        else:
            self.operator("SPLIT", [self.constant(axis), x], made, numSplits=len(sizes))
        return made

    def unpack(self, x: Tensor, axis: int) -> list[Tensor]:
        """As many tensors as ``axis`` has places, without it."""
        shape = (*x.shape[:axis], *x.shape[axis:][1:])
        made = [self._like(x, shape) for _ in range(x.shape[axis])]
        self.operator("UNPACK", [x], made, num=len(made), axis=axis)
        return made

    def _like(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        assert x.quantization is not None
        return self.activation(shape, x.quantization)


def _operator_code(code: str) -> Any:
    made = schema.OperatorCodeT()
    made.builtinCode = getattr(schema.BuiltinOperator, code)
    made.deprecatedBuiltinCode = min(made.builtinCode, 127)
    return made


def _window(
    sides: Sequence[int], size: Sequence[int], strides: Sequence[int], dilations: Sequence[int], padding: str
) -> list[int]:
    """Output height and width of a sliding window."""
    if padding == "SAME":
        return [-(-side // stride) for side, stride in zip(sides, strides)]
    spans = [(kernel - 1) * dilation + 1 for kernel, dilation in zip(size, dilations)]
    return [(side - span) // stride + 1 for side, span, stride in zip(sides, spans, strides)]


def _strides(strides: tuple[int, int]) -> dict[str, int]:
    return {"strideH": strides[0], "strideW": strides[1]}


def _dilations(dilations: tuple[int, int]) -> dict[str, int]:
    return {"dilationHFactor": dilations[0], "dilationWFactor": dilations[1]}


def _padding(padding: str) -> dict[str, int]:
    return {"padding": getattr(schema.Padding, padding)}


def _fused(activation: str) -> dict[str, int]:
    return {"fusedActivationFunction": getattr(schema.ActivationFunctionType, activation)}
