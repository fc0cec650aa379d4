/* What stands between products of whole numbers: their results are float32 without the scale of the row (the token),
 * which is applied here; what goes into the next product is rounded to a row's 255 levels in the same pass. */
#include "common.h"

#include <stdlib.h>

#define LEVELS 127.0f
#define SMALLEST 1e-30f /* a row of zeros has this as its largest */
#define ZERO_POINT 128

/* codes [width] = x [width] in steps of the largest / LEVELS, around ZERO_POINT. Returns the step, NaN where x holds
 * any. */
INLINE float round_row(const float *x, int64_t width, Floats largest, uint8_t *codes) {
    /* A maximum hides NaN, a sum shows it. */
    const float most = max_of(largest);
    const float peak = most > SMALLEST ? most : SMALLEST;
    const Floats factor = set(LEVELS / peak);
    Floats sum = set(0);
    for (int64_t d = 0; d < width; d += LANES) {
        const Floats value = load_f32(x + d, width - d);
        sum = fma_of(value, set(0), sum);
        store_u8(codes + d, width - d, to_ints(value * factor) + ZERO_POINT);
    }
    return peak / LEVELS + sum_of(sum);
}

/* y [rows, width] = y * scale [rows] + bias [width] (unless NULL), in place. */
EXPORT(void, scale)(float *y, const float *scale, const float *bias, int64_t rows, int64_t width) {
    for (int64_t row = 0; row < rows; row++)
        for (int64_t d = 0; d < width; d += LANES) {
            const Floats shift = bias ? load_f32(bias + d, width - d) : set(0);
            const Floats before = load_once(y, row * width + d, width - d, F32);
            store_f32(y + row * width + d, width - d, fma_of(before, set(scale[row]), shift));
        }
}

INLINE void round_rows(const void *x, uint8_t *codes, float *scales, int64_t rows, int64_t width, float *line,
                       const int type) {
    for (int64_t row = 0; row < rows; row++) {
        Floats largest = set(0);
        for (int64_t d = 0; d < width; d += LANES) {
            const Floats value = load_once(x, row * width + d, width - d, type);
            largest = larger(largest, absolute(value));
            store_f32(line + d, width - d, value);
        }
        scales[row] = round_row(line, width, largest, codes + row * width);
    }
}

/* codes [rows, width] and scales [rows] of x [rows, width]. Returns 1 where memory is short. */
EXPORT(int, round)(const void *x, uint8_t *codes, float *scales, int64_t rows, int64_t width, int type) {
    float *line = malloc((size_t)width * sizeof(float));
    if (!line) return 1;
#define CALL(type) round_rows(x, codes, scales, rows, width, line, type)
    FOR_TYPE(type, CALL)
#undef CALL
    free(line);
    return 0;
}

/* x [rows, width] += added * scale [rows] (unless NULL), in place; codes and scales (unless NULL) of the norm of x,
 * which plain (unless NULL), of a type, gets, too. Returns 1 where memory is short. */
EXPORT(int, add_norm_round)(float *x, const float *added, const float *scale, const float *weight, float eps,
                            uint8_t *codes, float *scales, void *plain, int64_t rows, int64_t width, int type) {
    float *line = malloc((size_t)width * sizeof(float));
    if (!line) return 1;
    for (int64_t row = 0; row < rows; row++) {
        float *states = x + row * width;
        if (added)
            for (int64_t d = 0; d < width; d += LANES) {
                const Floats fresh = load_once(added, row * width + d, width - d, F32);
                const Floats before = load_once(states, d, width - d, F32);
                store_f32(states + d, width - d, fma_of(fresh, set(scale[row]), before));
            }
        if (!codes) continue;
        const Floats factor = inverse_length(states, 0, width, eps, F32);
        Floats largest = set(0);
        for (int64_t d = 0; d < width; d += LANES) {
            const Floats normed = load_f32(states + d, width - d) * factor * load_f32(weight + d, width - d);
            largest = larger(largest, absolute(normed));
            store_f32(line + d, width - d, normed);
            if (plain) store(plain, row * width + d, width - d, normed, type);
        }
        scales[row] = round_row(line, width, largest, codes + row * width);
    }
    free(line);
    return 0;
}

/* codes and scales of silu(opened) * up [rows, width], both of which are multiplied by scale [rows] (unless NULL)
 * first; plain (unless NULL), of a type, gets it, too. Returns 1 where memory is short. */
EXPORT(int, gate_round)(const float *opened, const float *up, const float *scale, uint8_t *codes, float *scales,
                        void *plain, int64_t rows, int64_t width, int type) {
    float *line = malloc((size_t)width * sizeof(float));
    if (!line) return 1;
    for (int64_t row = 0; row < rows; row++) {
        const Floats factor = set(scale ? scale[row] : 1.0f);
        Floats largest = set(0);
        for (int64_t d = 0; d < width; d += LANES) {
            const Floats a = load_once(opened, row * width + d, width - d, F32) * factor;
            const Floats b = load_once(up, row * width + d, width - d, F32) * factor;
            const Floats inner = silu(a) * b;
            largest = larger(largest, absolute(inner));
            store_f32(line + d, width - d, inner);
            if (plain) store(plain, row * width + d, width - d, inner, type);
        }
        scales[row] = round_row(line, width, largest, codes + row * width);
    }
    free(line);
    return 0;
}
