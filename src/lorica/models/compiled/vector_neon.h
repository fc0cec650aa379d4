/* Vectors of 4 float32 numbers, for NEON as every AArch64 processor has it: the names of vector_avx512.h. */
#ifndef LORICA_VECTOR_H
#define LORICA_VECTOR_H

#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

enum { LANES = 4 };
#define REGISTERS 32
typedef float32x4_t Floats;
typedef int32_t Ints __attribute__((vector_size(16)));
#define NUMBERED {0, 1, 2, 3}

INLINE size_t bytes_within(int64_t count, size_t size) {
    return (size_t)(count < LANES ? count : LANES) * size;
}

INLINE Floats set(float x) {
    return vdupq_n_f32(x);
}

INLINE Floats fma_of(Floats a, Floats b, Floats c) {
    return vfmaq_f32(c, a, b);
}

INLINE Floats larger(Floats a, Floats b) {
    return vbslq_f32(vcgtq_f32(a, b), a, b);
}

INLINE float sum_of(Floats x) {
    return vaddvq_f32(x);
}

INLINE float max_of(Floats x) {
    return vmaxnmvq_f32(x);
}

INLINE Floats nearest(Floats x) {
    return vrndnq_f32(x);
}

/* x * 2^power for x of 0.5..2: 0 for powers below -126, endless for those above 127. NaN stays NaN. */
INLINE Floats scale_by_power(Floats x, Floats power) {
    const Floats bounded = vminq_f32(set(128.0f), vmaxq_f32(set(-127.0f), power));
    const int32x4_t exponent = vaddq_s32(vcvtnq_s32_f32(bounded), vdupq_n_s32(127));
    return vmulq_f32(x, vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23)));
}

INLINE Floats to_floats(Ints x) {
    return vcvtq_f32_s32((int32x4_t)x);
}

INLINE Ints to_ints(Floats x) {
    return (Ints)vcvtnq_s32_f32(x);
}

INLINE Floats load_f32(const float *from, int64_t count) {
    if (count >= LANES) return vld1q_f32(from);
    float copy[LANES] = {0};
    if (count > 0) memcpy(copy, from, bytes_within(count, sizeof *from));
    return vld1q_f32(copy);
}

INLINE void store_f32(float *to, int64_t count, Floats x) {
    if (count >= LANES) {
        vst1q_f32(to, x);
        return;
    }
    float copy[LANES];
    vst1q_f32(copy, x);
    if (count > 0) memcpy(to, copy, bytes_within(count, sizeof *to));
}

INLINE uint16x4_t load_16_bits(const uint16_t *from, int64_t count) {
    if (count >= LANES) return vld1_u16(from);
    uint16_t copy[LANES] = {0};
    if (count > 0) memcpy(copy, from, bytes_within(count, sizeof *from));
    return vld1_u16(copy);
}

INLINE void store_16_bits(uint16_t *to, int64_t count, uint16x4_t x) {
    if (count >= LANES) {
        vst1_u16(to, x);
        return;
    }
    uint16_t copy[LANES];
    vst1_u16(copy, x);
    if (count > 0) memcpy(to, copy, bytes_within(count, sizeof *to));
}

INLINE Ints load_i32(const int32_t *from, int64_t count) {
    int32_t copy[LANES] = {0};
    if (count > 0) memcpy(copy, from, bytes_within(count, sizeof *from));
    return (Ints)vld1q_s32(copy);
}

INLINE Floats load_bf16(const uint16_t *from, int64_t count) {
    return vreinterpretq_f32_u32(vshll_n_u16(load_16_bits(from, count), 16));
}

INLINE void store_bf16(uint16_t *to, int64_t count, Floats x) {
    store_16_bits(to, count, vmovn_u32((uint32x4_t)round_to_bf16(x)));
}

INLINE Floats load_f16(const uint16_t *from, int64_t count) {
    return vcvt_f32_f16(vreinterpret_f16_u16(load_16_bits(from, count)));
}

INLINE void store_f16(uint16_t *to, int64_t count, Floats x) {
    store_16_bits(to, count, vreinterpret_u16_f16(vcvt_f16_f32(x)));
}

INLINE Ints load_i8(const int8_t *from, int64_t count) {
    int8_t codes[8] = {0};
    if (count > 0) memcpy(codes, from, bytes_within(count, 1));
    return (Ints)vmovl_s16(vget_low_s16(vmovl_s8(vld1_s8(codes))));
}

INLINE Ints load_u8(const uint8_t *from) {
    uint8_t codes[8] = {0};
    memcpy(codes, from, LANES);
    return (Ints)vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vld1_u8(codes)))));
}

INLINE void store_u8(uint8_t *to, int64_t count, Ints x) {
    const uint16x4_t words = vqmovun_s32((int32x4_t)x);
    uint8_t codes[8];
    vst1_u8(codes, vqmovn_u16(vcombine_u16(words, words)));
    if (count > 0) memcpy(to, codes, bytes_within(count, 1));
}

INLINE void transpose(Floats rows[LANES]) {
    const float64x2_t a = vreinterpretq_f64_f32(vtrn1q_f32(rows[0], rows[1]));
    const float64x2_t b = vreinterpretq_f64_f32(vtrn2q_f32(rows[0], rows[1]));
    const float64x2_t c = vreinterpretq_f64_f32(vtrn1q_f32(rows[2], rows[3]));
    const float64x2_t d = vreinterpretq_f64_f32(vtrn2q_f32(rows[2], rows[3]));
    rows[0] = vreinterpretq_f32_f64(vtrn1q_f64(a, c));
    rows[1] = vreinterpretq_f32_f64(vtrn1q_f64(b, d));
    rows[2] = vreinterpretq_f32_f64(vtrn2q_f64(a, c));
    rows[3] = vreinterpretq_f32_f64(vtrn2q_f64(b, d));
}

/* sum + a[2 i] * b[2 i] + a[2 i + 1] * b[2 i + 1] of 16-bit numbers. */
INLINE Ints multiply_pairs(Ints sum, Ints a, Ints b) {
    const int16x8_t left = (int16x8_t)a, right = (int16x8_t)b;
    const int32x4_t low = vmull_s16(vget_low_s16(left), vget_low_s16(right)), high = vmull_high_s16(left, right);
    return sum + (Ints)vpaddq_s32(low, high);
}

/* 2 * LANES codes of 8 bits; of 16 bits, as a vector of Ints. */
typedef int8x8_t Bytes;
#define WIDEN(bytes) vmovl_s8(bytes)
#define LOW_HALVES(bytes) vand_s8(bytes, vdup_n_s8(15))
#define SHIFTED(bytes) vreinterpret_s8_u8(vshr_n_u8(vreinterpret_u8_s8(bytes), 4))

#endif
