/* Sums, products, other scales and tables, over n neighbouring values. A step of 0 gives all of them one and the same
 * operand; the output may lie over an operand. */
#ifndef SGSC_ELEMENTWISE_H
#define SGSC_ELEMENTWISE_H

/* How all accumulators become int8: shifted left, multiplied, shifted right. */
struct sgsc_scale {
    int32_t left, m, right, zero, low, high;
};

/* `offset` is sgsc_short_offset of the scale; the accumulator is doubled where the form says so. */
static inline __attribute__((always_inline)) int8_t sgsc_rescale(int32_t acc, int32_t offset,
                                                                 const struct sgsc_scale *scale, int32_t form,
                                                                 int32_t clamps)
{
    if (form != SGSC_TFLITE) { /* what has bits to shift right has none to shift left */
        acc = sgsc_add_shifted(0, acc, scale->left);
    }
    if (form == SGSC_TFLITE_LONG) {
        return sgsc_requantise_twice(acc, scale->m, scale->right, scale->zero, scale->low, scale->high);
    }
    return sgsc_requantise_short(acc, scale->m, scale->right, offset, scale->low, scale->high, form, clamps);
}

/* What an accumulator is made of.
 *   SUM                 a * coefficient + b * coefficient + start
 *   ADD and so on       a at the larger scale, ((a - zero) << 19), plus or minus b brought to it in TFLite's two roundings
 *   PRODUCT, VALUE      (a - zero) * (b - zero); a - zero */
#define SGSC_SUM 0
#define SGSC_ADD 1
#define SGSC_SUBTRACT 2
#define SGSC_SUBTRACT_FROM 3
#define SGSC_PRODUCT 4
#define SGSC_VALUE 5

/* Of each operand the coefficient or the zero point; b is multiplied by m / 2^(32 + right), right in 1..31. */
struct sgsc_operands {
    int32_t a, b, start, m, right;
};

static inline __attribute__((always_inline)) void sgsc_elementwise(int8_t *out, const int8_t *a, int32_t a_step,
                                                                   const int8_t *b, int32_t b_step, int32_t n,
                                                                   struct sgsc_operands of, const struct sgsc_scale *scale,
                                                                   int32_t what, int32_t form, int32_t clamps)
{
    const int32_t doubles = SGSC_DOUBLES(form), a_bits = what < SGSC_PRODUCT ? 19 + doubles : doubles;
    const int32_t offset = sgsc_short_offset(scale->zero, scale->right);
    const uint32_t a_start = (uint32_t)of.a << a_bits, b_start = (uint32_t)of.b << 21, half = (1u << of.right) >> 1;
    for (const int8_t *const end = out + n; out != end; ++out, a += a_step, b += b_step) {
        uint32_t acc;
        if (what == SGSC_SUM) {
            acc = ((uint32_t)*a * (uint32_t)of.a + (uint32_t)of.start + (uint32_t)*b * (uint32_t)of.b) << doubles;
        } else {
            acc = ((uint32_t)*a << a_bits) - a_start;
        }
        if (what == SGSC_PRODUCT) {
            acc *= (uint32_t)(*b - of.b);
        } else if (what == SGSC_ADD || what == SGSC_SUBTRACT || what == SGSC_SUBTRACT_FROM) {
            int32_t other = sgsc_multiply_high_rounded((int32_t)(((uint32_t)*b << 21) - b_start), of.m);
            other += other >> 31;
            const uint32_t scaled = (uint32_t)((other + (int32_t)half) >> of.right) << doubles;
            acc = what == SGSC_ADD ? acc + scaled : what == SGSC_SUBTRACT ? acc - scaled : scaled - acc;
        }
        *out = sgsc_rescale((int32_t)acc, offset, scale, form, clamps);
    }
}

#define SGSC_ELEMENTWISE(NAME, WHAT, FORM, CLAMPS)                                                                     \
    SGSC_KERNEL void NAME(int8_t *out, const int8_t *a, int32_t a_step, const int8_t *b, int32_t b_step, int32_t n,    \
                          int32_t of_a, int32_t of_b, int32_t start, int32_t b_m, int32_t b_right, int32_t left,       \
                          int32_t m, int32_t right, int32_t zero, int32_t low, int32_t high)                           \
    {                                                                                                                  \
        const struct sgsc_scale scale = {left, m, right, zero, low, high};                                             \
        const struct sgsc_operands of = {of_a, of_b, start, b_m, b_right};                                             \
        sgsc_elementwise(out, a, a_step, b, b_step, n, of, &scale, WHAT, FORM, CLAMPS);                                \
    }
#define SGSC_TFLITE_FORMS(MAKE, NAME, WHAT)                   \
    MAKE(NAME##_tflite, WHAT, SGSC_TFLITE, 0)                 \
    MAKE(NAME##_tflite_clamped, WHAT, SGSC_TFLITE, 1)         \
    MAKE(NAME##_tflite_high, WHAT, SGSC_TFLITE_HIGH, 0)       \
    MAKE(NAME##_tflite_high_clamped, WHAT, SGSC_TFLITE_HIGH, 1) \
    MAKE(NAME##_tflite_long, WHAT, SGSC_TFLITE_LONG, 1)
#define SGSC_FORMS(MAKE, NAME, WHAT)          \
    MAKE(NAME##_single, WHAT, SGSC_SINGLE, 0) \
    MAKE(NAME##_single_clamped, WHAT, SGSC_SINGLE, 1) \
    SGSC_TFLITE_FORMS(MAKE, NAME, WHAT)
SGSC_FORMS(SGSC_ELEMENTWISE, sgsc_sum, SGSC_SUM)
SGSC_TFLITE_FORMS(SGSC_ELEMENTWISE, sgsc_add, SGSC_ADD)
SGSC_TFLITE_FORMS(SGSC_ELEMENTWISE, sgsc_subtract, SGSC_SUBTRACT)
SGSC_TFLITE_FORMS(SGSC_ELEMENTWISE, sgsc_subtract_from, SGSC_SUBTRACT_FROM)
SGSC_FORMS(SGSC_ELEMENTWISE, sgsc_multiply, SGSC_PRODUCT)
#undef SGSC_ELEMENTWISE

#define SGSC_REQUANTIZE(NAME, WHAT, FORM, CLAMPS)                                                                    \
    SGSC_KERNEL void NAME(int8_t *out, const int8_t *x, int32_t n, int32_t of_x, int32_t left, int32_t m, int32_t right, \
                          int32_t zero, int32_t low, int32_t high)                                                   \
    {                                                                                                                \
        const struct sgsc_scale scale = {left, m, right, zero, low, high};                                           \
        const struct sgsc_operands of = {of_x, 0, 0, 0, 0};                                                          \
        sgsc_elementwise(out, x, 1, x, 1, n, of, &scale, WHAT, FORM, CLAMPS);                                        \
    }
SGSC_FORMS(SGSC_REQUANTIZE, sgsc_requantize, SGSC_VALUE)
#undef SGSC_REQUANTIZE

/* table[x + 128] */
SGSC_KERNEL void sgsc_lookup(int8_t *out, const int8_t *x, int32_t n, const int8_t *table)
{
    for (int32_t i = 0; i < n; ++i) {
        out[i] = table[x[i] + 128];
    }
}

#endif
