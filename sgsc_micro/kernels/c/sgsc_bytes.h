/* Dot products of rows of int8 with packed bytes, for Helium's 16 byte lanes; plain C where there is none.
 *
 * A row is activations as they are, one after the other: the bias holds what their zero point adds. The channels come
 * as a stream: for neighbours of one width a word with their number and, from bit 24, the width b; then their bytes,
 * channel by channel, and zeros up to a word.
 *
 * A width is one plane of 8 bits or the sum of planes of 4, 2 and 1 bits, the most significant first. Where the
 * narrowest has fields of f bits, the taps fall into 8 / f parts of n = ceil(taps * f / 8). The narrowest plane has n
 * bytes: field j of byte i, from the top, is of tap i of part j. A plane of p bits has n bytes p / f times: each of its
 * fields serves that many parts, one from each n bytes. What is beyond the last tap is 0. A loop over a part brings one
 * field of each plane to the top of its byte and puts them together: the weight times 2^(8 - b). */
#ifndef SGSC_BYTES_H
#define SGSC_BYTES_H

#if defined(__ARM_FEATURE_MVE) && __ARM_FEATURE_MVE & 1
#define SGSC_MVE 1
#else
#define SGSC_MVE 0
#endif

typedef int32_t sgsc_words __attribute__((vector_size(16)));

/* What a tile of results is computed from: of four channels, the last again where there are fewer, at up to four
 * pixels. Assembly knows where what comes before `taps` lies. */
struct sgsc_tile {
    struct {
        int32_t zero; /* where its sum begins */
        const int8_t *row;
    } from[4];                /* by pixel */
    const int8_t *lower[4];   /* the rows' second halves, where bytes hold two fields */
    int32_t part, back;       /* taps of a part, and how far beyond them 16 at a time go */
    int32_t mask, bytes;      /* of a weight in its byte; of a channel */
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

/* Four sums of four rows for each channel, from `sums` to `end`: the dot products with bytes from w on, times
 * 2^(8 - bits). q0 is activations, q1 weights; r2, r4, r6 and r8 are sums, r3, r5, r7 and r9 rows. A loop's last turn
 * is short. */
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
#define SGSC_FIELD(Q, ROW, UP) " vldrb.8 " Q ", [" ROW "], #16\n vshl.s8 " Q ", " Q ", " UP "\n"
#define SGSC_DOT_PARTS(NAME, PLANES, FIELDS, MEET)                                                                     \
    SGSC_DOT_TILE(NAME,                                                                                                \
                  " vpush {d8-d15}\n push {r0-r11, lr}\n ldr r4, [r0, #56]\n vdup.8 q4, r4\n"                          \
                  "1:\n ldrd lr, r0, [sp]\n add r12, lr, #64\n ldm lr, {r2-r9}\n"                                      \
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

#endif

#endif
