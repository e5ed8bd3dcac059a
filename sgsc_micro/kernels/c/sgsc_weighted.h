/* What a convolution and a dense layer do with rows of activations: every channel's dot products, then int8.
 *
 * The channels come as a stream of words. A head for neighbours of one kind has their number, from bit 14 the words of
 * each, from bit 26 their field width, and in the two highest bits whether they have no weights, lanes of their own, or
 * share lanes (then the words are of those that do), or several planes of fields. These are counted from bit 14; a word each
 * follows, the highest first: field width, from bit 4 how far it lies below the one before, from bit 8 words per channel.
 * Then come the words, channel by channel, or where a row is alone four channels by turns. */
#ifndef SGSC_WEIGHTED_H
#define SGSC_WEIGHTED_H

enum { SGSC_NO_WEIGHTS, SGSC_OWN_LANES, SGSC_SHARED_LANES, SGSC_PLANES };

struct sgsc_head {
    int32_t channels;
    uint32_t kind, words, bits;
};

static inline struct sgsc_head sgsc_read_head(uint32_t word)
{
    const struct sgsc_head head = {(int32_t)(word & 0x3FFFu), word >> 30, word >> 14 & 0xFFFu, word >> 26 & 15u};
    return head;
}

/* How accumulators become int8: constants by channel, or with a step of 0 one of all. */
struct sgsc_end {
    const void *bias;
    const int32_t *multipliers;
    const int8_t *shifts;
    int32_t bias_bytes, multiplier_step, shift_step, zero, low, high;
};

/* The dot products of a shape by field width, as far as the model has such fields. */
#define SGSC_HAS(BITS, SHAPE) (SGSC_FIELDS_##SHAPE >> BITS & 1 ? sgsc_dot##BITS##_##SHAPE : 0)
#define SGSC_TABLE(SHAPE)                                                                                    \
    static sgsc_dot *const sgsc_dots_##SHAPE[] __attribute__((unused)) = {                                   \
        0, SGSC_HAS(1, SHAPE), SGSC_HAS(2, SHAPE), SGSC_HAS(3, SHAPE), SGSC_HAS(4, SHAPE), SGSC_HAS(5, SHAPE), SGSC_HAS(6, SHAPE), 0, \
        SGSC_HAS(8, SHAPE)}
SGSC_TABLE(4x1);
SGSC_TABLE(1x4);
SGSC_TABLE(1x1);
static sgsc_dot *const sgsc_dots_4x2[] __attribute__((unused)) = {
    0, SGSC_HAS(1, 4x2), SGSC_HAS(2, 4x2), 0, 0, 0, 0, 0, SGSC_HAS(8, 4x2)};
static sgsc_dot *const sgsc_dots_1x4s[] __attribute__((unused)) = {
    0, SGSC_HAS(1, 1x4s), SGSC_HAS(2, 1x4s), 0, SGSC_HAS(4, 1x4s), 0, 0, 0, SGSC_HAS(8, 1x4s)};
#undef SGSC_TABLE

static inline int32_t sgsc_bias_at(const void *bias, int32_t bytes)
{
    return bytes == 2 ? *(const int16_t *)bias : *(const int32_t *)bias;
}

static inline int32_t sgsc_bias(const struct sgsc_end *end, int32_t channel)
{
    return sgsc_bias_at((const int8_t *)end->bias + channel * end->bias_bytes, end->bias_bytes);
}

#if SGSC_DSP
/* r0 totals, r1 rows, r2 what is left to do, r3 ones, r4-r7 sums, r8-r11 a pair of each row. */
static __attribute__((naked, noipa, unused)) void sgsc_sum_rows(int32_t *totals __attribute__((unused)),
                                                                const int8_t *rows __attribute__((unused)),
                                                                int32_t pairs __attribute__((unused)))
{
    __asm__(" push {r4-r11, lr}\n mov r4, #0\n mov r5, r4\n mov r6, r4\n mov r7, r4\n mov r3, #0x00010001\n"
            ".macro step\n ldm r1!, {r8-r11}\n"
            " smlad r4, r8, r3, r4\n smlad r5, r9, r3, r5\n smlad r6, r10, r3, r6\n smlad r7, r11, r3, r7\n .endm\n"
            " tst r2, #1\n bne 2f\n"
            "1:\n step\n"
            "2:\n step\n subs r2, #2\n bgt 1b\n"
            " stm r0, {r4-r7}\n pop {r4-r11, pc}\n .purgem step\n");
}
#endif

/* The sums of the activations of 4 rows or 1, `pairs` of each; of one, four times. */
static inline void sgsc_sum(int32_t *totals, const int8_t *row, int32_t pairs, int32_t rows)
{
    uint32_t sums[4] = {0};
#if SGSC_DSP
    if (rows == 4 && pairs > 0) {
        sgsc_sum_rows(totals, row, pairs);
        return;
    }
#endif
    for (int32_t i = 0; i < pairs; ++i) {
        SGSC_UNROLL for (int32_t r = 0; r < rows; ++r) {
            sums[r] = sgsc_smlad(sgsc_load_pair(row), 0x00010001u, sums[r]);
            row += 4;
        }
    }
    SGSC_UNROLL for (int32_t i = 0; i < 4; ++i) {
        totals[i] = (int32_t)sums[i % rows];
    }
}

/* Adds all planes of one channel, or of `channels` by turns, to sums that are their biases; the words behind them. */
SGSC_KERNEL const uint32_t *sgsc_add_planes(struct sgsc_block *block, const int8_t *row, const uint32_t *plane, uint32_t planes,
                                        const uint32_t *words, uint32_t channels, sgsc_dot *const *dots)
{
    static const int32_t none[4] = {0};
    const int32_t *const totals = block->totals;
    int32_t starts[4];
    memcpy(starts, block->sums, sizeof starts);
    for (uint32_t p = 0; p < planes; ++p) {
        for (int32_t i = 0; i < 4; ++i) {
            const int32_t above = sgsc_sub_shifted(block->sums[i], starts[i], 0);
            block->sums[i] = sgsc_add_shifted(starts[i], above, (int32_t)(plane[p] >> 4 & 15u));
        }
        const uint32_t *const end = words + (plane[p] >> 8) * channels;
        dots[plane[p] & 15u](block, row, words, end);
        words = end;
        block->totals = none;
    }
    block->totals = totals;
    return words;
}

/* Any multiplier and accumulator: `code` is the shift, plus 64 where the short form would overflow. */
SGSC_KERNEL int32_t sgsc_requantise_any(int32_t acc, int32_t m, int32_t code, const struct sgsc_end *end, int32_t twice)
{
    const int32_t shift = code > 31 ? code - 64 : code, least = twice ? 0 : 1;
    const int32_t right = shift > least ? shift : least;
    acc = sgsc_add_shifted(0, acc, right - shift);
    return twice ? sgsc_requantise_twice(acc, m, right, end->zero, end->low, end->high)
                 : sgsc_requantise(acc, m, right, end->zero, end->low, end->high);
}

/* A shift in 1..22 and an accumulator that can be doubled, which it is for `twice`; offset as of sgsc_offset. */
static inline __attribute__((always_inline)) int32_t sgsc_requantise_short(int32_t acc, int32_t m, int32_t shift,
                                                                           int32_t offset, const struct sgsc_end *end,
                                                                           int32_t twice, int32_t clamps)
{
    int32_t high = sgsc_add_high(offset, acc, m, twice);
    if (twice) { /* half away from zero is half up of one less below zero; at -1, which may round to 0, all is the same */
        high += acc >> 31;
    }
    const int32_t q = sgsc_saturate(high >> shift);
    return clamps ? sgsc_clamp(q, end->low, end->high) : q;
}

/* A shift in -30..0, and an accumulator that can be shifted left by one more: then nothing is rounded a second time. */
static inline __attribute__((always_inline)) int32_t sgsc_requantise_up(int32_t acc, int32_t m, int32_t shift,
                                                                        const struct sgsc_end *end, int32_t twice,
                                                                        int32_t clamps)
{
    const int32_t scaled = sgsc_add_shifted(0, acc, 1 - shift);
    const int32_t q = sgsc_saturate(twice ? sgsc_add_high(end->zero, scaled, m, 1)
                                          : sgsc_add_high(2 * end->zero + 1, scaled, m, 0) >> 1);
    return clamps ? sgsc_clamp(q, end->low, end->high) : q;
}

/* The zero point and a half, before the shift. */
static inline int32_t sgsc_offset(const struct sgsc_end *end, int32_t shift)
{
    return (2 * end->zero + 1) * (1 << (shift - 1));
}

/* How a layer's accumulators become int8: all in the short form, to the ends of int8 or clamped before, or in any form. */
enum { SGSC_SHORT, SGSC_CLAMPED, SGSC_ANY };

/* One channel's accumulators to int8, to `out` and on at these distances. `twice` for TFLite's two roundings and `form` are
 * literals. */
static inline __attribute__((always_inline)) void sgsc_store(int8_t *out, const int32_t *distances, const int32_t *sums,
                                                             int32_t count, int32_t m, int32_t shift,
                                                             const struct sgsc_end *end, int32_t twice, int32_t form)
{
    if (form == SGSC_ANY && (shift < 1 || shift > 22)) {
        for (int32_t i = 0; i < count; ++i) {
            const int32_t q = shift < 1 && shift > -31 ? sgsc_requantise_up(sums[i], m, shift, end, twice, 1)
                                                       : sgsc_requantise_any(sums[i], m, shift, end, twice);
            out[distances[i]] = (int8_t)q;
        }
        return;
    }
    const int32_t offset = sgsc_offset(end, shift);
    SGSC_UNROLL for (int32_t i = 0; i < count; ++i) {
        const int32_t acc = sgsc_add_shifted(0, sums[i], twice);
        out[distances[i]] = (int8_t)sgsc_requantise_short(acc, m, shift, offset, end, twice, form != SGSC_SHORT);
    }
}

/* Four rows side by side of `pairs` pairs, one a pixel; of the last ones beyond `pixels` the result is the last's again.
 * `pairs` is 0 where no sum of a row is needed. */
static inline __attribute__((always_inline)) void sgsc_pixels(int8_t *out, int32_t stride, int32_t pixels,
                                                              const int8_t *row, int32_t pairs, int32_t input_zero,
                                                              const uint32_t *stream, int32_t channels, const struct sgsc_end *end,
                                                              int32_t twice, int32_t form)
{
    int32_t totals[4], distances[4];
    struct sgsc_block block;
    const int32_t *m = end->multipliers;
    const int8_t *shift = end->shifts;
    sgsc_sum(totals, row, pairs, 4);
    block.totals = totals;
    block.middle = sgsc_middle(input_zero);
    for (int32_t i = 0; i < 4; ++i) {
        distances[i] = (i < pixels ? i : pixels - 1) * stride;
    }
    for (int32_t c = 0; c < channels;) {
        const struct sgsc_head head = sgsc_read_head(*stream++);
        const int32_t last = c + head.channels;
        if (SGSC_FIELDS_4x2 && head.kind == SGSC_SHARED_LANES) {
            sgsc_dot *const dot = sgsc_dots_4x2[head.bits];
            for (; c < last; c += 2) {
                const uint32_t *const words = stream;
                stream += head.words;
                block.bias[0] = sgsc_bias(end, c);
                block.bias[1] = sgsc_bias(end, c + 1);
                dot(&block, row, words, stream);
                for (int32_t i = 0; i < 2; ++i, m += end->multiplier_step, shift += end->shift_step) {
                    sgsc_store(out++, distances, block.sums + 4 * i, 4, *m, *shift, end, twice, form);
                }
            }
            continue;
        }
        const uint32_t planes = head.kind == SGSC_PLANES ? head.words : 0, *const plane = stream;
        for (stream += planes; c < last; ++c) {
            const int32_t bias = sgsc_bias(end, c);
            block.sums[0] = bias;
            block.sums[1] = bias;
            block.sums[2] = bias;
            block.sums[3] = bias;
            if (head.kind == SGSC_OWN_LANES) {
                const uint32_t *const words = stream;
                stream += head.words;
                sgsc_dots_4x1[head.bits](&block, row, words, stream);
            } else if (SGSC_FIELDS_planes && head.kind == SGSC_PLANES) {
                stream = sgsc_add_planes(&block, row, plane, planes, stream, 1, sgsc_dots_4x1);
            }
            sgsc_store(out++, distances, block.sums, 4, *m, *shift, end, twice, form);
            m += end->multiplier_step;
            shift += end->shift_step;
        }
    }
}

/* `channels` of a head, a multiple of `together` of 1 or 4, with one row; the words behind them. */
static inline __attribute__((always_inline)) const uint32_t *sgsc_by_turns(
    int8_t *out, int32_t first, int32_t channels, int32_t together, struct sgsc_block *block, const int8_t *row,
    struct sgsc_head head, const uint32_t *plane, const uint32_t *words, sgsc_dot *const *dots, const struct sgsc_end *end,
    int32_t twice, int32_t form)
{
    static const int32_t here[1] = {0};
    const int32_t *m = end->multipliers + first * end->multiplier_step;
    const int8_t *shift = end->shifts + first * end->shift_step;
    sgsc_dot *const dot = dots[head.bits];
    const uint32_t step = head.words * (head.kind == SGSC_SHARED_LANES ? 1u : (uint32_t)together);
    for (int8_t *const last = out + channels; out != last; first += together) {
        SGSC_UNROLL for (int32_t i = 0; i < together; ++i) {
            block->sums[i] = sgsc_bias(end, first + i);
        }
        if (head.kind == SGSC_OWN_LANES || head.kind == SGSC_SHARED_LANES) {
            dot(block, row, words, words + step);
            words += step;
        } else if (SGSC_FIELDS_planes && head.kind == SGSC_PLANES) {
            words = sgsc_add_planes(block, row, plane, head.words, words, (uint32_t)together, dots);
        }
        for (int32_t i = 0; i < together; ++i, m += end->multiplier_step, shift += end->shift_step) {
            sgsc_store(out++, here, block->sums + i, 1, *m, *shift, end, twice, form);
        }
    }
    return words;
}

/* One row. */
static inline __attribute__((always_inline)) void sgsc_pixel(int8_t *out, const int8_t *row, int32_t pairs,
                                                             int32_t input_zero, const uint32_t *stream, int32_t channels,
                                                             const struct sgsc_end *end, int32_t twice, int32_t form)
{
    int32_t totals[4];
    struct sgsc_block block;
    sgsc_sum(totals, row, pairs, 1);
    block.totals = totals;
    block.middle = sgsc_middle(input_zero);
    for (int32_t c = 0; c < channels;) {
        const struct sgsc_head head = sgsc_read_head(*stream);
        const int32_t whole = head.channels / 4 * 4, rest = head.channels - whole;
        const uint32_t *const plane = stream + 1;
        stream = plane + (head.kind == SGSC_PLANES ? head.words : 0);
        stream = sgsc_by_turns(out + c, c, whole, 4, &block, row, head, plane, stream,
                               head.kind == SGSC_SHARED_LANES ? sgsc_dots_1x4s : sgsc_dots_1x4, end, twice, form);
        if (SGSC_FIELDS_1x1 && rest > 0) {
            stream = sgsc_by_turns(out + c + whole, c + whole, rest, 1, &block, row, head, plane, stream, sgsc_dots_1x1,
                                   end, twice, form);
        }
        c += head.channels;
    }
}

/* Channels that were computed in another order to their places, at each of `pixels` pixels. */
SGSC_KERNEL void sgsc_put(int8_t *to, const int8_t *from, const int16_t *places, int32_t channels, int32_t pixels)
{
    for (int32_t p = 0; p < pixels; ++p) {
        for (int32_t c = 0; c < channels; ++c) {
            to[places[c]] = *from++;
        }
        to += channels;
    }
}

/* gcc warns of constants beyond the last one where it knows which they are, though no head asks for them. */
static inline const void *sgsc_unknown(const void *constants)
{
    __asm__("" : "+r"(constants));
    return constants;
}

#define SGSC_WEIGHTED(NAME, TWICE, FORM)                                                                             \
    SGSC_KERNEL void sgsc_pixels_##NAME(                                                                               \
        int8_t *out, int32_t stride, int32_t pixels, const int8_t *row, int32_t pairs, int32_t input_zero,             \
        const uint32_t *stream, int32_t channels, const void *bias, int32_t bias_bytes, const int32_t *multipliers, int32_t multiplier_step,   \
        const int8_t *shifts, int32_t shift_step, int32_t zero, int32_t low, int32_t high)                             \
    {                                                                                                                  \
        const struct sgsc_end end = {sgsc_unknown(bias), multipliers, shifts, bias_bytes, multiplier_step, shift_step, \
                                     zero, low,         high};                                                         \
        sgsc_pixels(out, stride, pixels, row, pairs, input_zero, stream, channels, &end, TWICE, FORM);                           \
    }                                                                                                                  \
    SGSC_KERNEL void sgsc_pixel_##NAME(                                                                                \
        int8_t *out, const int8_t *row, int32_t pairs, int32_t input_zero, const uint32_t *stream, int32_t channels,   \
        const void *bias, int32_t bias_bytes, const int32_t *multipliers, int32_t multiplier_step, const int8_t *shifts,                 \
        int32_t shift_step, int32_t zero, int32_t low, int32_t high)                                                   \
    {                                                                                                                  \
        const struct sgsc_end end = {sgsc_unknown(bias), multipliers, shifts, bias_bytes, multiplier_step, shift_step, \
                                     zero, low,         high};                                                         \
        sgsc_pixel(out, row, pairs, input_zero, stream, channels, &end, TWICE, FORM);                                            \
    }
SGSC_WEIGHTED(single, 0, SGSC_SHORT)
SGSC_WEIGHTED(single_clamped, 0, SGSC_CLAMPED)
SGSC_WEIGHTED(single_any, 0, SGSC_ANY)
SGSC_WEIGHTED(tflite, 1, SGSC_SHORT)
SGSC_WEIGHTED(tflite_clamped, 1, SGSC_CLAMPED)
SGSC_WEIGHTED(tflite_any, 1, SGSC_ANY)
#undef SGSC_WEIGHTED

#endif
