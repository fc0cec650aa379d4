/* Vectors of 16 float32 numbers, for AVX-512 (F, BW, VL, DQ); with BF16 where the compiler is told so. */
#ifndef LORICA_VECTOR_H
#define LORICA_VECTOR_H

#include <immintrin.h>
#include <stdint.h>

enum { LANES = 16 };
#define REGISTERS 32
typedef __m512 Floats;
typedef int32_t Ints __attribute__((vector_size(64)));
#define NUMBERED {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}

INLINE __mmask16 first_lanes(int64_t count) {
    return count >= LANES ? (__mmask16)0xFFFF : count <= 0 ? 0 : (__mmask16)((1u << count) - 1);
}

INLINE Floats set(float x) {
    return _mm512_set1_ps(x);
}

/* a * b + c, rounded once. */
INLINE Floats fma_of(Floats a, Floats b, Floats c) {
    return _mm512_fmadd_ps(a, b, c);
}

/* The larger of two; b where either is NaN. */
INLINE Floats larger(Floats a, Floats b) {
    return _mm512_max_ps(a, b);
}

INLINE float sum_of(Floats x) {
    return _mm512_reduce_add_ps(x);
}

INLINE float max_of(Floats x) {
    return _mm512_reduce_max_ps(x);
}

/* To the nearest whole number, ties to even. */
INLINE Floats nearest(Floats x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* x * 2^power for a whole power. */
INLINE Floats scale_by_power(Floats x, Floats power) {
    return _mm512_scalef_ps(x, power);
}

INLINE Floats to_floats(Ints x) {
    return _mm512_cvtepi32_ps((__m512i)x);
}

INLINE Ints to_ints(Floats x) {
    return (Ints)_mm512_cvtps_epi32(x);
}

/* The first `count` numbers, zeros behind them. */
INLINE Floats load_f32(const float *from, int64_t count) {
    return count >= LANES ? _mm512_loadu_ps(from) : _mm512_maskz_loadu_ps(first_lanes(count), from);
}

INLINE void store_f32(float *to, int64_t count, Floats x) {
    if (count >= LANES)
        _mm512_storeu_ps(to, x);
    else
        _mm512_mask_storeu_ps(to, first_lanes(count), x);
}

INLINE __m256i load_16_bits(const uint16_t *from, int64_t count) {
    return count >= LANES ? _mm256_loadu_si256((const __m256i *)from) : _mm256_maskz_loadu_epi16(first_lanes(count), from);
}

INLINE void store_16_bits(uint16_t *to, int64_t count, __m256i x) {
    if (count >= LANES)
        _mm256_storeu_si256((__m256i *)to, x);
    else
        _mm256_mask_storeu_epi16(to, first_lanes(count), x);
}

INLINE Ints load_i32(const int32_t *from, int64_t count) {
    return (Ints)_mm512_maskz_loadu_epi32(first_lanes(count), from);
}

INLINE Floats load_bf16(const uint16_t *from, int64_t count) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_16_bits(from, count)), 16));
}

/* To the nearest, ties to even. */
INLINE void store_bf16(uint16_t *to, int64_t count, Floats x) {
#ifdef __AVX512BF16__
    store_16_bits(to, count, (__m256i)_mm512_cvtneps_pbh(x));
#else
    store_16_bits(to, count, _mm512_cvtepi32_epi16((__m512i)round_to_bf16(x)));
#endif
}

INLINE Floats load_f16(const uint16_t *from, int64_t count) {
    return _mm512_cvtph_ps(load_16_bits(from, count));
}

INLINE void store_f16(uint16_t *to, int64_t count, Floats x) {
    store_16_bits(to, count, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

INLINE Ints load_i8(const int8_t *from, int64_t count) {
    const __m128i codes =
        count >= LANES ? _mm_loadu_si128((const __m128i *)from) : _mm_maskz_loadu_epi8(first_lanes(count), from);
    return (Ints)_mm512_cvtepi8_epi32(codes);
}

INLINE Ints load_u8(const uint8_t *from) {
    return (Ints)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)from));
}

/* Numbers of 0..255. */
INLINE void store_u8(uint8_t *to, int64_t count, Ints x) {
    const __m128i codes = _mm512_cvtepi32_epi8((__m512i)x);
    if (count >= LANES)
        _mm_storeu_si128((__m128i *)to, codes);
    else
        _mm_mask_storeu_epi8(to, first_lanes(count), codes);
}

/* rows [LANES][LANES], transposed in place. */
INLINE void transpose(Floats rows[LANES]) {
    __m512i half[LANES], whole[LANES];
    for (int i = 0; i < LANES; i += 2) { /* pairs of rows, then pairs of pairs, within each 128 bits */
        half[i] = _mm512_unpacklo_epi32((__m512i)rows[i], (__m512i)rows[i + 1]);
        half[i + 1] = _mm512_unpackhi_epi32((__m512i)rows[i], (__m512i)rows[i + 1]);
    }
    for (int i = 0; i < LANES; i += 4) {
        whole[i] = _mm512_unpacklo_epi64(half[i], half[i + 2]);
        whole[i + 1] = _mm512_unpackhi_epi64(half[i], half[i + 2]);
        whole[i + 2] = _mm512_unpacklo_epi64(half[i + 1], half[i + 3]);
        whole[i + 3] = _mm512_unpackhi_epi64(half[i + 1], half[i + 3]);
    }
    for (int i = 0; i < 4; i++) { /* then the blocks of 4 x 4 among each other */
        const __m512i a = _mm512_shuffle_i32x4(whole[i], whole[i + 4], 0x88);
        const __m512i b = _mm512_shuffle_i32x4(whole[i], whole[i + 4], 0xDD);
        const __m512i c = _mm512_shuffle_i32x4(whole[i + 8], whole[i + 12], 0x88);
        const __m512i d = _mm512_shuffle_i32x4(whole[i + 8], whole[i + 12], 0xDD);
        rows[i] = (Floats)_mm512_shuffle_i32x4(a, c, 0x88);
        rows[i + 4] = (Floats)_mm512_shuffle_i32x4(b, d, 0x88);
        rows[i + 8] = (Floats)_mm512_shuffle_i32x4(a, c, 0xDD);
        rows[i + 12] = (Floats)_mm512_shuffle_i32x4(b, d, 0xDD);
    }
}

/* sum + a[2 i] * b[2 i] + a[2 i + 1] * b[2 i + 1] of 16-bit numbers. */
INLINE Ints multiply_pairs(Ints sum, Ints a, Ints b) {
#ifdef __AVX512VNNI__
    return (Ints)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
#else
    return sum + (Ints)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#endif
}

/* 2 * LANES codes of 8 bits; of 16 bits, as a vector of Ints. */
typedef __m256i Bytes;
#define WIDEN(bytes) _mm512_cvtepi8_epi16(bytes)
#define LOW_HALVES(bytes) _mm256_and_si256(bytes, _mm256_set1_epi8(15))
#define SHIFTED(bytes) _mm256_srli_epi16(bytes, 4)

#endif
