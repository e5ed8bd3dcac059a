"""The stages that make what a user takes away: the C library, and the image for a board."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from sgsc_micro.compiler_flags import Objective, Optimize
from sgsc_micro.errors import SgscError
from sgsc_micro.files import data_dir, read_json, sha256_bytes, sha256_files, write_text
from sgsc_micro.stages import RECORD, altered_files, code_hash, record_hash, run_stage
from sgsc_micro.targets import BareMetalTarget, Target, ZephyrTarget, load_target

if TYPE_CHECKING:
    import numpy as np
    import tvm

LIBRARY, FIRMWARE = "library", "firmware"
_BUILT: TypeAdapter[BareMetalTarget | ZephyrTarget] = TypeAdapter(BareMetalTarget | ZephyrTarget)
LEAVES = ("blocking.py", "compiler_flags.py", "costs.py", "storage.py", "ir.py", "fixed_point.py")
"""The modules outside the rooms that decide what a library is."""


def make_library(
    folder: Path,
    target: Target,
    name: str,
    source: dict[str, Any],
    network: Callable[[], tvm.IRModule],
    optimize: Optimize,
    selftest: np.ndarray | None = None,
    before: Callable[[], None] = lambda: None,
) -> bool:
    """``folder/library`` out of a QDQ network that ``source`` identifies; ``selftest``: inputs [N, ...] of
    cases to embed. ``before`` runs where work is done.

    True where it was. Errors: ``SgscError`` from the passes and kernels, naming the layer.
    """
    from sgsc_micro.codegen import write_library, zephyr_files
    from sgsc_micro.passes import optimise

    def work(partial: Path) -> None:
        before()
        write_library(optimise(network(), board, objective), partial, name, selftest)

    board, objective = target.board, Objective(target.instruction_set, optimize)
    memories = board.model_dump(mode="json", include={"ram", "arena", "stack_bytes"}) if board else None
    code = code_hash("importers", "passes", "kernels", "codegen", *LEAVES)
    cases = selftest if selftest is None else f"{selftest.dtype} {selftest.shape} {sha256_bytes(selftest.tobytes())}"
    inputs = {
        **source,
        **asdict(objective),
        "selftest": cases,
        "memories": memories,
        "code": code,
        "zephyr": sha256_files(zephyr_files()),
        "tvm": version("apache-tvm"),
    }
    return run_stage(folder / LIBRARY, inputs, work)


def make_firmware(folder: Path, target: Target, before: Callable[[], None] = lambda: None) -> bool:
    """``folder/firmware`` out of ``folder/library``; nothing on a target that has none.

    Errors: ``SgscError`` where a tool is missing, or the network does not fit the board.
    """
    from sgsc_micro.firmware import build_firmware

    if target.board is None:
        return False
    templates = [path for path in sorted(data_dir("firmware_templates").rglob("*")) if path.is_file()]
    inputs = {
        "library": record_hash(folder / LIBRARY),
        "target": target.model_dump(mode="json"),
        "templates": sha256_files(templates),
        "code": code_hash("firmware", "zephyr.py"),
    }

    def work(partial: Path) -> None:
        before()
        build_firmware(target, folder / LIBRARY, partial)

    return run_stage(folder / FIRMWARE, inputs, work)


def write_readme(folder: Path, target: Target) -> None:
    """``folder/README.md``: how to use what was made."""
    from sgsc_micro.codegen import read_manifest, readme
    from sgsc_micro.firmware import read_image

    image = None
    if target.board is not None:
        sizes = read_image(folder / FIRMWARE).sizes
        image = {"target": target.name, "flash": sizes.flash_total, "ram": sizes.ram_total}
    write_text(folder / "README.md", readme(read_manifest(folder / LIBRARY), LIBRARY, image))


def built_for(folder: Path) -> Target:
    """The target of the build in ``folder``, as it was then: the host, where it has no firmware.

    Errors: ``SgscError`` where it is no build, or one of another version of this program.
    """
    if not (folder / LIBRARY).is_dir():
        raise SgscError(f"{folder}: no build here", hint="`sgsc build` and `sgsc compile` make one")
    if not (folder / FIRMWARE).is_dir():
        return load_target("host")
    try:
        return _BUILT.validate_python(read_json(folder / FIRMWARE / RECORD)["inputs"]["target"])
    except (KeyError, TypeError, ValidationError) as error:
        raise SgscError(
            f"{folder / FIRMWARE / RECORD}: does not say what it was built for", hint="build it again"
        ) from error


def check_artifacts(folder: Path, target: Target) -> None:
    """Errors: ``SgscError`` where library or image are missing, altered, not for ``target``, or not of each other."""
    check_unaltered(folder / LIBRARY)
    if target.board is None:
        return
    check_unaltered(folder / FIRMWARE)
    inputs = read_json(folder / FIRMWARE / RECORD)["inputs"]
    if inputs["target"] != target.model_dump(mode="json"):
        raise SgscError(
            f"{folder}: was not built for target {target.name}", hint=f"build it with --target {target.name}"
        )
    if inputs["library"] != record_hash(folder / LIBRARY):
        raise SgscError(f"{folder}: its parts are of different builds", hint="build it again")


def check_unaltered(stage: Path) -> None:
    """Errors: ``SgscError`` naming a file of a finished stage that is not as it was made."""
    if altered := altered_files(stage):
        raise SgscError(
            f"{stage / altered[0]}: missing, added or altered since it was built", hint="build the project again"
        )
