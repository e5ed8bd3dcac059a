/* One call of a micro-kernel, chosen by the input: see tune.py. No value is known to the compiler, as in a network of many
 * layers. Weights, activations and biases are zero: how many instructions are executed does not depend on them. */
#include "model.h"
#include "sgsc_kernels.h"

enum { PIXELS, PIXEL, WIDEN, MOST_HEADS = 6, MOST_CHANNELS = 16 };

struct test {
    int32_t what, channels, taps, rows, heads;
    uint32_t head[MOST_HEADS];
};

int8_t model_arena[MODEL_ARENA_BYTES] __attribute__((aligned(4)));
static uint32_t stream[1 << 14];
static int8_t rows[1 << 14] __attribute__((aligned(4)));
static int32_t bias[MOST_CHANNELS], multipliers[MOST_CHANNELS];
static int8_t shifts[MOST_CHANNELS];

static inline int32_t unknown(int32_t value)
{
    __asm__ volatile("" : "+r"(value));
    return value;
}

static __attribute__((noinline)) void measure(const int8_t *input, int8_t *output)
{
    struct test test;
    memcpy(&test, input, sizeof test);
    const int32_t zero = unknown(0), step = unknown(1), bytes = unknown(4), low = unknown(-128), high = unknown(127);
    for (int32_t i = 0; i < MOST_CHANNELS; ++i) {
        shifts[i] = 8;
    }
    for (int32_t i = 0; i < MOST_HEADS; ++i) {
        stream[i] = i < test.heads ? test.head[i] : 0;
    }
    if (test.what == WIDEN) {
        sgsc_widen_pixels(rows, test.rows, model_arena, zero, test.rows, test.taps, zero);
    } else if (test.what == PIXELS) {
        sgsc_pixels_tflite(output, step, test.rows, rows, (test.taps + 1) / 2, zero, stream, test.channels, bias, bytes,
                           multipliers, step, shifts, step, zero, low, high);
    } else {
        sgsc_pixel_tflite(output, rows, (test.taps + 1) / 2, zero, stream, test.channels, bias, bytes, multipliers, step,
                          shifts, step, zero, low, high);
    }
}

static void network(const int8_t *input, int8_t *output)
{
  measure(input, output);
}

void model_run(const int8_t *input, int8_t *output)
{
    network(input, output);
}
