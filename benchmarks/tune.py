"""What the micro-kernels of weighted layers cost: counted on emulated cores, fitted, written into the package.

    python benchmarks/tune.py

Each micro-kernel is called alone (``tune.c``) with several numbers of channels and taps, in an image that is built as
any other, and its executed instructions are counted (``counter.py``). Lines through these counts, by instruction set
and goal of optimisation, are ``sgsc_micro/kernels/costs.json``; ``sgsc_micro/costs.py`` says what they mean. Two runs
write the same file: nothing here is a time. Prints how far the dot products' lines are from the counts.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.counter import Counter
from benchmarks.plain import MODEL_H
from sgsc_micro import storage
from sgsc_micro.codegen.library import CMAKE_CONFIG, KERNEL_HEADERS
from sgsc_micro.compiler_flags import Optimize
from sgsc_micro.costs import COSTS, SHAPES
from sgsc_micro.files import write_json, write_text
from sgsc_micro.firmware import build_firmware, tools
from sgsc_micro.kernels.lower import DOT_SHAPES
from sgsc_micro.kernels.pack import NO_WEIGHTS, OWN_LANES, PLANES, SHARED_LANES, head
from sgsc_micro.targets import load_target

CORES = {"c": "qemu-m3", "dsp": "qemu-m4"}
"""The target that an instruction set is counted on."""
PIXELS, PIXEL, WIDEN = range(3)
MOST_HEADS = 6
LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16, 18, 24, 36)
"""Words of a channel or of those that share lanes, in the least number that the micro-kernel takes."""
_PACKAGE = """
add_library(sgsc_model STATIC ${{CMAKE_CURRENT_LIST_DIR}}/model.c)
target_compile_options(sgsc_model PRIVATE {flags})
target_include_directories(sgsc_model PUBLIC ${{CMAKE_CURRENT_LIST_DIR}})
add_library(sgsc::model ALIAS sgsc_model)
"""

Test = tuple[int, ...]
"""What, channels, taps, rows, heads, and the heads: ``struct test``."""


def test_of(what: int, channels: int, taps: int, rows: int, heads: Iterable[int] = ()) -> Test:
    """A call of a micro-kernel; ``taps`` are those summed, or widened."""
    words = tuple(heads)
    return (what, channels, taps, rows, len(words), *words, *[0] * (MOST_HEADS - len(words)))


def built(instruction_set: str, optimize: Optimize, folder: Path) -> Counter:
    """The image that runs tests, with every micro-kernel in it."""
    target = load_target(CORES[instruction_set])
    size = 4 * (5 + MOST_HEADS)
    header = MODEL_H.format(inputs=size, outputs=size, arena=1024, hash=0, input=0, output=0)
    fields = dict.fromkeys(DOT_SHAPES, 0) | {"planes": 1}
    fields |= {name: sum(1 << bits for bits in shape.fields) for name, shape in SHAPES.items()}
    defines = [f"#define SGSC_OPTIMIZE {optimize.level}", *(f"#define SGSC_FIELDS_{s} {b}" for s, b in fields.items())]
    library = folder / "library"
    write_text(library / "model.h", header)
    write_text(library / "model.c", "\n".join([*defines, Path(__file__).with_suffix(".c").read_text(encoding="utf-8")]))
    write_text(library / "weights.c", "")  # there are none
    flags = " ".join([optimize.flag, *optimize.gcc_flags])
    write_text(library / CMAKE_CONFIG, _PACKAGE.format(flags=flags))
    for path in KERNEL_HEADERS:
        write_text(library / path.name, path.read_text(encoding="utf-8"))
    return Counter(target, build_firmware(target, library, folder / "firmware"), library)


def counted(counter: Counter, tests: list[Test]) -> dict[Test, int]:
    """Executed instructions of each test, and of what calls it."""
    inputs = np.array(tests, np.int64).astype(np.uint32).view(np.int8)
    return {test: run.total.instructions for test, run in zip(tests, counter.run(inputs), strict=True)}


def blocks(shape: str, bits: int, words: int, count: int) -> Test:
    """``count`` blocks of channels under one head, ``words`` of each channel or of those that share lanes."""
    kind = SHARED_LANES if SHAPES[shape].shared else OWN_LANES if words else NO_WEIGHTS
    channels = count * SHAPES[shape].channels
    rows = SHAPES[shape].rows
    return test_of(PIXELS if rows == 4 else PIXEL, channels, 0, rows, [head(kind, bits, words, channels)])


def split(shape: str, planes: int, words: int) -> Iterator[Test]:
    """One block and two of channels in ``planes`` planes of one bit, ``words`` each."""
    rows = SHAPES[shape].rows
    for count in (1, 2):
        channels = count * SHAPES[shape].channels
        heads = [head(PLANES, 0, planes, channels), *[1 | words << 8] * planes]
        yield test_of(PIXELS if rows == 4 else PIXEL, channels, 0, rows, heads)


def least_words(shape: str, bits: int) -> int:
    """Words that a micro-kernel takes at least; it takes multiples of these."""
    if shape == "1x4s":
        return 2 if bits < 4 else 4
    return storage.field_group(bits)[0]


def line(points: list[tuple[int, int]]) -> list[float]:
    """A + b * x by least squares through (x, y), exact to a thousandth."""
    x, y = np.array(points, np.float64).T
    a, b = np.linalg.lstsq(np.stack([np.ones_like(x), x], axis=1), y, rcond=None)[0]
    return [round(float(a), 3), round(float(b), 3)]


def deviation(points: list[tuple[int, int]]) -> float:
    """The largest of the line's, as a ratio of y."""
    a, b = line(points)
    return max(abs(a + b * x - y) / y for x, y in points)


def fitted(instruction_set: str, optimize: Optimize, folder: Path) -> tuple[dict[str, Any], float]:
    """What ``costs.json`` says of an instruction set and a goal, and the largest deviation of a dot product's line."""
    dots = {(shape, bits): least_words(shape, bits) for shape in SHAPES for bits in SHAPES[shape].fields}
    wanted = {
        *(blocks(s, b, n * least, count) for (s, b), least in dots.items() for n in LENGTHS for count in (1, 2)),
        *(blocks(shape, 0, 0, count) for shape in SHAPES if not SHAPES[shape].shared for count in (1, 2)),
        *(test for s in SHAPES if not SHAPES[s].shared for planes in (2, 3) for test in split(s, planes, 8)),
        *(test_of(what, 0, 2 * n, rows) for what, rows in ((PIXELS, 4), (PIXEL, 1)) for n in (0, *LENGTHS)),
        *(test_of(WIDEN, 0, taps, rows) for rows in (4, 1) for taps in (0, *(4 * n for n in LENGTHS))),
    }
    counter = built(instruction_set, optimize, folder)
    count, code = counted(counter, sorted(wanted)), counter.function_bytes
    off: list[float] = []

    def block(shape: str, bits: int, words: int) -> int:
        return count[blocks(shape, bits, words, 2)] - count[blocks(shape, bits, words, 1)]

    names = "blocks", "none", "planes", "call", "head", "sum", "widen", "code"
    result: dict[str, Any] = {name: {} for name in names}
    for (shape, bits), least in dots.items():
        points = [(n * least, block(shape, bits, n * least)) for n in LENGTHS]
        result["blocks"].setdefault(shape, {})[str(bits)] = line(points)
        off.append(deviation(points))
        result["code"].setdefault(shape, {})[str(bits)] = code[f"sgsc_dot{bits}_{shape}"]
    for shape in (s for s in SHAPES if not SHAPES[s].shared):
        result["none"][shape] = block(shape, 0, 0)
        two, three = (np.diff([count[test] for test in split(shape, planes, 8)])[0] for planes in (2, 3))
        own = block(shape, 1, 8)
        result["planes"][shape] = [int(two - 2 * (three - two)), int(three - two - own)]
    for what, rows, shape in ((PIXELS, 4, "4x1"), (PIXEL, 1, "1x1")):
        empty = count[test_of(what, 0, 0, rows)]
        nothing = count[test_of(WIDEN, 0, 0, rows)]
        result["call"][str(rows)] = empty - nothing
        result["head"][str(rows)] = count[blocks(shape, 8, 8, 1)] - empty - block(shape, 8, 8)
        sums = [(n, count[test_of(what, 0, 2 * n, rows)] - empty) for n in LENGTHS]
        result["sum"][str(rows)] = line(sums)
        widened = [(4 * n, count[test_of(WIDEN, 0, 4 * n, rows)] - nothing) for n in LENGTHS]
        result["widen"][str(rows)] = line(widened)
    return result, max(off)


def compiler() -> str:
    """The version of the compiler that the counts are of."""
    done = subprocess.run([tools.require(tools.CROSS_COMPILER), "-dumpfullversion"], capture_output=True, check=True)
    return f"{tools.CROSS_COMPILER} {done.stdout.decode().strip()}"


def main() -> None:
    """Count, fit, write."""
    sets: dict[str, Any] = {}
    for instruction_set, core in CORES.items():
        goals = {}
        for optimize in Optimize:
            with tempfile.TemporaryDirectory(prefix="sgsc-tune-") as folder:
                goals[optimize.value], off = fitted(instruction_set, optimize, Path(folder))
            print(f"{core}, {optimize}: at most {off:.1%} off")
        sets[instruction_set] = {"core": core, "goals": goals}
    write_json(COSTS, {"compiler": compiler(), "instruction_sets": sets})


if __name__ == "__main__":
    main()
