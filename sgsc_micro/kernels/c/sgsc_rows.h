/* Activations widened to rows of int16 minus their zero point, in lane order: of each four neighbours (0, 2) and (1, 3), the
 * last one to three as they come; two make a pair. A row alone is pair after pair; four rows lie side by side, a pair of
 * each after the other. */
#ifndef SGSC_ROWS_H
#define SGSC_ROWS_H

/* The fours of one row, or the rest of it: n values from x, pairs `step` bytes from one another. */
SGSC_KERNEL void sgsc_widen(int8_t *row, int32_t step, const int8_t *x, int32_t n, int32_t zero)
{
    int32_t i = 0;
#if SGSC_DSP
    const uint32_t minus_zero = sgsc_pair(-zero, -zero);
    for (; i + 4 <= n; i += 4) {
        uint32_t four;
        memcpy(&four, x + i, sizeof four);
        sgsc_store_pair(row, (uint32_t)__sxtab16((int16x2_t)minus_zero, (int8x4_t)four));
        sgsc_store_pair(row + step, (uint32_t)__sxtab16((int16x2_t)minus_zero, (int8x4_t)(four >> 8)));
        row += 2 * step;
    }
#else
    for (; i + 4 <= n; i += 4) {
        sgsc_store_pair(row, sgsc_pair(x[i] - zero, x[i + 2] - zero));
        sgsc_store_pair(row + step, sgsc_pair(x[i + 1] - zero, x[i + 3] - zero));
        row += 2 * step;
    }
#endif
    for (; i < n; i += 2) {
        sgsc_store_pair(row, sgsc_pair(x[i] - zero, i + 1 < n ? x[i + 1] - zero : 0));
        row += step;
    }
}

#if SGSC_DSP
/* r0 rows, r1 a pair, r2 what is left to do, r3 minus zero, r4-r7 where from, r8-r11 a four of each, ip a pair */
static __attribute__((naked, noipa, unused)) void sgsc_widen_fours(int8_t *rows __attribute__((unused)),
                                                                   const int8_t *const *x __attribute__((unused)),
                                                                   int32_t fours __attribute__((unused)),
                                                                   uint32_t minus_zero __attribute__((unused)))
{
    __asm__(" push {r4-r11, lr}\n ldm r1, {r4-r7}\n"
            "1:\n ldr r8, [r4], #4\n ldr r9, [r5], #4\n ldr r10, [r6], #4\n ldr r11, [r7], #4\n"
            " sxtab16 r1, r3, r8\n sxtab16 ip, r3, r9\n strd r1, ip, [r0], #8\n"
            " sxtab16 r1, r3, r10\n sxtab16 ip, r3, r11\n strd r1, ip, [r0], #8\n"
            " sxtab16 r8, r3, r8, ror #8\n sxtab16 r9, r3, r9, ror #8\n"
            " sxtab16 r10, r3, r10, ror #8\n sxtab16 r11, r3, r11, ror #8\n"
            " stm r0!, {r8-r11}\n subs r2, #1\n bne 1b\n pop {r4-r11, pc}\n");
}
#endif

/* Four rows side by side, of n values from each of `x`. */
SGSC_KERNEL void sgsc_widen_rows(int8_t *rows, const int8_t *const *x, int32_t n, int32_t zero)
{
    int32_t done = 0;
#if SGSC_DSP
    if (n >= 4) {
        sgsc_widen_fours(rows, x, n / 4, sgsc_pair(-zero, -zero));
        done = n / 4 * 4;
    }
#endif
    for (int32_t r = 0; r < 4 && done < n; ++r) {
        sgsc_widen(rows + 8 * done + 4 * r, 16, x[r] + done, n - done, zero);
    }
}

/* `count` rows of 1 or 4; those beyond `pixels` are the last pixel's again. Pixels lie `stride` bytes from one another. */
SGSC_KERNEL void sgsc_widen_pixels(int8_t *rows, int32_t count, const int8_t *x, int32_t stride, int32_t pixels, int32_t n,
                                   int32_t zero)
{
    if (count == 1) {
        sgsc_widen(rows, 4, x, n, zero);
        return;
    }
    const int8_t *from[4];
    for (int32_t r = 0; r < 4; ++r) {
        from[r] = x + (r < pixels ? r : pixels - 1) * stride;
    }
    sgsc_widen_rows(rows, from, n, zero);
}

/* Where `position` lies among values with `step` - 1 zeros after each; below 0 for such a zero. */
static inline int32_t sgsc_before_upsampling(int32_t position, int32_t step)
{
    return position < 0 || position % step != 0 ? -1 : position / step;
}

static inline void sgsc_fill(int8_t *to, int32_t n, int32_t value)
{
    memset(to, value, (size_t)n);
}

static inline void sgsc_copy(int8_t *to, const int8_t *from, int32_t n)
{
    int32_t i = 0;
    for (; i + 4 <= n; i += 4) {
        memcpy(to + i, from + i, 4);
    }
    for (; i < n; ++i) {
        to[i] = from[i];
    }
}

/* The activations under the kernel at output pixels from `first` on, `count` of 1 or 4; beyond `last` they are its again.
 * x begins at the channel where the `depth` channels wanted of each tap begin. `outside` has columns * depth values of the
 * zero point. Behind it is room for `count` rows as they are, if `copies`: taps that do not fill words. */
SGSC_KERNEL void sgsc_gather(int8_t *rows, int32_t count, const int8_t *x, int32_t first, int32_t last, int32_t out_width,
                             int32_t stride_y, int32_t stride_x, int32_t top, int32_t left, int32_t kernel_rows,
                             int32_t kernel_columns, int32_t dilation_y, int32_t dilation_x, int32_t up_y, int32_t up_x,
                             int32_t height, int32_t width, int32_t channels, int32_t depth, int32_t zero, int8_t *outside,
                             int32_t copies)
{
    int32_t ys[4], xs[4], whole = dilation_x == 1 && up_x == 1 && depth == channels;
    const int32_t run = kernel_columns * depth, taps = kernel_rows * run, upsampled = up_y > 1 || up_x > 1;
    int8_t *copied = outside + run;
    for (int32_t r = 0; r < count; ++r) {
        const int32_t pixel = first + r < last ? first + r : last, row = pixel / out_width;
        ys[r] = row * stride_y - top;
        xs[r] = (pixel - row * out_width) * stride_x - left;
        whole = whole && xs[r] >= 0 && xs[r] + kernel_columns <= width;
    }
    const int32_t together = whole ? kernel_columns : 1, n = together * depth;
    for (int32_t ky = 0; ky < kernel_rows; ++ky) {
        for (int32_t kx = 0; kx < kernel_columns; kx += together) {
            const int8_t *from[4];
            for (int32_t r = 0; r < count; ++r) {
                int32_t iy = ys[r] + ky * dilation_y, ix = xs[r] + kx * dilation_x;
                if (upsampled) {
                    iy = sgsc_before_upsampling(iy, up_y);
                    ix = sgsc_before_upsampling(ix, up_x);
                }
                const int32_t inside = (uint32_t)iy < (uint32_t)height && (uint32_t)ix < (uint32_t)width;
                from[r] = inside ? x + (iy * width + ix) * channels : outside;
            }
            if (copies) {
                for (int32_t r = 0; r < count; ++r) {
                    sgsc_copy(copied + r * taps, from[r], n);
                }
                copied += n;
            } else if (count == 1) {
                sgsc_widen(rows, 4, from[0], n, zero);
                rows += 2 * n;
            } else {
                sgsc_widen_rows(rows, from, n, zero);
                rows += 8 * n;
            }
        }
    }
    if (copies) {
        sgsc_widen_pixels(rows, count, outside + run, taps, count, taps, zero);
    }
}
#endif
