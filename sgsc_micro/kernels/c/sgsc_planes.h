/* What a depthwise convolution reads: four channels at a time are widened into planes, and their taps.
 *
 * A plane is one channel of neighbouring image rows: int16 activations minus their zero point, padding among them as
 * zeros. A channel's taps are int16 too, an even number in each of their rows: what lies between dilated taps and
 * behind the last is 0. Planes, their rows and taps begin at multiples of 4. */
#ifndef SGSC_PLANES_H
#define SGSC_PLANES_H

/* A word at a multiple of 4; at any place. */
static inline uint32_t sgsc_load_word(const int8_t *from)
{
    uint32_t word;
    memcpy(&word, __builtin_assume_aligned(from, sizeof word), sizeof word);
    return word;
}

static inline uint32_t sgsc_load_anywhere(const int8_t *from)
{
    uint32_t word;
    memcpy(&word, from, sizeof word);
    return word;
}

static inline void sgsc_store_lane(int8_t *to, int32_t value)
{
    const int16_t lane = (int16_t)value;
    memcpy(to, &lane, sizeof lane);
}

/* From bit `position` on: 25 bits of a stream of `size` >= 4 bytes at least, or those up to its end. */
static inline uint32_t sgsc_bits(const int8_t *stream, int32_t size, int32_t position)
{
    const int32_t byte = position >> 3 < size - 4 ? position >> 3 : size - 4;
    return sgsc_load_anywhere(stream + byte) >> (position - 8 * byte);
}

/* Widens the taps of `channels` channels: 4 bits that say how wide they are, then so many bits a tap, two's complement,
 * lowest bits first. Neighbours go `step` bytes apart, rows `row_bytes`. Gives the position behind them. */
SGSC_KERNEL int32_t sgsc_depthwise_taps(int8_t *taps, int32_t channels, int32_t rows, int32_t columns, int32_t step,
                                        int32_t row_bytes, const int8_t *stream, int32_t size, int32_t position)
{
    for (int32_t c = 0; c < channels; ++c) {
        const int32_t bits = (int32_t)(sgsc_bits(stream, size, position) & 15u);
        const int32_t above = bits == 0 ? 0 : 32 - bits;
        position += 4;
        for (int32_t row = 0; row < rows; ++row) {
            int8_t *tap = taps;
            for (int32_t left = columns; left > 0; left -= 3) {
                const int32_t together = left < 3 ? left : 3;
                uint32_t window = bits == 0 ? 0 : sgsc_bits(stream, size, position);
                SGSC_UNROLL for (int32_t i = 0; i < 3; ++i) {
                    if (i < together) {
                        sgsc_store_lane(tap + i * step, (int32_t)(window << above) >> above);
                    }
                    window >>= bits;
                }
                tap += 3 * step;
                position += bits * together;
            }
            taps += row_bytes;
        }
    }
    return position;
}

#if SGSC_DSP
/* A pixel's four channels minus zero, as (0, 2) and (1, 3). */
static inline void sgsc_widen_four(uint32_t *pair, const int8_t *x, uint32_t minus_zero)
{
    const uint32_t four = sgsc_load_anywhere(x);
    pair[0] = (uint32_t)__sxtab16((int16x2_t)minus_zero, (int8x4_t)four);
    __asm__("sxtab16 %0, %1, %2, ror #8" : "=r"(pair[1]) : "r"(minus_zero), "r"(four));
}

/* Neighbouring pixels, as sgsc_widen_four gives them, side by side in four planes. */
static inline void sgsc_store_neighbours(int8_t *plane, int32_t plane_bytes, const uint32_t *left,
                                         const uint32_t *right)
{
    uint32_t lanes[4];
    SGSC_UNROLL for (int32_t c = 0; c < 2; ++c) {
        __asm__("pkhbt %0, %1, %2, lsl #16" : "=r"(lanes[c]) : "r"(left[c]), "r"(right[c]));
        __asm__("pkhtb %0, %1, %2, asr #16" : "=r"(lanes[c + 2]) : "r"(right[c]), "r"(left[c]));
    }
    SGSC_UNROLL for (int32_t c = 0; c < 4; ++c) {
        memcpy(plane + c * plane_bytes, &lanes[c], sizeof lanes[c]);
    }
}
#endif

/* One image row's part of up to four planes, from column `left` of theirs on: `width` > 0 pixels, `step` bytes apart.
 * A pixel may come with a zero beside it, where padding lies. */
SGSC_KERNEL void sgsc_widen_row(int8_t *plane, int32_t plane_bytes, int32_t left, const int8_t *x, int32_t width,
                                int32_t step, int32_t channels, int32_t zero)
{
#if SGSC_DSP
    if (channels == 4) {
        const uint32_t minus_zero = ((uint32_t)-zero & 0xFFFFu) | ((uint32_t)-zero << 16);
        const uint32_t padding[2] = {0, 0};
        uint32_t a[2], b[2];
        plane += left / 2 * 4;
        if (left % 2 != 0) {
            sgsc_widen_four(b, x, minus_zero);
            sgsc_store_neighbours(plane, plane_bytes, padding, b);
            plane += 4;
            x += step;
            --width;
        }
        for (; width >= 2; width -= 2) {
            sgsc_widen_four(a, x, minus_zero);
            sgsc_widen_four(b, x + step, minus_zero);
            sgsc_store_neighbours(plane, plane_bytes, a, b);
            plane += 4;
            x += 2 * step;
        }
        if (width != 0) {
            sgsc_widen_four(a, x, minus_zero);
            sgsc_store_neighbours(plane, plane_bytes, a, padding);
        }
        return;
    }
#endif
    for (int32_t c = 0; c < channels; ++c) {
        int8_t *lane = plane + c * plane_bytes + 2 * left;
        for (int32_t i = 0; i < width; ++i) {
            sgsc_store_lane(lane + 2 * i, x[i * step + c] - zero);
        }
    }
}

/* Rows `first` to `last` of an image of `height` rows, row_step bytes apart; those beyond it are zeros. */
SGSC_KERNEL void sgsc_depthwise_widen(int8_t *plane, int32_t plane_bytes, int32_t row_bytes, int32_t left,
                                      const int8_t *x, int32_t first, int32_t last, int32_t height, int32_t row_step,
                                      int32_t width, int32_t step, int32_t channels, int32_t zero)
{
    for (int32_t y = first; y < last; ++y) {
        if (y >= 0 && y < height) {
            sgsc_widen_row(plane, plane_bytes, left, x + y * row_step, width, step, channels, zero);
        } else {
            for (int32_t c = 0; c < 4; ++c) {
                memset(plane + c * plane_bytes, 0, (size_t)row_bytes);
            }
        }
        plane += row_bytes;
    }
}

#endif
