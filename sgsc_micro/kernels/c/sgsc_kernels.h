/* Micro-kernels that the generated loops call. Plain C, and SMLAD where the core has the DSP extension; both give the
 * same bytes. Needs <stdint.h> and <string.h> only.
 *
 * A row is int16 activations minus their zero point, in lane order: of each four neighbours (0, 2, 1, 3).
 * A word of a plane of b-bit fields holds 16 / b unsigned fields in each 16-bit lane; field j of both lanes meets the
 * j-th pair of the row. All sums wrap modulo 2^32: the compiler has proved that the end result fits. */
#ifndef SGSC_KERNELS_H
#define SGSC_KERNELS_H

#include <stdint.h>
#include <string.h>

/* Code size against speed: 0 size, 1 balanced, 2 speed. model.c says which. */
#ifndef SGSC_OPTIMIZE
#define SGSC_OPTIMIZE 1
#endif

#if defined(__ARM_FEATURE_DSP) && __ARM_FEATURE_DSP
#include <arm_acle.h>
#define SGSC_DSP 1
#else
#define SGSC_DSP 0
#endif

#define SGSC_KERNEL static __attribute__((noinline, unused))
#define SGSC_UNROLL _Pragma("GCC unroll 16")

static inline uint32_t sgsc_load_pair(const int8_t *row)
{
    uint32_t pair;
    memcpy(&pair, row, sizeof pair);
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

static inline int8_t *sgsc_store_lane(int8_t *row, int32_t value)
{
    const int16_t lane = (int16_t)value;
    memcpy(row, &lane, sizeof lane);
    return row + sizeof lane;
}

/* Widens n neighbouring int8 activations to int16 minus zero, in lane order. */
SGSC_KERNEL void sgsc_widen(int8_t *row, const int8_t *x, int32_t n, int32_t zero)
{
    int32_t i = 0;
#if SGSC_DSP
    const uint32_t minus_zero = ((uint32_t)-zero & 0xFFFFu) | ((uint32_t)-zero << 16);
    for (; i + 4 <= n; i += 4) {
        uint32_t four;
        memcpy(&four, x + i, sizeof four);
        const uint32_t even = (uint32_t)__sxtab16((int16x2_t)minus_zero, (int8x4_t)four);
        const uint32_t odd = (uint32_t)__sxtab16((int16x2_t)minus_zero, (int8x4_t)(four >> 8));
        memcpy(row, &even, sizeof even);
        memcpy(row + sizeof even, &odd, sizeof odd);
        row += sizeof even + sizeof odd;
    }
#else
    for (; i + 4 <= n; i += 4) {
        row = sgsc_store_lane(row, x[i] - zero);
        row = sgsc_store_lane(row, x[i + 2] - zero);
        row = sgsc_store_lane(row, x[i + 1] - zero);
        row = sgsc_store_lane(row, x[i + 3] - zero);
    }
#endif
    for (; i < n; ++i) {
        row = sgsc_store_lane(row, x[i] - zero);
    }
}

/* What widening padding gives: n zeros. */
static inline void sgsc_zero(int8_t *row, int32_t n)
{
    memset(row, 0, (size_t)n * sizeof(int16_t));
}

/* Widens `depth` channels at each tap of a kernel row: tap t lies over pixel first + t * step of an image row of `width`
 * pixels of `channels` bytes each, or outside, where it gives zeros. */
SGSC_KERNEL void sgsc_widen_taps(int8_t *row, const int8_t *x, int32_t first, int32_t taps, int32_t step, int32_t width,
                                 int32_t channels, int32_t depth, int32_t zero)
{
    if (step == 1 && depth == channels && depth % 4 == 0 && first >= 0 && first + taps <= width) { /* neighbours */
        sgsc_widen(row, x + first * channels, taps * depth, zero);
        return;
    }
    for (int32_t t = 0; t < taps; ++t) {
        const int32_t pixel = first + t * step;
        if (pixel < 0 || pixel >= width) {
            sgsc_zero(row, depth);
        } else {
            sgsc_widen(row, x + pixel * channels, depth, zero);
        }
        row += 2 * depth;
    }
}

/* The same of one channel: so little that a call would cost more. */
static inline void sgsc_widen_channel(int8_t *row, const int8_t *x, int32_t first, int32_t taps, int32_t step,
                                      int32_t width, int32_t channels, int32_t zero)
{
    for (int32_t t = 0; t < taps; ++t) {
        const int32_t pixel = first + t * step;
        row = sgsc_store_lane(row, pixel < 0 || pixel >= width ? 0 : x[pixel * channels] - zero);
    }
}

/* The sum of the first n activations of a row. */
static inline int32_t sgsc_sum(const int8_t *row, int32_t n)
{
    uint32_t sum = 0;
    int32_t i = 0;
    _Pragma("GCC unroll 4") for (; i + 2 <= n; i += 2) {
        sum = sgsc_smlad(sgsc_load_pair(row + 2 * i), 0x00010001u, sum);
    }
    if (i < n) {
        uint16_t last;
        memcpy(&last, row + 2 * i, sizeof last);
        sum = sgsc_smlad(last, 1, sum);
    }
    return (int32_t)sum;
}

/* The mask of a pair of `bits`-bit fields. gcc would split an AND with a shifted word in two if it knew the mask;
 * for 8 bits it has an instruction. */
static inline uint32_t sgsc_mask(int32_t bits)
{
    uint32_t mask = ((1u << bits) - 1u) * 0x00010001u;
#if SGSC_DSP
    if (bits != 8) {
        __asm__("" : "+r"(mask));
    }
#endif
    return mask;
}

/* The pair of fields at `shift`; those of 8 bits have an instruction of their own. */
static inline uint32_t sgsc_fields(uint32_t word, int32_t bits, int32_t shift, uint32_t mask)
{
    uint32_t pair = (word >> shift) & mask;
#if SGSC_DSP
    if (bits == 8 && shift == 8) {
        __asm__("uxtb16 %0, %1, ror #8" : "=r"(pair) : "r"(word));
    }
#else
    (void)bits;
#endif
    return pair;
}

/* The next word, or the next two, at a pointer that is a multiple of 4; gcc makes no post-indexed LDRD of its own. */
static inline const int8_t *sgsc_next(uint32_t *words, const int8_t *from, int32_t count)
{
#if SGSC_DSP
    if (count == 2) {
        __asm__("ldrd %0, %1, [%2], #8" : "=r"(words[0]), "=r"(words[1]), "+r"(from) : : "memory");
        return from;
    }
#endif
    memcpy(words, __builtin_assume_aligned(from, sizeof *words), (size_t)count * sizeof *words);
    return from + (size_t)count * sizeof *words;
}

/* acc[r * CHANNELS + c] += 2^shift * the dot product of row r and channel c's plane of unsigned BITS-bit fields. Rows lie
 * row_bytes apart; the channels' words are interleaved, `words` > 0 of each. A pair of activations serves all channels,
 * a pair of fields all rows; `step` pairs at once are what fits into registers. */
#define SGSC_DOT(BITS, ROWS, CHANNELS)                                                                                 \
    SGSC_KERNEL void sgsc_dot##BITS##_##ROWS##x##CHANNELS(int32_t *acc, const int8_t *row, int32_t row_bytes,          \
                                                          const uint32_t *plane, int32_t words, int32_t shift)         \
    {                                                                                                                  \
        enum { step = (BITS) == 8 && (CHANNELS) <= 2 ? 2 : 1 };                                                        \
        const uint32_t mask = sgsc_mask(BITS);                                                                         \
        uint32_t sums[(ROWS) * (CHANNELS)] = {0};                                                                      \
        const int8_t *next = (const int8_t *)plane, *const end = (const int8_t *)(plane + words * (CHANNELS));         \
        const int8_t *rows[2] = {row, row + row_bytes};                                                                \
        do {                                                                                                           \
            uint32_t word[CHANNELS];                                                                                   \
            SGSC_UNROLL for (int32_t c = 0; c < (CHANNELS); c += 2) {                                                  \
                next = sgsc_next(word + c, next, (CHANNELS) - c < 2 ? 1 : 2);                                          \
            }                                                                                                          \
            SGSC_UNROLL for (int32_t j = 0; j < 16 / (BITS); j += step) {                                              \
                uint32_t fields[step][CHANNELS];                                                                       \
                SGSC_UNROLL for (int32_t i = 0; i < step * (CHANNELS); ++i) {                                          \
                    const int32_t c = i / step, k = i % step;                                                          \
                    fields[k][c] = sgsc_fields(word[c], BITS, (BITS) * (j + k), mask);                                 \
                }                                                                                                      \
                SGSC_UNROLL for (int32_t r = 0; r < (ROWS); ++r) {                                                     \
                    uint32_t pair[step];                                                                               \
                    rows[r] = sgsc_next(pair, rows[r], step);                                                          \
                    SGSC_UNROLL for (int32_t i = 0; i < step * (CHANNELS); ++i) {                                      \
                        const int32_t c = i / step, k = i % step;                                                      \
                        sums[r * (CHANNELS) + c] = sgsc_smlad(fields[k][c], pair[k], sums[r * (CHANNELS) + c]);        \
                    }                                                                                                  \
                }                                                                                                      \
            }                                                                                                          \
        } while (next != end);                                                                                         \
        SGSC_UNROLL for (int32_t i = 0; i < (ROWS) * (CHANNELS); ++i) {                                                \
            acc[i] = (int32_t)((uint32_t)acc[i] + (sums[i] << shift));                                                 \
        }                                                                                                              \
    }
#define SGSC_DOTS(BITS)  \
    SGSC_DOT(BITS, 1, 1) \
    SGSC_DOT(BITS, 1, 2) \
    SGSC_DOT(BITS, 1, 4) \
    SGSC_DOT(BITS, 2, 1) \
    SGSC_DOT(BITS, 2, 2)
SGSC_DOTS(1)
SGSC_DOTS(2)
SGSC_DOTS(3)
SGSC_DOTS(4)
SGSC_DOTS(5)
SGSC_DOTS(8)
#undef SGSC_DOTS
#undef SGSC_DOT

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

/* The sum of one channel over a window of an image; strides in bytes. */
SGSC_KERNEL int32_t sgsc_window_sum(const int8_t *x, int32_t rows, int32_t columns, int32_t row_stride, int32_t column_stride)
{
    int32_t sum = 0;
    for (int32_t i = 0; i < rows; ++i) {
        for (int32_t j = 0; j < columns; ++j) {
            sum += x[i * row_stride + j * column_stride];
        }
    }
    return sum;
}

/* The largest value of one channel over a window of an image; strides in bytes. */
SGSC_KERNEL int8_t sgsc_window_max(const int8_t *x, int32_t rows, int32_t columns, int32_t row_stride, int32_t column_stride)
{
    int8_t largest = INT8_MIN;
    for (int32_t i = 0; i < rows; ++i) {
        for (int32_t j = 0; j < columns; ++j) {
            const int8_t value = x[i * row_stride + j * column_stride];
            largest = value > largest ? value : largest;
        }
    }
    return largest;
}

/* The sum of (a[i] - a_zero) * (b[i * stride] - b_zero). */
SGSC_KERNEL int32_t sgsc_dot_strided(const int8_t *a, const int8_t *b, int32_t n, int32_t stride, int32_t a_zero, int32_t b_zero)
{
    int32_t sum = 0;
    for (int32_t i = 0; i < n; ++i) {
        sum += (a[i] - a_zero) * (b[i * stride] - b_zero);
    }
    return sum;
}

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
