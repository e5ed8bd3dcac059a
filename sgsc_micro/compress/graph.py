"""A torch.export program made ready for quantisers: checked, norms folded, layers as modules of one kind.

The user's class is never edited; what is trained is the exported graph.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import fx, nn

from sgsc_micro.compress.convert import Converter
from sgsc_micro.compress.heads import carry_biases_of_values
from sgsc_micro.compress.operators import EMBEDDING, layers_of
from sgsc_micro.errors import SgscError

__all__ = ["as_taken", "canonical", "check_supported", "check_tokens", "layers_of"]


def check_supported(program: torch.export.ExportedProgram) -> None:
    """Raise one SgscError that names every layer and operator that cannot be lowered, and every weight that is NaN."""
    canonical(program)


def as_taken(network: nn.Module, inputs: np.ndarray) -> torch.Tensor:
    """Cases [N, ...] as the user's module takes them: float32, or int64 tokens [N, T] where it embeds them."""
    embeds = inputs.ndim == 2 and any(isinstance(module, nn.Embedding) for module in network.modules())
    return torch.from_numpy(inputs.astype(np.int64 if embeds else np.float32))


def check_tokens(network: fx.GraphModule, inputs: np.ndarray, source: str) -> None:
    """Raise SgscError naming the ``source`` where inputs [N, T] are to be embedded and are no rows of the table."""
    for node in network.graph.nodes:
        if node.target == EMBEDDING:
            rows = len(network.get_submodule(node.args[0].target).values)
            strange = np.flatnonzero(((inputs != np.floor(inputs)) | (inputs < 0) | (inputs >= rows)).any(axis=1))
            if strange.size:
                raise SgscError(
                    f"{source}: row {strange[0]} holds {sorted(set(inputs[strange[0]].tolist()))}, and the embedding "
                    f"has the tokens 0 to {rows - 1}",
                    hint="make the text's tokens and the network's vocabulary the same",
                )


def canonical(program: torch.export.ExportedProgram) -> fx.GraphModule:
    """The float network as ``Layer`` modules and the operators between them, for any batch size.

    Batch and layer norms are folded into the layers beside them, a scale of attention scores into the query's layer,
    the bias of values into the layer behind the attention; tokens are taken as float32 [N, T]. Raises one SgscError
    that names every operator that cannot be lowered.
    """
    module = program.run_decompositions({}).module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    converter = Converter(module)
    network = converter.run()
    if network is None:
        raise SgscError(
            "the network cannot be lowered: " + "; ".join(converter.problems),
            hint="docs/operators.md lists what can be: convolutions, linear layers, norms, relu, relu6, gelu, add, "
            "max and average pooling, flatten, dropout, embeddings and attention",
        )
    carry_biases_of_values(network)
    return network
