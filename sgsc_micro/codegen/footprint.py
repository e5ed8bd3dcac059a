"""The footprint of an optimised module, without a compiler."""

from __future__ import annotations

import math

import tvm

from sgsc_micro import kernels
from sgsc_micro.codegen.library import constant_bytes
from sgsc_micro.compiler_flags import Objective
from sgsc_micro.costs import costs_of
from sgsc_micro.footprint import Footprint
from sgsc_micro.kernels import Lowered
from sgsc_micro.passes.operators import Conv2D, Residual, Weighted

DEPTHWISE = 2.2
"""Instructions a product of depthwise layers, whatever their widths: VWW MobileNet's in benchmarks/kernels.py."""


def footprint(module: tvm.IRModule) -> Footprint:
    """Flash and arena as a certificate will state them; instructions modelled, of the layers with weights.

    Errors: ``SgscError`` from lowering, naming the layer.
    """
    lowered = kernels.lower(module)
    return Footprint(constant_bytes(lowered.constants), lowered.plan.arena_bytes, round(_instructions(lowered)))


def _instructions(lowered: Lowered) -> float:
    objective, total = lowered.plan.objective, 0.0
    if objective.instruction_set == "helium":  # of it nothing is modelled
        objective = Objective("dsp", objective.optimize)
    costs = costs_of(objective.instruction_set, objective.optimize)
    for node in lowered.graph.nodes:
        layer = node.operator.weighted if isinstance(node.operator, Residual) else node.operator
        shape = lowered.graph.shapes[node.output]
        if isinstance(layer, Conv2D) and layer.is_depthwise:
            total += DEPTHWISE * layer.taps * math.prod(shape)
        elif isinstance(layer, Weighted):
            total += layer.blocking(shape, objective).instructions(costs, math.prod(shape[:-1]))
    return total
