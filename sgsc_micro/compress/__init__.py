"""The compressor: learned bits per output channel under a guard that never accepts a step that breaks P."""

from sgsc_micro.compress.graph import check_supported
from sgsc_micro.compress.guarded import CompressionResult, compress

__all__ = ["CompressionResult", "check_supported", "compress"]
