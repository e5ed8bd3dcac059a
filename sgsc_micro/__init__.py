"""sgsc_micro: trained networks into verified, bit-packed firmware for Cortex-M."""

__version__ = "0.1.0"
