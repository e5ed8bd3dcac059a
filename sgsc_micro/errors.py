"""The one exception that reaches a user: what is wrong, where, and the next thing to try."""

from __future__ import annotations


class SgscError(Exception):
    """A fault in what the user gave us or in their machine, not in this program.

    The command line prints ``message``, then ``hint`` on a line of its own, and exits with code 1.

    >>> str(SgscError("targets: no target 'qemu-m5'", hint="did you mean qemu-m4?"))
    "targets: no target 'qemu-m5'; did you mean qemu-m4?"
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.message = message
        self.hint = hint
