"""A torch.export program made ready for quantisers: checked, norms folded, layers as modules of one kind.

The user's class is never edited; what is trained is the exported graph.
"""

from __future__ import annotations

import torch
from torch import fx

from sgsc_micro.compress.convert import Converter
from sgsc_micro.compress.operators import layers_of
from sgsc_micro.errors import SgscError

__all__ = ["canonical", "check_supported", "layers_of"]


def check_supported(program: torch.export.ExportedProgram) -> None:
    """Raise one SgscError that names every layer and operator that cannot be lowered, and every weight that is NaN."""
    canonical(program)


def canonical(program: torch.export.ExportedProgram) -> fx.GraphModule:
    """The float network as ``Layer`` modules and the operators between them, for any batch size.

    Batch and layer norms are folded into the layers beside them, a scale of attention scores into the query's layer;
    tokens are taken as float32 [N, T]. Raises one SgscError that names every operator that cannot be lowered.
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
    return network
