"""What a network takes on a target, as far as compression decides it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Footprint:
    """Of a lowered network. The names are those of ``[budget]``'s limits."""

    flash: int
    """Bytes of constants: packed weights with padding, widths, biases, shifts, tables."""
    ram: int
    """Bytes of the arena: activations, input, output and scratch."""
    instructions: int
    """Executed by the weighted layers for one inference, modelled (``costs.py``)."""
