"""Reach what runs an image: link, emulated twins, checks of this machine."""

from sgsc_micro.device.emulator import emulate
from sgsc_micro.device.link import Device, Hello, LinkError, RunResult, TickUnit
from sgsc_micro.device.session import check_identity, connect

__all__ = ["Device", "Hello", "LinkError", "RunResult", "TickUnit", "check_identity", "connect", "emulate"]
