"""The command line: ``sgsc``, or ``python -m sgsc_micro``."""

from __future__ import annotations

import shutil
import signal
import sys
import warnings
from pathlib import Path

import click

from sgsc_micro import __version__
from sgsc_micro.boards_cli import rollout, verify
from sgsc_micro.compilation import STAGES as COMPILATION
from sgsc_micro.compilation import Compilation
from sgsc_micro.compiler_flags import Optimize
from sgsc_micro.errors import SgscError
from sgsc_micro.files import locked
from sgsc_micro.flash_cli import flash
from sgsc_micro.monitor_cli import monitor
from sgsc_micro.pipeline import STAGES, Build
from sgsc_micro.preserve_cli import preserve
from sgsc_micro.project import FILE_NAME, example_dir, load_project
from sgsc_micro.show import Screen, show_certificate, show_compiled
from sgsc_micro.targets import load_target
from sgsc_micro.targets_cli import doctor, targets
from sgsc_micro.terminal import BUILD_FOLDER, OUTPUT, PROJECT, console, project_folder, reports_errors

_PORT = click.option("--port", help="The serial port of a real board; without it, the emulated twin.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sgsc")
def main() -> None:
    """Trained networks into verified, bit-packed firmware for Cortex-M."""
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)
    )  # so that emulators and partial files go, too
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)  # torch, of its own code


for command in (preserve, monitor, targets, doctor, flash, verify, rollout):
    main.add_command(command)


@main.command()
@PROJECT
@click.option("--target", "target_name", required=True, help="A name of `sgsc targets`, or a .toml file of your own.")
@OUTPUT
@click.option("--until", type=click.Choice(STAGES), default=STAGES[-1], help="Stop after this stage.")
@click.option("--resume", is_flag=True, help="Only go on with what was begun; refuse to start anew.")
@_PORT
@reports_errors
def build(folder: Path | None, target_name: str, output: Path, until: str, resume: bool, port: str | None) -> None:
    """Compress under the guard, compile to C, build firmware, verify it, certify it.

    A build that was interrupted goes on where it was; stages whose inputs have not changed are not run again.
    """
    target = load_target(target_name)
    project = load_project(project_folder(folder))
    with Screen(console, STAGES[: STAGES.index(until) + 1]) as screen:
        result = Build(project, target, target_name, output, screen.update, resume)
        with locked(result.shared), locked(result.folder):
            certificate = result.run(until, port)
    if certificate:
        show_certificate(console, certificate, result.folder)
        sys.exit(certificate["verdict"] != "passed")


@main.command(name="compile")
@click.argument("model", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--target", "target_name", required=True, help="A name of `sgsc targets`, or a .toml file of your own.")
@click.option("--output", "-o", "folder", type=click.Path(path_type=Path), required=True, help="Where it goes.")
@click.option(
    "--optimize",
    type=click.Choice([choice.value for choice in Optimize]),
    default=Optimize.BALANCED.value,
    show_default=True,
    help="What the code favours.",
)
@click.option(
    "--selftest", type=click.Path(path_type=Path), help=".npy of inputs [N, ...] to embed for model_selftest()."
)
@reports_errors
def compile_(model: Path, target_name: str, folder: Path, optimize: str, selftest: Path | None) -> None:
    """Compile a quantised MODEL (.tflite, .onnx, .pt2) to C and firmware, as it is: no compression, no certificate."""
    target = load_target(target_name)
    with Screen(console, COMPILATION) as screen, locked(folder):
        Compilation(model, target, folder, screen.update, Optimize(optimize), selftest).run()
    show_compiled(console, folder)


@main.command()
@BUILD_FOLDER
@click.option("--on", "target_name", default="host", show_default=True, help="host, or the target it was built for.")
@click.option("--input", "source", type=click.Path(path_type=Path), required=True, help=".npy of inputs [N, ...].")
@click.option("--output", "sink", type=click.Path(path_type=Path), required=True, help=".npy for outputs [N, ...].")
@_PORT
@reports_errors
def run(folder: Path, target_name: str, source: Path, sink: Path, port: str | None) -> None:
    """Run the network in FOLDER on a batch: float32 in, float32 out; or its own int8 in, its own int8 out."""
    from sgsc_micro.batch import run_batch

    count = run_batch(folder, load_target(target_name), source, sink, port)
    console.print(f"{count} outputs in {sink}")


@main.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path())
@reports_errors
def init(folder: Path) -> None:
    """Write a project to start from into FOLDER: the digits example with its network and training script."""
    if (folder / FILE_NAME).exists():
        raise SgscError(f"{folder / FILE_NAME}: there already", hint="choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(example_dir("digits").iterdir()):
        if path.suffix in (".py", ".toml"):
            if (folder / path.name).exists():
                raise SgscError(f"{folder / path.name}: there already", hint="choose an empty folder")
            shutil.copy(path, folder / path.name)
    console.print(f"wrote {folder / FILE_NAME}; next: sgsc build --project {folder} --target qemu-m4")
