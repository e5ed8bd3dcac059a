"""Operators that work value by value: add and requantize, flat over the whole tensor."""

from __future__ import annotations

import math

import numpy as np
from tvm.script.ir_builder import tirx as T

from sgsc_micro.kernels.builder import Kernel, Requantiser, kernel, loop
from sgsc_micro.kernels.constants import Constants
from sgsc_micro.passes.operators import Add, Output, Quantisation, Requantize
from sgsc_micro.passes.requantise import ADD_BITS

Shape = tuple[int, ...]


def add(name: str, operator: Add, _inputs: list[Shape], output: Shape) -> Kernel:
    """Both inputs at 20 fraction bits of the larger scale, summed."""
    largest = max(quantisation.scale for quantisation in operator.inputs)
    terms = [
        (quantisation, math.floor(2.0**ADD_BITS * (quantisation.scale / largest) + 0.5))
        for quantisation in operator.inputs
    ]
    return _flat(name, terms, operator.output, largest / 2.0**ADD_BITS, math.prod(output))


def requantize(name: str, operator: Requantize, _inputs: list[Shape], output: Shape) -> Kernel:
    """From one scale to another."""
    return _flat(name, [(operator.input, 1)], operator.output, operator.input.scale, math.prod(output))


def _flat(name: str, terms: list[tuple[Quantisation, int]], output: Output, scale: float, size: int) -> Kernel:
    """out[i] = requantise(sum of coefficient * (x[i] - zero_point))."""
    constants = Constants(name)
    bound = sum(coefficient * quantisation.reach for quantisation, coefficient in terms)
    requantise = Requantiser(constants, output, np.array([scale]), np.array([bound]))
    with kernel(name, [(size,)] * len(terms), (size,), constants) as built, loop("i", size) as i:
        parts = [
            (T.Cast("int32", built.input(number)[i]) - quantisation.zero_point) * coefficient
            for number, (quantisation, coefficient) in enumerate(terms)
        ]
        T.buffer_store(built.output, requantise(built, sum(parts[1:], parts[0]), 0), [i])
    return built
