"""Flashing by the programs that others wrote for it: what they are told, and what their complaints mean."""

from __future__ import annotations

import dataclasses
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from sgsc_micro.device.boards import Site
from sgsc_micro.device.flash.base import PROTECTED, FlashError, Job, Progress
from sgsc_micro.device.probes import UDEV_HINT
from sgsc_micro.targets import OpenOcd, PyOcd, West

PROGRAM_SECONDS = 180.0
"""How long a program may take; it erases, writes and reads back at most a few megabytes."""


@dataclasses.dataclass(frozen=True)
class Complaint:
    """A pattern in a program's output, and what it means to a person."""

    pattern: str
    cause: str
    hint: str


def run_program(command: Sequence[str], where: str, complaints: Sequence[Complaint]) -> None:
    """Run ``command`` to its end. Errors: ``FlashError`` where it fails: the first complaint, or its last words."""
    program = command[2] if command[0] == sys.executable else command[0]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROGRAM_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise FlashError(
            f"{where}: {program} did not end within {PROGRAM_SECONDS:g} s", hint="plug the board out and in again"
        ) from error
    if done.returncode == 0:
        return
    said = (done.stdout + done.stderr).decode(errors="replace")
    for complaint in complaints:
        if re.search(complaint.pattern, said, re.IGNORECASE):
            raise FlashError(f"{where}: {complaint.cause}", hint=complaint.hint)
    words = [line for line in said.splitlines() if line.strip()] or ["it says nothing"]
    errors = [line for line in words if re.search(r"\b([Ee]rror|ERROR|[EC])\b", line)] or words
    raise FlashError(f"{where}: {program} fails: {errors[-1].strip()}", hint="run it by hand: " + shlex.join(command))


def _common(site: Site, unprotect: str) -> list[Complaint]:
    return [
        Complaint(
            r"LIBUSB_ERROR_ACCESS|insufficient permissions|permission denied|\[errno 13\]",
            "no permission to use the probe",
            UDEV_HINT,
        ),
        Complaint(
            r"LIBUSB_ERROR_BUSY|resource busy|unable to claim|already (in use|open)",
            "the probe is in use by another program",
            "end the debugger or IDE that holds it",
        ),
        Complaint(
            r"device protected|security bit set|memory (read|write) protected|RDP level [12]",
            PROTECTED,
            f"taking it off erases the chip: {unprotect}; then flash again",
        ),
        Complaint(
            r"exceeds flash bank|no flash bank found|no (valid )?flash (algorithm|region)|not (in|valid for) .*flash",
            "the image does not fit the chip's flash",
            "is it the chip that the target names?",
        ),
        Complaint(
            r"LIBUSB_ERROR_(NO_DEVICE|PIPE|IO)|disconnected|device not found during|usb.*(timeout|reset failed)",
            "the probe went away",
            "is it still plugged in? Plug it in again and flash again",
        ),
        Complaint(
            r"unable to connect to (the )?target|no ack|SWD.*(fault|error)|target .*not (halted|examined)|no cortex-m",
            "the probe is there, but the chip does not answer",
            "is the board powered, and are its SWD jumpers set? Hold RESET and try again",
        ),
        Complaint(
            r"checksum mismatch|verify failed|verification failed|contents differ",
            "what lies in the flash is not what was written",
            "flash again; if it stays so, the flash is worn out",
        ),
    ]


@dataclasses.dataclass(frozen=True)
class OpenOcdFlasher:
    """openocd through a debug probe."""

    settings: OpenOcd
    method: str = "openocd"

    def lacks(self) -> str | None:
        """See :class:`Flasher`."""
        return None if shutil.which("openocd") else "sudo apt install openocd"

    def reaches(self, site: Site) -> bool:
        """See :class:`Flasher`."""
        return site.probe is not None

    def write(self, job: Job, progress: Progress) -> None:
        """See :class:`Flasher`."""
        progress(f"openocd writes {job.image.sizes.flash_total:,} bytes")
        command = ["openocd", *(word for name in self.settings.config for word in ("-f", name))]
        # Before the chip's files: they may open the probe.
        command[3:3] = ["-c", f"adapter serial {job.site.probe}"]
        command += ["-c", f"program {{{job.binary}}} {job.origin:#x} verify reset exit"]
        absent = Complaint(
            r"open failed|no device found|serial mismatch",
            f"openocd finds no probe {job.site.probe}",
            "is it plugged in? `lsusb` lists what is",
        )
        complaints = [*_common(job.site, "openocd's `unlock 0` of the chip's flash driver"), absent]
        run_program(command, str(job.site), complaints)


@dataclasses.dataclass(frozen=True)
class PyOcdFlasher:
    """pyocd through a debug probe."""

    settings: PyOcd
    method: str = "pyocd"

    def lacks(self) -> str | None:
        """See :class:`Flasher`."""
        return None if find_spec("pyocd") else "pip install 'sgsc-micro[flash]' (pyocd)"

    def reaches(self, site: Site) -> bool:
        """See :class:`Flasher`."""
        return site.probe is not None

    def write(self, job: Job, progress: Progress) -> None:
        """See :class:`Flasher`."""
        progress(f"pyocd writes {job.image.sizes.flash_total:,} bytes")
        chip = self.settings.chip
        command = [sys.executable, "-m", "pyocd", "flash", "--no-wait", "--uid", str(job.site.probe), "--target", chip]
        command += ["--base-address", f"{job.origin:#x}", "--format", "bin", str(job.binary)]
        complaints = [
            Complaint(
                r"no connected debug probe|no target device available",
                f"pyocd finds no probe {job.site.probe}",
                "is it plugged in? `pyocd list` lists what is",
            ),
            Complaint(
                r"target type .* not recognized", f"pyocd does not know the chip {chip}", f"pyocd pack install {chip}"
            ),
            *_common(job.site, f"pyocd erase --mass --target {chip}"),
        ]
        run_program(command, str(job.site), complaints)


@dataclasses.dataclass(frozen=True)
class WestFlasher:
    """``west flash`` of the build folder that the image lies in."""

    settings: West
    method: str = "west"

    def lacks(self) -> str | None:
        """See :class:`Flasher`."""
        return None if shutil.which("west") else "pip install west"

    def reaches(self, site: Site) -> bool:
        """See :class:`Flasher`."""
        return True  # it finds its own way; what it needs is in Zephyr's board file

    def write(self, job: Job, progress: Progress) -> None:
        """See :class:`Flasher`."""
        folder = job.binary.parent
        if not (folder / "zephyr" / "runners.yaml").is_file():
            raise FlashError(f"{folder}: no build of Zephyr's", hint="build it with --target zephyr:BOARD")
        progress("west flashes what Zephyr built")
        command = ["west", "flash", "--skip-rebuild", "--build-dir", str(folder)]
        command += ["--runner", self.settings.runner] if self.settings.runner else []
        command += ["--dev-id", job.site.probe] if job.site.probe else []
        missing = Complaint(
            r"required program (\S+) not found", "west's runner lacks a program", "west flash --context names it"
        )
        run_program(command, str(job.site), [missing, *_common(job.site, "see the runner's own tool")])
