/* Micro-kernels that the generated loops call. Plain C, and SMLAD where the core has the DSP extension; both give the
 * same bytes. Needs <stdint.h> and <string.h> only. All sums wrap modulo 2^32: the compiler has proved that the end result
 * fits. */
#ifndef SGSC_KERNELS_H
#define SGSC_KERNELS_H

#include <stdint.h>
#include <string.h>

/* Code size against speed: 0 size, 1 balanced, 2 speed. model.c says which. */
#ifndef SGSC_OPTIMIZE
#define SGSC_OPTIMIZE 1
#endif

#if defined(__ARM_ARCH)
#include <arm_acle.h>
#endif
#if defined(__ARM_FEATURE_DSP) && __ARM_FEATURE_DSP
#define SGSC_DSP 1
#else
#define SGSC_DSP 0
#endif

#define SGSC_KERNEL static __attribute__((noinline, unused))
#define SGSC_UNROLL _Pragma("GCC unroll 16")
#define SGSC_ROLLED _Pragma("GCC unroll 1") /* code would grow, for work that is done once */

static inline uint32_t sgsc_load_pair(const int8_t *row)
{
    uint32_t pair;
    memcpy(&pair, __builtin_assume_aligned(row, sizeof pair), sizeof pair);
    return pair;
}

/* sum + low lane * low lane + high lane * high lane */
static inline uint32_t sgsc_smlad(uint32_t a, uint32_t b, uint32_t sum)
{
#if SGSC_DSP
    return (uint32_t)__smlad((int16x2_t)a, (int16x2_t)b, (int32_t)sum);
#else
    const int32_t low = (int32_t)(int16_t)(uint16_t)a * (int16_t)(uint16_t)b;
    const int32_t high = (int32_t)(int16_t)(uint16_t)(a >> 16) * (int16_t)(uint16_t)(b >> 16);
    return sum + (uint32_t)low + (uint32_t)high;
#endif
}

static inline void sgsc_store_pair(int8_t *row, uint32_t pair)
{
    memcpy(__builtin_assume_aligned(row, sizeof pair), &pair, sizeof pair);
}

static inline uint32_t sgsc_pair(int32_t low, int32_t high)
{
    return ((uint32_t)low & 0xFFFFu) | ((uint32_t)high << 16);
}

/* acc + value * 2^shift and acc - value * 2^shift */
static inline int32_t sgsc_add_shifted(int32_t acc, int32_t value, int32_t shift)
{
    return (int32_t)((uint32_t)acc + ((uint32_t)value << shift));
}

static inline int32_t sgsc_sub_shifted(int32_t acc, int32_t value, int32_t shift)
{
    return (int32_t)((uint32_t)acc - ((uint32_t)value << shift));
}

static inline int8_t sgsc_clamp(int32_t q, int32_t low, int32_t high)
{
    q = q < low ? low : q;
    return (int8_t)(q > high ? high : q);
}

/* To the range of int8. */
static inline int32_t sgsc_saturate(int32_t q)
{
#if defined(__ARM_FEATURE_SAT) && __ARM_FEATURE_SAT
    int32_t saturated;
    __asm__("ssat %0, #8, %1" : "=r"(saturated) : "r"(q));
    return saturated;
#else
    return sgsc_clamp(q, INT8_MIN, INT8_MAX);
#endif
}

/* sum + a * b / 2^32, half up where `rounds`, else down. */
static inline int32_t sgsc_add_high(int32_t sum, int32_t a, int32_t b, int32_t rounds)
{
#if SGSC_DSP
    int32_t result;
    if (rounds != 0) {
        __asm__("smmlar %0, %1, %2, %3" : "=r"(result) : "r"(a), "r"(b), "r"(sum));
    } else {
        __asm__("smmla %0, %1, %2, %3" : "=r"(result) : "r"(a), "r"(b), "r"(sum));
    }
    return result;
#else
    return sum + (int32_t)(((int64_t)a * b + (rounds != 0 ? 0x80000000 : 0)) >> 32);
#endif
}

/* clamp(floor((acc * m + 2^(31 + shift)) / 2^(32 + shift)) + zero, low, high); shift in 1..22 */
SGSC_KERNEL int8_t sgsc_requantise(int32_t acc, int32_t m, int32_t shift, int32_t zero, int32_t low, int32_t high)
{
    const int32_t product = (int32_t)(((int64_t)acc * m) >> 32);
    const int32_t offset = (int32_t)(((uint32_t)zero << shift) + (1u << (shift - 1)));
    return sgsc_clamp((product + offset) >> shift, low, high);
}

/* acc * m / 2^(31 + right) in TFLite's two roundings: half up to the high word, then half away from zero; right in 0..31 */
static inline int32_t sgsc_scale_twice(int32_t acc, int32_t m, int32_t right)
{
    const int32_t high = (int32_t)(((int64_t)acc * m + (1 << 30)) >> 31);
    const int32_t mask = (int32_t)((1u << right) - 1u);
    return (high >> right) + ((high & mask) > (mask >> 1) + (high < 0) ? 1 : 0);
}

SGSC_KERNEL int8_t sgsc_requantise_twice(int32_t acc, int32_t m, int32_t right, int32_t zero, int32_t low, int32_t high)
{
    return sgsc_clamp(sgsc_scale_twice(acc, m, right) + zero, low, high);
}


/* value / count, half away from zero; count > 0 */
static inline int32_t sgsc_divide(int32_t value, int32_t count)
{
    return (value > 0 ? value + count / 2 : value - count / 2) / count;
}

#include "sgsc_rows.h"
#include "sgsc_dot.h"
#include "sgsc_weighted.h"
#include "sgsc_bytes.h"
#include "sgsc_helium.h"
#include "sgsc_planes.h"
#include "sgsc_depthwise.h"
#include "sgsc_elementwise.h"
#include "sgsc_pool.h"
#include "sgsc_normalise.h"

#endif
