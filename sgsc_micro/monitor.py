"""Continuous verification: a device's flash and a rotating part of the preserved cases, checked on a schedule."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from sgsc_micro.device import Device, check_identity
from sgsc_micro.errors import SgscError
from sgsc_micro.firmware import FirmwareImage
from sgsc_micro.verify import Outcome, replay_on_device

LOG = "monitor.jsonl"


@dataclass(frozen=True)
class Schedule:
    """Rounds ``every`` seconds, from start to start; ``times`` of them, or without end; ``cases`` in each."""

    every: float
    times: int | None = None
    cases: int = 10

    def starts(self, pause: Callable[[float], None]) -> Iterator[int]:
        """The rounds' numbers, each when its time has come: one that is late does not delay those after it."""
        begin, number = time.monotonic(), 0
        while self.times is None or number < self.times:
            if (left := begin + number * self.every - time.monotonic()) > 0:
                pause(left)
            number += 1
            yield number

    def rows(self, number: int, of: int) -> np.ndarray:
        """The cases of round ``number`` (1, 2, ...) among ``of``: the next ones, and after the last the first again."""
        count = min(self.cases, of)
        rows: np.ndarray = (np.arange(count) + (number - 1) * count) % of
        return rows


class Log:
    """JSON lines at the end of a file; each is there before the next thing happens."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.round = 0
        """The one at work; 0 before the first."""

    def write(self, event: str, **fields: Any) -> None:
        """Add one line with the time, UTC, and the round."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time": now, "event": event, "round": self.round, **fields}) + "\n")

    @contextlib.contextmanager
    def failures(self) -> Iterator[None]:
        """``SgscError`` is in the log before it goes on."""
        try:
            yield
        except SgscError as error:
            self.write("failed", error=error.message, hint=error.hint)
            raise


@dataclass(frozen=True)
class Monitor:
    """A device that should run ``image``, and what it must answer: ``stored`` int8 [N, bytes] to ``expected``."""

    device: Device
    image: FirmwareImage
    ids: np.ndarray
    stored: np.ndarray
    expected: np.ndarray
    log: Log

    def run(
        self, schedule: Schedule, seen: Callable[[dict[str, Any]], None], pause: Callable[[float], None] = time.sleep
    ) -> None:
        """Check until the schedule ends; ``seen`` gets what is logged of each round that passed.

        Errors: ``SgscError`` at the first thing that is wrong: flash that has changed, an answer that is not the
        host's, a device that does not answer.
        """
        self.log.write(
            "start", port=self.device.name, build_id=self.image.build_id, firmware=self.image.sha256,
            cases=len(self.ids), every_seconds=schedule.every,
        )  # fmt: skip
        for number in schedule.starts(pause):
            self.log.round = number
            passed = self._check(schedule.rows(number, len(self.ids)))
            self.log.write("passed", **passed)
            seen(passed)
        self.log.write("end")

    def _check(self, rows: np.ndarray) -> dict[str, Any]:
        begin = time.monotonic()
        check_identity(self.device, self.image)
        outcomes = replay_on_device(self.device, self.stored[rows], lambda done: None)
        outputs = np.stack([outcome.output for outcome in outcomes])
        wrong = self.ids[rows][(outputs != self.expected[rows]).any(axis=1)].tolist()
        if wrong:
            check_identity(self.device, self.image)  # where it is the flash, that is what to say
            raise SgscError(
                f"{self.device.name}: the device drifts: {len(wrong)} of {len(rows)} cases are not bit-exact: "
                + ", ".join(map(str, wrong)),
                hint="the flash is as it was built: suspect RAM, supply or clock",
            )
        return {
            "cases": self.ids[rows].tolist(),
            "seconds": round(time.monotonic() - begin, 3),
            **_cost(outcomes),
        }


def _cost(outcomes: list[Outcome]) -> dict[str, Any]:
    costs = [outcome.cost for outcome in outcomes if outcome.cost is not None]
    stacks = [outcome.stack_bytes for outcome in outcomes if outcome.stack_bytes is not None]
    return {"unit": outcomes[0].unit, "cost": [min(costs), max(costs)], "stack_bytes": max(stacks)}
