"""What every command shares: the console, how a fault becomes a message, the options that several have."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from sgsc_micro.errors import SgscError
from sgsc_micro.files import data_dir
from sgsc_micro.project import FILE_NAME, example_dir

WIDTH_IN_A_FILE = 140

console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDTH_IN_A_FILE)


def reports_errors(command: Callable[..., None]) -> Callable[..., None]:
    """A fault of the user's or the machine's becomes one message and exit code 1, not a traceback."""

    @functools.wraps(command)
    def wrapped(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except SgscError as error:
            _complain(error.message, error.hint)
        except OSError as error:  # a disk that is full, a folder that may not be written
            _complain(str(error), "check the path, its permissions and the space on its disk")
        except KeyboardInterrupt:
            _complain("interrupted", "the same command again goes on where it was")

    return wrapped


def _complain(message: str, hint: str) -> None:
    click.secho(f"error: {message}", fg="red", err=True)
    if hint:
        click.echo(f"  try: {hint}", err=True)
    sys.exit(1)


PROJECT = click.option(
    "--project", "folder", type=click.Path(path_type=Path), help="The folder of sgsc.toml; this one by default."
)
BUILD_FOLDER = click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
OUTPUT = click.option(
    "--output", type=click.Path(path_type=Path), default=Path("build"), show_default=True, help="Where builds go."
)


def project_folder(folder: Path | None) -> Path:
    """The folder the user named, or this one; in the root of sgsc_micro's own checkout, the digits example."""
    if folder is not None:
        return folder
    example = example_dir("digits")
    if not Path(FILE_NAME).exists() and Path("examples").resolve() == data_dir("examples").resolve():
        console.print(f"no {FILE_NAME} here: building the digits example, {example.relative_to(Path.cwd())}")
        return example
    return Path()
