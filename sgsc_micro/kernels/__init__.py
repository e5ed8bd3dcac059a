"""TIR kernels: one file per operator family, over the micro-kernels of c/sgsc_kernels.h."""

from sgsc_micro.kernels.lower import Lowered, lower

__all__ = ["Lowered", "lower"]
