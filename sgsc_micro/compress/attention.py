"""Attention as users write it: softmax(q k^T * scale, masked) v, in operators of its own or in torch's one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from sgsc_micro.compress.emitter import Emitter
from sgsc_micro.compress.operators import MASK, MATMUL, PERMUTE, RESHAPE, SOFTMAX, aten
from sgsc_micro.compress.views import Unsupported, View, Weighted, heads_of

MASKED = -1e4
"""A score this low has probability 0 whatever the others are."""


@dataclass(frozen=True, eq=False)
class Scores:
    """q k^T times ``factor``, minus infinity where ``mask`` [T, T] is."""

    queries: View  # [N, H, T, D]
    keys: View  # [N, H, T, D]
    factor: float = 1.0
    mask: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class Probabilities:
    """The softmax of scores."""

    node: fx.Node  # [N, H, T, T]


def matmul(emitter: Emitter, a: Any, b: Any) -> Scores | View:
    """q k^T, or probabilities times v."""
    if isinstance(a, View) and isinstance(b, View):
        keys = b.moved(lambda index: index.transpose(-2, -1))
        if a.index.dim() < 3 or heads_of(a) is None or heads_of(keys) is None:
            raise Unsupported("is not of queries and transposed keys [N, heads, T, D]")
        return Scores(a, keys)
    if isinstance(a, Probabilities) and isinstance(b, View):
        return _mixed(emitter, a, b)
    raise Unsupported("is not of queries and keys, or of probabilities and values")


def scaled_dot_product_attention(
    emitter: Emitter,
    q: View,
    k: View,
    v: View,
    mask: torch.Tensor | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> View:
    """torch's operator of that name."""
    if enable_gqa:
        raise Unsupported("has fewer keys than queries (enable_gqa)")
    scores = scaled(
        matmul(emitter, q, k.moved(lambda index: index.transpose(-2, -1))), scale or q.index.shape[-1] ** -0.5
    )
    if is_causal:
        length = q.index.shape[-2]
        mask = torch.ones(length, length).tril().bool()
    if mask is not None:
        scores = masked(scores, ~mask, -torch.inf) if mask.dtype == torch.bool else biased(scores, mask)
    return _mixed(emitter, softmax(emitter, scores, -1), v)


def scaled(scores: Any, factor: Any) -> Any:
    """Scores, or what they are made of, times a number."""
    if not isinstance(scores, Scores | View) or not isinstance(factor, int | float):
        raise Unsupported("is not of an attention's scores, queries or keys, and a number")
    return replace(scores, factor=scores.factor * factor)


def masked(scores: Any, mask: Any, value: Any) -> Scores:
    """``masked_fill`` with what is as good as minus infinity."""
    if not isinstance(scores, Scores) or not isinstance(mask, torch.Tensor) or float(value) > MASKED:
        raise Unsupported("is not of an attention's scores, a constant mask and minus infinity")
    length = scores.queries.index.shape[-2]
    square = mask.expand(*mask.shape[:-2], length, length).reshape(-1, length, length)
    if not (square == square[:1]).all():
        raise Unsupported("has a mask that differs from head to head")
    if square[0].all(1).any():
        raise Unsupported("masks a whole row")
    return replace(scores, mask=square[0] if scores.mask is None else scores.mask | square[0])


def biased(scores: Any, bias: torch.Tensor) -> Scores:
    """Scores and a constant of zeros and minus infinity."""
    mask = bias <= MASKED
    if (bias[~mask] != 0).any():
        raise Unsupported("adds to an attention's scores what is neither 0 nor minus infinity")
    return masked(scores, mask, -torch.inf)


def softmax(emitter: Emitter, scores: Any, axis: int, dtype: Any = None) -> Probabilities:
    """Over the last axis; the scale of the scores goes into the layer of the queries, or of the keys."""
    if not isinstance(scores, Scores) or axis not in (-1, scores.queries.index.dim() - 1):
        raise Unsupported("is not of an attention's scores, along the last axis")
    q, k = scores.queries, scores.keys
    of_queries = isinstance(q.base, Weighted)
    queries = emitter.heads(q, "query", scores.factor if of_queries else 1.0)
    keys = emitter.heads(k, "key", 1.0 if of_queries else scores.factor)
    n, heads, length, depth = queries.meta["val"].shape
    if (n, heads, length, depth) != tuple(keys.meta["val"].shape):
        raise Unsupported("has other heads, positions or features in the queries than in the keys")
    turned = emitter.call(aten.transpose.int, keys, -2, -1, shape=(n, heads, depth, length))
    node = emitter.call(MATMUL, queries, turned, shape=(n, heads, length, length))
    if scores.mask is not None and scores.mask.any():
        node = emitter.call(MASK, node, emitter.constant(scores.mask), -torch.inf, shape=node.meta["val"].shape)
    return Probabilities(emitter.call(SOFTMAX, node, -1, shape=node.meta["val"].shape))


def _mixed(emitter: Emitter, probabilities: Probabilities, v: View) -> View:
    """Probabilities times values; the base is [N, T, H * D], so that the user's own way back there leaves it whole."""
    values = emitter.heads(v, "value")
    n, heads, length, depth = values.meta["val"].shape
    mixed = emitter.call(MATMUL, probabilities.node, values, shape=values.meta["val"].shape)
    turned = emitter.call(PERMUTE, mixed, [0, 2, 1, 3], shape=(n, length, heads, depth))
    shape = torch.Size((n, length, heads * depth))
    joined = emitter.call(RESHAPE, turned, [-1, *shape[1:]], shape=shape)
    by_head = torch.arange(shape.numel()).view(n, length, heads, depth).permute(0, 2, 1, 3)
    return View(joined, shape, by_head.reshape(v.index.shape))
