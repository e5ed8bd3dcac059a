"""TIR to a C library that stands alone, and that library on the host."""

from sgsc_micro.codegen.host import SANITIZERS, HostLibrary, arranged, from_stored, read_manifest, to_stored
from sgsc_micro.codegen.library import stored_bytes, write_library

__all__ = [
    "SANITIZERS",
    "HostLibrary",
    "arranged",
    "from_stored",
    "read_manifest",
    "stored_bytes",
    "to_stored",
    "write_library",
]
