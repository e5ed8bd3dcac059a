"""A quantised network rebuilt at fewer bits: layer by layer, each making good what the layers before it lost.

A layer's inputs are those of the rebuilt network, its wanted outputs those of the frozen one: what was lost upstream
is part of the least squares. The network between the layers runs in exact integers, by the reference.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import tvm
from tvm import relax

from sgsc_micro.compress.layers import Constants, Layer, layers_of, with_constants
from sgsc_micro.compress.rounding import Moments, choose_scales, round_weights
from sgsc_micro.errors import SgscError
from sgsc_micro.ir import bindings_of, shape_of
from sgsc_micro.reference import Dequantised, Interpreter, Value

CHUNK = 64
"""Inputs that are evaluated at once."""
ROWS = 16_384
"""Of a layer's outputs, so many at most go into its moments: sampled evenly from every input."""

Widths = dict[str, np.ndarray]
"""Layer -> bits of every output channel, int64 [O]."""

_Values = dict[relax.Expr, Value]


class Reconstruction:
    """The frozen network, and inputs that say what matters in it."""

    def __init__(self, module: tvm.IRModule, inputs: np.ndarray) -> None:
        """``module`` in the one form; ``inputs`` float32 [N, *shape]."""
        self.module = with_constants(module, {})
        self.inputs = inputs
        main = self.module["main"]
        self._parameter = main.params[0]
        self._bindings = list(bindings_of(main))
        self._values = dict(self._bindings)
        self._layers = {layer.product: layer for layer in layers_of(self.module)}
        self._dead_after = _dead_after(self._bindings)
        self._outputs: dict[str, np.ndarray] = {}  # layer -> what it gave, float32 [N, positions, g, o], real
        for layer, chunks in self._walk():
            self._outputs[layer.name] = np.concatenate([_outputs(layer, self._rows(layer, chunk)) for chunk in chunks])

    @property
    def layers(self) -> list[Layer]:
        """Of the frozen network."""
        return list(self._layers.values())

    def moments(self) -> Iterator[tuple[Layer, Moments]]:
        """Of every layer of the frozen network, every input counting the same."""
        weights = np.ones(len(self.inputs))
        for layer, chunks in self._walk():
            yield layer, self._moments(layer, chunks, weights)

    def rebuilt(self, widths: Widths, weights: np.ndarray) -> dict[str, Constants]:
        """Every layer's constants at ``widths``; ``weights`` float64 [N] says how much each input counts.

        Before the first layer that is lowered, everything stays as it is to the bit. Errors: ``SgscError`` naming a
        layer whose bias leaves int32.
        """
        constants: dict[str, Constants] = {}
        changed = False
        for layer, chunks in self._walk():
            found = layer.constants
            lowered = widths[layer.name] < found.widths
            if changed or lowered.any():
                rounded = round_layer(layer, self._moments(layer, chunks, weights), widths[layer.name])
                found = rounded if changed else _merged(found, rounded, lowered)
                changed = True
                self._put(layer, found, chunks)
            constants[layer.name] = found
        return constants

    def _walk(self) -> Iterator[tuple[Layer, list[_Values]]]:
        """The network evaluated in chunks; stops before each layer, whose constants may then be replaced."""
        interpreter = Interpreter(self.module)
        parts = np.split(self.inputs, range(CHUNK, len(self.inputs), CHUNK))
        shape = shape_of(self._parameter)
        chunks: list[_Values] = [{self._parameter: part.reshape(len(part), *shape)} for part in parts]
        left = len(self._layers)
        for var, value in self._bindings:
            if var in self._layers:
                yield self._layers[var], chunks
                left -= 1
                if not left:
                    return
            for chunk in chunks:
                chunk[var] = interpreter.evaluate(value, chunk)
                for dead in self._dead_after[var]:
                    del chunk[dead]

    def _put(self, layer: Layer, constants: Constants, chunks: list[_Values]) -> None:
        interpreter = Interpreter(self.module)
        kernel = interpreter.evaluate(constants.weights_expression(), {})
        if layer.is_dense:
            transpose = self._values[layer.call.args[1]]
            kernel = interpreter.evaluate(transpose, {transpose.args[0]: kernel})
        bias = interpreter.evaluate(constants.bias_expression(layer.input_scale), {})
        for chunk in chunks:
            chunk[layer.call.args[1]] = kernel
            chunk[self._values[layer.total].args[1]] = bias

    def _moments(self, layer: Layer, chunks: list[_Values], weights: np.ndarray) -> Moments:
        outputs = self._outputs[layer.name]
        sums: list[np.ndarray] = []
        first = 0
        for chunk in chunks:
            rows = self._rows(layer, chunk)
            n, positions, groups, taps = rows.shape
            x = rows.reshape(-1, groups, taps).swapaxes(0, 1)  # [g, R, t]
            y = outputs[first : first + n].reshape(n * positions, groups, -1).swapaxes(0, 1).astype(np.float64)
            w = np.repeat(weights[first : first + n], positions)[:, None]  # [R, 1]
            wx, wy = w * x, w * y
            terms = [w.sum(), wx.sum(1), wy.sum(1), wx.swapaxes(1, 2) @ x, wy.swapaxes(1, 2) @ x, (wy * y).sum(1)]
            sums = [a + b for a, b in zip(sums, terms, strict=True)] if sums else terms
            first += n
        mean_x, mean_y, xx, yx, yy = (term / sums[0] for term in sums[1:])
        return Moments(
            inputs=mean_x,
            outputs=mean_y,
            second=xx - mean_x[:, :, None] * mean_x[:, None, :],
            cross=yx - mean_y[:, :, None] * mean_x[:, None, :],
            power=float((yy - mean_y**2).sum()),
        )

    def _rows(self, layer: Layer, values: _Values) -> np.ndarray:
        """What the layer's weights are multiplied with where its outputs are sampled: real, [n, positions, g, t]."""
        positions = int(np.prod(shape_of(layer.product)[1:-1]))
        kept = max(1, min(positions, ROWS // len(self.inputs)))
        sampled = (2 * np.arange(kept) + 1) * positions // (2 * kept)
        real = values[layer.input]
        assert isinstance(real, Dequantised)
        x = real.floats(np.float64) * layer.input_scale
        if layer.is_dense:
            return x.reshape(len(x), positions, 1, -1)[:, sampled]
        return _patches(layer, x[:, 0], sampled)


def round_layer(layer: Layer, moments: Moments, widths: np.ndarray) -> Constants:
    """The layer's constants at ``widths`` [O] that keep its outputs best, and the mean of every channel.

    Errors: ``SgscError`` naming the layer where a bias leaves int32.
    """
    old, grouped = layer.constants, moments.outputs.shape  # [g, o]
    scales = old.channel_scales.reshape(grouped)
    target = moments.target(old.weights.reshape(*grouped, -1) * scales[..., None])
    bits = widths.reshape(grouped)
    scales = choose_scales(moments, target, bits, scales).astype(np.float64)
    integers = round_weights(moments, target, bits, scales)  # [g, o, t]
    mean = np.einsum("got,gt->go", integers * scales[..., None], moments.inputs)
    bias = np.rint((moments.outputs - mean) / (layer.input_scale * scales))
    if np.abs(bias).max() >= 2**31:
        raise SgscError(f"{layer.name}: a bias leaves int32", hint="its weights are too small beside it")
    return Constants(
        integers.reshape(old.weights.shape).astype(np.int8),
        scales.reshape(-1).astype(np.float32),
        bias.reshape(-1).astype(np.int32),
    )


def _merged(old: Constants, new: Constants, chosen: np.ndarray) -> Constants:
    """The channels ``chosen`` [O] of ``new``, the others of ``old``."""
    column = chosen.reshape(-1, *[1] * (old.weights.ndim - 1))
    return Constants(
        np.where(column, new.weights, old.weights),
        np.where(chosen, new.scales, old.channel_scales.astype(np.float32)),
        np.where(chosen, new.bias, old.bias),
    )


def _outputs(layer: Layer, rows: np.ndarray) -> np.ndarray:
    """Real outputs float32 [n, positions, g, o] before the activation, of the layer's own constants."""
    constants, groups = layer.constants, rows.shape[2]
    scales = constants.channel_scales
    weights = (constants.weights.reshape(len(scales), -1) * scales[:, None]).reshape(groups, -1, rows.shape[3])
    bias = (constants.bias * scales * layer.input_scale).reshape(groups, -1)
    return (np.einsum("npgt,got->npgo", rows, weights, optimize=True) + bias).astype(np.float32)


def _patches(layer: Layer, x: np.ndarray, sampled: np.ndarray) -> np.ndarray:
    """Windows of x [n, H, W, C] at the ``sampled`` output positions; [n, positions, g, t], taps as in the weights."""
    attrs, (_, kh, kw, depth) = layer.call.attrs, layer.constants.weights.shape
    top, left, bottom, right = (int(side) for side in attrs.padding)
    strides, dilation = [int(s) for s in attrs.strides], [int(d) for d in attrs.dilation]
    turned = layer.call.op.name == "relax.nn.conv2d_transpose"
    if turned:  # a convolution of stride 1, its kernels turned, over the input with zeros between its pixels
        n, height, width, channels = x.shape
        spread = np.zeros((n, (height - 1) * strides[0] + 1, (width - 1) * strides[1] + 1, channels))
        spread[:, :: strides[0], :: strides[1]] = x
        x, strides = spread, [1, 1]
        below, beside = (int(side) for side in attrs.output_padding)
        top, left, bottom, right = kh - 1 - top, kw - 1 - left, kh - 1 - bottom + below, kw - 1 - right + beside
    padded = np.pad(x, [(0, 0), (top, bottom), (left, right), (0, 0)])
    reach = ((kh - 1) * dilation[0] + 1, (kw - 1) * dilation[1] + 1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(1, 2))  # [n, Y, X, C, ...]
    windows = windows[:, :: strides[0], :: strides[1], :, :: dilation[0], :: dilation[1]]
    if turned:
        windows = windows[..., ::-1, ::-1]
    row, column = np.unravel_index(sampled, windows.shape[1:3])
    rows = windows[:, row, column]  # [n, positions, C, kh, kw]
    rows = rows.reshape(*rows.shape[:2], -1, depth, kh, kw)
    return np.moveaxis(rows, 3, 5).reshape(*rows.shape[:3], kh * kw * depth)


def _dead_after(bindings: list[tuple[relax.Var, relax.Expr]]) -> dict[relax.Var, list[relax.Var]]:
    """Variable -> those that are read for the last time where it is bound."""
    last: dict[relax.Var, relax.Var] = {}

    def read(expression: relax.Expr, var: relax.Var) -> None:
        if isinstance(expression, relax.Var):
            last[expression] = var
        for part in expression.fields if isinstance(expression, relax.Tuple) else getattr(expression, "args", ()):
            read(part, var)

    for var, value in bindings:
        read(value, var)
    dead: dict[relax.Var, list[relax.Var]] = {var: [] for var, _ in bindings}
    for var, user in last.items():
        dead[user].append(var)
    return dead
