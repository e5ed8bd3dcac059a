/* Dot products of packed weights with widened activations: of four rows with one channel (4x1, where pixels share the
 * weights), or of one row with four channels (1x4, where a weight is used once); what remains is 1x1.
 *
 * A row is int16 activations minus their zero point in lane order: of each four neighbours (0, 2) and (1, 3), the last one
 * to three as they come; two make a pair. Four rows lie pair by pair side by side: one LDM loads a pair of each.
 * A word holds 16 / b fields of b bits in each 16-bit lane (of 6 bits three words hold eight); field j of both lanes meets
 * the j-th pair. Four channels' words
 * take turns. Fields of 8 bits are signed; narrower ones are offset binary, and the sum of a row's activations takes the
 * offset back. All sums wrap modulo 2^32: the compiler has proved that the end result fits.
 *
 * Channels that share a 16-bit lane save work: one product adds to the sums of all, and those of the lower ones are known
 * apart. Four rows have two channels in a lane (4x2), and so has one row of 8, 2 and 1 bits, whose lanes of a first and a
 * second two take turns; one row of 4 bits has four in a lane (1x4s). The first is signed, the others offset binary but for
 * those of 8 bits. Fields of 8 and 4 bits lie side by side, and the lower sums are computed once more and subtracted.
 * Fields of 2 and 1 bits lie at the ends of the lane: the lower sum stays below the upper's lowest bit for 16 or 32
 * activations and is taken out of the low bits. Field j is there when the word is turned right by j times twice the width. */
#ifndef SGSC_DOT_H
#define SGSC_DOT_H

struct sgsc_block {
    int32_t sums[8];       /* to which the products are added; 4x2: the first channel's four results, the second's */
    const int32_t *totals; /* for each the sum of its activations, or 0 where the fields are no channel's highest */
    int32_t bias[2];       /* 4x2: what the channels' sums begin with */
    uint32_t middle;       /* for fields at the ends of lanes: sgsc_middle of the activations' zero point */
};

/* Adds the dot products with the words from `words` to `end`, at least one of each channel. */
typedef void sgsc_dot(struct sgsc_block *block, const int8_t *row, const uint32_t *words, const uint32_t *end);

/* Field pair `at` of a channel's next words, `stride` words from one another: of 8 bits too as if unsigned. Of 6 bits two
 * fit a lane of each of three words; the four bits left over in these make two more, behind the second and the third. */
static inline uint32_t sgsc_fields(const uint32_t *words, int32_t stride, int32_t bits, int32_t at)
{
    if (bits == 6) {
        const uint32_t word = words[at < 2 ? 0 : at < 5 ? stride : 2 * stride], middle = words[stride];
        if (at == 4) {
            return (words[0] >> 12 & 0x000F000Fu) | (middle >> 8 & 0x00300030u);
        }
        if (at == 7) {
            return (word >> 12 & 0x000F000Fu) | (middle >> 10 & 0x00300030u);
        }
        return word >> (at == 1 || at == 3 || at == 6 ? 6 : 0) & 0x003F003Fu;
    }
    return (words[0] >> bits * at) & (((1u << bits) - 1u) * 0x00010001u);
}

/* sum + a pair of fields times a pair of activations; fields of 8 bits are signed. */
static inline uint32_t sgsc_add_products(uint32_t sum, const uint32_t *words, int32_t stride, int32_t bits, int32_t at,
                                         const int8_t *row)
{
#if SGSC_DSP
    const uint32_t fields = sgsc_fields(words, stride, bits, at);
    return sgsc_smlad(bits == 8 ? (uint32_t)__sxtb16((int8x4_t)fields) : fields, sgsc_load_pair(row), sum);
#else
    int16_t pair[2];
    memcpy(pair, __builtin_assume_aligned(row, sizeof pair), sizeof pair);
    if (bits == 8) {
        const int8_t low = (int8_t)(uint8_t)(words[0] >> 8 * at), high = (int8_t)(uint8_t)(words[0] >> (16 + 8 * at));
        return sum + (uint32_t)(low * pair[0]) + (uint32_t)(high * pair[1]);
    }
    const uint32_t fields = sgsc_fields(words, stride, bits, at);
    return sum + (uint32_t)((int32_t)(fields & 0xFFFFu) * pair[0]) + (uint32_t)((int32_t)(fields >> 16) * pair[1]);
#endif
}

/* Any number of rows and channels, four at most together. */
static inline __attribute__((always_inline)) void sgsc_dot_any(struct sgsc_block *block, const int8_t *row,
                                                               const uint32_t *words, const uint32_t *end, int32_t bits,
                                                               int32_t rows, int32_t channels)
{
    const int32_t pairs = bits == 6 ? 8 : 16 / bits, step = (bits == 6 ? 3 : 1) * channels;
    uint32_t sums[4];
    SGSC_UNROLL for (int32_t i = 0; i < rows * channels; ++i) {
        sums[i] = (uint32_t)block->sums[i] - (bits == 8 ? 0u : (uint32_t)block->totals[i] << (bits - 1));
    }
    for (; words != end; words += step) {
        SGSC_UNROLL for (int32_t at = 0; at < pairs; ++at) {
            SGSC_UNROLL for (int32_t i = 0; i < rows * channels; ++i) {
                const int8_t *const pair = row + 4 * (i / channels);
                sums[i] = sgsc_add_products(sums[i], words + i % channels, channels, bits, at, pair);
            }
            row += 4 * rows;
        }
    }
    SGSC_UNROLL for (int32_t i = 0; i < rows * channels; ++i) {
        block->sums[i] = (int32_t)sums[i];
    }
}
#define SGSC_DOT_ANY(BITS, ROWS, CHANNELS)                                                                             \
    SGSC_KERNEL void sgsc_dot##BITS##_##ROWS##x##CHANNELS(struct sgsc_block *block, const int8_t *row,                 \
                                                          const uint32_t *words, const uint32_t *end)                  \
    {                                                                                                                  \
        sgsc_dot_any(block, row, words, end, BITS, ROWS, CHANNELS);                                                    \
    }

/* What keeps sums of the low bits of a 4x2 lane from going below 0 until they are taken out: 64 is more than the offset
 * binary fields of one turn add up to. */
static inline uint32_t sgsc_middle(int32_t zero)
{
    return (uint32_t)(128 + zero) * 64u;
}

#if SGSC_DSP
#include "sgsc_dot_dsp.h"
#else
#define SGSC_DOT_ASM SGSC_DOT_ANY

/* A lane of two channels with an activation of each of `rows` rows, 1 or 4. */
static inline void sgsc_add_lane(uint32_t *first, uint32_t *second, uint32_t lane, const int8_t *row, int32_t rows,
                                 int32_t bits)
{
    const int32_t both = (int32_t)(int16_t)(uint16_t)lane, mask = (1 << bits) - 1;
    const int32_t low = bits == 8 ? (int32_t)(int8_t)(uint8_t)lane : both & mask;
    const int32_t high = (both - low) >> (bits == 8 ? 8 : 16 - bits);
    for (int32_t r = 0; r < rows; ++r) {
        int16_t activation;
        memcpy(&activation, __builtin_assume_aligned(row + 4 * r, sizeof activation), sizeof activation);
        first[r] += (uint32_t)(high * activation);
        second[r] += (uint32_t)(low * activation);
    }
}

/* Lanes of two channels, `words` of each two by turns. */
static inline void sgsc_add_lanes(uint32_t *sums, const int8_t *row, const uint32_t *words, const uint32_t *end,
                                  int32_t rows, int32_t bits)
{
    const int32_t turns = 4 / rows;
    for (; words != end; words += (turns + 1) / 2) {
        for (int32_t at = 0; at < 16; at += bits == 8 ? 16 : 2 * bits) {
            for (int32_t i = 0; i < (turns + 1) / 2; ++i) {
                const uint32_t word = at == 0 ? words[i] : words[i] >> at | words[i] << (32 - at);
                uint32_t *const first = sums + 2 * i, *const second = first + rows;
                sgsc_add_lane(first, second, word, row, rows, bits);
                sgsc_add_lane(first, second, word >> 16, row + 2, rows, bits);
            }
            row += 4 * rows;
        }
    }
}
#define SGSC_DOT_PAIR(BITS)                                                                                            \
    SGSC_KERNEL void sgsc_dot##BITS##_4x2(struct sgsc_block *block, const int8_t *row, const uint32_t *words,          \
                                          const uint32_t *end)                                                         \
    {                                                                                                                  \
        uint32_t sums[8] = {0};                                                                                        \
        sgsc_add_lanes(sums, row, words, end, 4, BITS);                                                                \
        for (int32_t i = 0; i < 8; ++i) {                                                                              \
            const uint32_t offset = i < 4 || (BITS) == 8 ? 0 : (uint32_t)block->totals[i % 4] << ((BITS) - 1);         \
            block->sums[i] = (int32_t)(sums[i] + (uint32_t)block->bias[i / 4] - offset);                               \
        }                                                                                                              \
    }
#define SGSC_DOT_SHARED(BITS)                                                                                          \
    SGSC_KERNEL void sgsc_dot##BITS##_1x4s(struct sgsc_block *block, const int8_t *row, const uint32_t *words,         \
                                           const uint32_t *end)                                                        \
    {                                                                                                                  \
        uint32_t sums[4] = {0};                                                                                        \
        sgsc_add_lanes(sums, row, words, end, 1, BITS);                                                                \
        for (int32_t i = 0; i < 4; ++i) {                                                                              \
            const uint32_t offset = i % 2 == 0 || (BITS) == 8 ? 0 : (uint32_t)block->totals[0] << ((BITS) - 1);        \
            block->sums[i] = (int32_t)((uint32_t)block->sums[i] + sums[i] - offset);                                   \
        }                                                                                                              \
    }
SGSC_DOT_SHARED(8)
SGSC_DOT_ANY(6, 4, 1)

SGSC_KERNEL void sgsc_dot4_1x4s(struct sgsc_block *block, const int8_t *row, const uint32_t *words, const uint32_t *end)
{
    uint32_t sums[4];
    for (int32_t i = 0; i < 4; ++i) {
        sums[i] = (uint32_t)block->sums[i] - (i == 0 ? 0u : (uint32_t)block->totals[0] << 3);
    }
    for (; words != end; ++words, row += 4) {
        for (int32_t lane = 0; lane < 2; ++lane) {
            int16_t activation;
            memcpy(&activation, __builtin_assume_aligned(row + 2 * lane, sizeof activation), sizeof activation);
            const int32_t four = (int32_t)(int16_t)(uint16_t)(*words >> 16 * lane);
            sums[0] += (uint32_t)((four >> 12) * activation);
            sums[1] += (uint32_t)((four >> 8 & 15) * activation);
            sums[2] += (uint32_t)((four >> 4 & 15) * activation);
            sums[3] += (uint32_t)((four & 15) * activation);
        }
    }
    for (int32_t i = 0; i < 4; ++i) {
        block->sums[i] = (int32_t)sums[i];
    }
}
SGSC_DOT_PAIR(8)
#endif

#define SGSC_DOTS(BITS)       \
    SGSC_DOT_ASM(BITS, 4, 1)  \
    SGSC_DOT_ASM(BITS, 1, 4)  \
    SGSC_DOT_ANY(BITS, 1, 1)
SGSC_DOTS(1)
SGSC_DOTS(2)
SGSC_DOTS(3)
SGSC_DOTS(4)
SGSC_DOTS(5)
SGSC_DOTS(8)
SGSC_DOT_ANY(6, 1, 4)
SGSC_DOT_ANY(6, 1, 1)
SGSC_DOT_PAIR(1)
SGSC_DOT_PAIR(2)
SGSC_DOT_SHARED(1)
SGSC_DOT_SHARED(2)
#undef SGSC_DOTS
#undef SGSC_DOT_ASM
#undef SGSC_DOT_ANY
#undef SGSC_DOT_PAIR
#undef SGSC_DOT_SHARED

#endif
