/* Sums, products, other scales and tables, over n values, each a step from the one before: mostly 1; 0 where one operand
 * meets them all. The output may lie over an operand. */
#ifndef SGSC_ELEMENTWISE_H
#define SGSC_ELEMENTWISE_H

/* How an accumulator becomes int8: in one rounding; in TFLite's two, doubled before; in those with nothing left to shift
 * right; and in those with more bits. */
#define SGSC_SINGLE 0
#define SGSC_TFLITE 1
#define SGSC_TFLITE_HIGH 2
#define SGSC_TFLITE_LONG 3

/* All of them: shifted left, multiplied, shifted right. */
struct sgsc_scale {
    int32_t left, m, right;
    struct sgsc_end end;
};
#define SGSC_SCALE {left, m, right, {.zero = zero, .low = low, .high = high}}

static inline int32_t sgsc_scale_offset(const struct sgsc_scale *scale, int32_t form)
{
    return form == SGSC_SINGLE || form == SGSC_TFLITE ? sgsc_offset(&scale->end, scale->right) : 0;
}

/* `form` and `clamps` are literals; offset as of sgsc_scale_offset. */
static inline __attribute__((always_inline)) int8_t sgsc_rescale(int32_t acc, int32_t offset,
                                                                 const struct sgsc_scale *scale, int32_t form,
                                                                 int32_t clamps)
{
    const struct sgsc_end *const end = &scale->end;
    if (form == SGSC_TFLITE_HIGH) {
        return (int8_t)sgsc_requantise_up(acc, scale->m, -scale->left, end, 1, clamps);
    }
    if (form == SGSC_TFLITE_LONG) {
        acc = sgsc_add_shifted(0, acc, scale->left);
        return sgsc_requantise_twice(acc, scale->m, scale->right, end->zero, end->low, end->high);
    }
    if (form == SGSC_SINGLE) { /* TFLite's with bits to shift right has none to shift left */
        acc = sgsc_add_shifted(0, acc, scale->left);
    }
    return (int8_t)sgsc_requantise_short(acc, scale->m, scale->right, offset, end, form == SGSC_TFLITE, clamps);
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

static inline __attribute__((always_inline)) void sgsc_elementwise(int8_t *out, int32_t out_step,
                                                                   const int8_t *a, int32_t a_step,
                                                                   const int8_t *b, int32_t b_step, int32_t n,
                                                                   struct sgsc_operands of, const struct sgsc_scale *scale,
                                                                   int32_t what, int32_t form, int32_t clamps)
{
    const int32_t doubles = form == SGSC_TFLITE, a_bits = what < SGSC_PRODUCT ? 19 + doubles : doubles;
    const int32_t offset = sgsc_scale_offset(scale, form);
    const uint32_t a_start = (uint32_t)of.a << a_bits, b_start = (uint32_t)of.b << 21;
    const int32_t half = (int32_t)((1u << of.right) >> 1);
    for (const int8_t *const end = out + n * out_step; out != end; out += out_step, a += a_step, b += b_step) {
        uint32_t acc;
        if (what == SGSC_SUM) {
            acc = ((uint32_t)*a * (uint32_t)of.a + (uint32_t)of.start + (uint32_t)*b * (uint32_t)of.b) << doubles;
        } else {
            acc = ((uint32_t)*a << a_bits) - a_start;
        }
        if (what == SGSC_PRODUCT) {
            acc *= (uint32_t)(*b - of.b);
        } else if (what == SGSC_ADD || what == SGSC_SUBTRACT || what == SGSC_SUBTRACT_FROM) {
            const int32_t x = (int32_t)(((uint32_t)*b << 21) - b_start);
            const int32_t high = sgsc_add_high(half, x, of.m, 1) + (x >> 31); /* see sgsc_requantise_short */
            const uint32_t scaled = (uint32_t)(high >> of.right) << doubles;
            acc = what == SGSC_ADD ? acc + scaled : what == SGSC_SUBTRACT ? acc - scaled : scaled - acc;
        }
        *out = sgsc_rescale((int32_t)acc, offset, scale, form, clamps);
    }
}

#define SGSC_ELEMENTWISE(NAME, WHAT, FORM, CLAMPS)                                                                     \
    SGSC_KERNEL void NAME(int8_t *out, int32_t out_step, const int8_t *a, int32_t a_step, const int8_t *b,             \
                          int32_t b_step, int32_t n,                                                                   \
                          int32_t of_a, int32_t of_b, int32_t start, int32_t b_m, int32_t b_right, int32_t left,       \
                          int32_t m, int32_t right, int32_t zero, int32_t low, int32_t high)                           \
    {                                                                                                                  \
        const struct sgsc_scale scale = SGSC_SCALE;                                                                \
        const struct sgsc_operands of = {of_a, of_b, start, b_m, b_right};                                             \
        sgsc_elementwise(out, out_step, a, a_step, b, b_step, n, of, &scale, WHAT, FORM, CLAMPS);                                \
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
        const struct sgsc_scale scale = SGSC_SCALE;                                                              \
        const struct sgsc_operands of = {of_x, 0, 0, 0, 0};                                                          \
        sgsc_elementwise(out, 1, x, 1, x, 1, n, of, &scale, WHAT, FORM, CLAMPS);                                        \
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
