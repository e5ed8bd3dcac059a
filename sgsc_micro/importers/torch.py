"""``torch.export`` programs with ``quantized_decomposed`` nodes (PT2E's, and our compressor's) into Relax QDQ."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tvm
from tvm import relax
from tvm.relax.frontend.torch import from_exported_program

from sgsc_micro.errors import SgscError
from sgsc_micro.importers.channels_last import to_channels_last

if TYPE_CHECKING:
    import torch


def load_torch(path: Path) -> torch.export.ExportedProgram:
    """A quantised program as ``torch.export.save`` wrote it. Errors: ``SgscError`` naming the file."""
    import torch
    import torch.ao.quantization.fx._decomposed  # registers the operators that the file names

    try:
        return torch.export.load(path)
    except Exception as error:  # torch raises what zipfile, pickle and its own deserialiser like
        raise SgscError(f"{path}: not an exported program: {error}", hint="build the project again") from error


def from_torch(program: torch.export.ExportedProgram) -> tvm.IRModule:
    """Import a quantised ``ExportedProgram`` of batch 1.

    Errors: ``SgscError`` naming the operator where TVM's importer or the channels-last rewriting cannot take it.
    """
    try:
        module = from_exported_program(program, custom_convert_map=_quantisers(program), unwrap_unit_return_tuple=True)
    except (AssertionError, NotImplementedError, tvm.error.InternalError) as error:
        raise SgscError(f"torch importer: {error}", hint="see docs/operators.md for what can be lowered") from error
    module = relax.transform.CanonicalizeBindings()(module)
    module = relax.transform.DeadCodeElimination(["main"])(module)
    return to_channels_last(module)


Converter = Callable[[Any, Any], relax.Var]


def _quantisers(program: torch.export.ExportedProgram) -> dict[str, Converter]:
    """TVM's importer knows no quantize operators; these read scales and zero points as constants."""
    signature = program.graph_signature
    names = {**signature.inputs_to_buffers, **signature.inputs_to_parameters}
    constants = {**program.state_dict, **program.constants}

    def constant(node: Any) -> np.ndarray:
        return np.asarray(constants[names[node.name]].detach().numpy())

    def per_tensor(op: Callable[..., relax.Call], out_dtype: str) -> Converter:
        def convert(node: Any, importer: Any) -> relax.Var:
            x, scale, zero_point = node.args[:3]
            parameters = relax.const(np.float32(scale)), relax.const(np.int8(zero_point))
            return importer.block_builder.emit(op(importer.env[x], *parameters, axis=-1, out_dtype=out_dtype))

        return convert

    def weights(node: Any, importer: Any) -> relax.Var:
        q, scale, zero_point = (constant(argument) for argument in node.args[:3])
        if np.any(zero_point):
            raise SgscError(
                f"torch importer: {node.args[0].name} has a zero point other than 0", hint="use symmetric weights"
            )
        parameters = relax.const(scale.astype(np.float32)), relax.const(zero_point.astype(np.int8))
        return importer.block_builder.emit(relax.op.dequantize(relax.const(q), *parameters, axis=node.args[3]))

    return {
        "quantize_per_tensor.default": per_tensor(relax.op.quantize, "int8"),
        "dequantize_per_tensor.default": per_tensor(relax.op.dequantize, "float32"),
        "dequantize_per_channel.default": weights,
    }
