/* Layers as one writes them by hand: a loop over every output, int8 weights, a multiplier and a shift per channel, rounded
 * as TFLite rounds. Included by what plain.py writes, and compiled with -O3.
 *
 * Images are [height][width][channels], weights [outputs][rows][columns][inputs]. A ratio of scales is
 * multiplier * 2^(shift - 31). */
#ifndef PLAIN_H
#define PLAIN_H

#include <stdint.h>

#define PLAIN static __attribute__((unused))

struct plain_shape {
    int32_t height, width, channels;
};

struct plain_window {
    int32_t rows, columns, stride_y, stride_x, top, left;
};

/* What an accumulator becomes: a zero point, and the bounds that its activation leaves. */
struct plain_end {
    int32_t zero, low, high;
};

PLAIN int32_t plain_scale(int32_t value, int32_t multiplier, int32_t shift)
{
    const int32_t left = shift > 0 ? shift : 0, right = shift > 0 ? 0 : -shift;
    const int64_t product = (int64_t)(int32_t)((uint32_t)value << left) * multiplier;
    const int32_t high = (int32_t)((product + (1 << 30)) >> 31);
    const int32_t mask = (int32_t)((1u << right) - 1u), rest = high & mask;
    return (high >> right) + (rest > (mask >> 1) + (high < 0) ? 1 : 0);
}

PLAIN int8_t plain_clamp(int32_t value, struct plain_end end)
{
    value += end.zero;
    value = value < end.low ? end.low : value;
    return (int8_t)(value > end.high ? end.high : value);
}

PLAIN void plain_conv(int8_t *y, struct plain_shape to, const int8_t *x, struct plain_shape from, struct plain_window window,
                      const int8_t *weights, const int32_t *bias, const int32_t *multipliers, const int32_t *shifts,
                      int32_t zero, struct plain_end end)
{
    for (int32_t oy = 0; oy < to.height; ++oy) {
        for (int32_t ox = 0; ox < to.width; ++ox) {
            for (int32_t o = 0; o < to.channels; ++o) {
                int32_t sum = bias[o];
                for (int32_t i = 0; i < window.rows; ++i) {
                    for (int32_t j = 0; j < window.columns; ++j) {
                        const int32_t iy = oy * window.stride_y + i - window.top;
                        const int32_t ix = ox * window.stride_x + j - window.left;
                        if (iy < 0 || iy >= from.height || ix < 0 || ix >= from.width) {
                            continue;
                        }
                        const int8_t *pixel = x + (iy * from.width + ix) * from.channels;
                        const int8_t *taps = weights + ((o * window.rows + i) * window.columns + j) * from.channels;
                        for (int32_t c = 0; c < from.channels; ++c) {
                            sum += (pixel[c] - zero) * taps[c];
                        }
                    }
                }
                *y++ = plain_clamp(plain_scale(sum, multipliers[o], shifts[o]), end);
            }
        }
    }
}

PLAIN void plain_depthwise(int8_t *y, struct plain_shape to, const int8_t *x, struct plain_shape from,
                           struct plain_window window, const int8_t *weights, const int32_t *bias,
                           const int32_t *multipliers, const int32_t *shifts, int32_t zero, struct plain_end end)
{
    for (int32_t oy = 0; oy < to.height; ++oy) {
        for (int32_t ox = 0; ox < to.width; ++ox) {
            for (int32_t c = 0; c < to.channels; ++c) {
                int32_t sum = bias[c];
                for (int32_t i = 0; i < window.rows; ++i) {
                    for (int32_t j = 0; j < window.columns; ++j) {
                        const int32_t iy = oy * window.stride_y + i - window.top;
                        const int32_t ix = ox * window.stride_x + j - window.left;
                        if (iy < 0 || iy >= from.height || ix < 0 || ix >= from.width) {
                            continue;
                        }
                        sum += (x[(iy * from.width + ix) * from.channels + c] - zero) *
                               weights[(c * window.rows + i) * window.columns + j];
                    }
                }
                *y++ = plain_clamp(plain_scale(sum, multipliers[c], shifts[c]), end);
            }
        }
    }
}

PLAIN void plain_dense(int8_t *y, int32_t outputs, const int8_t *x, int32_t inputs, const int8_t *weights,
                       const int32_t *bias, const int32_t *multipliers, const int32_t *shifts, int32_t zero,
                       struct plain_end end)
{
    for (int32_t o = 0; o < outputs; ++o) {
        int32_t sum = bias[o];
        for (int32_t i = 0; i < inputs; ++i) {
            sum += (x[i] - zero) * weights[o * inputs + i];
        }
        y[o] = plain_clamp(plain_scale(sum, multipliers[o], shifts[o]), end);
    }
}

/* Ratios 0 and 1 bring the operands to a common scale with 20 more bits, ratio 2 their sum to the output's. */
PLAIN void plain_add(int8_t *y, const int8_t *a, const int8_t *b, int32_t count, int32_t a_zero, int32_t b_zero,
                     const int32_t *multipliers, const int32_t *shifts, struct plain_end end)
{
    for (int32_t i = 0; i < count; ++i) {
        const int32_t left = plain_scale((a[i] - a_zero) * (1 << 20), multipliers[0], shifts[0]);
        const int32_t right = plain_scale((b[i] - b_zero) * (1 << 20), multipliers[1], shifts[1]);
        y[i] = plain_clamp(plain_scale(left + right, multipliers[2], shifts[2]), end);
    }
}

/* Windows that lie in the image. */
PLAIN void plain_average(int8_t *y, struct plain_shape to, const int8_t *x, struct plain_shape from,
                         struct plain_window window, struct plain_end end)
{
    const int32_t count = window.rows * window.columns;
    for (int32_t oy = 0; oy < to.height; ++oy) {
        for (int32_t ox = 0; ox < to.width; ++ox) {
            for (int32_t c = 0; c < to.channels; ++c) {
                int32_t sum = 0;
                for (int32_t i = 0; i < window.rows; ++i) {
                    for (int32_t j = 0; j < window.columns; ++j) {
                        sum += x[((oy * window.stride_y + i) * from.width + ox * window.stride_x + j) * from.channels + c];
                    }
                }
                *y++ = plain_clamp((sum > 0 ? sum + count / 2 : sum - count / 2) / count, end);
            }
        }
    }
}

/* table[d] is exp of a difference of d steps with 31 fraction bits, 0 from `entries` on; to scale 1/256, zero point -128. */
PLAIN void plain_softmax(int8_t *y, const int8_t *x, int32_t count, const int32_t *table, int32_t entries)
{
    int32_t largest = x[0];
    for (int32_t i = 1; i < count; ++i) {
        largest = x[i] > largest ? x[i] : largest;
    }
    uint32_t sum = 0; /* 19 fraction bits */
    for (int32_t i = 0; i < count; ++i) {
        sum += largest - x[i] < entries ? ((uint32_t)table[largest - x[i]] + (1u << 11)) >> 12 : 0;
    }
    int32_t zeros = 0;
    for (; sum < 1u << 31; sum <<= 1) {
        ++zeros;
    }
    const int32_t half = (int32_t)(sum >> 1);
    int32_t inverse = 1515870810 + plain_scale(half, -1010580540, 0); /* 48/17 - 32/17 * half, then Newton's method */
    for (int32_t i = 0; i < 3; ++i) {
        inverse += 4 * plain_scale(inverse, (1 << 29) - plain_scale(half, inverse, 0), 0);
    }
    inverse = inverse > INT32_MAX / 2 ? INT32_MAX : 2 * inverse;
    for (int32_t i = 0; i < count; ++i) {
        const int32_t part = largest - x[i] < entries ? plain_scale(inverse, table[largest - x[i]], zeros - 35) : 0;
        y[i] = (int8_t)((part > 255 ? 255 : part) - 128);
    }
}

#endif
