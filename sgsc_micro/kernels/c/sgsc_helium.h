/* What a convolution and a dense layer do with rows of int8: every channel's dot products (sgsc_bytes.h), then int8. */
#ifndef SGSC_HELIUM_H
#define SGSC_HELIUM_H

#if SGSC_MVE

#define SGSC_VECTOR(INSTRUCTION, RESULT, A, B) __asm__(INSTRUCTION " %q0, %q1, %q2" : "=w"(RESULT) : "w"(A), "w"(B))
#define SGSC_GATHER(INSTRUCTION, SHIFT, RESULT, FROM, AT)                                                              \
    __asm__(INSTRUCTION " %q0, [%1, %q2" SHIFT "]" : "=&w"(RESULT) : "r"(FROM), "w"(AT))

/* sums [channel][row], times 2^down, to int8; the constants of the first channel lie at `channel`. */
SGSC_PER_CHANNEL void sgsc_store_tile(int8_t *out, const int32_t *sums, int32_t down, const struct sgsc_tile *tile,
                                      int32_t channel, const struct sgsc_end *end, int32_t twice, int32_t clamps)
{
    const sgsc_words none = {0, 0, 0, 0}, least = twice ? none : none - 1;
    const sgsc_words at = tile->at, sums_at = tile->sums_at;
    sgsc_words bias, m, shift, right, left;
    if (end->bias_bytes == 2) {
        SGSC_GATHER("vldrh.s32", ", uxtw #1", bias, (const int16_t *)end->bias + channel, at);
    } else {
        SGSC_GATHER("vldrw.u32", ", uxtw #2", bias, (const int32_t *)end->bias + channel, at);
    }
    SGSC_GATHER("vldrw.u32", ", uxtw #2", m, end->multipliers + channel * end->multiplier_step, tile->m_at);
    SGSC_GATHER("vldrb.s32", "", shift, end->shifts + channel * end->shift_step, tile->shift_at);
    /* Without 64, the mark of sums that cannot be doubled: here none is. To the left, that is. */
    __asm__("vshl.i32 %q0, %q0, #26\n vshr.s32 %q0, %q0, #26\n vneg.s32 %q0, %q0" : "+w"(shift));
    SGSC_VECTOR("vmin.s32", right, shift, least);
    left = shift - right;
    SGSC_ROLLED for (int32_t row = 0; row < tile->pixels; ++row, ++sums, out += tile->stride) {
        sgsc_words acc, below;
        __asm__ volatile("vldrw.u32 %q0, [%1, %q2, uxtw #2]" : "=&w"(acc) : "r"(sums), "w"(sums_at));
        if (down > 0) {
            __asm__("vshl.s32 %q0, %1" : "+w"(acc) : "r"(-down));
        }
        acc += bias;
        SGSC_VECTOR("vshl.s32", acc, acc, left);
        if (twice) { /* half away from zero is half up of one less below zero, where there is a shift to the right */
            SGSC_VECTOR("vqrdmulh.s32", acc, acc, m);
            SGSC_VECTOR("vand", below, acc, right);
            __asm__("vshr.s32 %q0, %q0, #31" : "+w"(below));
            acc += below;
        } else {
            SGSC_VECTOR("vmulh.s32", acc, acc, m);
        }
        SGSC_VECTOR("vrshl.s32", acc, acc, right);
        __asm__("vadd.i32 %q0, %q0, %1" : "+w"(acc) : "r"(end->zero));
        if (clamps) {
            const sgsc_words low = {end->low, end->low, end->low, end->low};
            const sgsc_words high = {end->high, end->high, end->high, end->high};
            SGSC_VECTOR("vmax.s32", acc, acc, low);
            SGSC_VECTOR("vmin.s32", acc, acc, high);
        } else {
            __asm__("vqmovnb.s32 %q0, %q0\n vqmovnb.s16 %q0, %q0" : "+w"(acc));
        }
        __asm__ volatile("vstrb.32 %q0, [%1, %q2]" : : "w"(acc), "r"(out), "w"(at));
    }
}

#else

static inline void sgsc_store_tile(int8_t *out, const int32_t *sums, int32_t down, const struct sgsc_tile *tile,
                                   int32_t channel, const struct sgsc_end *end, int32_t twice, int32_t clamps)
{
    (void)clamps;
    for (int32_t row = 0; row < tile->pixels; ++row, ++sums, out += tile->stride) {
        for (int32_t i = 0; i < 4; ++i) {
            const int32_t sum = sums[tile->sums_at[i]] >> down, bias = sgsc_bias(end, channel + tile->at[i]);
            const int32_t m = end->multipliers[channel * end->multiplier_step + tile->m_at[i]];
            const int32_t shift = end->shifts[channel * end->shift_step + tile->shift_at[i]];
            out[tile->at[i]] = (int8_t)sgsc_requantise_any(sgsc_add_shifted(sum, bias, 0), m, shift, end, twice);
        }
    }
}

#endif

/* Around what assembly reads and writes: the compiler is not told there, so that it keeps more in registers. */
#define SGSC_BARRIER __asm__ volatile("" ::: "memory")

/* The parts of channels of some planes, as a tile has them. */
static inline void sgsc_write_parts(int32_t *parts, int32_t bits, int32_t taps, int32_t part)
{
    const int32_t narrowest = sgsc_narrowest(bits);
    for (int32_t at = 0, left = taps; left > 0; at += narrowest, left -= part) {
        int32_t start = 0;
        for (int32_t plane = 4; plane >= narrowest; plane /= 2) {
            if ((bits & plane) != 0) {
                *parts++ = at & -plane;
                *parts++ = start + (at & (plane - 1)) / narrowest * part;
                start += plane / narrowest * part;
            }
        }
        *parts++ = left < part ? left : part;
    }
    *parts = -1;
}

/* `count` channels of one width from channel `first` on; w is their bytes. */
SGSC_PER_CHANNEL void sgsc_segment(int8_t *out, struct sgsc_tile *tile, const int8_t *w, int32_t first, int32_t count,
                                   const struct sgsc_end *end, int32_t bits, sgsc_dot_tile *dot, int32_t twice,
                                   int32_t clamps)
{
    const int32_t down = bits == 0 ? 0 : 8 - bits;
    int32_t sums[16], placed = 0;
    if (bits == 0) {
        memset(sums, 0, sizeof sums);
    } else {
        tile->part = sgsc_part(bits, tile->taps);
        tile->back = -tile->part & 15;
        tile->mask = -(1 << down);
        tile->bytes = sgsc_channel_bytes(bits, tile->taps);
    }
    if (bits == 4) {
        for (int32_t i = 0; i < 4; ++i) {
            tile->lower[i] = tile->from[i].row + tile->part;
        }
    } else if (bits != 0 && bits != 8) {
        sgsc_write_parts(tile->parts, bits, tile->taps, tile->part);
    }
    SGSC_BARRIER;
    for (int32_t c = 0; c < count; c += 4) {
        const int32_t channels = count - c < 4 ? count - c : 4;
        if (channels != placed) {
            placed = channels;
            SGSC_ROLLED for (int32_t i = 0; i < 4; ++i) {
                const int32_t at = i < channels ? i : channels - 1;
                tile->at[i] = at;
                tile->sums_at[i] = at * 4;
                tile->m_at[i] = at * end->multiplier_step;
                tile->shift_at[i] = at * end->shift_step;
            }
        }
        if (bits != 0) {
            dot(tile, w, sums, sums + 4 * channels);
            w += channels * tile->bytes;
            SGSC_BARRIER;
        }
        sgsc_store_tile(out + c, sums, down, tile, first + c, end, twice, clamps);
    }
    SGSC_BARRIER;
}

typedef void sgsc_segment_of(int8_t *out, struct sgsc_tile *tile, const int8_t *w, int32_t first, int32_t count,
                             const struct sgsc_end *end);

#define SGSC_SEGMENT(BITS, ROWS, DOT, NAME, TWICE, CLAMPS)                                                             \
    SGSC_KERNEL void sgsc_segment##BITS##_##ROWS##_##NAME(int8_t *out, struct sgsc_tile *tile, const int8_t *w,        \
                                                          int32_t first, int32_t count, const struct sgsc_end *end)    \
    {                                                                                                                  \
        sgsc_segment(out, tile, w, first, count, end, BITS, DOT, TWICE, CLAMPS);                                       \
    }
#define SGSC_HAS_SEGMENT(BITS, ROWS, NAME)                                                                             \
    (SGSC_FIELDS_bytes##ROWS >> BITS & 1 ? sgsc_segment##BITS##_##ROWS##_##NAME : 0)
/* By width, as far as the model has such channels. */
#define SGSC_SEGMENTS(ROWS, SHAPE, NAME, TWICE, CLAMPS)                                                                \
    SGSC_SEGMENT(0, ROWS, 0, NAME, TWICE, CLAMPS)                                                                      \
    SGSC_SEGMENT(1, ROWS, sgsc_dot_##SHAPE##1, NAME, TWICE, CLAMPS)                                                    \
    SGSC_SEGMENT(2, ROWS, sgsc_dot_##SHAPE##2, NAME, TWICE, CLAMPS)                                                    \
    SGSC_SEGMENT(3, ROWS, sgsc_dot_##SHAPE##3, NAME, TWICE, CLAMPS)                                                    \
    SGSC_SEGMENT(4, ROWS, sgsc_dot_##SHAPE##4, NAME, TWICE, CLAMPS)                                                    \
    SGSC_SEGMENT(5, ROWS, sgsc_dot_##SHAPE##5, NAME, TWICE, CLAMPS)                                                    \
    SGSC_SEGMENT(6, ROWS, sgsc_dot_##SHAPE##6, NAME, TWICE, CLAMPS)                                                    \
    SGSC_SEGMENT(7, ROWS, sgsc_dot_##SHAPE##7, NAME, TWICE, CLAMPS)                                                    \
    SGSC_SEGMENT(8, ROWS, sgsc_dot_##SHAPE##8, NAME, TWICE, CLAMPS)                                                    \
    static sgsc_segment_of *const sgsc_segments_##ROWS##_##NAME[] __attribute__((unused)) = {                          \
        SGSC_HAS_SEGMENT(0, ROWS, NAME), SGSC_HAS_SEGMENT(1, ROWS, NAME), SGSC_HAS_SEGMENT(2, ROWS, NAME),             \
        SGSC_HAS_SEGMENT(3, ROWS, NAME), SGSC_HAS_SEGMENT(4, ROWS, NAME), SGSC_HAS_SEGMENT(5, ROWS, NAME),             \
        SGSC_HAS_SEGMENT(6, ROWS, NAME), SGSC_HAS_SEGMENT(7, ROWS, NAME), SGSC_HAS_SEGMENT(8, ROWS, NAME)};

/* All channels of up to four rows `row_stride` bytes from one another, one a pixel. */
static inline void sgsc_bytes_rows(int8_t *out, int32_t stride, int32_t pixels, const int8_t *row, int32_t row_stride,
                                   int32_t taps, const uint32_t *stream, int32_t channels, const struct sgsc_end *end,
                                   sgsc_segment_of *const *segments)
{
    struct sgsc_tile tile;
    tile.taps = taps;
    tile.pixels = pixels;
    tile.stride = stride;
    for (int32_t i = 0; i < 4; ++i) {
        tile.from[i].zero = 0;
        tile.from[i].row = row + (i < pixels ? i : pixels - 1) * row_stride;
    }
    for (int32_t c = 0; c < channels;) {
        const int32_t count = (int32_t)(*stream & 0xFFFFFFu), bits = (int32_t)(*stream >> 24);
        segments[bits](out + c, &tile, (const int8_t *)(stream + 1), c, count, end);
        stream += 1 + (count * sgsc_channel_bytes(bits, taps) + 3) / 4;
        c += count;
    }
}

/* The counterparts of those in sgsc_weighted.h. */
#define SGSC_HELIUM(NAME, TWICE, CLAMPS)                                                                               \
    SGSC_SEGMENTS(4, tile, NAME, TWICE, CLAMPS)                                                                        \
    SGSC_SEGMENTS(1, line, NAME, TWICE, CLAMPS)                                                                        \
    SGSC_KERNEL void sgsc_bytes_pixels_##NAME(                                                                         \
        int8_t *out, int32_t stride, int32_t pixels, const int8_t *row, int32_t row_stride, int32_t taps,              \
        const uint32_t *stream, int32_t channels, const void *bias, int32_t bias_bytes, const int32_t *multipliers,    \
        int32_t multiplier_step, const int8_t *shifts, int32_t shift_step, int32_t zero, int32_t low, int32_t high)    \
    {                                                                                                                  \
        const struct sgsc_end end = {bias, multipliers, shifts, bias_bytes, multiplier_step, shift_step,               \
                                     zero, low,         high};                                                         \
        sgsc_bytes_rows(out, stride, pixels, row, row_stride, taps, stream, channels, &end, sgsc_segments_4_##NAME);   \
    }                                                                                                                  \
    SGSC_KERNEL void sgsc_bytes_pixel_##NAME(                                                                          \
        int8_t *out, const int8_t *row, int32_t row_stride, int32_t taps, const uint32_t *stream, int32_t channels,    \
        const void *bias, int32_t bias_bytes, const int32_t *multipliers, int32_t multiplier_step,                     \
        const int8_t *shifts, int32_t shift_step, int32_t zero, int32_t low, int32_t high)                             \
    {                                                                                                                  \
        const struct sgsc_end end = {bias, multipliers, shifts, bias_bytes, multiplier_step, shift_step,               \
                                     zero, low,         high};                                                         \
        sgsc_bytes_rows(out, 0, 1, row, row_stride, taps, stream, channels, &end, sgsc_segments_1_##NAME);             \
    }
SGSC_HELIUM(single, 0, 0)
SGSC_HELIUM(single_clamped, 0, 1)
SGSC_HELIUM(tflite, 1, 0)
SGSC_HELIUM(tflite_clamped, 1, 1)

/* n bytes; any places that do not overlap. */
static inline void sgsc_copy_bytes(int8_t *to, const int8_t *from, int32_t n)
{
#if SGSC_MVE
    __asm__ volatile(" wlstp.8 lr, %2, 2f\n1:\n vldrb.8 q0, [%1], #16\n vstrb.8 q0, [%0], #16\n letp lr, 1b\n2:\n"
                     : "+r"(to), "+r"(from)
                     : "r"(n)
                     : "q0", "lr", "memory");
#else
    memcpy(to, from, (size_t)n);
#endif
}

/* Rows, `stride` bytes apart, of the activations under the kernel at output pixels from `first` on, `count` of them; x
 * begins at the channel where the `depth` channels wanted of each tap begin. Outside of the image is its zero point. */
SGSC_KERNEL void sgsc_bytes_gather(int8_t *row, int32_t stride, int32_t count, const int8_t *x, int32_t first,
                                   int32_t out_width, int32_t stride_y, int32_t stride_x, int32_t top, int32_t left,
                                   int32_t kernel_rows, int32_t kernel_columns, int32_t dilation_y, int32_t dilation_x,
                                   int32_t up_y, int32_t up_x, int32_t height, int32_t width, int32_t channels,
                                   int32_t depth, int32_t zero)
{
    const int32_t run = kernel_columns * depth, upsampled = up_y > 1 || up_x > 1;
    const int32_t whole = dilation_x == 1 && !upsampled && depth == channels;
    int32_t out_y = first / out_width, out_x = first - out_y * out_width;
    for (int8_t *next = row; count > 0; --count) {
        row = next;
        next += stride;
        const int32_t ys = out_y * stride_y - top, xs = out_x * stride_x - left;
        for (int32_t ky = 0; ky < kernel_rows; ++ky) {
            int32_t iy = ys + ky * dilation_y;
            iy = upsampled ? sgsc_before_upsampling(iy, up_y) : iy;
            if ((uint32_t)iy >= (uint32_t)height) {
                sgsc_fill(row, run, zero);
                row += run;
            } else if (whole && xs >= 0 && xs + kernel_columns <= width) {
                sgsc_copy_bytes(row, x + (iy * width + xs) * channels, run);
                row += run;
            } else {
                for (int32_t kx = 0; kx < kernel_columns; ++kx, row += depth) {
                    int32_t ix = xs + kx * dilation_x;
                    ix = upsampled ? sgsc_before_upsampling(ix, up_x) : ix;
                    if ((uint32_t)ix < (uint32_t)width) {
                        sgsc_copy_bytes(row, x + (iy * width + ix) * channels, depth);
                    } else {
                        sgsc_fill(row, depth, zero);
                    }
                }
            }
        }
        if (++out_x == out_width) {
            out_x = 0;
            ++out_y;
        }
    }
}
#endif
