"""What self-compression tries next: how hard it presses, where no bit may go any more, which channels it removes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch

from sgsc_micro.compress import loop, size
from sgsc_micro.compress.journal import Line
from sgsc_micro.compress.network import QuantisedNetwork
from sgsc_micro.compress.training import SETTLE, Proposal, Widths
from sgsc_micro.project import Budget, CompressionConfig, Strategy
from sgsc_micro.storage import MAX_BITS

HALF = 0.5  # of what is stored is what a step aims at, at most
BOLDER, TIMID = 1.4, 0.5  # exponents of that share after a step was accepted, and after one was not
PATIENCE = 6  # pressing ends after so many steps in a row that brought nothing
RESCUES = 3  # trainings at 8 bits before P counts as impossible
BELOW = 0.98  # of a budget is aimed at
FIRST_REMOVAL, LARGEST_REMOVAL = 1 / 16, 1 / 4  # of the channels that are left


def lost_cases(lines: list[Line]) -> dict[str, int]:
    """Preserved case -> how many of these steps were refused because of it."""
    return Counter(case for line in lines if not line["accepted"] for case in {*line["flips"], *line["diverged"]})


def next_proposal(
    lines: list[Line],
    accepted: QuantisedNetwork,
    config: CompressionConfig,
    budget: Budget,
    harms: Callable[[QuantisedNetwork], Widths],
) -> Proposal | None:
    """What to try after these journal lines, or None at the end; a resumed run goes the same way.

    ``harms`` says what the loss of each channel would do; removals are chosen by it.

    Raises SgscError naming the cases where P cannot be held even at 8 bits.
    """
    pressed = [line for line in lines if line["phase"] == loop.PRESS]
    aim, idle = HALF, 0
    for line in pressed:
        idle = 0 if line["accepted"] else idle + 1
        aim = max(HALF, aim ** (BOLDER if line["accepted"] else TIMID))
    floors, ceilings = _bounds(pressed, accepted, config.strategy)
    step, lost, last = len(lines), lost_cases(lines), next((line for line in reversed(lines) if line["accepted"]), None)
    if last is None:
        if step > RESCUES:
            raise loop.impossible(lines)
        return Proposal(step, loop.START, 0.0, floors, ceilings, lost=lost)
    footprint = loop.footprint_of(last)
    if len(pressed) < config.steps and idle < PATIENCE and not loop.is_enough(budget, footprint):
        limits = {name: BELOW * limit / getattr(footprint, name) for name, limit in budget.limits.items()}
        goals = {
            name: max(aim, limit) * size.share(accepted, name).item()
            for name, limit in (limits or {"flash": 0.0}).items()
        }
        if config.strategy is not Strategy.PRUNE:
            return Proposal(step, loop.PRESS, config.gamma, floors, ceilings, goals, lost=lost)
        if removed := _removal(pressed, accepted, harms(accepted), list(goals)):
            for name, channels in removed.items():
                floors[name][channels] = ceilings[name][channels] = 0
            return Proposal(step, loop.PRESS, 0.0, floors, ceilings, removed=removed, lost=lost)
    settled = sum(line["phase"] == SETTLE for line in lines)
    return Proposal(step, SETTLE, 0.0, floors, ceilings, lost=lost) if settled < config.settle else None


def _bounds(pressed: list[Line], accepted: QuantisedNetwork, strategy: Strategy) -> tuple[Widths, Widths]:
    """Between which widths may go: by the strategy, and by what steps that were refused have shown."""
    bits = {name: layer.quantiser.bits.detach() for name, layer in accepted.layers.items()}
    ceilings = {name: torch.full_like(widths, MAX_BITS) for name, widths in bits.items()}
    if strategy is Strategy.PRUNE:
        ceilings = {name: MAX_BITS * (widths > 0).float() for name, widths in bits.items()}
        return {name: widths.clone() for name, widths in ceilings.items()}, ceilings
    least = 1.0 if strategy is Strategy.BITS else 0.0
    floors = {name: torch.full_like(widths, least) for name, widths in bits.items()}
    for line in pressed:
        for name, channels in line["raised"].items():
            for channel, floor in channels.items():
                floors[name][int(channel)] = floor
    return floors, ceilings


def _removal(pressed: list[Line], accepted: QuantisedNetwork, harms: Widths, prices: list[str]) -> dict[str, list[int]]:
    """The channels and heads that promise least harm for what they cost; more channels after a step that was accepted,
    fewer after one that was not; what was refused alone is held."""
    held: set[frozenset[tuple[str, int]]] = set()
    count = sum(int((layer.quantiser.bits > 0).sum()) for layer in accepted.layers.values())
    wanted = max(1, int(FIRST_REMOVAL * count))
    for line in pressed:
        gone = frozenset((name, channel) for name, channels in line["removed"].items() for channel in channels)
        wanted = 2 * len(gone) if line["accepted"] else len(gone) // 2
        if not line["accepted"]:
            held.add(gone)
    wanted = min(max(wanted, 1), max(1, int(LARGEST_REMOVAL * count)))
    candidates = [removal for removal in size.removals(accepted, prices) if removal.channels not in held]
    candidates.sort(key=lambda it: (sum(float(harms[n][c]) for n, c in it.channels) / it.saved, sorted(it.channels)))
    chosen: set[tuple[str, int]] = set()
    for removal in candidates:
        if len(chosen | removal.channels) <= wanted:
            chosen |= removal.channels
    removed: dict[str, list[int]] = {}
    for name, channel in sorted(chosen):
        removed.setdefault(name, []).append(channel)
    return removed
