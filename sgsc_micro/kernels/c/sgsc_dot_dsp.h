/* The dot products of sgsc_dot.h in assembly, for cores with the DSP extension. */
#ifndef SGSC_DOT_DSP_H
#define SGSC_DOT_DSP_H

/* r0 a pair of fields, r1 row, r2 words, r3 end, r4-r7 sums, r8-r11 what one LDM loads, ip a word or a pair of
 * activations, lr the mask of a pair of fields; the block is on the stack. */
#if SGSC_OPTIMIZE == 0
#define SGSC_PAIRS_A_TURN "1"
#elif SGSC_OPTIMIZE == 1
#define SGSC_PAIRS_A_TURN "10"
#else
#define SGSC_PAIRS_A_TURN "16"
#endif
#define SGSC_DOT_MACROS                                                                                                \
    ".macro fields of, bits, shift\n"                                                                                  \
    ".if \\bits == 8\n sxtb16.w r0, \\of, ror #\\shift\n"                                                                \
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

/* A loop of 1, 2 or 4 steps a turn, as many as it takes for so many pairs; what is left of a turn comes first. noipa: the
 * compiler must not think that what it does not see leaves r0-r3 alone. */
#define SGSC_DOT_ASM(BITS, ROWS, CHANNELS)                                                                             \
    static __attribute__((naked, noipa, unused)) void sgsc_dot##BITS##_##ROWS##x##CHANNELS(                            \
        struct sgsc_block *block __attribute__((unused)), const int8_t *row __attribute__((unused)),                   \
        const uint32_t *words __attribute__((unused)), const uint32_t *end __attribute__((unused)))                    \
    {                                                                                                                  \
        __asm__(SGSC_DOT_MACROS ".set bits, " #BITS "\n .set words, " #CHANNELS "\n .set pairs, 16 / bits\n"           \
                ".set steps, 1\n .rept 2\n .if steps * pairs < " SGSC_PAIRS_A_TURN "\n .set steps, 2 * steps\n"        \
                ".endif\n .endr\n .set bytes, 4 * (1 + pairs * (1 + " #ROWS " * words + words))\n"                     \
                " push {r0, r4-r11, lr}\n ldm r0, {r4-r7}\n"                                                           \
                ".if bits != 8\n mov lr, #(((1 << bits) - 1) * 0x10001)\n .endif\n"                                    \
                ".if steps > 1\n sub ip, r2, r3\n and ip, ip, #(4 * words * (steps - 1))\n"                            \
                " mov r0, #(bytes / 4)\n mul ip, ip, r0\n adr.w r0, 1f\n"                                              \
                ".if words == 4\n add r0, r0, ip, lsr #2\n .else\n add r0, ip\n .endif\n mov pc, r0\n"                 \
                ".balign 4\n .endif\n"                                                                                 \
                "1:\n .rept steps\n step_" #ROWS "x" #CHANNELS " " #BITS "\n .endr\n"                                  \
                " cmp r2, r3\n bne 1b\n pop {r0}\n"                                                                    \
                ".if bits != 8\n ldr lr, [r0, #32]\n ldm lr, {r8-r11}\n"                                               \
                " sub r4, r4, r8, lsl #(bits - 1)\n sub r5, r5, r9, lsl #(bits - 1)\n"                                 \
                " sub r6, r6, r10, lsl #(bits - 1)\n sub r7, r7, r11, lsl #(bits - 1)\n .endif\n"                      \
                " stm r0, {r4-r7}\n pop {r4-r11, pc}\n"                                                                \
                ".purgem fields\n .purgem step_4x1\n .purgem step_1x4\n");                                             \
    }

/* The same of 6 bits, of which two fit into a lane: see sgsc_fields. r3 what three words leave over, the end on the stack. */
static __attribute__((naked, noipa, unused)) void sgsc_dot6_4x1(struct sgsc_block *block __attribute__((unused)),
                                                                const int8_t *row __attribute__((unused)),
                                                                const uint32_t *words __attribute__((unused)),
                                                                const uint32_t *end __attribute__((unused)))
{
    __asm__(".macro rows\n ldm r1!, {r8-r11}\n"
            " smlad r4, r0, r8, r4\n smlad r5, r0, r9, r5\n smlad r6, r0, r10, r6\n smlad r7, r0, r11, r7\n .endm\n"
            ".macro two\n ldr ip, [r2], #4\n and r0, lr, ip\n rows\n and r0, lr, ip, lsr #6\n rows\n .endm\n"
            " push {r0, r3-r11, lr}\n ldm r0, {r4-r7}\n mov lr, #0x003F003F\n"
            "1:\n two\n lsr r3, ip, #12\n and r3, r3, #0x000F000F\n"
            " two\n lsr r0, ip, #8\n and r0, r0, #0x00300030\n orr r0, r0, r3\n rows\n"
            " lsr r3, ip, #10\n and r3, r3, #0x00300030\n"
            " two\n lsr r0, ip, #12\n and r0, r0, #0x000F000F\n orr r0, r0, r3\n rows\n"
            " ldr r3, [sp, #4]\n cmp r2, r3\n bne 1b\n"
            " pop {r0, r3}\n ldr lr, [r0, #32]\n ldm lr, {r8-r11}\n"
            " sub r4, r4, r8, lsl #5\n sub r5, r5, r9, lsl #5\n sub r6, r6, r10, lsl #5\n sub r7, r7, r11, lsl #5\n"
            " stm r0, {r4-r7}\n pop {r4-r11, pc}\n .purgem two\n .purgem rows\n");
}

/* r0 and lr a pair of two rows each, r1 rows, r2 words, r3 the second channel's fields, r4-r7 sums of both channels,
 * r8-r11 of the second, ip a word. Four steps a turn; what is left of four comes first. */
static __attribute__((naked, noipa, unused)) void sgsc_dot8_4x2(struct sgsc_block *block __attribute__((unused)),
                                                                const int8_t *row __attribute__((unused)),
                                                                const uint32_t *words __attribute__((unused)),
                                                                const uint32_t *end __attribute__((unused)))
{
    __asm__(" push {r0, r3-r11, lr}\n"
            " mov r4, #0\n mov r5, r4\n mov r6, r4\n mov r7, r4\n mov r8, r4\n mov r9, r4\n mov r10, r4\n mov r11, r4\n"
            " sub ip, r2, r3\n and ip, ip, #12\n add ip, ip, ip, lsl #1\n adr.w lr, 1f\n add lr, lr, ip, lsl #2\n mov pc, lr\n"
            ".balign 4\n"
            "1:\n .rept 4\n"
            " ldr.w ip, [r2], #4\n ldm.w r1!, {r0, lr}\n"
            " smlad r4, ip, r0, r4\n smlad r5, ip, lr, r5\n sxtb16.w r3, ip\n smlad r8, r3, r0, r8\n smlad r9, r3, lr, r9\n"
            " ldm.w r1!, {r0, lr}\n"
            " smlad r6, ip, r0, r6\n smlad r7, ip, lr, r7\n smlad r10, r3, r0, r10\n smlad r11, r3, lr, r11\n"
            ".endr\n"
            " ldr r3, [sp, #4]\n cmp r2, r3\n bne 1b\n"
            " pop {r0, r3}\n ldrd r1, r2, [r0, #36]\n"
            " sub r4, r4, r8\n sub r5, r5, r9\n sub r6, r6, r10\n sub r7, r7, r11\n"
            " add r4, r1, r4, asr #8\n add r5, r1, r5, asr #8\n add r6, r1, r6, asr #8\n add r7, r1, r7, asr #8\n"
            " add r8, r2\n add r9, r2\n add r10, r2\n add r11, r2\n"
            " stm r0, {r4-r11}\n pop {r4-r11, pc}\n");
}

/* r0 a pair of lanes, r1 rows, r2 words, r3 the middle, r4-r7 sums of both channels, r8-r11 a pair of each row, ip a word,
 * lr the mask; the second channel's sums are on the stack, below the block and the end. Two words a turn. */
#define SGSC_DOT_PAIR(BITS)                                                                                            \
    static __attribute__((naked, noipa, unused)) void sgsc_dot##BITS##_4x2(                                            \
        struct sgsc_block *block __attribute__((unused)), const int8_t *row __attribute__((unused)),                   \
        const uint32_t *words __attribute__((unused)), const uint32_t *end __attribute__((unused)))                    \
    {                                                                                                                  \
        __asm__(".set bits, " #BITS "\n .set low, 16 - bits\n"                                                         \
                ".macro step\n"                                                                                        \
                " ldr ip, [r2], #4\n .set at, 0\n"                                                                     \
                ".rept 8 / bits\n"                                                                                     \
                " ldm r1!, {r8-r11}\n"                                                                                 \
                ".if at\n and r0, lr, ip, ror #at\n .else\n and r0, lr, ip\n .endif\n"                                 \
                " smlad r4, r0, r8, r4\n smlad r5, r0, r9, r5\n smlad r6, r0, r10, r6\n smlad r7, r0, r11, r7\n"       \
                ".set at, at + 2 * bits\n"                                                                             \
                ".endr\n"                                                                                              \
                ".endm\n"                                                                                              \
                " push {r0, r3-r11, lr}\n sub ip, r3, r2\n ldr r3, [r0, #44]\n"                                        \
                " add r8, ip, #4\n lsr r8, r8, #3\n mul r8, r8, r3\n rsb r8, r8, #0\n"                                 \
                " mov r9, r8\n mov r10, r8\n mov r11, r8\n push {r8-r11}\n"                                            \
                " mov r4, r3\n mov r5, r3\n mov r6, r3\n mov r7, r3\n"                                                 \
                " movw lr, #(((1 << bits) - 1) << low | ((1 << bits) - 1))\n"                                          \
                " orr lr, lr, lr, lsl #16\n"                                                                           \
                " tst ip, #4\n bne 2f\n"                                                                               \
                "1:\n step\n"                                                                                          \
                "2:\n step\n"                                                                                          \
                " ldm sp, {r8-r11}\n"                                                                                  \
                " ubfx r0, r4, #0, #low\n bfi r4, r3, #0, #low\n add r8, r0\n"                                         \
                " ubfx r0, r5, #0, #low\n bfi r5, r3, #0, #low\n add r9, r0\n"                                         \
                " ubfx r0, r6, #0, #low\n bfi r6, r3, #0, #low\n add r10, r0\n"                                        \
                " ubfx r0, r7, #0, #low\n bfi r7, r3, #0, #low\n add r11, r0\n"                                        \
                " ldr ip, [sp, #20]\n stm sp, {r8-r11}\n"                                                              \
                " cmp r2, ip\n bne 1b\n"                                                                               \
                " add sp, #16\n pop {r0, r3}\n"                                                                        \
                " ldr lr, [r0, #32]\n ldm lr, {r1-r3, ip}\n"                                                           \
                " sub r8, r8, r1, lsl #(bits - 1)\n sub r9, r9, r2, lsl #(bits - 1)\n"                                 \
                " sub r10, r10, r3, lsl #(bits - 1)\n sub r11, r11, ip, lsl #(bits - 1)\n"                             \
                " ldrd r1, r2, [r0, #36]\n"                                                                            \
                " add r4, r1, r4, asr #low\n add r5, r1, r5, asr #low\n"                                               \
                " add r6, r1, r6, asr #low\n add r7, r1, r7, asr #low\n"                                               \
                " add r8, r2\n add r9, r2\n add r10, r2\n add r11, r2\n"                                               \
                " stm r0, {r4-r11}\n pop {r4-r11, pc}\n .purgem step\n");                                              \
    }

/* r0 and ip a pair of activations, r4-r7 sums, r8-r11 lanes of two channels each, two pairs of them. */
static __attribute__((naked, noipa, unused)) void sgsc_dot8_1x4s(struct sgsc_block *block __attribute__((unused)),
                                                                 const int8_t *row __attribute__((unused)),
                                                                 const uint32_t *words __attribute__((unused)),
                                                                 const uint32_t *end __attribute__((unused)))
{
    __asm__(".macro two_channels lanes, activations, both, second\n"
            " smlad \\both, \\lanes, \\activations, \\both\n sxtb16 \\lanes, \\lanes\n"
            " smlad \\second, \\lanes, \\activations, \\second\n"
            ".endm\n"
            " push {r0, r4-r11, lr}\n mov r4, #0\n mov r5, r4\n mov r6, r4\n mov r7, r4\n"
            " sub ip, r3, r2\n tst ip, #16\n bne 2f\n"
            "1:\n ldm r2!, {r8-r11}\n ldrd r0, ip, [r1], #8\n"
            " two_channels r8, r0, r4, r5\n two_channels r9, r0, r6, r7\n"
            " two_channels r10, ip, r4, r5\n two_channels r11, ip, r6, r7\n"
            "2:\n ldm r2!, {r8-r11}\n ldrd r0, ip, [r1], #8\n"
            " two_channels r8, r0, r4, r5\n two_channels r9, r0, r6, r7\n"
            " two_channels r10, ip, r4, r5\n two_channels r11, ip, r6, r7\n"
            " cmp r2, r3\n bne 1b\n"
            " pop {r0}\n ldm r0, {r8-r11}\n"
            " sub r4, r4, r5\n sub r6, r6, r7\n add r4, r8, r4, asr #8\n add r5, r9\n add r6, r10, r6, asr #8\n add r7, r11\n"
            " stm r0, {r4-r7}\n pop {r4-r11, pc}\n .purgem two_channels\n");
}

/* The same of lanes of four channels; lr a second pair of activations, r0 fields. */
static __attribute__((naked, noipa, unused)) void sgsc_dot4_1x4s(struct sgsc_block *block __attribute__((unused)),
                                                                 const int8_t *row __attribute__((unused)),
                                                                 const uint32_t *words __attribute__((unused)),
                                                                 const uint32_t *end __attribute__((unused)))
{
    __asm__(".macro four_channels lanes, activations\n"
            " smlad r4, \\lanes, \\activations, r4\n"
            " and r0, \\lanes, #0x0F000F00\n smlad r5, r0, \\activations, r5\n"
            " uxtb16 \\lanes, \\lanes\n smlad r6, \\lanes, \\activations, r6\n"
            " and \\lanes, \\lanes, #0x000F000F\n smlad r7, \\lanes, \\activations, r7\n"
            ".endm\n"
            ".macro step\n"
            " ldm r2!, {r8-r11}\n"
            " ldrd ip, lr, [r1], #8\n four_channels r8, ip\n four_channels r9, lr\n"
            " ldrd ip, lr, [r1], #8\n four_channels r10, ip\n four_channels r11, lr\n"
            ".endm\n"
            " push {r0, r4-r11, lr}\n mov r4, #0\n mov r5, r4\n mov r6, r4\n mov r7, r4\n"
            " sub ip, r3, r2\n tst ip, #16\n bne 2f\n"
            "1:\n step\n"
            "2:\n step\n"
            " cmp r2, r3\n bne 1b\n"
            " pop {r0}\n sub r4, r4, r5\n sub r4, r4, r6\n sub r6, r6, r7\n"
            " ldr lr, [r0, #32]\n ldr lr, [lr]\n ldm r0, {r8-r11}\n"
            " sub r9, r9, lr, lsl #3\n sub r10, r10, lr, lsl #3\n sub r11, r11, lr, lsl #3\n"
            " add r4, r8, r4, asr #12\n add r5, r9, r5, asr #8\n add r6, r10, r6, asr #4\n add r7, r11\n"
            " stm r0, {r4-r7}\n pop {r4-r11, pc}\n .purgem step\n .purgem four_channels\n");
}

/* r0 lanes, r3 the middle, r4 and r5 sums of the first and the last two channels, r6, r7, r10, r11 pairs of activations, r8
 * and r9 words, lr the mask; the second channels' sums are on the stack, below the block and the end. */
#define SGSC_DOT_SHARED(BITS)                                                                                          \
    static __attribute__((naked, noipa, unused)) void sgsc_dot##BITS##_1x4s(                                           \
        struct sgsc_block *block __attribute__((unused)), const int8_t *row __attribute__((unused)),                   \
        const uint32_t *words __attribute__((unused)), const uint32_t *end __attribute__((unused)))                    \
    {                                                                                                                  \
        __asm__(".set bits, " #BITS "\n .set low, 16 - bits\n"                                                         \
                ".macro lanes of, activations, sum\n"                                                                  \
                ".if at\n and r0, lr, \\of, ror #at\n .else\n and r0, lr, \\of\n .endif\n"                             \
                " smlad \\sum, r0, \\activations, \\sum\n"                                                             \
                ".endm\n"                                                                                              \
                ".macro pair activations\n"                                                                            \
                " lanes r8, \\activations, r4\n lanes r9, \\activations, r5\n .set at, at + 2 * bits\n"                \
                ".endm\n"                                                                                              \
                ".macro step\n"                                                                                        \
                " ldrd r8, r9, [r2], #8\n .set at, 0\n"                                                                \
                ".rept 2 / bits\n ldm r1!, {r6, r7, r10, r11}\n pair r6\n pair r7\n pair r10\n pair r11\n .endr\n"     \
                ".endm\n"                                                                                              \
                " push {r0, r3-r11, lr}\n sub ip, r3, r2\n ldr r3, [r0, #44]\n"                                        \
                " add r8, ip, #8\n lsr r8, r8, #4\n mul r8, r8, r3\n rsb r8, r8, #0\n mov r9, r8\n push {r8, r9}\n"    \
                " mov r4, r3\n mov r5, r3\n"                                                                           \
                " movw lr, #(((1 << bits) - 1) << low | ((1 << bits) - 1))\n orr lr, lr, lr, lsl #16\n"                \
                " tst ip, #8\n bne 2f\n"                                                                               \
                "1:\n step\n"                                                                                          \
                "2:\n step\n"                                                                                          \
                " ldrd r8, r9, [sp]\n"                                                                                 \
                " ubfx r0, r4, #0, #low\n bfi r4, r3, #0, #low\n add r8, r0\n"                                         \
                " ubfx r0, r5, #0, #low\n bfi r5, r3, #0, #low\n add r9, r0\n"                                         \
                " ldr ip, [sp, #12]\n strd r8, r9, [sp]\n"                                                             \
                " cmp r2, ip\n bne 1b\n"                                                                               \
                " add sp, #8\n pop {r0, r3}\n mov r5, r5, asr #low\n"                                                  \
                " ldr lr, [r0, #32]\n ldr lr, [lr]\n sub r8, r8, lr, lsl #(bits - 1)\n"                                \
                " sub r9, r9, lr, lsl #(bits - 1)\n ldm r0, {r1, r2, r3, ip}\n"                                        \
                " add r4, r1, r4, asr #low\n add r1, r2, r8\n add r2, r3, r5\n add r3, ip, r9\n"                       \
                " str r4, [r0]\n str r1, [r0, #4]\n str r2, [r0, #8]\n str r3, [r0, #12]\n"          \
                " pop {r4-r11, pc}\n .purgem step\n .purgem pair\n .purgem lanes\n");                                  \
    }

#endif
