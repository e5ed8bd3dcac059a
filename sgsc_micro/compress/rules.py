"""What decides whether an operator of the user's graph can be lowered, where its arguments alone do."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import fx

from sgsc_micro.compress.operators import BATCH_NORM, arguments_of, aten

IDENTITIES = {
    aten.clone.default,
    aten.contiguous.default,
    aten.dropout.default,
    aten.alias.default,
    aten.detach.default,
    aten.to.dtype,
    aten._to_copy.default,
}
"""What gives its input again, in eval mode."""


def follows(node: Any, wanted: set[Any]) -> bool:
    """Whether the node's input comes straight, and for this node alone, from one of the wanted operators."""
    source = node.args[0]
    while isinstance(source, fx.Node) and len(source.users) == 1:
        if source.target in wanted:
            return True
        if source.target not in {BATCH_NORM, operator.getitem, *IDENTITIES}:
            return False
        source = source.args[0]
    return False


def _max_pool_rule(node: Any) -> str:
    given = arguments_of(node)
    return "has ceil_mode or dilation" if given["ceil_mode"] or set(given["dilation"]) != {1} else ""


def _avg_pool_rule(node: Any) -> str:
    given = arguments_of(node)
    if given["ceil_mode"] or any(given["padding"]) or given["divisor_override"] is not None:
        return "has padding, ceil_mode or divisor_override"
    return ""


def _to_one_pixel(node: Any) -> str:
    extent = node.args[1]
    return "" if extent in (1, [1], [1, 1]) else f"to {extent} is not to one pixel"


def _mean_rule(node: Any) -> str:
    rank = len(node.args[0].meta["val"].shape)
    axes = sorted(axis % rank for axis in node.args[1])
    return "" if (rank, axes) == (4, [2, 3]) else "is not over height and width"


POOL_RULES: dict[Any, Callable[[Any], str]] = {
    aten.max_pool2d.default: _max_pool_rule,
    aten.avg_pool2d.default: _avg_pool_rule,
    aten.adaptive_avg_pool2d.default: _to_one_pixel,
    aten.mean.dim: _mean_rule,
}
"""Why a pooling cannot be lowered; nothing where it can."""
