/* Rows brought to a sum of 1, or to mean 0 and variance 1. The output may lie over the input. */
#ifndef SGSC_NORMALISE_H
#define SGSC_NORMALISE_H

/* 1 / (1 + x) for x in [0, 1), both with 31 fraction bits: Newton's method on words with 29. */
static inline int32_t sgsc_reciprocal(int32_t x)
{
    const int32_t half = (int32_t)(((int64_t)x + INT32_MAX + 1) / 2);
    int32_t y = 1515870810 + sgsc_scale_twice(half, -1010580540, 0); /* 48/17 - 32/17 * half */
    SGSC_ROLLED for (int32_t i = 0; i < 3; ++i) {
        const int32_t error = (1 << 29) - sgsc_scale_twice(half, y, 0);
        y += sgsc_scale_twice(y, error, 0) * 4;
    }
    return y > INT32_MAX / 2 ? INT32_MAX : y * 2;
}

/* Softmax of n values to scale 1/256, zero point -128. table[d] is exp of a difference of d steps with 31 fraction bits,
 * 0 from `entries` on. n below 512. */
SGSC_KERNEL void sgsc_softmax(int8_t *y, const int8_t *x, int32_t n, const int32_t *table, int32_t entries)
{
    int32_t largest = INT8_MIN;
    SGSC_ROLLED for (int32_t i = 0; i < n; ++i) {
        largest = x[i] > largest ? x[i] : largest;
    }
    uint32_t sum = 0; /* 19 fraction bits */
    SGSC_ROLLED for (int32_t i = 0; i < n; ++i) {
        const int32_t difference = largest - x[i];
        if (difference < entries) {
            sum += ((uint32_t)table[difference] + (1u << 11)) >> 12;
        }
    }
    int32_t headroom = 0; /* of the sum, which is 1 at least */
    while (sum < 1u << 31) {
        sum <<= 1;
        ++headroom;
    }
    const int32_t reciprocal = sgsc_reciprocal((int32_t)(sum - (1u << 31)));
    SGSC_ROLLED for (int32_t i = 0; i < n; ++i) {
        const int32_t difference = largest - x[i];
        int32_t q = 0;
        if (difference < entries) {
            q = sgsc_scale_twice(reciprocal, table[difference], 35 - headroom);
        }
        q = q > UINT8_MAX ? UINT8_MAX : q;
        y[i] = (int8_t)(q + INT8_MIN);
    }
}

/* The largest integer whose square is at most x. */
static inline uint32_t sgsc_square_root(uint64_t x)
{
    uint64_t root = 0, bit = (uint64_t)1 << 62;
    SGSC_ROLLED for (; bit != 0; bit >>= 2) {
        const uint64_t trial = root + bit;
        root >>= 1;
        if (x >= trial) {
            x -= trial;
            root += bit;
        }
    }
    return (uint32_t)root;
}

/* (x - mean) / sqrt(variance + epsilon) of n values, 1024 at most, half up, plus zero. The variance times n^2 has `bits`
 * more bits, an even number, and so has epsilon, high * 2^31 + low, at most 2^61; m * 2^(exponent - 31) takes half of them
 * back and brings 1 to steps. */
SGSC_KERNEL void sgsc_layer_norm(int8_t *y, const int8_t *x, int32_t n, int32_t bits, int32_t epsilon_high,
                                 int32_t epsilon_low, int32_t m, int32_t exponent, int32_t zero)
{
    int32_t sum = 0, squares = 0;
    SGSC_ROLLED for (int32_t i = 0; i < n; ++i) {
        sum += x[i];
        squares += x[i] * x[i];
    }
    const uint64_t variance = (uint64_t)((int64_t)n * squares - (int64_t)sum * sum);
    uint64_t weight = (variance << bits) + ((uint64_t)(uint32_t)epsilon_high << 31) + (uint32_t)epsilon_low;
    weight = weight == 0 ? 1 : weight;
    int32_t shift = 63 - exponent;
    while (weight >> 62 == 0) {
        weight <<= 2;
        --shift;
    }
    shift = shift < 1 ? 1 : shift > 62 ? 62 : shift;
    const int64_t factor = (int64_t)(((uint64_t)(uint32_t)m << 32) / sgsc_square_root(weight));
    const int64_t half = (int64_t)1 << (shift - 1);
    SGSC_ROLLED for (int32_t i = 0; i < n; ++i) {
        const int64_t steps = (((int64_t)n * x[i] - sum) * factor + half) >> shift;
        const int64_t q = steps + zero;
        y[i] = (int8_t)(q < INT8_MIN ? INT8_MIN : q > INT8_MAX ? INT8_MAX : q);
    }
}

#endif
