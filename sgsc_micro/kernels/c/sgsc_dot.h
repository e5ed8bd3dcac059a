/* Dot products of packed weights with widened activations, four at once: of four rows with one channel (4x1, where pixels
 * share the weights), or of one row with four channels (1x4, where a weight is used once); what remains is 1x1.
 *
 * A row is int16 activations minus their zero point in lane order: of each four neighbours (0, 2) and (1, 3), the last one
 * to three as they come; two make a pair. Four rows lie pair by pair side by side: one LDM loads a pair of each.
 * A word holds 16 / b fields of b bits in each 16-bit lane; field j of both lanes meets the j-th pair. Four channels' words
 * take turns. Fields of 8 bits are signed; narrower ones are offset binary, and the sum of a row's activations takes the
 * offset back. All sums wrap modulo 2^32: the compiler has proved that the end result fits. */
#ifndef SGSC_DOT_H
#define SGSC_DOT_H

struct sgsc_block {
    int32_t sums[4];       /* to which the products are added */
    const int32_t *totals; /* for each the sum of its activations, or 0 where the fields are no channel's highest */
};

/* Adds the dot products with the words from `words` to `end`, at least one of each channel. */
typedef void sgsc_dot(struct sgsc_block *block, const int8_t *row, const uint32_t *words, const uint32_t *end);

/* A pair of fields of a word: signed for 8 bits, else unsigned. */
static inline uint32_t sgsc_fields(uint32_t word, int32_t bits, int32_t shift)
{
    const uint32_t fields = (word >> shift) & (((1u << bits) - 1u) * 0x00010001u);
    if (bits != 8) {
        return fields;
    }
#if SGSC_DSP
    return (uint32_t)__sxtb16((int8x4_t)fields);
#else
    return ((((fields & 0xFFu) ^ 0x80u) - 0x80u) & 0xFFFFu) | (((fields >> 16) ^ 0x80u) - 0x80u) << 16;
#endif
}

/* Any number of rows and channels, four at most together. */
static inline __attribute__((always_inline)) void sgsc_dot_any(struct sgsc_block *block, const int8_t *row,
                                                               const uint32_t *words, const uint32_t *end, int32_t bits,
                                                               int32_t rows, int32_t channels)
{
    uint32_t sums[4];
    SGSC_UNROLL for (int32_t i = 0; i < rows * channels; ++i) {
        sums[i] = (uint32_t)block->sums[i] - (bits == 8 ? 0u : (uint32_t)block->totals[i] << (bits - 1));
    }
    for (; words != end; words += channels) {
        SGSC_UNROLL for (int32_t shift = 0; shift + bits <= 16; shift += bits) {
            SGSC_UNROLL for (int32_t i = 0; i < rows * channels; ++i) {
                const uint32_t pair = sgsc_load_pair(row + 4 * (i / channels));
                sums[i] = sgsc_smlad(sgsc_fields(words[i % channels], bits, shift), pair, sums[i]);
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

#if SGSC_DSP

/* r0 a pair of fields, r1 row, r2 words, r3 end, r4-r7 sums, r8-r11 what one LDM loads, ip a word or a pair of
 * activations, lr the mask of a pair of fields; the block is on the stack. */
#define SGSC_SINGLE_STEP "3"
#define SGSC_DOT_MACROS                                                                                                \
    ".macro fields of, bits, shift\n"                                                                                  \
    ".if \\bits == 8\n sxtb16 r0, \\of, ror #\\shift\n"                                                                \
    ".else\n and r0, lr, \\of, lsr #\\shift\n .endif\n"                                                                \
    ".endm\n"                                                                                                          \
    ".macro step_4x1 bits\n"                                                                                           \
    " ldr ip, [r2], #4\n"                                                                                              \
    ".set at, 0\n"                                                                                                     \
    ".rept 16 / \\bits\n"                                                                                              \
    " ldm r1!, {r8-r11}\n"                                                                                             \
    " fields ip, \\bits, at\n"                                                                                         \
    " smlad r4, r0, r8, r4\n smlad r5, r0, r9, r5\n smlad r6, r0, r10, r6\n smlad r7, r0, r11, r7\n"                   \
    ".set at, at + \\bits\n"                                                                                           \
    ".endr\n"                                                                                                          \
    ".endm\n"                                                                                                          \
    ".macro step_1x4 bits\n"                                                                                           \
    " ldm r2!, {r8-r11}\n"                                                                                             \
    ".set at, 0\n"                                                                                                     \
    ".rept 16 / \\bits\n"                                                                                              \
    " ldr ip, [r1], #4\n"                                                                                              \
    " fields r8, \\bits, at\n smlad r4, r0, ip, r4\n"                                                                  \
    " fields r9, \\bits, at\n smlad r5, r0, ip, r5\n"                                                                  \
    " fields r10, \\bits, at\n smlad r6, r0, ip, r6\n"                                                                 \
    " fields r11, \\bits, at\n smlad r7, r0, ip, r7\n"                                                                 \
    ".set at, at + \\bits\n"                                                                                           \
    ".endr\n"                                                                                                          \
    ".endm\n"

/* A loop of `steps` steps a turn, two for wide fields unless size matters more: an odd number of words then enters in the
 * middle. noipa: the compiler must not think that what it does not see leaves r0-r3 alone. */
#define SGSC_DOT_ASM(BITS, ROWS, CHANNELS)                                                                             \
    static __attribute__((naked, noipa, unused)) void sgsc_dot##BITS##_##ROWS##x##CHANNELS(                            \
        struct sgsc_block *block __attribute__((unused)), const int8_t *row __attribute__((unused)),                   \
        const uint32_t *words __attribute__((unused)), const uint32_t *end __attribute__((unused)))                    \
    {                                                                                                                  \
        __asm__(SGSC_DOT_MACROS ".set bits, " #BITS "\n .set steps, 1\n"                                              \
                ".if bits > " SGSC_SINGLE_STEP "\n .set steps, 2\n .endif\n"                                           \
                " push {r0, r4-r11, lr}\n ldm r0, {r4-r7}\n"                                                           \
                ".if bits != 8\n mov lr, #(((1 << bits) - 1) * 0x10001)\n .endif\n"                                    \
                ".if steps == 2\n sub ip, r3, r2\n tst ip, #(4 * " #CHANNELS ")\n bne 2f\n .endif\n"                  \
                "1:\n .rept steps - 1\n step_" #ROWS "x" #CHANNELS " " #BITS "\n .endr\n"                             \
                "2:\n step_" #ROWS "x" #CHANNELS " " #BITS "\n"                                                        \
                " cmp r2, r3\n bne 1b\n pop {r0}\n"                                                                    \
                ".if bits != 8\n ldr lr, [r0, #16]\n ldm lr, {r8-r11}\n"                                               \
                " sub r4, r4, r8, lsl #(bits - 1)\n sub r5, r5, r9, lsl #(bits - 1)\n"                                 \
                " sub r6, r6, r10, lsl #(bits - 1)\n sub r7, r7, r11, lsl #(bits - 1)\n .endif\n"                      \
                " stm r0, {r4-r7}\n pop {r4-r11, pc}\n"                                                                \
                ".purgem fields\n .purgem step_4x1\n .purgem step_1x4\n");                                             \
    }
#else
#define SGSC_DOT_ASM SGSC_DOT_ANY
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
#undef SGSC_DOTS
#undef SGSC_DOT_ASM
#undef SGSC_DOT_ANY

#endif
