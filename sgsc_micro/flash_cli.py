"""``sgsc flash``: a build's image into a board."""

from __future__ import annotations

from pathlib import Path

import click

from sgsc_micro.artifacts import FIRMWARE, built_for, check_artifacts
from sgsc_micro.terminal import BUILD_FOLDER, console, reports_errors


@click.command()
@BUILD_FOLDER
@click.option("--port", help="The serial port of the board's link; without it, the only board that is plugged in.")
@click.option("--probe", help="The serial number of the board's debug probe.")
@click.option("--method", help="One of the target's flashers; without it, the first that is installed.")
@click.option("--rom-port", help="The serial port of the boot ROM, where it is not the link's.")
@reports_errors
def flash(folder: Path, port: str | None, probe: str | None, method: str | None, rom_port: str | None) -> None:
    """Write the image of the build in FOLDER to a board, and read its hash back over the link."""
    from sgsc_micro.device.boards import find_site
    from sgsc_micro.device.flash import flash as write
    from sgsc_micro.firmware import read_image

    target = built_for(folder)
    target.require_board()
    check_artifacts(folder, target)
    image, site = read_image(folder / FIRMWARE), find_site(target, port, probe)
    with console.status(f"{site}: flashing") as status:
        hello = write(
            target, image, site, lambda text: status.update(f"{site}: {text}"), method=method, rom_port=rom_port
        )
    console.print(f"{site} runs {folder / FIRMWARE}: {hello.image_bytes:,} bytes, build {hello.build_id[:12]}")
    console.print(f"next: sgsc verify {folder} --port {site.port}")
