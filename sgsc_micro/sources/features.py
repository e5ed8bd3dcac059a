"""How a float network sees cases: what its last layer is given, and where its last convolution looks."""

from __future__ import annotations

import numpy as np
import torch
from torch import fx

from sgsc_micro.compress.operators import CONV, layers_of

BATCH = 256


def penultimate(graph: fx.GraphModule, inputs: np.ndarray) -> np.ndarray:
    """What the last layer sees of cases float32 [N, ...], meant over positions where there are several: [N, F]."""
    last = list(layers_of(graph).values())[-1]
    seen: list[torch.Tensor] = []
    hook = last.register_forward_pre_hook(lambda _, arguments: seen.append(_pooled(arguments[0])))
    with torch.no_grad():
        for batch in torch.from_numpy(inputs).split(BATCH):
            graph(batch)
    hook.remove()
    return torch.cat(seen).numpy()


def grad_cam(graph: fx.GraphModule, inputs: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
    """Grad-CAM (1610.02391) of the label at the last convolution, each map of length 1 (or all 0): [N, H * W].

    The map is relu(sum over channels of alpha * A), alpha the mean over positions of d output[label] / d A. None where
    there is no convolution, or where labels are not [N].
    """
    convolutions = [layer for layer in layers_of(graph).values() if layer.function is CONV]
    if not convolutions or labels.ndim != 1:
        return None
    seen: list[torch.Tensor] = []
    hook = convolutions[-1].register_forward_hook(lambda _, __, output: seen.append(output))
    maps = []
    for batch, label in zip(torch.from_numpy(inputs).split(BATCH), torch.from_numpy(labels).split(BATCH), strict=True):
        seen.clear()
        score = graph(batch).gather(1, label[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, seen[0])  # [B, C, H, W]
        alpha = gradient.mean((2, 3), keepdim=True)
        heat = (alpha * seen[0].detach()).sum(1).relu().flatten(1)  # [B, H * W]
        maps.append(torch.nn.functional.normalize(heat))
    hook.remove()
    return torch.cat(maps).numpy()


def _pooled(values: torch.Tensor) -> torch.Tensor:
    """[N, F] as it is; of images [N, C, H, W] and sequences [N, T, F] the mean over positions."""
    if values.ndim == 4:
        return values.mean((2, 3))
    return values.mean(1) if values.ndim == 3 else values
