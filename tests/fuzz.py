"""``make fuzz``: random quantised networks and damaged files, many more than the tests draw.

    python -m tests.fuzz --graphs 2000 --damaged 5000

A drawn network is compiled and run on the host under ASan and UBSan, and compared byte for byte with the NumPy
reference; one that is a TFLite file with tflite-micro as well; every 40th also on the emulated Cortex-M4. A file with
bytes flipped or cut off ends in a clear error or in the answer tflite-micro gives. A failure is drawn again with fewer
operators while it still fails, and kept with its seed in ``build/fuzz``.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import tvm
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from sgsc_micro import reference
from sgsc_micro.codegen import SANITIZERS, HostLibrary, to_stored, write_library
from sgsc_micro.compiler_flags import Objective, Optimize
from sgsc_micro.device import connect
from sgsc_micro.errors import SgscError
from sgsc_micro.firmware import build_firmware
from sgsc_micro.importers.tflite import import_model
from sgsc_micro.importers.tflite.model import read_model
from sgsc_micro.passes import optimise
from sgsc_micro.targets import Target, load_target
from sgsc_micro.verify import replay_on_device
from tests import graphs, tflite_graphs
from tests.tflite_oracles import tflite_micro_outputs

EMULATED = ("qemu-m0", "qemu-m3", "qemu-m4", "qemu-m7", "qemu-m33", "qemu-m55")
EMULATE_EVERY = 40
BASES = 60
"""Models that are damaged."""
SECONDS = 120
"""After which a network or a file counts as hanging."""
FLAGS = ("-O1", *SANITIZERS)


class Mismatch(Exception):
    """Two that should have given the same bytes did not."""


def reals_of(model: bytes, inputs: np.ndarray) -> np.ndarray:
    """What int8 ``inputs`` [N, ...] of a TFLite file stand for, so that quantising gives them again."""
    source = read_model(model, "model").input
    return ((inputs.astype(np.float64) - source.zero_point) * source.scale).astype(np.float32)


def check_module(module: tvm.IRModule, x: np.ndarray, *, emulate: bool = False) -> np.ndarray:
    """int8 [N, output bytes] for float32 ``x`` [N, ...]. Errors: ``Mismatch`` of reference, host and emulated core."""
    expected = reference.run_integers(module, x).reshape(len(x), -1)
    with tempfile.TemporaryDirectory(prefix="sgsc-fuzz-") as directory:
        folder = Path(directory)
        answers = {}
        for name in ("c", "dsp", "helium"):
            optimised = optimise(module, objective=Objective(name, Optimize.BALANCED))
            stored = to_stored(write_library(optimised, folder / name, "fuzz"), x)
            answers[f"host, for {name}"] = HostLibrary(folder / name, FLAGS).run(stored)
        if emulate:
            answers |= {name: _emulated(load_target(name), folder, stored) for name in EMULATED}
        for place, found in answers.items():
            if not np.array_equal(found, expected):
                raise Mismatch(f"{place} differs from the reference in {np.mean(found != expected):.1%} of the bytes")
    return expected


def _emulated(target: Target, folder: Path, stored: np.ndarray) -> np.ndarray:
    image = build_firmware(target, folder / target.instruction_set, folder / target.name)
    with connect(target, image) as device:
        return np.stack([outcome.output for outcome in replay_on_device(device, stored, lambda done: None)])


def check_graph(seed: int, kinds: Sequence[str], *, emulate: bool = False) -> None:
    """A drawn Relax graph, in either rounding."""
    check_module(*graphs.graph_of(seed, kinds), emulate=emulate)


def check_model(seed: int, kinds: Sequence[str], *, emulate: bool = False) -> None:
    """A drawn TFLite file, against tflite-micro too."""
    model, inputs = tflite_graphs.model_of(seed, kinds)
    found = check_module(import_model(model, "model"), reals_of(model, inputs), emulate=emulate)
    if not np.array_equal(found, tflite_micro_outputs(model, inputs).reshape(found.shape)):
        raise Mismatch("the reference differs from tflite-micro")


SOURCES: dict[str, tuple[Callable[[int], list[str]], Callable[..., None]]] = {
    "graph": (graphs.kinds_of, check_graph),
    "model": (tflite_graphs.kinds_of, check_model),
}
"""What is drawn: which operators for a seed, and the check of such a network."""


def damaged(seed: int) -> tuple[bytes, np.ndarray]:
    """A small model with some bytes flipped or its end cut off, and inputs for the model as it was."""
    rng = np.random.default_rng([seed, 2])
    model, inputs = tflite_graphs.random_model(seed % BASES)
    content = bytearray(model)
    if rng.random() < 0.15:
        return bytes(content[: int(rng.integers(len(content)))]), inputs
    for place in rng.integers(0, len(content), int(rng.integers(1, 5))):
        content[place] ^= 1 << int(rng.integers(8)) if rng.random() < 0.5 else int(rng.integers(1, 256))
    return bytes(content), inputs


def check_damaged(seed: int, oracle: Oracle) -> str:
    """What became of a damaged file: ``refused``, ``right``, or ``alone`` where tflite-micro has no answer itself."""
    content, inputs = damaged(seed)
    try:
        module = import_model(content, "damaged.tflite")
        shape = tuple(int(extent) for extent in module["main"].params[0].ty.shape)
        inputs = np.resize(inputs, (2, *shape[1:]))
        found = check_module(module, reals_of(content, inputs))
    except SgscError as error:
        if not error.message.strip():
            raise Mismatch("an error without words") from error
        return "refused"
    expected = oracle(content, inputs)
    if expected is None:
        return "alone"
    if not np.array_equal(found, expected.reshape(found.shape)):
        raise Mismatch("the answer differs from tflite-micro's")
    return "right"


class Oracle:
    """tflite-micro in a process of its own, which a damaged model may end."""

    def __init__(self) -> None:
        self._process: Any = None
        self._pipe: Any = None

    def __call__(self, model: bytes, inputs: np.ndarray) -> np.ndarray | None:
        """Its outputs, or None where it refused the model or ended."""
        if self._process is None or not self._process.is_alive():
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=_answer, args=(theirs,), daemon=True)
            self._process.start()
            theirs.close()
        try:
            self._pipe.send((model, inputs))
            return self._pipe.recv() if self._pipe.poll(SECONDS) else self._ended()
        except (EOFError, OSError):
            return self._ended()

    def _ended(self) -> None:
        self._process.kill()
        self._process.join()


def _answer(pipe: Any) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # tflite-micro says there why it refuses, or that it ends
    while True:
        model, inputs = pipe.recv()
        try:
            pipe.send(tflite_micro_outputs(model, inputs))
        except Exception:
            pipe.send(None)


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """What takes longer than SECONDS hangs."""

    def hang(*_: object) -> None:
        raise Mismatch(f"no answer in {SECONDS} s")

    signal.signal(signal.SIGALRM, hang)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)


@dataclass(frozen=True)
class Result:
    """``fault`` is empty where all was well."""

    source: str
    seed: int
    outcome: str
    fault: str = ""
    kinds: tuple[str, ...] = ()


def check_drawn(source: str, seed: int) -> Result:
    """One drawn network; a failing one with the fewest operators that still fail."""
    draw, check = SOURCES[source]
    kinds = draw(seed)

    def fault(some: Sequence[str]) -> str:
        try:
            with _limited():
                check(seed, some, emulate=seed % EMULATE_EVERY == 0)
        except SgscError as error:
            return f"refused: {error.message}"
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return ""

    found = fault(kinds)
    if not found:
        return Result(source, seed, "right")
    smaller = True
    while smaller:
        smaller = False
        for index in range(len(kinds)):
            fewer = [*kinds[:index], *kinds[index + 1 :]]
            if fewer and (other := fault(fewer)):
                kinds, found, smaller = fewer, other, True
                break
    return Result(source, seed, "wrong", found, tuple(kinds))


_oracle = Oracle()


def check_bytes(seed: int) -> Result:
    """One damaged file."""
    try:
        with _limited():
            return Result("damaged", seed, check_damaged(seed, _oracle))
    except Exception as error:
        return Result("damaged", seed, "wrong", f"{type(error).__name__}: {error}")


@click.command()
@click.option("--graphs", "networks", default=2000, show_default=True, help="Networks to draw, half of them TFLite.")
@click.option("--damaged", "files", default=5000, show_default=True, help="Files to damage.")
@click.option("--seed", default=0, show_default=True, help="The first seed.")
@click.option("--jobs", default=2, show_default=True, help="Processes.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("build/fuzz"), show_default=True)
def main(networks: int, files: int, seed: int, jobs: int, output: Path) -> None:
    """Draw networks, damage files, compare everything with everything."""
    output.mkdir(parents=True, exist_ok=True)
    tasks: list[Callable[[], Result]] = []
    for number in range(seed, seed + networks):
        tasks.append(partial(check_drawn, "model" if number % 2 else "graph", number))
    tasks += [partial(check_bytes, number) for number in range(seed, seed + files)]
    counts: Counter[str] = Counter()
    failures = []
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context) as pool, Progress(*columns) as progress:
        bar = progress.add_task("checked", total=len(tasks))
        for future in as_completed([pool.submit(task) for task in tasks]):
            result = future.result()
            counts[f"{result.source}: {result.outcome}"] += 1
            progress.advance(bar)
            if result.fault:
                failures.append(result)
                progress.console.print(f"{result.source} {result.seed} {' '.join(result.kinds)}: {result.fault[:300]}")
                with open(output / "failures.jsonl", "a", encoding="utf-8") as file:
                    file.write(json.dumps(result.__dict__) + "\n")
    for name, count in sorted(counts.items()):
        click.echo(f"{name:<20} {count:,}")
    click.echo(f"{sum(counts.values()) - len(failures)} passed, {len(failures)} failed")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
