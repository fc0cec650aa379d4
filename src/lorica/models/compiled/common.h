/* What the kernels share: bfloat16 in and out, and the exponential. All of it needs AVX-512 with BF16; whoever calls
 * asks the processor first (`lorica_runs_here`). */
#ifndef LORICA_COMMON_H
#define LORICA_COMMON_H

#include <immintrin.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))
#define INLINE TARGET static inline __attribute__((always_inline))
#define EXPORT __attribute__((visibility("default"))) TARGET

typedef uint16_t bf16;

enum { LANES = 16 }; /* float32 numbers of one register */

/* The first `count` of 16 lanes. */
INLINE __mmask16 first_lanes(int64_t count) {
    return count >= LANES ? (__mmask16)0xFFFF : count <= 0 ? 0 : (__mmask16)((1u << count) - 1);
}

INLINE __m512 load_bf16(const bf16 *from, __mmask16 lanes) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, from)), 16));
}

/* To the nearest, ties to even. */
INLINE void store_bf16(bf16 *to, __mmask16 lanes, __m512 x) {
    _mm256_mask_storeu_epi16(to, lanes, (__m256i)_mm512_cvtneps_pbh(x));
}

/* What is read from memory in one pass is asked for this many bytes ahead: results of a product lie in the third cache or
 * beyond by the time they are read again, and the processor alone does not look far enough ahead (gate: 2.3 times). */
enum { AHEAD = 4096 };

INLINE void look_ahead(const void *from) {
    _mm_prefetch((const char *)from + AHEAD, _MM_HINT_T0);
}

/* Numbers at..at + 15 of what is bfloat16 or, `wide`, float32. */
INLINE __m512 load(const void *from, int64_t at, __mmask16 lanes, const int wide) {
    look_ahead((const char *)from + at * (wide ? 4 : 2));
    return wide ? _mm512_maskz_loadu_ps(lanes, (const float *)from + at) : load_bf16((const bf16 *)from + at, lanes);
}

INLINE void store(void *to, int64_t at, __mmask16 lanes, __m512 x, const int wide) {
    if (wide)
        _mm512_mask_storeu_ps((float *)to + at, lanes, x);
    else
        store_bf16((bf16 *)to + at, lanes, x);
}

/* 2^x with a relative error below 3e-6; exactly 1 at 0, exactly 0 below -150. NaN stays NaN. */
INLINE __m512 exp2_of(__m512 x) {
    const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 rest = _mm512_sub_ps(x, whole);
    __m512 y = _mm512_set1_ps(0.009582856f); /* minimax over -0.5..0.5 */
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(0.05590643f));
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(0.24024099f));
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(0.6931242f));
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(y, whole);
}

#define LOG2_E 1.44269504f

INLINE __m512 silu(__m512 x) {
    const __m512 power = _mm512_mul_ps(x, _mm512_set1_ps(-LOG2_E)); /* may become endless: x / endless is 0 */
    return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), exp2_of(power)));
}

/* 1 / root of the mean of the squares of x [width]. */
INLINE __m512 inverse_length(const void *x, int64_t at, int64_t width, float eps, const int wide) {
    __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
    for (int64_t d = 0; d < width; d += 2 * LANES) {
        const __m512 a = load(x, at + d, first_lanes(width - d), wide);
        even = _mm512_fmadd_ps(a, a, even);
        if (d + LANES < width) {
            const __m512 b = load(x, at + d + LANES, first_lanes(width - d - LANES), wide);
            odd = _mm512_fmadd_ps(b, b, odd);
        }
    }
    return _mm512_set1_ps(1.0f / sqrtf(_mm512_reduce_add_ps(_mm512_add_ps(even, odd)) / (float)width + eps));
}

#endif
