"""Where the values of a tensor in the user's graph lie in a tensor of the canonical one.

A user may split, turn and reshape what a layer gives in any way before attention or another layer reads it. Nothing is
matched by the operators' names: a ``View`` carries an index, which every such operator is run on, and what reads it
looks at the index alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import fx


class Unsupported(Exception):
    """Why one operator cannot be lowered; ends a sentence that begins with its name."""


@dataclass(eq=False)
class Weighted:
    """A convolution or linear layer that is not yet in the graph: norms, scales and heads may still change it."""

    name: str
    function: Callable[..., torch.Tensor]
    source: fx.Node  # of the canonical graph
    weight: torch.Tensor  # [C, taps...]
    bias: torch.Tensor  # [C]
    rest: tuple[object, ...]
    node: str  # of the user's graph
    emitted: dict[tuple[tuple[int, ...], float], fx.Node] = field(default_factory=dict)  # by rows and factor


@dataclass(frozen=True, eq=False)
class View:
    """``base.flatten()[index] * factor``, and along the base's last axis ``* gain + shift``, of a layer norm."""

    base: fx.Node | Weighted
    shape: torch.Size  # of the base, batch first
    index: torch.Tensor  # int64, of the user's shape
    factor: float = 1.0
    affine: tuple[torch.Tensor, torch.Tensor] | None = None  # gain and shift, [F]

    @staticmethod
    def whole(base: fx.Node | Weighted, shape: torch.Size) -> View:
        """All of the base, as it is."""
        return View(base, shape, torch.arange(shape.numel()).view(shape))

    def moved(self, move: Callable[[torch.Tensor], torch.Tensor]) -> View:
        """The view after an operator that only moves or chooses values."""
        return replace(self, index=move(self.index))

    def is_whole(self) -> bool:
        """Whether nothing has moved, apart from axes that were split or merged."""
        return torch.equal(self.index.flatten(), torch.arange(self.shape.numel()))

    def rows(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The base's row that each row of the view is, [R], and the base's column of each of its columns, [F]; None
        where the view is no such grid. A base [N, ..., F] has rows of F."""
        width = self.shape[-1]
        index = self.index.reshape(-1, self.index.shape[-1])  # [R, F]
        rows, columns = index[:, 0] // width, index[0] % width
        return (rows, columns) if torch.equal(index, rows[:, None] * width + columns) else None


def heads_of(view: View) -> tuple[torch.Tensor, int] | None:
    """The columns that each head reads of a base [N, T, F], [H * D], and how many heads there are; None where a view
    [N, H, T, D] (or [N * H, T, D]) is not made of heads."""
    if len(view.shape) != 3 or view.index.dim() not in (3, 4):
        return None
    n, t, width = view.shape
    if view.index.shape[-2] != t or view.index.numel() % (n * t * view.index.shape[-1]):
        return None
    index = view.index.reshape(n, -1, t, view.index.shape[-1])  # [N, H, T, D]
    heads = index.shape[1]
    by_rows = index.permute(0, 2, 1, 3).reshape(n * t, -1)  # [N * T, H * D]
    columns = by_rows[0]
    if int(columns.max()) >= width or not torch.equal(by_rows, torch.arange(n * t)[:, None] * width + columns):
        return None
    return columns, heads
