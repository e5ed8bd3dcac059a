"""Which channels did it: those that a refused step changed most to the harm of the cases it broke."""

from __future__ import annotations

import numpy as np
import torch

from sgsc_micro.compress.loop import Raised
from sgsc_micro.compress.network import QuantisedNetwork
from sgsc_micro.compress.training import Proposal
from sgsc_micro.preserve import NO_LABEL, CaseSet, Verdict
from sgsc_micro.storage import MAX_BITS

BLAME = 0.5  # the channels that did so much of the harm get a floor


def raised_floors(
    candidate: QuantisedNetwork, accepted: QuantisedNetwork, cases: CaseSet, verdict: Verdict, proposal: Proposal
) -> Raised:
    """Layer -> channel -> the width below which it may no longer go: the channels that did most of the harm.

    Harm is, to first order, how far a channel's change of weights lowered the margins of the decisions that flipped and
    of cases that diverged, or of all where none did but a mean fell: -sum over decisions of their case's weight times
    d margin / d q (q_candidate - q_accepted).
    """
    counted = cases.labels != NO_LABEL  # [N] or [N, T]
    broken = verdict.flipped.copy()
    broken[np.isin(cases.ids, verdict.diverged)] = True
    broken = broken & counted if (broken & counted).any() else counted
    rows = np.flatnonzero(broken.reshape(len(cases), -1).any(axis=1))
    changes: dict[str, torch.Tensor] = {}  # layer -> the candidate's quantised weights

    hooks = [
        layer.quantiser.register_forward_hook(lambda _, __, output, name=name: changes.__setitem__(name, output))
        for name, layer in candidate.layers.items()
    ]
    logits = candidate(torch.from_numpy(cases.inputs[rows]))  # [V, classes] or [V, T, classes]
    for hook in hooks:
        hook.remove()
    labels = torch.from_numpy(cases.labels[rows])  # [V] or [V, T]
    known = labels.clamp(min=0)[..., None]
    margin = logits.gather(-1, known)[..., 0] - logits.scatter(-1, known, -torch.inf).amax(-1)  # as labels
    weight = torch.from_numpy(cases.weights[rows]).view(-1, *[1] * (labels.dim() - 1)) * torch.from_numpy(broken[rows])
    gradients = torch.autograd.grad((margin * weight).sum(), list(changes.values()))
    harm: list[tuple[float, str, int]] = []
    for (name, weights), gradient in zip(changes.items(), gradients, strict=True):
        layer = accepted.layers[name]
        change = weights.detach() - layer.quantiser(layer.weight).detach()  # [C, taps...]
        lost = -(gradient * change).flatten(1).sum(1)  # [C]
        harm += [(float(loss), name, channel) for channel, loss in enumerate(lost) if loss > 0]
    harm.sort(reverse=True)
    left = BLAME * sum(loss for loss, _, _ in harm)
    widths = accepted.widths()
    raised: Raised = {}
    for loss, name, channel in harm:
        if left <= 0:
            break
        left -= loss
        floor = max(widths[name][channel], int(proposal.floors[name][channel]) + 1)
        raised.setdefault(name, {})[str(channel)] = min(MAX_BITS, floor)
    return raised
