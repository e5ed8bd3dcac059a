"""Write an image into a board's flash: one interface, a module for each way of reaching the chip."""

from sgsc_micro.device.flash.base import Flasher, FlashError, Progress
from sgsc_micro.device.flash.write import choose_flasher, flash, flashers_of

__all__ = ["FlashError", "Flasher", "Progress", "choose_flasher", "flash", "flashers_of"]
