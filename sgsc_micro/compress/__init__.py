"""The compressor: fewer bits per output channel, under a guard that never accepts a step that breaks P."""

from sgsc_micro.compress.graph import check_supported
from sgsc_micro.compress.guarded import CompressionResult, compress
from sgsc_micro.compress.posttraining import PostTrainingResult, compress_trained

__all__ = ["CompressionResult", "PostTrainingResult", "check_supported", "compress", "compress_trained"]
