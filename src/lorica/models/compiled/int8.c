/* What stands between products of whole numbers: their results are float32 without the scale of the row (the token),
 * which is applied here; what goes into the next product is rounded to a row's 255 levels in the same pass. */
#include "common.h"

#include <stdlib.h>
#include <string.h>

#define LEVELS 127.0f
#define SMALLEST 1e-30f /* a row of zeros has this as its largest */
#define ZERO_POINT 128

/* codes [width] = x [width] in steps of the largest / LEVELS, around ZERO_POINT. Returns the step, NaN where x holds
 * any. */
INLINE float round_row(const float *x, int64_t width, __m512 largest, uint8_t *codes) {
    /* A maximum hides NaN, a sum shows it. */
    const float most = _mm512_reduce_max_ps(largest);
    const float peak = most > SMALLEST ? most : SMALLEST;
    const __m512 factor = _mm512_set1_ps(LEVELS / peak);
    __m512 sum = _mm512_setzero_ps();
    for (int64_t d = 0; d < width; d += LANES) {
        const __mmask16 lanes = first_lanes(width - d);
        const __m512 value = _mm512_maskz_loadu_ps(lanes, x + d);
        sum = _mm512_fmadd_ps(value, _mm512_setzero_ps(), sum);
        const __m512i code = _mm512_add_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(value, factor)), _mm512_set1_epi32(ZERO_POINT));
        _mm_mask_storeu_epi8(codes + d, lanes, _mm512_cvtepi32_epi8(code));
    }
    return peak / LEVELS + _mm512_reduce_add_ps(sum);
}

INLINE __m512 larger(__m512 largest, __m512 x) {
    return _mm512_max_ps(largest, _mm512_abs_ps(x));
}

/* y [rows, width] = y * scale [rows] + bias [width] (unless NULL), in place. */
EXPORT void lorica_scale(float *y, const float *scale, const float *bias, int64_t rows, int64_t width) {
    for (int64_t row = 0; row < rows; row++)
        for (int64_t d = 0; d < width; d += LANES) {
            const __mmask16 lanes = first_lanes(width - d);
            const __m512 shift = bias ? _mm512_maskz_loadu_ps(lanes, bias + d) : _mm512_setzero_ps();
            float *at = y + row * width + d;
            _mm512_mask_storeu_ps(at, lanes, _mm512_fmadd_ps(load(at, 0, lanes, 1), _mm512_set1_ps(scale[row]), shift));
        }
}

/* codes [rows, width] and scales [rows] of x [rows, width], bfloat16 or float32: `wide`. Returns 1 where memory is
 * short. */
EXPORT int lorica_round(const void *x, uint8_t *codes, float *scales, int64_t rows, int64_t width, int wide) {
    float *line = malloc((size_t)width * sizeof(float));
    if (!line) return 1;
    for (int64_t row = 0; row < rows; row++) {
        __m512 largest = _mm512_setzero_ps();
        for (int64_t d = 0; d < width; d += LANES) {
            const __mmask16 lanes = first_lanes(width - d);
            const __m512 value = wide ? load(x, row * width + d, lanes, 1) : load(x, row * width + d, lanes, 0);
            largest = larger(largest, value);
            _mm512_mask_storeu_ps(line + d, lanes, value);
        }
        scales[row] = round_row(line, width, largest, codes + row * width);
    }
    free(line);
    return 0;
}

/* x [rows, width] += added * scale [rows] (unless NULL), in place; codes and scales (unless NULL) of the norm of x,
 * which plain (unless NULL) gets in bfloat16, too. Returns 1 where memory is short. */
EXPORT int lorica_add_norm_round(float *x, const float *added, const float *scale, const float *weight, float eps,
                                 uint8_t *codes, float *scales, bf16 *plain, int64_t rows, int64_t width) {
    float *line = malloc((size_t)width * sizeof(float));
    if (!line) return 1;
    for (int64_t row = 0; row < rows; row++) {
        float *states = x + row * width;
        if (added)
            for (int64_t d = 0; d < width; d += LANES) {
                const __mmask16 lanes = first_lanes(width - d);
                const __m512 fresh = load(added, row * width + d, lanes, 1);
                const __m512 before = load(states, d, lanes, 1);
                _mm512_mask_storeu_ps(states + d, lanes, _mm512_fmadd_ps(fresh, _mm512_set1_ps(scale[row]), before));
            }
        if (!codes) continue;
        const __m512 factor = inverse_length(states, 0, width, eps, 1);
        __m512 largest = _mm512_setzero_ps();
        for (int64_t d = 0; d < width; d += LANES) {
            const __mmask16 lanes = first_lanes(width - d);
            const __m512 scaled = _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, states + d), factor);
            const __m512 normed = _mm512_mul_ps(scaled, _mm512_maskz_loadu_ps(lanes, weight + d));
            largest = larger(largest, normed);
            _mm512_mask_storeu_ps(line + d, lanes, normed);
            if (plain) store_bf16(plain + row * width + d, lanes, normed);
        }
        scales[row] = round_row(line, width, largest, codes + row * width);
    }
    free(line);
    return 0;
}

/* codes and scales of silu(opened) * up [rows, width], both of which are multiplied by scale [rows] (unless NULL)
 * first; plain (unless NULL) gets it in bfloat16, too. Returns 1 where memory is short. */
EXPORT int lorica_gate_round(const float *opened, const float *up, const float *scale, uint8_t *codes, float *scales,
                             bf16 *plain, int64_t rows, int64_t width) {
    float *line = malloc((size_t)width * sizeof(float));
    if (!line) return 1;
    for (int64_t row = 0; row < rows; row++) {
        const __m512 factor = _mm512_set1_ps(scale ? scale[row] : 1.0f);
        __m512 largest = _mm512_setzero_ps();
        for (int64_t d = 0; d < width; d += LANES) {
            const __mmask16 lanes = first_lanes(width - d);
            const __m512 a = _mm512_mul_ps(load(opened, row * width + d, lanes, 1), factor);
            const __m512 b = _mm512_mul_ps(load(up, row * width + d, lanes, 1), factor);
            const __m512 inner = _mm512_mul_ps(silu(a), b);
            largest = larger(largest, inner);
            _mm512_mask_storeu_ps(line + d, lanes, inner);
            if (plain) store_bf16(plain + row * width + d, lanes, inner);
        }
        scales[row] = round_row(line, width, largest, codes + row * width);
    }
    free(line);
    return 0;
}
