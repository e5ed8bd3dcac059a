/* Sums and maxima over a window of an image, of neighbouring channels; products of activations. Of the channels, `fours`
 * times four are done together and `ones` alone: where no layer has any of the latter, the compiler sees it. */
#ifndef SGSC_POOL_H
#define SGSC_POOL_H

/* Adds four neighbouring channels of `n` pixels to their sums. */
static inline __attribute__((always_inline)) void sgsc_add_pixels(int32_t *sums, const int8_t *x, int32_t n,
                                                                  int32_t stride)
{
#if SGSC_DSP
    for (; n > 0; n -= 256) { /* as many as 16 bits hold */
        const int8_t *const end = x + (n < 256 ? n : 256) * stride;
        uint32_t even = 0, odd = 0;
        for (; x != end; x += stride) {
            uint32_t four;
            memcpy(&four, x, sizeof four);
            even = (uint32_t)__sxtab16((int16x2_t)even, (int8x4_t)four);
            __asm__("sxtab16 %0, %0, %1, ror #8" : "+r"(odd) : "r"(four));
        }
        sums[0] += (int16_t)(uint16_t)even;
        sums[1] += (int16_t)(uint16_t)odd;
        sums[2] += (int32_t)even >> 16;
        sums[3] += (int32_t)odd >> 16;
    }
#else
    for (int32_t i = 0; i < n; ++i, x += stride) {
        SGSC_UNROLL for (int32_t k = 0; k < 4; ++k) {
            sums[k] += x[k];
        }
    }
#endif
}

/* The sums of four neighbouring channels; strides in bytes. */
SGSC_KERNEL void sgsc_window_sums(int32_t *sums, const int8_t *x, int32_t rows, int32_t columns, int32_t row_stride,
                                  int32_t column_stride)
{
    memset(sums, 0, 4 * sizeof *sums);
    for (int32_t i = 0; i < rows; ++i, x += row_stride) {
        sgsc_add_pixels(sums, x, columns, column_stride);
    }
}

/* The sum of one. */
static inline int32_t sgsc_window_sum(const int8_t *x, int32_t rows, int32_t columns, int32_t row_stride,
                                      int32_t column_stride)
{
    int32_t sum = 0;
    for (int32_t i = 0; i < rows; ++i, x += row_stride) {
        for (int32_t j = 0; j < columns; ++j) {
            sum += x[j * column_stride];
        }
    }
    return sum;
}

/* The mean of each channel: its sum, plus `start`, rescaled. */
#define SGSC_AVERAGE(NAME, _, FORM, CLAMPS)                                                                           \
    SGSC_KERNEL void NAME(int8_t *out, const int8_t *x, int32_t rows, int32_t columns, int32_t row_stride,            \
                          int32_t column_stride, int32_t fours, int32_t ones, int32_t start, int32_t left, int32_t m, \
                          int32_t right, int32_t zero, int32_t low, int32_t high)                                     \
    {                                                                                                                 \
        const struct sgsc_scale scale = SGSC_SCALE;                                                               \
        const int32_t offset = sgsc_scale_offset(&scale, FORM);                                                        \
        for (int32_t group = 0; group < fours + ones; ++group) {                                                      \
            int32_t sums[4];                                                                                          \
            const int32_t some = group < fours ? 4 : 1;                                                               \
            if (group < fours) {                                                                                      \
                sgsc_window_sums(sums, x, rows, columns, row_stride, column_stride);                                  \
            } else {                                                                                                  \
                sums[0] = sgsc_window_sum(x, rows, columns, row_stride, column_stride);                               \
            }                                                                                                         \
            for (int32_t k = 0; k < some; ++k) {                                                                      \
                const int32_t acc = sgsc_add_shifted(0, start + sums[k], FORM == SGSC_TFLITE);                         \
                *out++ = sgsc_rescale(acc, offset, &scale, FORM, CLAMPS);                                             \
            }                                                                                                         \
            x += some;                                                                                                \
        }                                                                                                             \
    }
SGSC_FORMS(SGSC_AVERAGE, sgsc_average, )
#undef SGSC_AVERAGE

/* The mean of each channel at its own scale. */
SGSC_KERNEL void sgsc_average_divided(int8_t *out, const int8_t *x, int32_t rows, int32_t columns, int32_t row_stride,
                                      int32_t column_stride, int32_t fours, int32_t ones, int32_t low, int32_t high)
{
    for (int32_t group = 0; group < fours + ones; ++group) {
        int32_t sums[4];
        const int32_t some = group < fours ? 4 : 1;
        if (group < fours) {
            sgsc_window_sums(sums, x, rows, columns, row_stride, column_stride);
        } else {
            sums[0] = sgsc_window_sum(x, rows, columns, row_stride, column_stride);
        }
        for (int32_t k = 0; k < some; ++k) {
            *out++ = sgsc_clamp(sgsc_divide(sums[k], rows * columns), low, high);
        }
        x += some;
    }
}

/* The larger values, byte by byte. */
static inline uint32_t sgsc_max4(uint32_t a, uint32_t b)
{
#if SGSC_DSP
    uint32_t difference;
    __asm__("ssub8 %1, %0, %2\n\tsel %0, %0, %2" : "+r"(a), "=&r"(difference) : "r"(b));
    return a;
#else
    uint32_t larger = 0;
    SGSC_UNROLL for (int32_t shift = 0; shift < 32; shift += 8) {
        const int8_t x = (int8_t)(uint8_t)(a >> shift), y = (int8_t)(uint8_t)(b >> shift);
        larger |= (uint32_t)(uint8_t)(x > y ? x : y) << shift;
    }
    return larger;
#endif
}

/* The largest value of each channel. */
SGSC_KERNEL void sgsc_max_pool(int8_t *out, const int8_t *x, int32_t rows, int32_t columns, int32_t row_stride,
                               int32_t column_stride, int32_t fours, int32_t ones)
{
    for (; fours > 0; --fours, x += 4, out += 4) {
        uint32_t largest = 0x80808080u;
        for (int32_t i = 0; i < rows; ++i) {
            const int8_t *from = x + i * row_stride;
            for (int32_t j = 0; j < columns; ++j, from += column_stride) {
                uint32_t four;
                memcpy(&four, from, sizeof four);
                largest = sgsc_max4(largest, four);
            }
        }
        memcpy(out, &largest, sizeof largest);
    }
    for (; ones > 0; --ones, ++x, ++out) {
        int8_t largest = INT8_MIN;
        for (int32_t i = 0; i < rows; ++i) {
            for (int32_t j = 0; j < columns; ++j) {
                const int8_t value = x[i * row_stride + j * column_stride];
                largest = value > largest ? value : largest;
            }
        }
        *out = largest;
    }
}

/* A row of a product: the sums of (a[i] - a_zero) * (b[i * columns + j] - b_zero), for each column j. */
#define SGSC_MATMUL(NAME, _, FORM, CLAMPS)                                                                            \
    SGSC_KERNEL void NAME(int8_t *out, const int8_t *a, const int8_t *b, int32_t depth, int32_t columns,              \
                          int32_t a_zero, int32_t b_zero, int32_t left, int32_t m, int32_t right, int32_t zero,       \
                          int32_t low, int32_t high)                                                                  \
    {                                                                                                                 \
        const struct sgsc_scale scale = SGSC_SCALE;                                                               \
        const int32_t offset = sgsc_scale_offset(&scale, FORM);                                                        \
        for (int32_t j = 0; j < columns; ++j) {                                                                       \
            int32_t sum = 0;                                                                                          \
            for (int32_t i = 0; i < depth; ++i) {                                                                     \
                sum += (a[i] - a_zero) * (b[i * columns + j] - b_zero);                                               \
            }                                                                                                         \
            out[j] = sgsc_rescale(sgsc_add_shifted(0, sum, FORM == SGSC_TFLITE), offset, &scale, FORM, CLAMPS);        \
        }                                                                                                             \
    }
SGSC_FORMS(SGSC_MATMUL, sgsc_matmul, )
#undef SGSC_MATMUL
#undef SGSC_FORMS
#undef SGSC_TFLITE_FORMS
#undef SGSC_SCALE

#endif
