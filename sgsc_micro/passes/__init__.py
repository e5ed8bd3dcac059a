"""Relax to Relax: fuse quantised operators, fold constants, prune channels, group them by width, plan the arena."""

import tvm

from sgsc_micro.passes.fold import FoldConstants
from sgsc_micro.passes.fuse import FuseQuantizedOps
from sgsc_micro.passes.plan import PlanMemory
from sgsc_micro.passes.prune import PruneChannels
from sgsc_micro.passes.residual import FuseResidual
from sgsc_micro.passes.sort import SortChannels
from sgsc_micro.storage import Packing
from sgsc_micro.targets import Board

__all__ = [
    "FoldConstants",
    "FuseQuantizedOps",
    "FuseResidual",
    "PlanMemory",
    "PruneChannels",
    "SortChannels",
    "optimise",
]


def optimise(module: tvm.IRModule, board: Board | None = None, packing: Packing = Packing.LANES) -> tvm.IRModule:
    """A QDQ module through every pass, ready for :func:`sgsc_micro.kernels.lower`; its arena in ``board``'s memories,
    its weights packed for a target's instruction set.

    Errors: ``SgscError`` naming an operator that cannot be lowered, or a tensor that no memory has room for.
    """
    passes = [FuseQuantizedOps(), FoldConstants(), PruneChannels(), SortChannels(), FuseResidual()]
    return tvm.transform.Sequential([*passes, PlanMemory(board, packing)])(module)
