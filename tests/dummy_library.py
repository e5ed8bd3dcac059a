"""A hand-written C library that keeps the contract of docs/architecture.md, so that firmware tests need no compiler.

Its output lies over its input, as a planned network's may.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
import struct
import zlib
from pathlib import Path

CRASH = b"CRSH"
OVERFLOW = b"DEEP"
SPIN = b"SPIN"
UNALIGNED = b"ODDW"
"""Inputs that start so make the network crash, overflow the stack, loop as often as the next four bytes say, or load a
word from an odd address. Cortex-M only: on the host they are inputs like others."""

_HEADER = """
#ifndef MODEL_H
#define MODEL_H
#include <stdint.h>
#define MODEL_INPUT_BYTES {size}
#define MODEL_OUTPUT_BYTES {size}
#define MODEL_ARENA_BYTES {arena}
#define MODEL_HASH "{hash}"
#define MODEL_CONSTANT_BYTES {constant_bytes}
#define MODEL_CONSTANT_CRC32 {crc32:#x}u
extern const struct model_constants model_constants;
#define MODEL_CONSTANTS ((const uint8_t *)&model_constants)
extern int8_t model_arena[MODEL_ARENA_BYTES];
#define MODEL_INPUT model_arena
#define MODEL_OUTPUT model_arena
void model_run(const int8_t *input, int8_t *output);
#endif
"""

_WEIGHTS = """
#include <stdint.h>
struct model_constants {{ uint32_t words[2]; int16_t halves[3]; int8_t bytes[{weights}]; }};
extern const struct model_constants model_constants;
const struct model_constants model_constants = {{{{4, 5}}, {{1, -2, 3}}, {{{values}}}}};
"""

_MODEL = """
#include "model.h"
#include <string.h>
struct model_constants {{ uint32_t words[2]; int16_t halves[3]; int8_t bytes[{weights}]; }};
extern const struct model_constants model_constants;
int8_t model_arena[MODEL_ARENA_BYTES] __attribute__((aligned(16)));
static __attribute__((noinline, unused)) int overflow(int depth)
{{
    volatile int8_t block[1000] = {{0}};
    return depth == 0 ? block[9] : overflow(depth - 1) + block[depth % 1000];
}}
void model_run(const int8_t *input, int8_t *output)
{{
#ifdef __arm__
    if (memcmp(input, "CRSH", 4) == 0)
        __asm volatile("udf #0");
    if (memcmp(input, "DEEP", 4) == 0)
        output[0] = (int8_t)overflow(100);
    if (memcmp(input, "ODDW", 4) == 0) {{
        const int8_t *address = (const int8_t *)((uintptr_t)model_arena | 1u);
        __asm volatile("ldr %0, [%0]" : "+l"(address) : : "memory");
    }}
    if (memcmp(input, "SPIN", 4) == 0) {{
        uint32_t times;
        memcpy(&times, input + 4, 4);
        __asm volatile(".syntax unified\\n 1: subs %0, #1\\n bne 1b" : "+l"(times) : : "cc");
    }}
#endif
    for (int i = 0; i < MODEL_OUTPUT_BYTES; ++i)
        output[i] = (int8_t)(input[i] ^ model_constants.bytes[i] ^ model_constants.halves[i % 3] ^
                             (int8_t)model_constants.words[i % 2]);
}}
"""


_PACKAGE = """
add_library(sgsc_model STATIC ${CMAKE_CURRENT_LIST_DIR}/model.c ${CMAKE_CURRENT_LIST_DIR}/weights.c)
target_compile_options(sgsc_model PRIVATE -O2)
target_include_directories(sgsc_model PUBLIC ${CMAKE_CURRENT_LIST_DIR})
add_library(sgsc::model ALIAS sgsc_model)
"""


@dataclasses.dataclass(frozen=True)
class DummyLibrary:
    """``output[i] = input[i] ^ constants``; all sizes in bytes."""

    folder: Path
    size: int
    arena: int
    values: bytes
    model_hash: str

    @property
    def weights(self) -> int:
        """``sizeof(struct model_constants)``, padded to whole words."""
        return len(self.constants)

    @property
    def constants(self) -> bytes:
        """``struct model_constants`` as it lies in memory."""
        packed = struct.pack("<2I3h", 4, 5, 1, -2, 3) + self.values
        return packed + bytes(-len(packed) % 4)

    def expected(self, data: bytes) -> bytes:
        """What ``model_run`` makes of ``data``."""
        return bytes(x ^ self.values[i] ^ (1, 0xFE, 3)[i % 3] ^ (4, 5)[i % 2] for i, x in enumerate(data))


def write_library(folder: Path, *, size: int = 40, arena: int = 777, weights: int = 1301) -> DummyLibrary:
    """Write the three sources and their CMake package into ``folder``, with ``weights`` bytes of random constants."""
    folder.mkdir(parents=True, exist_ok=True)
    values = random.Random(weights).randbytes(weights)
    model_hash = hashlib.sha256(values).hexdigest()
    library = DummyLibrary(folder, size, arena, values, model_hash)
    numbers_of = {"constant_bytes": library.weights, "crc32": zlib.crc32(library.constants)}
    (folder / "model.h").write_text(_HEADER.format(size=size, arena=arena, hash=model_hash, **numbers_of))
    numbers = ",".join(str(value - 256 if value > 127 else value) for value in values)
    (folder / "weights.c").write_text(_WEIGHTS.format(weights=weights, values=numbers))
    (folder / "model.c").write_text(_MODEL.format(weights=weights))
    (folder / "sgsc_model-config.cmake").write_text(_PACKAGE)
    return library
