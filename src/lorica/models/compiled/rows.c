/* What stands between the products, each in one pass over memory: sums, norms, rotations, gates and the rounding to
 * int8. Everything is computed in float32, row by row, and rounded once. States are bfloat16 or float32: `wide`. */
#include "common.h"

/* x [rows, width] += added (unless NULL), in place; normed (unless NULL) = x, divided by its root mean square, times
 * weight. */
INLINE void add_and_norm(void *x, const void *added, const float *weight, void *normed, int64_t rows, int64_t width,
                         float eps, const int wide) {
    for (int64_t row = 0; row < rows; row++) {
        const int64_t at = row * width;
        if (added)
            for (int64_t d = 0; d < width; d += LANES) {
                const __mmask16 lanes = first_lanes(width - d);
                const __m512 sum = _mm512_add_ps(load(x, at + d, lanes, wide), load(added, at + d, lanes, wide));
                store(x, at + d, lanes, sum, wide);
            }
        if (!normed) continue;
        const __m512 factor = inverse_length(x, at, width, eps, wide);
        for (int64_t d = 0; d < width; d += LANES) {
            const __mmask16 lanes = first_lanes(width - d);
            const __m512 scaled = _mm512_mul_ps(load(x, at + d, lanes, wide), factor);
            store(normed, at + d, lanes, _mm512_mul_ps(scaled, _mm512_maskz_loadu_ps(lanes, weight + d)), wide);
        }
    }
}

EXPORT void lorica_add_and_norm(void *x, const void *added, const float *weight, void *normed, int64_t rows,
                                int64_t width, float eps, int wide) {
    if (wide)
        add_and_norm(x, added, weight, normed, rows, width, eps, 1);
    else
        add_and_norm(x, added, weight, normed, rows, width, eps, 0);
}

/* opened [count] = silu(opened) * up, in place. */
EXPORT void lorica_gate(void *opened, const void *up, int64_t count, int wide) {
    for (int64_t i = 0; i < count; i += LANES) {
        const __mmask16 lanes = first_lanes(count - i);
        if (wide)
            store(opened, i, lanes, _mm512_mul_ps(silu(load(opened, i, lanes, 1)), load(up, i, lanes, 1)), 1);
        else
            store(opened, i, lanes, _mm512_mul_ps(silu(load(opened, i, lanes, 0)), load(up, i, lanes, 0)), 0);
    }
}

/* One head: to [width] = from [width], divided by its root mean square and times weight (unless NULL), turned by
 * cosine and sine [width / 2]. width / 2 is a multiple of 8. */
INLINE void turn(const void *from, int64_t at, bf16 *to, const float *cosine, const float *sine, const float *weight,
                 float eps, int64_t width, const int wide) {
    const int64_t half = width / 2;
    const __m512 factor = weight ? inverse_length(from, at, width, eps, wide) : _mm512_set1_ps(1.0f);
    for (int64_t d = 0; d < half; d += LANES) {
        const __mmask16 lanes = first_lanes(half - d);
        __m512 low = load(from, at + d, lanes, wide), high = load(from, at + half + d, lanes, wide);
        if (weight) {
            low = _mm512_mul_ps(_mm512_mul_ps(low, factor), _mm512_maskz_loadu_ps(lanes, weight + d));
            high = _mm512_mul_ps(_mm512_mul_ps(high, factor), _mm512_maskz_loadu_ps(lanes, weight + half + d));
        }
        const __m512 c = _mm512_maskz_loadu_ps(lanes, cosine + d), s = _mm512_maskz_loadu_ps(lanes, sine + d);
        store_bf16(to + d, lanes, _mm512_fnmadd_ps(high, s, _mm512_mul_ps(low, c)));
        store_bf16(to + half + d, lanes, _mm512_fmadd_ps(low, s, _mm512_mul_ps(high, c)));
    }
}

typedef struct {
    int64_t heads, kv_heads, width;
    const float *query_norm, *key_norm; /* [width], or NULL */
} Heads;

/* mixed [rows, heads + 2 * kv_heads, width], query, key and value side by side, to query, key and value in bfloat16,
 * the former two rotated by cosine and sine [rows, width / 2]. */
INLINE void split_and_turn(const void *mixed, bf16 *query, bf16 *key, bf16 *value, const float *cosine,
                           const float *sine, int64_t rows, const Heads *shape, float eps, const int wide) {
    const int64_t heads = shape->heads, kv = shape->kv_heads, width = shape->width;
    for (int64_t row = 0; row < rows; row++) {
        const float *c = cosine + row * width / 2, *s = sine + row * width / 2;
        int64_t at = row * (heads + 2 * kv) * width;
        for (int64_t h = 0; h < heads; h++, at += width)
            turn(mixed, at, query + (row * heads + h) * width, c, s, shape->query_norm, eps, width, wide);
        for (int64_t h = 0; h < kv; h++, at += width)
            turn(mixed, at, key + (row * kv + h) * width, c, s, shape->key_norm, eps, width, wide);
        for (int64_t d = 0; d < kv * width; d += LANES) {
            const __mmask16 lanes = first_lanes(kv * width - d);
            store_bf16(value + row * kv * width + d, lanes, load(mixed, at + d, lanes, wide));
        }
    }
}

EXPORT void lorica_split_and_turn(const void *mixed, bf16 *query, bf16 *key, bf16 *value, const float *cosine,
                                  const float *sine, int64_t rows, const Heads *shape, float eps, int wide) {
    if (wide)
        split_and_turn(mixed, query, key, value, cosine, sine, rows, shape, eps, 1);
    else
        split_and_turn(mixed, query, key, value, cosine, sine, rows, shape, eps, 0);
}
