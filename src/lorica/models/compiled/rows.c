/* What stands between the products, each in one pass over memory: sums, norms, rotations and gates. Everything is computed
 * in float32, row by row, and rounded once. */
#include "common.h"

/* x [rows, width] += added (unless NULL), in place; normed (unless NULL) = x, divided by its root mean square, times
 * weight. */
INLINE void add_and_norm(void *x, const void *added, const float *weight, void *normed, int64_t rows, int64_t width,
                         float eps, const int type) {
    for (int64_t row = 0; row < rows; row++) {
        const int64_t at = row * width;
        if (added)
            for (int64_t d = 0; d < width; d += LANES) {
                const Floats sum = load_once(x, at + d, width - d, type) + load_once(added, at + d, width - d, type);
                store(x, at + d, width - d, sum, type);
            }
        if (!normed) continue;
        const Floats factor = inverse_length(x, at, width, eps, type);
        for (int64_t d = 0; d < width; d += LANES) {
            const Floats scaled = load_once(x, at + d, width - d, type) * factor;
            store(normed, at + d, width - d, scaled * load_f32(weight + d, width - d), type);
        }
    }
}

EXPORT(void, add_and_norm)(void *x, const void *added, const float *weight, void *normed, int64_t rows, int64_t width,
                           float eps, int type) {
#define CALL(type) add_and_norm(x, added, weight, normed, rows, width, eps, type)
    FOR_TYPE(type, CALL)
#undef CALL
}

INLINE void gate(void *opened, const void *up, int64_t count, const int type) {
    for (int64_t i = 0; i < count; i += LANES) {
        const Floats inner = silu(load_once(opened, i, count - i, type)) * load_once(up, i, count - i, type);
        store(opened, i, count - i, inner, type);
    }
}

/* opened [count] = silu(opened) * up, in place. */
EXPORT(void, gate)(void *opened, const void *up, int64_t count, int type) {
#define CALL(type) gate(opened, up, count, type)
    FOR_TYPE(type, CALL)
#undef CALL
}

/* Where a row of heads comes from and goes to, and of which types. */
typedef struct {
    const void *from;
    void *to;
} Line;

/* One head: `to` [width] = `from` [width], divided by its root mean square and times weight (unless NULL), turned by
 * cosine and sine [width / 2]. width / 2 is a multiple of 8. */
INLINE void turn(Line line, int64_t at, int64_t place, const float *cosine, const float *sine, const float *weight,
                 float eps, int64_t width, const int in, const int out) {
    const int64_t half = width / 2;
    const Floats factor = weight ? inverse_length(line.from, at, width, eps, in) : set(1.0f);
    for (int64_t d = 0; d < half; d += LANES) {
        const int64_t left = half - d;
        Floats low = load_once(line.from, at + d, left, in), high = load_once(line.from, at + half + d, left, in);
        if (weight) {
            low = low * factor * load_f32(weight + d, left);
            high = high * factor * load_f32(weight + half + d, left);
        }
        const Floats c = load_f32(cosine + d, left), s = load_f32(sine + d, left);
        store(line.to, place + d, left, fma_of(-high, s, low * c), out);
        store(line.to, place + half + d, left, fma_of(low, s, high * c), out);
    }
}

typedef struct {
    int64_t heads, kv_heads, width;
    const float *query_norm, *key_norm; /* [width], or NULL */
} Heads;

/* Query, key and value of one call. */
typedef struct {
    void *query, *key, *value;
} Outputs;

INLINE void split_and_turn(const void *mixed, Outputs outputs, const float *cosine, const float *sine, int64_t rows,
                           const Heads *shape, float eps, const int in, const int out) {
    const int64_t heads = shape->heads, kv = shape->kv_heads, width = shape->width;
    const Line queries = {mixed, outputs.query}, keys = {mixed, outputs.key};
    for (int64_t row = 0; row < rows; row++) {
        const float *c = cosine + row * width / 2, *s = sine + row * width / 2;
        int64_t at = row * (heads + 2 * kv) * width;
        for (int64_t h = 0; h < heads; h++, at += width)
            turn(queries, at, (row * heads + h) * width, c, s, shape->query_norm, eps, width, in, out);
        for (int64_t h = 0; h < kv; h++, at += width)
            turn(keys, at, (row * kv + h) * width, c, s, shape->key_norm, eps, width, in, out);
        for (int64_t d = 0; d < kv * width; d += LANES) {
            const int64_t left = kv * width - d;
            store(outputs.value, row * kv * width + d, left, load_once(mixed, at + d, left, in), out);
        }
    }
}

/* mixed [rows, heads + 2 * kv_heads, width] of type `in`, query, key and value side by side, to query, key and value of
 * type `out`, the former two rotated by cosine and sine [rows, width / 2]. */
EXPORT(void, split_and_turn)(const void *mixed, void *query, void *key, void *value, const float *cosine,
                             const float *sine, int64_t rows, const Heads *shape, float eps, int in, int out) {
    const Outputs outputs = {query, key, value};
#define TO(out) split_and_turn(mixed, outputs, cosine, sine, rows, shape, eps, F32, out)
#define SAME(type) split_and_turn(mixed, outputs, cosine, sine, rows, shape, eps, type, type)
    if (in == F32) {
        FOR_TYPE(out, TO)
    } else {
        FOR_TYPE(in, SAME)
    }
#undef SAME
#undef TO
}
