"""A target and a C library into a firmware image."""

from sgsc_micro.firmware.build import build_firmware
from sgsc_micro.firmware.image import FirmwareImage, Sizes, read_image

__all__ = ["FirmwareImage", "Sizes", "build_firmware", "read_image"]
