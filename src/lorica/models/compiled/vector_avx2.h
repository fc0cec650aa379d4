/* Vectors of 8 float32 numbers, for AVX2 with FMA and F16C: the names of vector_avx512.h. */
#ifndef LORICA_VECTOR_H
#define LORICA_VECTOR_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

enum { LANES = 8 };
#define REGISTERS 16
typedef __m256 Floats;
typedef int32_t Ints __attribute__((vector_size(32)));
#define NUMBERED {0, 1, 2, 3, 4, 5, 6, 7}

INLINE __m256i first_lanes(int64_t count) {
    const Ints lane = NUMBERED;
    return (__m256i)(lane < (int32_t)(count < LANES ? count : LANES));
}

INLINE Floats set(float x) {
    return _mm256_set1_ps(x);
}

INLINE Floats fma_of(Floats a, Floats b, Floats c) {
    return _mm256_fmadd_ps(a, b, c);
}

INLINE Floats larger(Floats a, Floats b) {
    return _mm256_max_ps(a, b);
}

INLINE float sum_of(Floats x) {
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

INLINE float max_of(Floats x) {
    __m128 most = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    most = _mm_max_ps(most, _mm_movehl_ps(most, most));
    return _mm_cvtss_f32(_mm_max_ss(most, _mm_movehdup_ps(most)));
}

INLINE Floats nearest(Floats x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* x * 2^power for x of 0.5..2: 0 for powers below -126, endless for those above 127. NaN stays NaN. */
INLINE Floats scale_by_power(Floats x, Floats power) {
    const Floats bounded = _mm256_min_ps(set(128.0f), _mm256_max_ps(set(-127.0f), power));
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(bounded), _mm256_set1_epi32(127));
    return x * _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}

INLINE Floats to_floats(Ints x) {
    return _mm256_cvtepi32_ps((__m256i)x);
}

INLINE Ints to_ints(Floats x) {
    return (Ints)_mm256_cvtps_epi32(x);
}

INLINE Floats load_f32(const float *from, int64_t count) {
    return count >= LANES ? _mm256_loadu_ps(from) : _mm256_maskload_ps(from, first_lanes(count));
}

INLINE void store_f32(float *to, int64_t count, Floats x) {
    if (count >= LANES)
        _mm256_storeu_ps(to, x);
    else
        _mm256_maskstore_ps(to, first_lanes(count), x);
}

INLINE __m128i load_16_bits(const uint16_t *from, int64_t count) {
    if (count >= LANES) return _mm_loadu_si128((const __m128i *)from);
    uint16_t copy[LANES] = {0};
    for (int64_t i = 0; i < count; i++) copy[i] = from[i];
    return _mm_loadu_si128((const __m128i *)copy);
}

INLINE void store_16_bits(uint16_t *to, int64_t count, __m128i x) {
    if (count >= LANES) {
        _mm_storeu_si128((__m128i *)to, x);
        return;
    }
    uint16_t copy[LANES];
    _mm_storeu_si128((__m128i *)copy, x);
    for (int64_t i = 0; i < count; i++) to[i] = copy[i];
}

INLINE Ints load_i32(const int32_t *from, int64_t count) {
    return (Ints)_mm256_maskload_epi32(from, first_lanes(count));
}

INLINE Floats load_bf16(const uint16_t *from, int64_t count) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_16_bits(from, count)), 16));
}

INLINE void store_bf16(uint16_t *to, int64_t count, Floats x) {
    const __m256i pairs = _mm256_packus_epi32((__m256i)round_to_bf16(x), _mm256_setzero_si256());
    store_16_bits(to, count, _mm256_castsi256_si128(_mm256_permute4x64_epi64(pairs, 0xD8)));
}

INLINE Floats load_f16(const uint16_t *from, int64_t count) {
    return _mm256_cvtph_ps(load_16_bits(from, count));
}

INLINE void store_f16(uint16_t *to, int64_t count, Floats x) {
    store_16_bits(to, count, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

INLINE Ints load_i8(const int8_t *from, int64_t count) {
    uint64_t codes = 0;
    memcpy(&codes, from, (size_t)(count < LANES ? count : LANES));
    return (Ints)_mm256_cvtepi8_epi32(_mm_cvtsi64_si128((int64_t)codes));
}

INLINE Ints load_u8(const uint8_t *from) {
    return (Ints)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)from));
}

INLINE void store_u8(uint8_t *to, int64_t count, Ints x) {
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128((__m256i)x), _mm256_extracti128_si256((__m256i)x, 1));
    const int64_t codes = _mm_cvtsi128_si64(_mm_packus_epi16(words, words));
    memcpy(to, &codes, (size_t)(count < LANES ? count : LANES));
}

INLINE void transpose(Floats rows[LANES]) {
    __m256 half[LANES], whole[LANES];
    for (int i = 0; i < LANES; i += 2) { /* pairs of rows, then pairs of pairs, within each 128 bits */
        half[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
        half[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < LANES; i += 4) {
        whole[i] = _mm256_shuffle_ps(half[i], half[i + 2], 0x44);
        whole[i + 1] = _mm256_shuffle_ps(half[i], half[i + 2], 0xEE);
        whole[i + 2] = _mm256_shuffle_ps(half[i + 1], half[i + 3], 0x44);
        whole[i + 3] = _mm256_shuffle_ps(half[i + 1], half[i + 3], 0xEE);
    }
    for (int i = 0; i < 4; i++) {
        rows[i] = _mm256_permute2f128_ps(whole[i], whole[i + 4], 0x20);
        rows[i + 4] = _mm256_permute2f128_ps(whole[i], whole[i + 4], 0x31);
    }
}

/* sum + a[2 i] * b[2 i] + a[2 i + 1] * b[2 i + 1] of 16-bit numbers. */
INLINE Ints multiply_pairs(Ints sum, Ints a, Ints b) {
#ifdef __AVXVNNI__
    return (Ints)_mm256_dpwssd_avx_epi32((__m256i)sum, (__m256i)a, (__m256i)b);
#else
    return sum + (Ints)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#endif
}

/* 2 * LANES codes of 8 bits; of 16 bits, as a vector of Ints. */
typedef __m128i Bytes;
#define WIDEN(bytes) _mm256_cvtepi8_epi16(bytes)
#define LOW_HALVES(bytes) _mm_and_si128(bytes, _mm_set1_epi8(15))
#define SHIFTED(bytes) _mm_srli_epi16(bytes, 4)

#endif
