/* Weights in few bits, restored to bfloat16 a few rows at a time: these stay in the processor's own cache until they are
 * multiplied, so that only the few bits are read from memory. */
#include "common.h"

enum { HALF = LANES, PAIR = 2 * LANES }; /* 4 bits: 16 bytes hold 32 weights, the first 16 in their lower halves */

INLINE void restore_16(__m128i codes, __m512 scale, bf16 *to, __mmask16 lanes) {
    store_bf16(to, lanes, _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes)), scale));
}

/* to [rows, width] = codes [rows, width] * scales [rows]. */
EXPORT void lorica_restore_int8(const int8_t *codes, const bf16 *scales, bf16 *to, int64_t rows, int64_t width) {
    for (int64_t row = 0; row < rows; row++) {
        const __m512 scale = _mm512_set1_ps(_mm512_cvtss_f32(load_bf16(scales + row, 1)));
        const int8_t *from = codes + row * width;
        bf16 *into = to + row * width;
        int64_t d = 0;
        for (; d + LANES <= width; d += LANES) /* without masks, which cost a half more */
            restore_16(_mm_loadu_si128((const __m128i *)(from + d)), scale, into + d, 0xFFFF);
        const __mmask16 rest = first_lanes(width - d);
        if (rest) restore_16(_mm_maskz_loadu_epi8(rest, from + d), scale, into + d, rest);
    }
}

/* to [rows, width] = codes * scale + least, both [rows, width / group] in scales, side by side. group: a multiple of 32,
 * which divides width. */
EXPORT void lorica_restore_int4(const uint8_t *codes, const bf16 *scales, bf16 *to, int64_t rows, int64_t width,
                                int64_t group) {
    const int64_t groups = width / group;
    for (int64_t row = 0; row < rows; row++)
        for (int64_t part = 0; part < groups; part++) {
            const bf16 *pair = scales + (row * groups + part) * 2;
            const __m512 scale = _mm512_set1_ps(_mm512_cvtss_f32(load_bf16(pair, 1)));
            const __m512 least = _mm512_set1_ps(_mm512_cvtss_f32(load_bf16(pair + 1, 1)));
            const int64_t begin = row * width + part * group;
            for (int64_t d = begin; d < begin + group; d += PAIR) {
                const __m512i both = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(codes + d / 2)));
                const __m512i low = _mm512_and_si512(both, _mm512_set1_epi32(15)), high = _mm512_srli_epi32(both, 4);
                store_bf16(to + d, 0xFFFF, _mm512_fmadd_ps(_mm512_cvtepi32_ps(low), scale, least));
                store_bf16(to + d + HALF, 0xFFFF, _mm512_fmadd_ps(_mm512_cvtepi32_ps(high), scale, least));
            }
        }
}
