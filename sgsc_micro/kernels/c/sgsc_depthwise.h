/* Depthwise convolution out of planes and taps, as sgsc_planes.h has them: a channel's sums, then int8. */
#ifndef SGSC_DEPTHWISE_H
#define SGSC_DEPTHWISE_H

/* sum + one lane of a times one lane of b; low lanes or high ones. */
static inline uint32_t sgsc_smla(uint32_t a, int32_t a_high, uint32_t b, int32_t b_high, uint32_t sum)
{
#if SGSC_DSP
    const int32_t x = (int32_t)a, y = (int32_t)b, z = (int32_t)sum;
    if (a_high != 0) {
        return (uint32_t)(b_high != 0 ? __smlatt(x, y, z) : __smlatb(x, y, z));
    }
    return (uint32_t)(b_high != 0 ? __smlabt(x, y, z) : __smlabb(x, y, z));
#else
    const int32_t x = (int16_t)(uint16_t)(a >> (a_high * 16)), y = (int16_t)(uint16_t)(b >> (b_high * 16));
    return sum + (uint32_t)(x * y);
#endif
}

/* Without a sum. */
static inline uint32_t sgsc_smuad(uint32_t a, uint32_t b)
{
#if SGSC_DSP
    return (uint32_t)__smuad((int16x2_t)a, (int16x2_t)b);
#else
    return sgsc_smlad(a, b, 0);
#endif
}

/* The two words at a pointer that is a multiple of 4, which then moves on by `step` bytes, 4 or 8. */
static inline const int8_t *sgsc_next_two(uint32_t *words, const int8_t *from, int32_t step)
{
#if SGSC_DSP
    if (step == 4) {
        __asm__("ldrd %0, %1, [%2], #4" : "=r"(words[0]), "=r"(words[1]), "+r"(from) : : "memory");
    } else {
        __asm__("ldrd %0, %1, [%2], #8" : "=r"(words[0]), "=r"(words[1]), "+r"(from) : : "memory");
    }
    return from;
#else
    memcpy(words, __builtin_assume_aligned(from, sizeof *words), 2 * sizeof *words);
    return from + step;
#endif
}

/* Two words at a pointer that is a multiple of 4; the place behind them. */
static inline int8_t *sgsc_store_words(int8_t *to, uint32_t first, uint32_t second)
{
#if SGSC_DSP
    __asm__ volatile("strd %1, %2, [%0], #8" : "+r"(to) : "r"(first), "r"(second) : "memory");
    return to;
#else
    const uint32_t words[2] = {first, second};
    memcpy(__builtin_assume_aligned(to, sizeof first), words, sizeof words);
    return to + sizeof words;
#endif
}

/* How a kernel of tap_rows rows of tap_words pairs goes over a plane: its rows tap_bytes apart, from output to output
 * by row_bytes and by step. */
struct sgsc_window {
    int32_t row_bytes, tap_bytes, step, tap_rows, tap_words;
};

/* acc[y * width + x] = the sum of 3 x 3 taps times what lies under them, STRIDE lanes a step. Two outputs at a time:
 * acc, words, has room for one more than rows * width. */
#define SGSC_DEPTHWISE_3X3(STRIDE)                                                                                     \
    SGSC_KERNEL void sgsc_taps_3x3_##STRIDE(int8_t *acc, int32_t rows, int32_t width, const int8_t *plane,             \
                                            const int8_t *taps, const struct sgsc_window *window)                      \
    {                                                                                                                  \
        uint32_t tap01[3], tap12[3];                                                                                   \
        SGSC_UNROLL for (int32_t i = 0; i < 3; ++i) {                                                                  \
            tap01[i] = sgsc_load_word(taps + 8 * i);                                                                   \
            tap12[i] = tap01[i] >> 16 | sgsc_load_word(taps + 8 * i + 4) << 16;                                        \
        }                                                                                                              \
        do {                                                                                                           \
            const int8_t *from[3] = {plane, plane + window->tap_bytes, plane + 2 * window->tap_bytes};                 \
            int8_t *const end = acc + 4 * width;                                                                       \
            do {                                                                                                       \
                uint32_t first = 0, second = 0;                                                                        \
                SGSC_UNROLL for (int32_t i = 0; i < 3; ++i) {                                                          \
                    uint32_t x[2];                                                                                     \
                    from[i] = sgsc_next_two(x, from[i], 4 * (STRIDE));                                                 \
                    first = i == 0 ? sgsc_smuad(x[0], tap01[i]) : sgsc_smlad(x[0], tap01[i], first);                   \
                    first = sgsc_smla(x[1], 0, tap12[i], 1, first);                                                    \
                    if ((STRIDE) == 1) {                                                                               \
                        second = sgsc_smla(x[0], 1, tap01[i], 0, second);                                              \
                        second = sgsc_smlad(x[1], tap12[i], second);                                                   \
                    } else {                                                                                           \
                        second = i == 0 ? sgsc_smuad(x[1], tap01[i]) : sgsc_smlad(x[1], tap01[i], second);             \
                        second = sgsc_smla(sgsc_load_word(from[i]), 0, tap12[i], 1, second);                           \
                    }                                                                                                  \
                }                                                                                                      \
                acc = sgsc_store_words(acc, first, second);                                                            \
            } while (acc < end);                                                                                       \
            acc = end;                                                                                                 \
            plane += window->row_bytes;                                                                                \
        } while (--rows > 0);                                                                                          \
    }
SGSC_DEPTHWISE_3X3(1)
SGSC_DEPTHWISE_3X3(2)
#undef SGSC_DEPTHWISE_3X3

/* sgsc_smlad of a pair at a multiple of 2. */
static inline uint32_t sgsc_smlad_at(const int8_t *x, uint32_t taps, uint32_t sum)
{
#if SGSC_DSP
    return sgsc_smlad(sgsc_load_anywhere(x), taps, sum);
#else
    int16_t pair[2];
    memcpy(pair, __builtin_assume_aligned(x, sizeof *pair), sizeof pair);
    return sum + (uint32_t)(pair[0] * (int16_t)(uint16_t)taps) + (uint32_t)(pair[1] * (int16_t)(uint16_t)(taps >> 16));
#endif
}

/* The same of any kernel. */
SGSC_KERNEL void sgsc_taps_any(int8_t *acc, int32_t rows, int32_t width, const int8_t *plane, const int8_t *taps,
                               const struct sgsc_window *window)
{
    const int32_t step = window->step;
    do {
        const int8_t *under = plane;
        int8_t *const end = acc + 4 * width;
        do {
            const int8_t *row = under, *tap = taps;
            uint32_t first = 0, second = 0;
            for (int32_t left = window->tap_rows; left > 0; --left) {
                const int8_t *from = row;
                int32_t words = window->tap_words;
                do {
                    const uint32_t pair = sgsc_load_word(tap);
                    first = sgsc_smlad_at(from, pair, first);
                    second = sgsc_smlad_at(from + step, pair, second);
                    from += 4;
                    tap += 4;
                } while (--words > 0);
                row += window->tap_bytes;
            }
            acc = sgsc_store_words(acc, first, second);
            under += 2 * step;
        } while (acc < end);
        acc = end;
        plane += window->row_bytes;
    } while (--rows > 0);
}

/* One channel's accumulators to int8, `step` bytes apart and rows `row_step`; `out` may be where they lie. `twice` and
 * `clamps` as for sgsc_store. */
static inline __attribute__((always_inline)) void sgsc_store_plane(int8_t *out, int32_t row_step, int32_t step,
                                                                   const int8_t *acc, int32_t rows, int32_t width,
                                                                   int32_t channel, const struct sgsc_end *end,
                                                                   int32_t twice, int32_t clamps)
{
    const int32_t bias = sgsc_bias(end, channel), m = end->multipliers[channel * end->multiplier_step];
    const int32_t shift = end->shifts[channel * end->shift_step], is_short = shift >= 1 && shift <= 22;
    const int32_t is_up = shift < 1 && shift > -31;
    const int32_t offset = is_short ? sgsc_offset(end, shift) : 0, start = sgsc_add_shifted(0, bias, twice);
    if (row_step == width * step) {
        width *= rows;
        rows = 1;
    }
    for (int32_t y = 0; y < rows; ++y) {
        int8_t *next = out;
        int32_t left = width;
        for (; is_short && left >= 4; left -= 4) {
            uint32_t sums[4];
            acc = sgsc_next_two(sums, acc, 8);
            acc = sgsc_next_two(sums + 2, acc, 8);
            SGSC_UNROLL for (int32_t i = 0; i < 4; ++i) {
                const int32_t sum = sgsc_add_shifted(start, (int32_t)sums[i], twice);
                *next = (int8_t)sgsc_requantise_short(sum, m, shift, offset, end, twice, clamps);
                next += step;
            }
        }
        for (; is_up && left > 0; --left) {
            const int32_t sum = sgsc_add_shifted(bias, (int32_t)sgsc_load_word(acc), 0);
            acc += 4;
            *next = (int8_t)sgsc_requantise_up(sum, m, shift, end, twice, clamps);
            next += step;
        }
        for (; left > 0; --left) {
            const int32_t sum = sgsc_add_shifted(bias, (int32_t)sgsc_load_word(acc), 0);
            acc += 4;
            const int32_t scaled = sgsc_add_shifted(0, sum, twice);
            *next = (int8_t)(is_short ? sgsc_requantise_short(scaled, m, shift, offset, end, twice, clamps)
                                      : sgsc_requantise_any(sum, m, shift, end, twice));
            next += step;
        }
        out += row_step;
    }
}

/* Channels out of their planes, by turns: taps channel_taps bytes apart, planes plane_bytes. */
#define SGSC_DEPTHWISE(TAPS, NAME)                                                                                     \
    SGSC_KERNEL void sgsc_depthwise_##TAPS##_##NAME(                                                                   \
        int8_t *out, int32_t row_step, int32_t step, int32_t channels, int8_t *acc, int32_t rows, int32_t width,       \
        const int8_t *plane, int32_t plane_bytes, const int8_t *taps, int32_t channel_taps, int32_t row_bytes,         \
        int32_t tap_bytes, int32_t tap_step, int32_t tap_rows, int32_t tap_words, const void *bias,                    \
        int32_t bias_bytes, const int32_t *multipliers, int32_t multiplier_step, const int8_t *shifts,                 \
        int32_t shift_step, int32_t zero, int32_t low, int32_t high)                                                   \
    {                                                                                                                  \
        const struct sgsc_window window = {row_bytes, tap_bytes, tap_step, tap_rows, tap_words};                       \
        const struct sgsc_end end = {bias, multipliers, shifts, bias_bytes, multiplier_step, shift_step,               \
                                     zero, low,         high};                                                         \
        for (int32_t c = 0; c < channels; ++c) {                                                                       \
            sgsc_taps_##TAPS(acc, rows, width, plane, taps, &window);                                                  \
            sgsc_store_plane_##NAME(out + c, row_step, step, acc, rows, width, c, &end);                               \
            plane += plane_bytes;                                                                                      \
            taps += channel_taps;                                                                                      \
        }                                                                                                              \
    }
#define SGSC_DEPTHWISE_ENDS(NAME, TWICE, CLAMPS)                                                                       \
    SGSC_KERNEL void sgsc_store_plane_##NAME(int8_t *out, int32_t row_step, int32_t step, const int8_t *acc,           \
                                             int32_t rows, int32_t width, int32_t channel, const struct sgsc_end *end) \
    {                                                                                                                  \
        sgsc_store_plane(out, row_step, step, acc, rows, width, channel, end, TWICE, CLAMPS);                          \
    }                                                                                                                  \
    SGSC_DEPTHWISE(3x3_1, NAME)                                                                                        \
    SGSC_DEPTHWISE(3x3_2, NAME)                                                                                        \
    SGSC_DEPTHWISE(any, NAME)
SGSC_DEPTHWISE_ENDS(single, 0, 0)
SGSC_DEPTHWISE_ENDS(single_clamped, 0, 1)
SGSC_DEPTHWISE_ENDS(tflite, 1, 0)
SGSC_DEPTHWISE_ENDS(tflite_clamped, 1, 1)
#undef SGSC_DEPTHWISE_ENDS
#undef SGSC_DEPTHWISE

#endif
