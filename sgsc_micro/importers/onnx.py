"""ONNX QDQ files into Relax QDQ, through TVM's importer."""

from __future__ import annotations

from pathlib import Path

import tvm
from tvm import relax

from sgsc_micro.errors import SgscError
from sgsc_micro.importers.channels_last import to_channels_last


def from_onnx(path: Path) -> tvm.IRModule:
    """The network in an .onnx file whose tensors are quantised by QuantizeLinear and DequantizeLinear, batch 1.

    Errors: ``SgscError`` naming the file where it cannot be read, or the operator that cannot be taken.
    """
    try:
        import onnx
        from tvm.relax.frontend.onnx import from_onnx as import_graph
    except ImportError as error:
        raise SgscError(f"{path}: reading ONNX needs the package onnx", hint="pip install onnx") from error
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf's and onnx's own errors share no base
        raise SgscError(f"{path}: not an ONNX model: {error}", hint="export it again") from error
    for graph_input in model.graph.input:
        if any(not dimension.HasField("dim_value") for dimension in graph_input.type.tensor_type.shape.dim):
            raise SgscError(
                f"{path}: input '{graph_input.name}' has a dynamic shape", hint="export it with a fixed one, batch 1"
            )
    try:
        module = import_graph(model, keep_params_in_input=False)
    except Exception as error:  # TVM's importer raises what its converters like
        raise SgscError(
            f"{path}: {str(error).strip().splitlines()[-1]}", hint="docs/operators.md lists what can be lowered"
        ) from error
    module = relax.transform.CanonicalizeBindings()(module)
    module = relax.transform.DeadCodeElimination(["main"])(module)
    return to_channels_last(module)
