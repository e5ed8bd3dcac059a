/* Convolution and dense layers on rows of int8, for Helium's 16 byte lanes; plain C where there is none.
 *
 * A row is activations as they are, one after the other: the bias holds what their zero point adds. The channels come as a
 * stream: for neighbours of one width a word with their number and, from bit 24, the width b; then their bytes, channel
 * by channel, and zeros up to a word.
 *
 * A width is one plane of 8 bits or the sum of planes of 4, 2 and 1 bits, the most significant first. Where the narrowest
 * has fields of f bits, the taps fall into 8 / f parts of n = ceil(taps * f / 8). The narrowest plane has n bytes: field j
 * of byte i, from the top, is of tap i of part j. A plane of p bits has n bytes p / f times: each of its fields serves that
 * many parts, one from each n bytes. What is beyond the last tap is 0. A loop over a part brings one field of each plane
 * to the top of its byte and puts them together: the weight times 2^(8 - b). */
#ifndef SGSC_HELIUM_H
#define SGSC_HELIUM_H

#if defined(__ARM_FEATURE_MVE) && __ARM_FEATURE_MVE & 1
#define SGSC_MVE 1
#else
#define SGSC_MVE 0
#endif

typedef int32_t sgsc_words __attribute__((vector_size(16)));

/* What a tile of results is computed from: of four channels, the last again where there are fewer, at up to four pixels. */
struct sgsc_tile {
    const int8_t *from[4]; /* the pixels' rows */
    int32_t taps, pixels, stride;
    sgsc_words at, sums_at, m_at, shift_at; /* of each channel, in elements behind the first's */
};

#define SGSC_PER_CHANNEL static inline __attribute__((always_inline))

/* Bits of a field of the narrowest plane; taps of a part. */
static inline int32_t sgsc_narrowest(int32_t bits)
{
    return bits & -bits;
}

static inline int32_t sgsc_part(int32_t bits, int32_t taps)
{
    return (taps * sgsc_narrowest(bits) + 7) / 8;
}

static inline int32_t sgsc_channel_bytes(int32_t bits, int32_t taps)
{
    return bits == 0 ? 0 : sgsc_part(bits, taps) * (bits / sgsc_narrowest(bits));
}

#if SGSC_MVE

typedef int8_t sgsc_lanes __attribute__((vector_size(16)));

static inline sgsc_lanes sgsc_all_lanes(int32_t value)
{
    sgsc_lanes result;
    __asm__("vdup.8 %q0, %1" : "=w"(result) : "r"(value));
    return result;
}

/* What the loops below are made of; q0 is activations, q1 weights. The last turn of each is short: letp sees to it. */
#define SGSC_ROW(I) " vldrb.8 q0, [%[x" #I "]], #16\n vmladava.s8 %[s" #I "], q0, q1\n"
#define SGSC_ROWS_1 SGSC_ROW(0)
#define SGSC_ROWS_4 SGSC_ROW(0) SGSC_ROW(1) SGSC_ROW(2) SGSC_ROW(3)
#define SGSC_SUMS_1 [s0] "+Te"(s0), [x0] "+r"(x0)
#define SGSC_SUMS_4                                                                                                    \
    [s0] "+Te"(s0), [s1] "+Te"(s1), [s2] "+Te"(s2), [s3] "+Te"(s3), [x0] "+r"(x0), [x1] "+r"(x1), [x2] "+r"(x2),       \
        [x3] "+r"(x3)
#define SGSC_LOAD(I, Q) " vldrb.8 " Q ", [%[w" #I "]], #16\n"
#define SGSC_FIELD(I, Q) SGSC_LOAD(I, Q) " vshl.s8 " Q ", " Q ", %q[up" #I "]\n"
#define SGSC_CHANNEL(I)                                                                                                \
    " vldrb.8 q1, [%[x" #I "]], #16\n vshl.s8 q1, q1, %q[up]\n vand q1, q1, %q[mask]\n vmladava.s8 %[s" #I "], q0, q1\n"
#define SGSC_MASK " vand q1, q1, %q[mask]\n"
#define SGSC_LOOP(BODY) " dlstp.8 lr, %[count]\n1:\n" BODY " letp lr, 1b\n"
#define SGSC_CLOBBERS "q0", "q1", "q2", "q3", "lr"

#define SGSC_KEEP_SUMS                                                                                                 \
    __asm__ volatile("strd %1, %2, [%0]\n strd %3, %4, [%0, #8]" : : "r"(sums), "r"(s0), "r"(s1), "r"(s2), "r"(s3))
#define SGSC_DOT_WHOLE __asm__ volatile(SGSC_LOOP(SGSC_LOAD(0, "q1") SGSC_ROWS_4)                                      \
                                        : SGSC_SUMS_4, [w0] "+r"(w0)                                                   \
                                        : [count] "r"(n)                                                               \
                                        : SGSC_CLOBBERS)
#define SGSC_DOT_PLANES_1(ROWS)                                                                                        \
    __asm__ volatile(SGSC_LOOP(SGSC_FIELD(0, "q1") SGSC_MASK SGSC_ROWS_##ROWS)                                         \
                     : SGSC_SUMS_##ROWS, [w0] "+r"(w0)                                                                 \
                     : [count] "r"(n), [up0] "w"(up0), [mask] "w"(mask)                                                \
                     : SGSC_CLOBBERS)
#define SGSC_DOT_PLANES_2(ROWS)                                                                                        \
    __asm__ volatile(SGSC_LOOP(SGSC_FIELD(0, "q1") SGSC_FIELD(1, "q2") " vsri.8 q1, q2, %[below1]\n" SGSC_MASK         \
                                   SGSC_ROWS_##ROWS)                                                                   \
                     : SGSC_SUMS_##ROWS, [w0] "+r"(w0), [w1] "+r"(w1)                                                  \
                     : [count] "r"(n), [up0] "w"(up0), [up1] "w"(up1), [mask] "w"(mask), [below1] "i"(first)           \
                     : SGSC_CLOBBERS)
#define SGSC_DOT_PLANES_3(ROWS)                                                                                        \
    __asm__ volatile(SGSC_LOOP(SGSC_FIELD(0, "q1") SGSC_FIELD(1, "q2") SGSC_FIELD(2, "q3") " vsri.8 q2, q3, #2\n"      \
                                   " vsri.8 q1, q2, #4\n" SGSC_MASK SGSC_ROWS_##ROWS)                                  \
                     : SGSC_SUMS_##ROWS, [w0] "+r"(w0), [w1] "+r"(w1), [w2] "+r"(w2)                                   \
                     : [count] "r"(n), [up0] "w"(up0), [up1] "w"(up1), [up2] "w"(up2), [mask] "w"(mask)                \
                     : SGSC_CLOBBERS)

/* Of a plane: how far a part's fields are from the top, and where its bytes begin. */
#define SGSC_UP(PLANE) sgsc_all_lanes(at & -(PLANE))
#define SGSC_BYTES(PLANE) (w + ((at & ((PLANE) - 1)) + (bits & -2 * (PLANE))) / narrowest * part)

/* The dot products, times 2^(8 - bits), of 4 rows, or of 1, with one channel. */
SGSC_PER_CHANNEL void sgsc_dot_channel(int32_t *sums, const int8_t *const *from, const int8_t *w, int32_t taps,
                                       int32_t bits, int32_t rows)
{
    int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    const int8_t *x0 = from[0], *x1 = 0, *x2 = 0, *x3 = 0;
    if (rows == 4) {
        x1 = from[1];
        x2 = from[2];
        x3 = from[3];
    }
    if (bits == 8) {
        const int8_t *w0 = w;
        const int32_t n = taps;
        SGSC_DOT_WHOLE;
    } else if (bits == 4 && rows == 4) { /* the lower fields are at the top after a shift, and nothing is below */
        const sgsc_lanes mask = sgsc_all_lanes(-16);
        const int8_t *w0 = w;
        int32_t n = sgsc_part(4, taps);
        const int32_t back = -n & 15;
        __asm__ volatile(SGSC_LOOP(SGSC_LOAD(0, "q1") SGSC_MASK SGSC_ROWS_4)
                         : SGSC_SUMS_4, [w0] "+r"(w0)
                         : [count] "r"(n), [mask] "w"(mask)
                         : SGSC_CLOBBERS);
        x0 -= back;
        x1 -= back;
        x2 -= back;
        x3 -= back;
        w0 = w;
        n = taps - n;
        if (n > 0) {
            __asm__ volatile(SGSC_LOOP(SGSC_LOAD(0, "q1") " vshl.i8 q1, q1, #4\n" SGSC_ROWS_4)
                             : SGSC_SUMS_4, [w0] "+r"(w0)
                             : [count] "r"(n)
                             : SGSC_CLOBBERS);
        }
    } else {
        const int32_t narrowest = sgsc_narrowest(bits), part = sgsc_part(bits, taps), back = -part & 15;
        const int32_t first = bits & 4 ? 4 : bits & 2 ? 2 : 1, second = bits & 2 & ~first ? 2 : 1;
        const sgsc_lanes mask = sgsc_all_lanes(-(1 << (8 - bits)));
        int32_t left = taps;
        SGSC_ROLLED for (int32_t at = 0; left > 0; at += narrowest, left -= part) {
            const int32_t n = left < part ? left : part;
            const int8_t *w0 = SGSC_BYTES(first);
            const sgsc_lanes up0 = SGSC_UP(first);
            if (bits == first) {
                if (rows == 4) {
                    SGSC_DOT_PLANES_1(4);
                } else {
                    SGSC_DOT_PLANES_1(1);
                }
            } else {
                const int8_t *w1 = SGSC_BYTES(second);
                const sgsc_lanes up1 = SGSC_UP(second);
                if (bits != 7 && rows == 4) {
                    SGSC_DOT_PLANES_2(4);
                } else if (bits != 7) {
                    SGSC_DOT_PLANES_2(1);
                } else {
                    const int8_t *w2 = SGSC_BYTES(1);
                    const sgsc_lanes up2 = SGSC_UP(1);
                    if (rows == 4) {
                        SGSC_DOT_PLANES_3(4);
                    } else {
                        SGSC_DOT_PLANES_3(1);
                    }
                }
            }
            x0 -= back;
            x1 -= back;
            x2 -= back;
            x3 -= back;
        }
    }
    if (rows == 4) {
        SGSC_KEEP_SUMS;
    } else {
        sums[0] = s0;
    }
}

/* The same of one row with four channels, whose bytes `step` lie behind each other; the last ones may be one again. */
SGSC_PER_CHANNEL void sgsc_dot_row(int32_t *sums, const int8_t *row, const int8_t *const *w, int32_t taps, int32_t bits)
{
    int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    if (bits == 8) {
        const int8_t *w0 = row, *x0 = w[0], *x1 = w[1], *x2 = w[2], *x3 = w[3];
        const int32_t n = taps;
        SGSC_DOT_WHOLE;
    } else if (bits == sgsc_narrowest(bits)) {
        const int32_t part = sgsc_part(bits, taps), back = -part & 15;
        const sgsc_lanes mask = sgsc_all_lanes(-(1 << (8 - bits)));
        int32_t left = taps;
        SGSC_ROLLED for (int32_t at = 0; left > 0; at += bits, left -= part) {
            const int8_t *x0 = w[0], *x1 = w[1], *x2 = w[2], *x3 = w[3];
            const int32_t n = left < part ? left : part;
            const sgsc_lanes up = sgsc_all_lanes(at);
            __asm__ volatile(SGSC_LOOP(" vldrb.8 q0, [%[row]], #16\n" SGSC_CHANNEL(0) SGSC_CHANNEL(1) SGSC_CHANNEL(2)
                                           SGSC_CHANNEL(3))
                             : SGSC_SUMS_4, [row] "+r"(row)
                             : [count] "r"(n), [up] "w"(up), [mask] "w"(mask)
                             : SGSC_CLOBBERS);
            row -= back;
        }
    } else {
        for (int32_t i = 0; i < 4; ++i) {
            sgsc_dot_channel(sums + i, &row, w[i], taps, bits, 1);
        }
        return;
    }
    SGSC_KEEP_SUMS;
}

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
            __asm__("vshr.s32 %q0, %q0, %1" : "+w"(acc) : "i"(down > 0 ? down : 1));
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

/* The dot product, times 2^(8 - bits), of a row with a channel. */
static inline int32_t sgsc_dot_bytes(const int8_t *row, const int8_t *w, int32_t taps, int32_t bits)
{
    const int32_t narrowest = sgsc_narrowest(bits), part = sgsc_part(bits, taps);
    int32_t sum = 0;
    for (int32_t at = 0, tap = 0; tap < taps; at += narrowest) {
        for (int32_t i = 0; i < part && tap < taps; ++i, ++tap) {
            const int8_t *plane = w + i;
            uint32_t top = 0;
            for (int32_t width = 8, below = 0; width >= narrowest; width /= 2) {
                if ((bits & width) != 0) {
                    const uint32_t byte = (uint8_t)plane[(at & (width - 1)) / narrowest * part];
                    const uint32_t field = byte << (at & -width) & 0xFFu & ~(0xFFu >> width);
                    top |= field >> below;
                    below += width;
                    plane += width / narrowest * part;
                }
            }
            sum += row[tap] * (int8_t)(uint8_t)top;
        }
    }
    return sum;
}

static inline void sgsc_dot_channel(int32_t *sums, const int8_t *const *from, const int8_t *w, int32_t taps, int32_t bits,
                                    int32_t rows)
{
    for (int32_t i = 0; i < rows; ++i) {
        sums[i] = sgsc_dot_bytes(from[i], w, taps, bits);
    }
}

static inline void sgsc_dot_row(int32_t *sums, const int8_t *row, const int8_t *const *w, int32_t taps, int32_t bits)
{
    for (int32_t i = 0; i < 4; ++i) {
        sums[i] = sgsc_dot_bytes(row, w[i], taps, bits);
    }
}

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

/* `count` channels of one width from channel `first` on; w is their bytes. */
SGSC_PER_CHANNEL void sgsc_segment(int8_t *out, struct sgsc_tile *tile, const int8_t *w, int32_t first, int32_t count,
                                   const struct sgsc_end *end, int32_t bits, int32_t rows, int32_t twice, int32_t clamps)
{
    const int32_t bytes = sgsc_channel_bytes(bits, tile->taps), down = bits == 0 ? 0 : 8 - bits;
    int32_t sums[16], placed = 0;
    if (bits == 0) {
        memset(sums, 0, sizeof sums);
    }
    SGSC_BARRIER;
    for (int32_t c = 0; c < count; c += 4) {
        const int32_t channels = count - c < 4 ? count - c : 4;
        if (channels != placed) {
            placed = channels;
            SGSC_ROLLED for (int32_t i = 0; i < 4; ++i) {
                const int32_t at = i < channels ? i : channels - 1;
                tile->at[i] = at;
                tile->sums_at[i] = at * rows;
                tile->m_at[i] = at * end->multiplier_step;
                tile->shift_at[i] = at * end->shift_step;
            }
        }
        if (bits != 0 && rows == 4) {
            SGSC_ROLLED for (int32_t i = 0; i < channels; ++i, w += bytes) {
                sgsc_dot_channel(sums + 4 * i, tile->from, w, tile->taps, bits, 4);
            }
        } else if (bits != 0) {
            const int8_t *of_channels[4];
            for (int32_t i = 0; i < 4; ++i) {
                of_channels[i] = w + (i < channels ? i : channels - 1) * bytes;
            }
            sgsc_dot_row(sums, tile->from[0], of_channels, tile->taps, bits);
            w += 4 * bytes;
        }
        sgsc_store_tile(out + c, sums, down, tile, first + c, end, twice, clamps);
    }
    SGSC_BARRIER;
}

typedef void sgsc_segment_of(int8_t *out, struct sgsc_tile *tile, const int8_t *w, int32_t first, int32_t count,
                             const struct sgsc_end *end);

/* All channels of a stream. */
static inline void sgsc_segments(int8_t *out, struct sgsc_tile *tile, const uint32_t *stream, int32_t channels,
                                 const struct sgsc_end *end, sgsc_segment_of *const *segments)
{
    for (int32_t c = 0; c < channels;) {
        const int32_t count = (int32_t)(*stream & 0xFFFFFFu), bits = (int32_t)(*stream >> 24);
        segments[bits](out + c, tile, (const int8_t *)(stream + 1), c, count, end);
        stream += 1 + (count * sgsc_channel_bytes(bits, tile->taps) + 3) / 4;
        c += count;
    }
}

#define SGSC_SEGMENT(BITS, ROWS, NAME, TWICE, CLAMPS)                                                                  \
    SGSC_KERNEL void sgsc_segment##BITS##_##ROWS##_##NAME(int8_t *out, struct sgsc_tile *tile, const int8_t *w,        \
                                                          int32_t first, int32_t count, const struct sgsc_end *end)    \
    {                                                                                                                  \
        sgsc_segment(out, tile, w, first, count, end, BITS, ROWS, TWICE, CLAMPS);                                      \
    }
#define SGSC_HAS_SEGMENT(BITS, ROWS, NAME) (SGSC_FIELDS_bytes##ROWS >> BITS & 1 ? sgsc_segment##BITS##_##ROWS##_##NAME : 0)
/* By width, as far as the model has such channels. */
#define SGSC_SEGMENTS(ROWS, NAME, TWICE, CLAMPS)                                                                       \
    SGSC_SEGMENT(0, ROWS, NAME, TWICE, CLAMPS)                                                                         \
    SGSC_SEGMENT(1, ROWS, NAME, TWICE, CLAMPS)                                                                         \
    SGSC_SEGMENT(2, ROWS, NAME, TWICE, CLAMPS)                                                                         \
    SGSC_SEGMENT(3, ROWS, NAME, TWICE, CLAMPS)                                                                         \
    SGSC_SEGMENT(4, ROWS, NAME, TWICE, CLAMPS)                                                                         \
    SGSC_SEGMENT(5, ROWS, NAME, TWICE, CLAMPS)                                                                         \
    SGSC_SEGMENT(6, ROWS, NAME, TWICE, CLAMPS)                                                                         \
    SGSC_SEGMENT(7, ROWS, NAME, TWICE, CLAMPS)                                                                         \
    SGSC_SEGMENT(8, ROWS, NAME, TWICE, CLAMPS)                                                                         \
    static sgsc_segment_of *const sgsc_segments_##ROWS##_##NAME[] __attribute__((unused)) = {                          \
        SGSC_HAS_SEGMENT(0, ROWS, NAME), SGSC_HAS_SEGMENT(1, ROWS, NAME), SGSC_HAS_SEGMENT(2, ROWS, NAME),             \
        SGSC_HAS_SEGMENT(3, ROWS, NAME), SGSC_HAS_SEGMENT(4, ROWS, NAME), SGSC_HAS_SEGMENT(5, ROWS, NAME),             \
        SGSC_HAS_SEGMENT(6, ROWS, NAME), SGSC_HAS_SEGMENT(7, ROWS, NAME), SGSC_HAS_SEGMENT(8, ROWS, NAME)};

/* The counterparts of those in sgsc_weighted.h: of up to four rows `row_stride` bytes from one another, or of one. */
#define SGSC_HELIUM(NAME, TWICE, CLAMPS)                                                                               \
    SGSC_SEGMENTS(4, NAME, TWICE, CLAMPS)                                                                              \
    SGSC_SEGMENTS(1, NAME, TWICE, CLAMPS)                                                                              \
    SGSC_KERNEL void sgsc_bytes_pixels_##NAME(                                                                         \
        int8_t *out, int32_t stride, int32_t pixels, const int8_t *row, int32_t row_stride, int32_t taps,              \
        const uint32_t *stream, int32_t channels, const void *bias, int32_t bias_bytes, const int32_t *multipliers,    \
        int32_t multiplier_step, const int8_t *shifts, int32_t shift_step, int32_t zero, int32_t low, int32_t high)    \
    {                                                                                                                  \
        const struct sgsc_end end = {bias, multipliers, shifts, bias_bytes, multiplier_step, shift_step,               \
                                     zero, low,         high};                                                         \
        struct sgsc_tile tile = {.taps = taps, .pixels = pixels, .stride = stride};                                    \
        for (int32_t i = 0; i < 4; ++i) {                                                                              \
            const int32_t pixel = i < pixels ? i : pixels - 1;                                                         \
            tile.from[i] = row + pixel * row_stride;                                                                   \
        }                                                                                                              \
        sgsc_segments(out, &tile, stream, channels, &end, sgsc_segments_4_##NAME);                                     \
    }                                                                                                                  \
    SGSC_KERNEL void sgsc_bytes_pixel_##NAME(                                                                          \
        int8_t *out, const int8_t *row, int32_t row_stride, int32_t taps, const uint32_t *stream, int32_t channels,    \
        const void *bias, int32_t bias_bytes, const int32_t *multipliers, int32_t multiplier_step,                     \
        const int8_t *shifts, int32_t shift_step, int32_t zero, int32_t low, int32_t high)                             \
    {                                                                                                                  \
        const struct sgsc_end end = {bias, multipliers, shifts, bias_bytes, multiplier_step, shift_step,               \
                                     zero, low,         high};                                                         \
        struct sgsc_tile tile = {.from = {row}, .taps = taps, .pixels = 1};                                            \
        (void)row_stride;                                                                                              \
        sgsc_segments(out, &tile, stream, channels, &end, sgsc_segments_1_##NAME);                                     \
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

/* Rows of the activations under the kernel at output pixels from `first` on, `count` of them; x begins at the channel
 * where the `depth` channels wanted of each tap begin. What lies outside of the image is its zero point. */
SGSC_KERNEL void sgsc_bytes_gather(int8_t *row, int32_t count, const int8_t *x, int32_t first, int32_t out_width,
                                   int32_t stride_y, int32_t stride_x, int32_t top, int32_t left, int32_t kernel_rows,
                                   int32_t kernel_columns, int32_t dilation_y, int32_t dilation_x, int32_t up_y,
                                   int32_t up_x, int32_t height, int32_t width, int32_t channels, int32_t depth,
                                   int32_t zero)
{
    const int32_t run = kernel_columns * depth, upsampled = up_y > 1 || up_x > 1;
    const int32_t whole = dilation_x == 1 && !upsampled && depth == channels;
    int32_t out_y = first / out_width, out_x = first - out_y * out_width;
    for (; count > 0; --count) {
        const int32_t ys = out_y * stride_y - top, xs = out_x * stride_x - left;
        for (int32_t ky = 0; ky < kernel_rows; ++ky) {
            int32_t iy = ys + ky * dilation_y;
            iy = upsampled ? sgsc_before_upsampling(iy, up_y) : iy;
            const int8_t *const line = x + iy * width * channels;
            if ((uint32_t)iy >= (uint32_t)height) {
                sgsc_fill(row, run, zero);
                row += run;
            } else if (whole && xs >= 0 && xs + kernel_columns <= width) {
                sgsc_copy_bytes(row, line + xs * channels, run);
                row += run;
            } else {
                for (int32_t kx = 0; kx < kernel_columns; ++kx, row += depth) {
                    int32_t ix = xs + kx * dilation_x;
                    ix = upsampled ? sgsc_before_upsampling(ix, up_x) : ix;
                    if ((uint32_t)ix < (uint32_t)width) {
                        sgsc_copy_bytes(row, line + ix * channels, depth);
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
