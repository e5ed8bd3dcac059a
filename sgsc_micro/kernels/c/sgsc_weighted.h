/* What a convolution and a dense layer do with rows of activations: every channel's dot products, then int8.
 *
 * The channels come as a stream of words. For neighbours of one width it has their number, with the number of planes of
 * fields above bit 24; for each plane, the highest first, its field width, from bit 4 how far it lies below the one before,
 * from bit 8 its words per channel; then the words, channel by channel, or where a row is alone four channels by turns. */
#ifndef SGSC_WEIGHTED_H
#define SGSC_WEIGHTED_H

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
        0, SGSC_HAS(1, SHAPE), SGSC_HAS(2, SHAPE), SGSC_HAS(3, SHAPE), SGSC_HAS(4, SHAPE), SGSC_HAS(5, SHAPE), 0, 0, \
        SGSC_HAS(8, SHAPE)}
SGSC_TABLE(4x1);
SGSC_TABLE(1x4);
SGSC_TABLE(1x1);
#undef SGSC_TABLE

static inline int32_t sgsc_bias(const struct sgsc_end *end, int32_t channel)
{
    if (end->bias_bytes == 2) {
        return ((const int16_t *)end->bias)[channel];
    }
    return ((const int32_t *)end->bias)[channel];
}

/* The sums of `sums` rows' activations, `pairs` of each. */
static inline void sgsc_sum(int32_t *totals, const int8_t *row, int32_t pairs, int32_t rows)
{
    uint32_t sums[4] = {0};
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
SGSC_KERNEL const uint32_t *sgsc_planes(struct sgsc_block *block, const int8_t *row, const uint32_t *plane, uint32_t planes,
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
SGSC_KERNEL int8_t sgsc_requantise_any(int32_t acc, int32_t m, int32_t code, const struct sgsc_end *end, int32_t twice)
{
    const int32_t shift = code > 31 ? code - 64 : code, least = twice ? 0 : 1;
    const int32_t right = shift > least ? shift : least;
    acc = sgsc_add_shifted(0, acc, right - shift);
    return twice ? sgsc_requantise_twice(acc, m, right, end->zero, end->low, end->high)
                 : sgsc_requantise(acc, m, right, end->zero, end->low, end->high);
}

/* One channel's accumulators to int8, to `out` and on at these distances. `twice` and `clamps` are literals: TFLite's
 * two roundings, and an output that does not end where int8 does. */
static inline __attribute__((always_inline)) void sgsc_store(int8_t *out, const int32_t *distances, const int32_t *sums,
                                                             int32_t count, int32_t channel, const struct sgsc_end *end,
                                                             int32_t twice, int32_t clamps)
{
    const int32_t m = end->multipliers[channel * end->multiplier_step];
    const int32_t shift = end->shifts[channel * end->shift_step];
    if (shift < 1 || shift > 22) {
        for (int32_t i = 0; i < count; ++i) {
            out[distances[i]] = sgsc_requantise_any(sums[i], m, shift, end, twice);
        }
        return;
    }
    const int32_t offset = sgsc_short_offset(end->zero, shift), form = twice ? SGSC_TFLITE : SGSC_SINGLE;
    SGSC_UNROLL for (int32_t i = 0; i < count; ++i) {
        const int32_t acc = twice ? sgsc_add_shifted(0, sums[i], 1) : sums[i];
        out[distances[i]] = sgsc_requantise_short(acc, m, shift, offset, end->low, end->high, form, clamps);
    }
}

/* Four rows side by side of `pairs` pairs, one a pixel; of the last ones beyond `pixels` the result is the last's again.
 * `pairs` is 0 where no sum of a row is needed. */
static inline __attribute__((always_inline)) void sgsc_pixels(int8_t *out, int32_t stride, int32_t pixels,
                                                              const int8_t *row, int32_t pairs, const uint32_t *stream,
                                                              int32_t channels, const struct sgsc_end *end,
                                                              int32_t twice, int32_t clamps)
{
    int32_t totals[4], distances[4];
    struct sgsc_block block;
    sgsc_sum(totals, row, pairs, 4);
    block.totals = totals;
    for (int32_t i = 0; i < 4; ++i) {
        distances[i] = (i < pixels ? i : pixels - 1) * stride;
    }
    for (int32_t c = 0; c < channels;) {
        const int32_t last = c + (int32_t)(*stream & 0xFFFFFFu);
        const uint32_t planes = *stream >> 24, *const plane = stream + 1;
        for (stream = plane + planes; c < last; ++c) {
            const int32_t bias = sgsc_bias(end, c);
            block.sums[0] = bias;
            block.sums[1] = bias;
            block.sums[2] = bias;
            block.sums[3] = bias;
            if (planes == 1) {
                const uint32_t *const words = stream;
                stream += *plane >> 8;
                sgsc_dots_4x1[*plane & 15u](&block, row, words, stream);
            } else {
                stream = sgsc_planes(&block, row, plane, planes, stream, 1, sgsc_dots_4x1);
            }
            sgsc_store(out + c, distances, block.sums, 4, c, end, twice, clamps);
        }
    }
}

/* One row. */
static inline __attribute__((always_inline)) void sgsc_pixel(int8_t *out, const int8_t *row, int32_t pairs,
                                                             const uint32_t *stream, int32_t channels,
                                                             const struct sgsc_end *end, int32_t twice, int32_t clamps)
{
    static const int32_t here[1] = {0};
    int32_t totals[4];
    struct sgsc_block block;
    sgsc_sum(totals, row, pairs, 1);
    block.totals = totals;
    for (int32_t c = 0; c < channels;) {
        const int32_t last = c + (int32_t)(*stream & 0xFFFFFFu);
        const uint32_t planes = *stream >> 24, *const plane = stream + 1;
        for (stream = plane + planes; c < last;) {
            const int32_t together = last - c < 4 ? 1 : 4;
            for (int32_t i = 0; i < 4; ++i) {
                block.sums[i] = i < together ? sgsc_bias(end, c + i) : 0;
            }
            stream = sgsc_planes(&block, row, plane, planes, stream, (uint32_t)together,
                                 together == 4 ? sgsc_dots_1x4 : sgsc_dots_1x1);
            for (int32_t i = 0; i < together; ++i, ++c) {
                sgsc_store(out + c, here, block.sums + i, 1, c, end, twice, clamps);
            }
        }
    }
}

#define SGSC_WEIGHTED(NAME, TWICE, CLAMPS)                                                                             \
    SGSC_KERNEL void sgsc_pixels_##NAME(                                                                               \
        int8_t *out, int32_t stride, int32_t pixels, const int8_t *row, int32_t pairs, const uint32_t *stream,         \
        int32_t channels, const void *bias, int32_t bias_bytes, const int32_t *multipliers, int32_t multiplier_step,   \
        const int8_t *shifts, int32_t shift_step, int32_t zero, int32_t low, int32_t high)                             \
    {                                                                                                                  \
        const struct sgsc_end end = {bias, multipliers, shifts, bias_bytes, multiplier_step, shift_step,               \
                                     zero, low,         high};                                                         \
        sgsc_pixels(out, stride, pixels, row, pairs, stream, channels, &end, TWICE, CLAMPS);                           \
    }                                                                                                                  \
    SGSC_KERNEL void sgsc_pixel_##NAME(                                                                                \
        int8_t *out, const int8_t *row, int32_t pairs, const uint32_t *stream, int32_t channels, const void *bias,     \
        int32_t bias_bytes, const int32_t *multipliers, int32_t multiplier_step, const int8_t *shifts,                 \
        int32_t shift_step, int32_t zero, int32_t low, int32_t high)                                                   \
    {                                                                                                                  \
        const struct sgsc_end end = {bias, multipliers, shifts, bias_bytes, multiplier_step, shift_step,               \
                                     zero, low,         high};                                                         \
        sgsc_pixel(out, row, pairs, stream, channels, &end, TWICE, CLAMPS);                                            \
    }
SGSC_WEIGHTED(single, 0, 0)
SGSC_WEIGHTED(single_clamped, 0, 1)
SGSC_WEIGHTED(tflite, 1, 0)
SGSC_WEIGHTED(tflite_clamped, 1, 1)
#undef SGSC_WEIGHTED

#endif
