"""TIR to a C library that stands alone, and that library on the host."""

from sgsc_micro.codegen.footprint import footprint
from sgsc_micro.codegen.host import SANITIZERS, WARNINGS, HostLibrary, read_manifest
from sgsc_micro.codegen.layout import arranged, from_stored, to_stored
from sgsc_micro.codegen.library import readme, write_library, zephyr_files

__all__ = [
    "SANITIZERS",
    "WARNINGS",
    "HostLibrary",
    "arranged",
    "footprint",
    "from_stored",
    "read_manifest",
    "readme",
    "to_stored",
    "write_library",
    "zephyr_files",
]
