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

/* What a tile of results is computed from: of four channels, the last again where there are fewer, at up to four pixels.
 * Assembly knows where what comes before `taps` lies. */
struct sgsc_tile {
    struct {
        int32_t zero; /* where its sum begins */
        const int8_t *row;
    } from[4];             /* by pixel */
    const int8_t *lower[4]; /* the rows' second halves, where bytes hold two fields */
    int32_t part, back;    /* taps of a part, and how far beyond them 16 at a time go */
    int32_t mask, bytes;   /* of a weight in its byte; of a channel */
    int32_t parts[8 * 7 + 1]; /* of each the planes' shifts and where their bytes begin, and its taps; ends below 0 */
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

/* Four sums of four rows for each channel, from `sums` to `end`: the dot products with bytes from w on, times 2^(8 - bits).
 * q0 is activations, q1 weights; r2, r4, r6 and r8 are sums, r3, r5, r7 and r9 rows. A loop's last turn is short. */
typedef void sgsc_dot_tile(const struct sgsc_tile *tile, const int8_t *w, int32_t *sums, const int32_t *end);

#define SGSC_DOT_TILE(NAME, BODY)                                                                                      \
    static __attribute__((naked, noipa, unused)) void NAME(                                                            \
        const struct sgsc_tile *tile __attribute__((unused)), const int8_t *w __attribute__((unused)),                 \
        int32_t *sums __attribute__((unused)), const int32_t *end __attribute__((unused)))                             \
    {                                                                                                                  \
        __asm__(BODY);                                                                                                 \
    }
#define SGSC_MEET(SUM, ROW, WEIGHTS) " vldrb.8 q0, [" ROW "], #16\n vmladava.s8 " SUM ", q0, " WEIGHTS "\n"
#define SGSC_MEET_FOUR                                                                                                 \
    SGSC_MEET("r2", "r3", "q1") SGSC_MEET("r4", "r5", "q1") SGSC_MEET("r6", "r7", "q1") SGSC_MEET("r8", "r9", "q1")

SGSC_DOT_TILE(sgsc_dot_tile8, " push {r3-r11, lr}\n mov r10, r2\n ldrd r12, r11, [r0, #48]\n"
                              "1:\n ldm r0, {r2-r9}\n dlstp.8 lr, r12\n"
                              "2:\n vldrb.8 q1, [r1], #16\n" SGSC_MEET_FOUR " letp lr, 2b\n"
                              " strd r2, r4, [r10], #8\n strd r6, r8, [r10], #8\n sub r1, r1, r11\n"
                              " ldr r3, [sp]\n cmp r10, r3\n bne 1b\n pop {r3-r11, pc}\n")

/* Both fields of a byte at a time; r0, r2, r4 and r6 are sums, r8 to r11 the lower fields' rows. */
SGSC_DOT_TILE(sgsc_dot_tile4, " push {r0-r11, lr}\n mov r4, #0xF0\n vdup.8 q3, r4\n"
                              "1:\n ldrd lr, r12, [sp]\n ldm lr, {r0-r11}\n ldr lr, [lr, #48]\n dlstp.8 lr, lr\n"
                              "2:\n vldrb.8 q1, [r12], #16\n vshl.i8 q2, q1, #4\n vand q1, q1, q3\n" //
                              SGSC_MEET("r0", "r1", "q1") SGSC_MEET("r2", "r3", "q1")                //
                              SGSC_MEET("r4", "r5", "q1") SGSC_MEET("r6", "r7", "q1")                //
                              SGSC_MEET("r0", "r8", "q2") SGSC_MEET("r2", "r9", "q2")                //
                              SGSC_MEET("r4", "r10", "q2") SGSC_MEET("r6", "r11", "q2")              //
                              " letp lr, 2b\n"
                              " ldrd r1, r3, [sp, #8]\n strd r0, r2, [r1], #8\n strd r4, r6, [r1], #8\n"
                              " ldr lr, [sp]\n ldr lr, [lr, #52]\n sub r12, r12, lr\n strd r12, r1, [sp, #4]\n"
                              " cmp r1, r3\n bne 1b\n add sp, #16\n pop {r4-r11, pc}\n")

/* One to three planes, part by part. r0 is w, r1, r10 and r11 where a part's fields are, r12 where it is written. */
#define SGSC_PLANE(ROW, UP) " ldr " ROW ", [r12], #4\n add " ROW ", r0\n" UP
#define SGSC_UP(UP) " ldr lr, [r12], #4\n vdup.8 " UP ", lr\n"
#define SGSC_FIELD(Q, ROW, UP) " vldrb.8 " Q ", [" ROW "], #16\n vshl.s8 " Q ", " Q ", " UP "\n"
#define SGSC_DOT_PARTS(NAME, PLANES, FIELDS, MEET)                                                                     \
    SGSC_DOT_TILE(NAME,                                                                                                \
                  " vpush {d8-d15}\n push {r0-r11, lr}\n ldr r4, [r0, #56]\n vdup.8 q4, r4\n"                          \
                  "1:\n ldrd lr, r0, [sp]\n add r12, lr, #64\n ldm lr, {r2-r9}\n"                                    \
                  "2:\n ldr lr, [r12], #4\n cmp lr, #0\n blt 4f\n vdup.8 q5, lr\n"                                     \
                  " ldr r1, [r12], #4\n add r1, r0\n" PLANES " ldr lr, [r12], #4\n dlstp.8 lr, lr\n"                   \
                  "3:\n" SGSC_FIELD("q1", "r1", "q5") FIELDS " vand q1, q1, q4\n" MEET " letp lr, 3b\n"                \
                  " ldr lr, [sp]\n ldr lr, [lr, #52]\n sub r3, lr\n sub r5, lr\n sub r7, lr\n sub r9, lr\n b 2b\n"     \
                  "4:\n ldrd r1, r3, [sp, #8]\n strd r2, r4, [r1], #8\n strd r6, r8, [r1], #8\n"                       \
                  " ldr lr, [sp]\n ldr lr, [lr, #60]\n add r0, lr\n strd r0, r1, [sp, #4]\n"                           \
                  " cmp r1, r3\n bne 1b\n add sp, #16\n pop {r4-r11, lr}\n vpop {d8-d15}\n bx lr\n")
#define SGSC_SECOND " ldr lr, [r12], #4\n vdup.8 q6, lr\n ldr r10, [r12], #4\n add r10, r0\n"
#define SGSC_THIRD " ldr lr, [r12], #4\n vdup.8 q7, lr\n ldr r11, [r12], #4\n add r11, r0\n"
#define SGSC_BELOW(SHIFT) SGSC_FIELD("q2", "r10", "q6") " vsri.8 q1, q2, #" SHIFT "\n"
#define SGSC_LOWEST(SHIFT) SGSC_FIELD("q3", "r11", "q7") " vsri.8 q1, q3, #" SHIFT "\n"
SGSC_DOT_PARTS(sgsc_dot_tile1, "", "", SGSC_MEET_FOUR)
SGSC_DOT_PARTS(sgsc_dot_tile2, "", "", SGSC_MEET_FOUR)
#define SGSC_DOT_PLANES(SHAPE, MEET)                                                                                   \
    SGSC_DOT_PARTS(sgsc_dot_##SHAPE##3, SGSC_SECOND, SGSC_BELOW("2"), MEET)                                            \
    SGSC_DOT_PARTS(sgsc_dot_##SHAPE##5, SGSC_SECOND, SGSC_BELOW("4"), MEET)                                            \
    SGSC_DOT_PARTS(sgsc_dot_##SHAPE##6, SGSC_SECOND, SGSC_BELOW("4"), MEET)                                            \
    SGSC_DOT_PARTS(sgsc_dot_##SHAPE##7, SGSC_SECOND SGSC_THIRD, SGSC_BELOW("4") SGSC_LOWEST("6"), MEET)
SGSC_DOT_PLANES(tile, SGSC_MEET_FOUR)
SGSC_DOT_PLANES(line, SGSC_MEET("r2", "r3", "q1"))

/* Only the first row's sums, of channels of one plane: four together. */
#define SGSC_CHANNEL(I, FIELD) " vldrb.8 q1, [%[w" #I "]], #16\n" FIELD " vmladava.s8 %[s" #I "], q0, q1\n"
#define SGSC_DOT_CHANNELS(FIELD, ...)                                                                                  \
    __asm__ volatile(" dlstp.8 lr, %[count]\n1:\n vldrb.8 q0, [%[row]], #16\n" SGSC_CHANNEL(0, FIELD)                  \
                         SGSC_CHANNEL(1, FIELD) SGSC_CHANNEL(2, FIELD) SGSC_CHANNEL(3, FIELD) " letp lr, 1b\n"         \
                     : [s0] "+Te"(s0), [s1] "+Te"(s1), [s2] "+Te"(s2), [s3] "+Te"(s3), [w0] "+r"(w0), [w1] "+r"(w1),   \
                       [w2] "+r"(w2), [w3] "+r"(w3), [row] "+r"(row)                                                   \
                     : [count] "r"(n) __VA_ARGS__                                                                      \
                     : "q0", "q1", "lr")

SGSC_PER_CHANNEL void sgsc_dot_line(const struct sgsc_tile *tile, const int8_t *w, int32_t *sums, const int32_t *end,
                                    int32_t bits)
{
    const int8_t *row = tile->from[0].row, *const last = w + ((end - sums) / 4 - 1) * tile->bytes;
    const int8_t *const second = w + tile->bytes, *const third = second + tile->bytes;
    int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0, left = tile->taps;
    const sgsc_lanes mask = sgsc_all_lanes(tile->mask);
    SGSC_ROLLED for (int32_t at = 0; left > 0; at += bits, left -= tile->part) {
        const int8_t *w0 = w, *w1 = second < last ? second : last, *w2 = third < last ? third : last, *w3 = last;
        const int32_t n = left < tile->part ? left : tile->part;
        if (bits == 8) {
            SGSC_DOT_CHANNELS("", );
        } else {
            const sgsc_lanes up = sgsc_all_lanes(at);
            SGSC_DOT_CHANNELS(" vshl.s8 q1, q1, %q[up]\n vand q1, q1, %q[mask]\n", , [up] "w"(up), [mask] "w"(mask));
            row -= tile->back;
        }
    }
    sums[0] = s0;
    sums[4] = s1;
    sums[8] = s2;
    sums[12] = s3;
}
#define SGSC_DOT_LINE(BITS)                                                                                            \
    static inline void sgsc_dot_line##BITS(const struct sgsc_tile *tile, const int8_t *w, int32_t *sums,               \
                                           const int32_t *end)                                                         \
    {                                                                                                                  \
        sgsc_dot_line(tile, w, sums, end, BITS);                                                                       \
    }
SGSC_DOT_LINE(1)
SGSC_DOT_LINE(2)
SGSC_DOT_LINE(4)
SGSC_DOT_LINE(8)

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

typedef void sgsc_dot_tile(const struct sgsc_tile *tile, const int8_t *w, int32_t *sums, const int32_t *end);

#define SGSC_DOT_TILE(SHAPE, ROWS, BITS)                                                                               \
    SGSC_KERNEL void sgsc_dot_##SHAPE##BITS(const struct sgsc_tile *tile, const int8_t *w, int32_t *sums,              \
                                            const int32_t *end)                                                        \
    {                                                                                                                  \
        for (; sums != end; sums += 4, w += tile->bytes) {                                                             \
            for (int32_t i = 0; i < ROWS; ++i) {                                                                       \
                sums[i] = sgsc_dot_bytes(tile->from[i].row, w, tile->taps, BITS);                                      \
            }                                                                                                          \
        }                                                                                                              \
    }
#define SGSC_DOT_TILES(SHAPE, ROWS)                                                                                    \
    SGSC_DOT_TILE(SHAPE, ROWS, 1)                                                                                      \
    SGSC_DOT_TILE(SHAPE, ROWS, 2)                                                                                      \
    SGSC_DOT_TILE(SHAPE, ROWS, 3)                                                                                      \
    SGSC_DOT_TILE(SHAPE, ROWS, 4)                                                                                      \
    SGSC_DOT_TILE(SHAPE, ROWS, 5)                                                                                      \
    SGSC_DOT_TILE(SHAPE, ROWS, 6)                                                                                      \
    SGSC_DOT_TILE(SHAPE, ROWS, 7)                                                                                      \
    SGSC_DOT_TILE(SHAPE, ROWS, 8)
SGSC_DOT_TILES(tile, 4)
SGSC_DOT_TILES(line, 1)

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
                                   const struct sgsc_end *end, int32_t bits, sgsc_dot_tile *dot,
                                   int32_t twice, int32_t clamps)
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

#define SGSC_SEGMENT(BITS, ROWS, DOT, NAME, TWICE, CLAMPS)                                                             \
    SGSC_KERNEL void sgsc_segment##BITS##_##ROWS##_##NAME(int8_t *out, struct sgsc_tile *tile, const int8_t *w,        \
                                                          int32_t first, int32_t count, const struct sgsc_end *end)    \
    {                                                                                                                  \
        sgsc_segment(out, tile, w, first, count, end, BITS, DOT, TWICE, CLAMPS);                                       \
    }
#define SGSC_HAS_SEGMENT(BITS, ROWS, NAME) (SGSC_FIELDS_bytes##ROWS >> BITS & 1 ? sgsc_segment##BITS##_##ROWS##_##NAME : 0)
/* By width, as far as the model has such channels. */
#define SGSC_SEGMENTS(ROWS, SHAPE, NAME, TWICE, CLAMPS)                                                                \
    SGSC_SEGMENT(0, ROWS, 0, NAME, TWICE, CLAMPS)                                                    \
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

/* The counterparts of those in sgsc_weighted.h: of up to four rows `row_stride` bytes from one another, or of one. */
#define SGSC_HELIUM(NAME, TWICE, CLAMPS)                                                                               \
    SGSC_SEGMENTS(4, tile, NAME, TWICE, CLAMPS)                                                                              \
    SGSC_SEGMENTS(1, line, NAME, TWICE, CLAMPS)                                                                              \
    SGSC_KERNEL void sgsc_bytes_pixels_##NAME(                                                                         \
        int8_t *out, int32_t stride, int32_t pixels, const int8_t *row, int32_t row_stride, int32_t taps,              \
        const uint32_t *stream, int32_t channels, const void *bias, int32_t bias_bytes, const int32_t *multipliers,    \
        int32_t multiplier_step, const int8_t *shifts, int32_t shift_step, int32_t zero, int32_t low, int32_t high)    \
    {                                                                                                                  \
        const struct sgsc_end end = {bias, multipliers, shifts, bias_bytes, multiplier_step, shift_step,               \
                                     zero, low,         high};                                                         \
        struct sgsc_tile tile; \
        tile.taps = taps; \
        tile.pixels = pixels; \
        tile.stride = stride; \
        for (int32_t i = 0; i < 4; ++i) {                                                                              \
            const int32_t pixel = i < pixels ? i : pixels - 1;                                                         \
            tile.from[i].zero = 0; \
            tile.from[i].row = row + pixel * row_stride;                                                                   \
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
        struct sgsc_tile tile; \
        tile.taps = taps; \
        tile.pixels = 1; \
        tile.stride = 0; \
        for (int32_t i = 0; i < 4; ++i) { \
            tile.from[i].zero = 0; \
            tile.from[i].row = row; \
        } \
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

/* Rows, `stride` bytes apart, of the activations under the kernel at output pixels from `first` on, `count` of them; x begins at the channel
 * where the `depth` channels wanted of each tap begin. What lies outside of the image is its zero point. */
SGSC_KERNEL void sgsc_bytes_gather(int8_t *row, int32_t stride, int32_t count, const int8_t *x, int32_t first, int32_t out_width,
                                   int32_t stride_y, int32_t stride_x, int32_t top, int32_t left, int32_t kernel_rows,
                                   int32_t kernel_columns, int32_t dilation_y, int32_t dilation_x, int32_t up_y,
                                   int32_t up_x, int32_t height, int32_t width, int32_t channels, int32_t depth,
                                   int32_t zero)
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
