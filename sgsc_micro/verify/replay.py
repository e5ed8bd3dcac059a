"""Every preserved case through the network, on a device or on the host."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sgsc_micro.codegen import HostLibrary
from sgsc_micro.device import Device


@dataclass(frozen=True)
class Outcome:
    """One case: int8 output [bytes]; what it cost and how deep the stack went, where that was measured."""

    output: np.ndarray
    cost: int | None = None
    unit: str | None = None
    stack_bytes: int | None = None


def replay_on_device(device: Device, inputs: np.ndarray, progress: Callable[[int], None]) -> list[Outcome]:
    """int8 ``inputs`` [N, bytes] as stored; ``progress`` gets the number of cases done.

    Errors: ``LinkError`` where the device or the line fails for good; never a wrong answer.
    """
    outcomes = []
    for case, row in enumerate(inputs):
        result = device.run(case, row.tobytes())
        output = np.frombuffer(result.output, np.int8)
        outcomes.append(Outcome(output, result.count, result.unit, result.stack_bytes))
        progress(case + 1)
    return outcomes


def replay_on_host(library: HostLibrary, inputs: np.ndarray) -> list[Outcome]:
    """int8 ``inputs`` [N, bytes] as stored, through the library compiled for this machine."""
    return [Outcome(output) for output in library.run(inputs)]
