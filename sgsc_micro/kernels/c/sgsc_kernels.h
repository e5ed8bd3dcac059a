/* Micro-kernels that the generated loops call. Plain C, and SMLAD where the core has the DSP extension; both give the
 * same bytes. Needs <stdint.h> and <string.h> only. All sums wrap modulo 2^32: the compiler has proved that the end result
 * fits. */
#ifndef SGSC_KERNELS_H
#define SGSC_KERNELS_H

#include <stdint.h>
#include <string.h>

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

/* n zeros, widened; n is a multiple of 4. */
static inline void sgsc_zero(int8_t *row, int32_t step, int32_t n)
{
    for (int32_t i = 0; i < n; i += 2) {
        sgsc_store_pair(row, 0);
        row += step;
    }
}

/* Widens n neighbouring int8 activations to int16 minus zero, in lane order; a pair lies `step` bytes from the next. */
SGSC_KERNEL void sgsc_widen(int8_t *row, int32_t step, const int8_t *x, int32_t n, int32_t zero)
{
    int32_t i = 0;
#if SGSC_DSP
    const uint32_t minus_zero = ((uint32_t)-zero & 0xFFFFu) | ((uint32_t)-zero << 16);
    for (; i + 4 <= n; i += 4) {
        uint32_t four;
        memcpy(&four, x + i, sizeof four);
        const uint32_t even = (uint32_t)__sxtab16((int16x2_t)minus_zero, (int8x4_t)four);
        const uint32_t odd = (uint32_t)__sxtab16((int16x2_t)minus_zero, (int8x4_t)(four >> 8));
        sgsc_store_pair(row, even);
        sgsc_store_pair(row + step, odd);
        row += 2 * step;
    }
#else
    for (; i + 4 <= n; i += 4) {
        sgsc_store_pair(row, sgsc_pair(x[i] - zero, x[i + 2] - zero));
        sgsc_store_pair(row + step, sgsc_pair(x[i + 1] - zero, x[i + 3] - zero));
        row += 2 * step;
    }
#endif
    for (; i < n; i += 2) {
        sgsc_store_pair(row, sgsc_pair(x[i] - zero, i + 1 < n ? x[i + 1] - zero : 0));
        row += step;
    }
}

/* `taps` taps of `depth` channels each, from pixel first + t * step of an image row of `width` pixels of `channels` bytes.
 * What lies outside is `zero`. */
SGSC_KERNEL void sgsc_widen_taps(int8_t *row, int32_t row_step, const int8_t *x, int32_t first, int32_t taps, int32_t step,
                                 int32_t width, int32_t channels, int32_t depth, int32_t zero)
{
    if (step == 1 && depth == channels && first >= 0 && first + taps <= width) { /* neighbours */
        sgsc_widen(row, row_step, x + first * channels, taps * depth, zero);
        return;
    }
    for (int32_t t = 0; t < taps; ++t) {
        const int32_t pixel = first + t * step;
        if (pixel < 0 || pixel >= width) {
            sgsc_zero(row, row_step, depth);
        } else {
            sgsc_widen(row, row_step, x + pixel * channels, depth, zero);
        }
        row += depth / 2 * row_step;
    }
}

static inline void sgsc_fill(int8_t *to, int32_t n, int32_t value)
{
    memset(to, value, (size_t)n);
}

/* The same as they are, one after another. */
SGSC_KERNEL void sgsc_copy_taps(int8_t *to, const int8_t *x, int32_t first, int32_t taps, int32_t step, int32_t width,
                                int32_t channels, int32_t depth, int32_t zero)
{
    for (int32_t t = 0; t < taps; ++t) {
        const int32_t pixel = first + t * step;
        for (int32_t i = 0; i < depth; ++i) {
            *to++ = pixel < 0 || pixel >= width ? (int8_t)zero : x[pixel * channels + i];
        }
    }
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

/* a * b / 2^32, half up */
static inline int32_t sgsc_multiply_high_rounded(int32_t a, int32_t b)
{
#if SGSC_DSP
    int32_t high;
    __asm__("smmulr %0, %1, %2" : "=r"(high) : "r"(a), "r"(b));
    return high;
#else
    return (int32_t)(((int64_t)a * b + 0x80000000) >> 32);
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

/* How an accumulator becomes int8: in one rounding; in TFLite's two; in those with nothing left to shift; and in those with a
 * larger shift or accumulator. Doubled for the two in the middle. */
#define SGSC_SINGLE 0
#define SGSC_TFLITE 1
#define SGSC_TFLITE_HIGH 2
#define SGSC_TFLITE_LONG 3
#define SGSC_DOUBLES(FORM) ((FORM) == SGSC_TFLITE || (FORM) == SGSC_TFLITE_HIGH)

/* What is added before the shift, in 0..22: the zero point and, where there is a shift, half. */
static inline int32_t sgsc_short_offset(int32_t zero, int32_t shift)
{
    return (int32_t)(((uint32_t)zero << shift) + ((1u << shift) >> 1));
}

/* The first three; `form` and `clamps` are literals, the latter for an output that does not end where int8 does. */
static inline __attribute__((always_inline)) int8_t sgsc_requantise_short(int32_t acc, int32_t m, int32_t shift,
                                                                          int32_t offset, int32_t low, int32_t high,
                                                                          int32_t form, int32_t clamps)
{
    int32_t product;
    if (form == SGSC_SINGLE) {
        product = (int32_t)(((int64_t)acc * m) >> 32);
    } else {
        product = sgsc_multiply_high_rounded(acc, m);
    }
    if (form == SGSC_TFLITE) { /* half away from zero is half up of one less below zero */
        product += product >> 31;
    }
    const int32_t q = (product + offset) >> shift;
    return clamps ? sgsc_clamp(q, low, high) : (int8_t)sgsc_saturate(q);
}

#include "sgsc_dot.h"
#include "sgsc_weighted.h"
#include "sgsc_elementwise.h"
#include "sgsc_pool.h"

/* 1 / (1 + x) for x in [0, 1), both with 31 fraction bits: Newton's method on words with 29. */
static inline int32_t sgsc_reciprocal(int32_t x)
{
    const int32_t half = (int32_t)(((int64_t)x + INT32_MAX + 1) / 2);
    int32_t y = 1515870810 + sgsc_scale_twice(half, -1010580540, 0); /* 48/17 - 32/17 * half */
    for (int32_t i = 0; i < 3; ++i) {
        const int32_t error = (1 << 29) - sgsc_scale_twice(half, y, 0);
        y += sgsc_scale_twice(y, error, 0) * 4;
    }
    return y > INT32_MAX / 2 ? INT32_MAX : y * 2;
}

/* Softmax of n values to scale 1/256, zero point -128. table[d] is exp of a difference of d steps with 31 fraction bits,
 * 0 from `entries` on. n below 512. */
SGSC_KERNEL void sgsc_softmax(int8_t *y, const int8_t *x, int32_t n, const int32_t *table, int32_t entries)
{
    int32_t largest = INT8_MIN;
    for (int32_t i = 0; i < n; ++i) {
        largest = x[i] > largest ? x[i] : largest;
    }
    uint32_t sum = 0; /* 19 fraction bits */
    for (int32_t i = 0; i < n; ++i) {
        const int32_t difference = largest - x[i];
        if (difference < entries) {
            sum += ((uint32_t)table[difference] + (1u << 11)) >> 12;
        }
    }
    int32_t headroom = 0; /* of the sum, which is 1 at least */
    while (sum < 1u << 31) {
        sum <<= 1;
        ++headroom;
    }
    const int32_t reciprocal = sgsc_reciprocal((int32_t)(sum - (1u << 31)));
    for (int32_t i = 0; i < n; ++i) {
        const int32_t difference = largest - x[i];
        int32_t q = 0;
        if (difference < entries) {
            q = sgsc_scale_twice(reciprocal, table[difference], 35 - headroom);
        }
        q = q > UINT8_MAX ? UINT8_MAX : q;
        y[i] = (int8_t)(q + INT8_MIN);
    }
}

#endif
