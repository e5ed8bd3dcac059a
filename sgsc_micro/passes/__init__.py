"""Relax to Relax: fuse quantised operators, fold constants, remove dead channels, group by width, plan the arena."""

import tvm

from sgsc_micro.passes.fold import FoldConstants
from sgsc_micro.passes.fuse import FuseQuantizedOps
from sgsc_micro.passes.plan import PlanMemory
from sgsc_micro.passes.prune import PruneChannels
from sgsc_micro.passes.sort import SortChannels

__all__ = ["FoldConstants", "FuseQuantizedOps", "PlanMemory", "PruneChannels", "SortChannels", "optimise"]


def optimise(module: tvm.IRModule) -> tvm.IRModule:
    """A QDQ module through every pass, ready for :func:`sgsc_micro.kernels.lower`."""
    passes = [FuseQuantizedOps(), FoldConstants(), PruneChannels(), SortChannels(), PlanMemory()]
    return tvm.transform.Sequential(passes)(module)
