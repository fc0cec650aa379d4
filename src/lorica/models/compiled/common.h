/* What the kernels share: bfloat16 in and out, and the exponential. All of it needs AVX-512 with BF16; whoever calls
 * asks the processor first (`lorica_runs_here`). */
#ifndef LORICA_COMMON_H
#define LORICA_COMMON_H

#include <immintrin.h>
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

#endif
