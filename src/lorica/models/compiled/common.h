/* What the kernels share: vectors of float32 numbers, loads and stores of all three types, the exponential.
 *
 * Every file but library.c is compiled once for each target of the processor (build.py): each has its own width of
 * vectors, in a header with the same names. */
#ifndef LORICA_COMMON_H
#define LORICA_COMMON_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline, unused))
#define NO_INLINE static __attribute__((noinline, unused)) /* compiled once for all its callers */

#define JOIN_AGAIN(first, second) lorica_##first##_##second
#define JOIN(first, second) JOIN_AGAIN(first, second)
/* A kernel that bindings.py calls: lorica_<name>_<target>. */
#define EXPORT(result, name) __attribute__((visibility("default"))) result JOIN(name, LORICA_TARGET)

/* Of numbers in memory; bindings.py has the same. All arithmetic is in float32. */
enum { BF16, F16, F32 };

/* The upper halves of float32 numbers, rounded to the nearest, ties to even; NaN stays NaN. */
#define round_to_bf16(x)                                                                                              \
    ({                                                                                                                \
        const Ints bits = (Ints)(x), high = bits >> 16, nan = (Ints)((x) != (x));                                     \
        const Ints rounded = ((bits + 0x7FFF + (high & 1)) >> 16) & 0xFFFF;                                           \
        (rounded & ~nan) | (((high & 0xFFFF) | 64) & nan);                                                            \
    })

#ifdef __aarch64__
#include "vector_neon.h"
#elif defined(__AVX512F__)
#include "vector_avx512.h"
#else
#include "vector_avx2.h"
#endif

INLINE Floats absolute(Floats x) {
    return (Floats)((Ints)x & 0x7FFFFFFF);
}

/* a where the mask is all ones, b where it is 0. */
INLINE Floats choose(Ints mask, Floats a, Floats b) {
    return (Floats)((mask & (Ints)a) | (~mask & (Ints)b));
}

INLINE int64_t bytes_of(const int type) {
    return type == F32 ? 4 : 2;
}

/* What is read from memory in one pass is asked for this many bytes ahead: results of a product lie in the third cache or
 * beyond by the time they are read again, and the processor alone does not look far enough ahead (gate: 2.3 times). */
enum { AHEAD = 4096 };

INLINE void look_ahead(const void *from) {
    __builtin_prefetch((const char *)from + AHEAD);
}

/* Numbers at.. of a type: `count` of them, but at most LANES; zeros behind. */
INLINE Floats load(const void *from, int64_t at, int64_t count, const int type) {
    if (type == F32) return load_f32((const float *)from + at, count);
    const uint16_t *half = (const uint16_t *)from + at;
    return type == BF16 ? load_bf16(half, count) : load_f16(half, count);
}

INLINE void store(void *to, int64_t at, int64_t count, Floats x, const int type) {
    if (type == F32)
        store_f32((float *)to + at, count, x);
    else if (type == BF16)
        store_bf16((uint16_t *)to + at, count, x);
    else
        store_f16((uint16_t *)to + at, count, x);
}

/* The same as `load`, of what is read once. */
INLINE Floats load_once(const void *from, int64_t at, int64_t count, const int type) {
    look_ahead((const char *)from + at * bytes_of(type));
    return load(from, at, count, type);
}

/* 2^x with a relative error below 2e-7, or, `rough`, 3e-6; exactly 1 at 0, exactly 0 below -150. NaN stays NaN. */
INLINE Floats exp2_of(Floats x, const int rough) {
    static const float fifth[] = {0.00132647f, 0.00967151f, 0.05550734f, 0.24022242f, 0.69314698f, 1.0f};
    static const float fourth[] = {0.009582856f, 0.05590643f, 0.24024099f, 0.6931242f, 1.0f}; /* minimax over -0.5..0.5 */
    const float *factors = rough ? fourth : fifth;
    const Floats whole = nearest(x), rest = x - whole;
    Floats y = set(factors[0]);
    for (int i = 1; i < (rough ? 5 : 6); i++) y = fma_of(y, rest, set(factors[i]));
    return scale_by_power(y, whole);
}

#define LOG2_E 1.44269504f

INLINE Floats silu(Floats x) {
    return x / (set(1.0f) + exp2_of(x * set(-LOG2_E), 0)); /* the power may become endless: x / endless is 0 */
}

/* 1 / root of the mean of the squares of x [width]. */
INLINE Floats inverse_length(const void *x, int64_t at, int64_t width, float eps, const int type) {
    Floats even = set(0), odd = set(0);
    for (int64_t d = 0; d < width; d += 2 * LANES) {
        const Floats a = load_once(x, at + d, width - d, type);
        even = fma_of(a, a, even);
        if (d + LANES < width) {
            const Floats b = load_once(x, at + d + LANES, width - d - LANES, type);
            odd = fma_of(b, b, odd);
        }
    }
    return set(1.0f / sqrtf(sum_of(even + odd) / (float)width + eps));
}

/* Products of 32-bit elements: float32 numbers, or, `pairs`, two of bfloat16 each, which a target may multiply at once. */
#ifdef __AVX512BF16__
enum { HAS_PAIRS = 1 };
#else
enum { HAS_PAIRS = 0 };
#endif

/* sum + a * b. */
INLINE Floats dot(Floats sum, Floats a, Floats b, const int pairs) {
#ifdef __AVX512BF16__
    if (pairs) return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
#endif
    (void)pairs;
    return fma_of(a, b, sum);
}

/* The elements of numbers at.., `count` of them, but at most LANES elements; zeros behind. */
INLINE Floats load_elements(const void *from, int64_t at, int64_t count, const int type, const int pairs) {
#ifdef __AVX512BF16__
    const uint16_t *half = (const uint16_t *)from + at;
    if (pairs && count >= 2 * LANES) return (Floats)_mm512_loadu_si512(half);
    if (pairs) return (Floats)_mm512_maskz_loadu_epi16((1u << count) - 1, half);
#endif
    (void)pairs;
    return load(from, at, count, type);
}

/* Runs `call(type)` with the type as a constant. */
#define FOR_TYPE(type, call)                                                                                          \
    switch (type) {                                                                                                   \
    case BF16: call(BF16); break;                                                                                     \
    case F16: call(F16); break;                                                                                       \
    default: call(F32);                                                                                               \
    }

#endif
