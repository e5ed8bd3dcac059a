"""What a build of Zephyr's says where it fails, in a line for a person."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass

from sgsc_micro.errors import SgscError

_MODULES = "`west update` fetches Zephyr's modules; elsewhere ZEPHYR_MODULES names their folders"
_ERROR_LINES = 15


@dataclass(frozen=True)
class _Cause:
    pattern: str
    error: Callable[[re.Match[str], str], tuple[str, str]]
    """Of what was found and of all that was said: the cause, and what to do."""


def _unknown_board(found: re.Match[str], said: str) -> tuple[str, str]:
    """The configuration lists all boards that there are, indented."""
    known = re.findall(r"^ +([\w/@.-]+)$", said, re.MULTILINE)
    near = difflib.get_close_matches(found[1], known, n=3, cutoff=0.5)
    elsewhere = "`west boards` lists them; BOARD_ROOT names a folder with more"
    return "Zephyr has no such board", f"did you mean {' or '.join(near)}?" if near else elsewhere


def _overflow(found: re.Match[str], said: str) -> tuple[str, str]:
    return (
        f"the network does not fit: {found[1]} is {int(found[2]):,} bytes too small",
        "make the network smaller or choose a larger board",
    )


_CAUSES = (
    _Cause(r"No board named '(.*?)' found", _unknown_board),
    _Cause(r"region `(\w+)' overflowed by (\d+) bytes", _overflow),
    _Cause(
        r"No module named '([\w.]+)'",
        lambda found, said: (
            f"Zephyr's build needs the Python package {found[1].partition('.')[0]}",
            "pip install -r $ZEPHYR_BASE/scripts/requirements-base.txt",
        ),
    ),
    _Cause(
        r"undefined symbol SGSC_MODEL",
        lambda found, said: ("Zephyr's build finds no modules: west is not installed", f"pip install west. {_MODULES}"),
    ),
    _Cause(
        r"Nothing found at GNUARMEMB_TOOLCHAIN_PATH: '(.*?)'",
        lambda found, said: (f"GNUARMEMB_TOOLCHAIN_PATH: no toolchain in {found[1]}", "it is the folder above its bin"),
    ),
    _Cause(
        r'package configuration file provided by\s+"Zephyr-sdk"',
        lambda found, said: (
            "no toolchain: neither arm-none-eabi-gcc nor a Zephyr SDK is there",
            "sudo apt install gcc-arm-none-eabi, or name the SDK in ZEPHYR_SDK_INSTALL_DIR",
        ),
    ),
    _Cause(
        r"cmake/toolchain/(.+)/generic\.cmake\n",
        lambda found, said: (
            f"ZEPHYR_TOOLCHAIN_VARIANT: Zephyr has no toolchain {found[1]!r}",
            "gnuarmemb is arm-none-eabi-gcc, zephyr the SDK",
        ),
    ),
    _Cause(
        r"fatal error: (\S+): No such file or directory",
        lambda found, said: (f"{found[1]}, of one of Zephyr's modules, is not there", _MODULES),
    ),
)


def explain(board: str, said: str) -> SgscError:
    """The error for a build for ``board`` that failed after it had ``said`` all this."""
    for cause in _CAUSES:
        if found := re.search(cause.pattern, said):
            message, hint = cause.error(found, said)
            return SgscError(f"zephyr:{board}: {message}", hint=hint)
    lines = said.strip().splitlines()
    named = [line for line in lines if re.search(r"error:|Error|undefined reference", line)]
    return SgscError(
        f"firmware for zephyr:{board} does not build:\n" + "\n".join(named[:_ERROR_LINES] or lines[-_ERROR_LINES:])
    )
