"""The emulated twin: QEMU booting the very bytes that a board would be flashed with."""

from __future__ import annotations

import contextlib
import io
import re
import selectors
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from sgsc_micro.device.link import LinkError
from sgsc_micro.firmware import tools
from sgsc_micro.targets import Emulator

START_SECONDS = 10.0
_PTY = re.compile(rb"char device redirected to (\S+)")


@contextlib.contextmanager
def emulate(twin: Emulator, binary: Path, origin: int, options: Sequence[str] = ()) -> Iterator[str]:
    """Boot ``binary``, loaded at address ``origin``, and yield the path of the pty that is its link.

    ``options`` are more of QEMU's own. It ends with the block. Raises SgscError if it is not installed, LinkError if it
    does not start.
    """
    command = [tools.require(tools.QEMU), "-M", twin.machine, "-display", "none", "-monitor", "none"]
    command += ["-icount", f"shift={twin.icount_shift}"]
    for name, value in twin.properties.items():
        command += ["-global", f"{name}={value}"]
    path = str(binary).replace(",", ",,")  # a comma ends an option
    command += ["-device", f"loader,file={path},addr={origin:#x},force-raw=on"]
    command += ["-serial", "null"] * twin.serial + ["-serial", "pty", *options]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors)
        try:
            assert isinstance(process.stdout, io.BufferedReader)
            port = _wait_for_port(process.stdout)
            if port is None:
                errors.seek(0)
                text = errors.read().decode(errors="replace").strip() or "it says nothing"
                raise LinkError(f"QEMU's {twin.machine} does not start: {text}")
            yield port
        finally:
            process.kill()
            process.wait()


def _wait_for_port(stdout: io.BufferedReader) -> str | None:
    """The pty that QEMU announces; None if it ends or stays silent."""
    deadline = time.monotonic() + START_SECONDS
    with selectors.DefaultSelector() as selector:
        selector.register(stdout, selectors.EVENT_READ)
        said = b""
        while (left := deadline - time.monotonic()) > 0:
            if not selector.select(left):
                break
            chunk = stdout.read1(4096)
            if not chunk:
                break
            said += chunk
            if found := _PTY.search(said):
                return found[1].decode()
    return None
