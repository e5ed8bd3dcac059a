"""Compression, task by task: ``python -m benchmarks.compression --task mnist``."""
