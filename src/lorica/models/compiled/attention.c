/* Attention of packed sequences over [shared beginnings ; own part], with float32 scores and sums.
 *
 * Online softmax over chunks of keys (FlashAttention-2, arXiv:2307.08691), the heads of one key head worked through as
 * further queries. Chunks are counted from a sequence's first key and every query has its own maximum and sum, so that
 * the bits of a result depend on its query and the keys it sees, and on nothing else.
 *
 * Numbers become `elements` (common.h): pairs of bfloat16 where the target multiplies these and the numbers are such, else
 * float32. */
#include "common.h"

#include <stdlib.h>
#include <string.h>

enum {
    CHUNK = 512,                   /* keys of one softmax step: what is computed of them stays in the cache */
    STRIP = 6,                     /* rows whose sums fill the registers, beside `WIDE` vectors of keys */
    WIDE = REGISTERS / 8,          /* vectors of one strip */
    BLOCK = 24,                    /* rows worked through together */
};

/* The score of what is not seen: its share is exactly 0, and it can be computed with, as infinity cannot. */
#define UNSEEN (-1e30f)

/* One sequence. offset, length: its tokens in the pass. start: keys before its own. links: of its chain of shared
 * beginnings, indices link.. of the list of links. until, position: NULL, or for every key of the sequence (those
 * before its own too) the first query that does not see it any more, and its place in the text. */
typedef struct {
    int64_t offset, length, start, link, links;
    const int32_t *until, *position;
} Sequence;

typedef struct {
    int64_t heads, kv_heads, width, window; /* window: keys that are seen, the query's own with them; 0 for all */
} Shape;

/* Keys and values of one key head in the order of the products. keys: [n / LANES][depth][LANES] elements, values: [n or
 * n / 2][width] elements, zeros behind the last. */
typedef struct {
    float *keys, *values;
} Packed;

/* Puts `count` keys, number from.. and `step` numbers apart, at places at.. of the packed ones. */
INLINE void pack_keys(float *to, int64_t at, const void *keys, int64_t from, int64_t count, int64_t step, int64_t depth,
                      const int type, const int pairs) {
    const int per = pairs ? 2 : 1;
    for (int64_t i = 0; i < count;) {
        float *column = to + at / LANES * depth * LANES + at % LANES;
        const int64_t key = from + i * step, here = at % LANES == 0 && count - i >= LANES ? LANES : 1;
        for (int64_t d = 0; d < depth; d += LANES) {
            const int64_t left = depth - d < LANES ? depth - d : LANES;
            if (here == 1) {
                float numbers[LANES];
                store_f32(numbers, LANES, load_elements(keys, key + d * per, left * per, type, pairs));
                for (int64_t p = 0; p < left; p++) column[(d + p) * LANES] = numbers[p];
                continue;
            }
            Floats rows[LANES];
            if (left == LANES)
                for (int r = 0; r < LANES; r++)
                    rows[r] = load_elements(keys, key + r * step + d * per, LANES * per, type, pairs);
            else
                for (int r = 0; r < LANES; r++)
                    rows[r] = load_elements(keys, key + r * step + d * per, left * per, type, pairs);
            transpose(rows);
            for (int r = 0; r < LANES; r++)
                if (r < left) store_f32(column + (d + r) * LANES, LANES, rows[r]);
        }
        i += here;
        at += here;
    }
}

/* The same of values: as they are, or, as pairs, neighbours side by side. */
INLINE void pack_values(float *to, int64_t at, const void *values, int64_t from, int64_t count, int64_t step,
                        int64_t width, const int type, const int pairs) {
    if (!pairs) {
        for (int64_t i = 0; i < count; i++)
            for (int64_t d = 0; d < width; d += LANES)
                store_f32(to + (at + i) * width + d, LANES, load(values, from + i * step + d, LANES, type));
        return;
    }
    for (int64_t i = 0; i < count;) {
        float *line = to + at / 2 * width;
        const int odd = at % 2, here = odd || count - i < 2 ? 1 : 2;
        for (int64_t d = 0; d < width; d += LANES) {
            const int64_t value = from + i * step + d;
            const Ints fresh = (Ints)load(values, value, LANES, type); /* its number in the upper half */
            Ints low = (fresh >> 16) & 0xFFFF, high = low & 0;
            if (odd) {
                low = (Ints)load_f32(line + d, LANES) & 0xFFFF;
                high = fresh;
            } else if (here == 2) {
                high = (Ints)load(values, value + step, LANES, type);
            }
            store_f32(line + d, LANES, (Floats)(low | high));
        }
        i += here;
        at += here;
    }
}

/* Zeros behind key `count`, until the vector of keys is whole. */
static void close_packed(const Packed *packed, int64_t count, int64_t width, const int pairs) {
    const int64_t end = (count + LANES - 1) / LANES * LANES, per = pairs ? 2 : 1, depth = width / per;
    for (int64_t at = count; at < end; at++)
        for (int64_t d = 0; d < depth; d++) packed->keys[(at / LANES * depth + d) * LANES + at % LANES] = 0;
    const int64_t whole = (count + per - 1) / per; /* the last pair's second half is zero already */
    memset(packed->values + whole * width, 0, (size_t)((end / per - whole) * width) * sizeof(float));
}

/* scores [high][CHUNK], from column 0: `high` rows of asked [depth] times `wide` vectors of keys. The order of a row's sums
 * is the same in strips of any size. */
INLINE void score_strip(const float *asked, const float *keys, int64_t depth, float *scores, const int high,
                        const int wide, const int pairs) {
    Floats sums[STRIP][WIDE];
    for (int r = 0; r < high; r++)
        for (int v = 0; v < wide; v++) sums[r][v] = set(0);
    for (int64_t d = 0; d < depth; d++) {
        Floats key[WIDE];
        for (int v = 0; v < wide; v++) key[v] = load_f32(keys + (v * depth + d) * LANES, LANES);
        for (int r = 0; r < high; r++) {
            const Floats query = set(asked[r * depth + d]);
            for (int v = 0; v < wide; v++) sums[r][v] = dot(sums[r][v], key[v], query, pairs);
        }
    }
    for (int r = 0; r < high; r++)
        for (int v = 0; v < wide; v++) store_f32(scores + r * CHUNK + v * LANES, LANES, sums[r][v]);
}

/* sums [high][width], from column 0: times factor [high], plus `count` shares, rows [high] `line` elements apart, times
 * values. */
INLINE void mix_strip(const float *shares, int64_t line, const float *values, int64_t count, int64_t width,
                      const float *factor, float *sums, const int high, const int wide, const int pairs) {
    Floats sum[STRIP][WIDE];
    for (int r = 0; r < high; r++)
        for (int v = 0; v < wide; v++) sum[r][v] = load_f32(sums + r * width + v * LANES, LANES) * set(factor[r]);
    for (int64_t k = 0; k < count; k++) {
        Floats value[WIDE];
        for (int v = 0; v < wide; v++) value[v] = load_f32(values + k * width + v * LANES, LANES);
        for (int r = 0; r < high; r++) {
            const Floats share = set(shares[r * line + k]);
            for (int v = 0; v < wide; v++) sum[r][v] = dot(sum[r][v], value[v], share, pairs);
        }
    }
    for (int r = 0; r < high; r++)
        for (int v = 0; v < wide; v++) store_f32(sums + r * width + v * LANES, LANES, sum[r][v]);
}

/* Rows that are worked through together, in strips of one height: that which wastes the fewest rows. */
typedef struct {
    int rows, high;
} Strips;

static Strips strips_of(int rows) {
    const int count = (rows + STRIP - 1) / STRIP, least = (rows + count - 1) / count;
    const int high = least > 4 ? STRIP : least > 2 ? 4 : least;
    return (Strips){count * high, high};
}

/* Runs `call(high, wide)` with both as constants, for strips of a height and at most `vectors` vectors; `done` becomes how
 * many of these that were. */
#define FOR_STRIP(height, vectors, done, call)                                                                        \
    if ((vectors) >= WIDE) {                                                                                          \
        FOR_HEIGHT(height, WIDE, call)                                                                                \
        done = WIDE;                                                                                                  \
    } else if (WIDE > 2 && (vectors) >= 2) {                                                                          \
        FOR_HEIGHT(height, 2, call)                                                                                   \
        done = 2;                                                                                                     \
    } else {                                                                                                          \
        FOR_HEIGHT(height, 1, call)                                                                                   \
        done = 1;                                                                                                     \
    }
#define FOR_HEIGHT(height, wide, call)                                                                                \
    switch (height) {                                                                                                 \
    case 1: call(1, wide); break;                                                                                     \
    case 2: call(2, wide); break;                                                                                     \
    case 4: call(4, wide); break;                                                                                     \
    default: call(STRIP, wide);                                                                                       \
    }

INLINE void score_rows(const float *asked, Strips strips, const float *keys, int64_t depth, int64_t vectors,
                       float *scores, const int pairs) {
    for (int64_t v = 0, done; v < vectors; v += done)
        for (int r = 0; r < strips.rows; r += strips.high) {
            const float *rows = asked + r * depth, *from = keys + v * depth * LANES;
            float *to = scores + r * CHUNK + v * LANES;
#define CALL(high, wide) score_strip(rows, from, depth, to, high, wide, pairs)
            FOR_STRIP(strips.high, vectors - v, done, CALL)
#undef CALL
        }
}

INLINE void mix_rows(const float *shares, int64_t line, Strips strips, const float *values, int64_t count, int64_t width,
                     const float *factor, float *sums, const int pairs) {
    for (int64_t d = 0, done; d < width; d += done * LANES)
        for (int r = 0; r < strips.rows; r += strips.high) {
            const float *rows = shares + r * line, *from = values + d;
            float *to = sums + r * width + d;
#define CALL(high, wide) mix_strip(rows, line, from, count, width, factor + r, to, high, wide, pairs)
            FOR_STRIP(strips.high, (width - d) / LANES, done, CALL)
#undef CALL
        }
}

/* Both for floats and for pairs, compiled once for all types. */
NO_INLINE void score_floats(const float *asked, Strips strips, const float *keys, int64_t depth, int64_t vectors,
                            float *scores) {
    score_rows(asked, strips, keys, depth, vectors, scores, 0);
}

NO_INLINE void mix_floats(const float *shares, Strips strips, const float *values, int64_t count, int64_t width,
                          const float *factor, float *sums) {
    mix_rows(shares, CHUNK, strips, values, count, width, factor, sums, 0);
}

#ifdef __AVX512BF16__
NO_INLINE void score_pairs(const float *asked, Strips strips, const float *keys, int64_t depth, int64_t vectors,
                           float *scores) {
    score_rows(asked, strips, keys, depth, vectors, scores, 1);
}

NO_INLINE void mix_pairs(const float *shares, Strips strips, const float *values, int64_t count, int64_t width,
                         const float *factor, float *sums) {
    mix_rows(shares, CHUNK / 2, strips, values, count, width, factor, sums, 1);
}
#else
#define score_pairs score_floats
#define mix_pairs mix_floats
#endif

/* The scores of keys first.., UNSEEN for those that query number `query` of a sequence does not see. */
INLINE Floats hide(Floats scores, const Sequence *one, const Shape *shape, int64_t query, int64_t first) {
    const Ints lane = NUMBERED;
    const int64_t count = query + 1 - first; /* of keys up to the query's own */
    Ints seen = (Ints)(lane < (int32_t)(count < LANES ? count : LANES));
    if (one->until && count > 0) {
        seen &= (Ints)(load_i32(one->until + first, count) > (int32_t)query);
        if (shape->window)
            seen &= (Ints)(load_i32(one->position + first, count) > one->position[query] - (int32_t)shape->window);
    } else if (shape->window) {
        const int64_t gone = query - shape->window + 1 - first; /* of keys that are too old */
        seen &= (Ints)(lane >= (int32_t)(gone < LANES ? gone : LANES));
    }
    return choose(seen, scores, set(UNSEEN));
}

/* One step of a row's online softmax: scores [vectors * LANES] of keys first.. become shares, in float32 in their place
 * or, as pairs, in bfloat16; the row's maximum and sum go on. Returns what the sums so far must be multiplied by. */
INLINE float share_out(const Sequence *one, const Shape *shape, int64_t query, int64_t first, int64_t vectors,
                       float *scores, uint16_t *halves, float scale, float *largest, float *total, const int pairs) {
    Floats most = set(UNSEEN);
    int64_t v = 0;
    if (!one->until && !shape->window) /* all keys before the query's are seen */
        for (; v < vectors && first + (v + 1) * LANES <= query + 1; v++)
            most = larger(most, load_f32(scores + v * LANES, LANES));
    for (; v < vectors; v++) {
        const Floats score = hide(load_f32(scores + v * LANES, LANES), one, shape, query, first + v * LANES);
        store_f32(scores + v * LANES, LANES, score);
        most = larger(most, score);
    }
    float now = max_of(most);
    if (now < *largest) now = *largest;
    if (now <= UNSEEN) { /* nothing is seen yet */
        memset(pairs ? (void *)halves : (void *)scores, 0, (size_t)(vectors * LANES) * (pairs ? 2 : 4));
        return 1.0f;
    }
    Floats sum = set(0), factor = set(scale), minus = set(-now * scale);
    for (v = 0; v < vectors; v++) {
        const Floats share = exp2_of(fma_of(load_f32(scores + v * LANES, LANES), factor, minus), pairs);
        sum += share;
        if (pairs)
            store_bf16(halves + v * LANES, LANES, share);
        else
            store_f32(scores + v * LANES, LANES, share);
    }
    const float kept = *largest == now ? 1.0f : exp2_of(set((*largest - now) * scale), pairs)[0];
    *largest = now;
    *total = *total * kept + sum_of(sum);
    return kept;
}

/* All queries of a sequence that ask one key head. query, out: of all tokens; at: the number where the sequence's first
 * token has its first such head. */
INLINE void attend_head(const Sequence *one, const Shape *shape, const Packed *packed, const void *query, void *out,
                        int64_t at, const int type, const int pairs) {
    const int64_t width = shape->width, per = pairs ? 2 : 1, depth = width / per, repeat = shape->heads / shape->kv_heads;
    const int64_t rows = one->length * repeat, step = shape->heads * width;
    const float scale = LOG2_E / sqrtf((float)width);
    __attribute__((aligned(64))) float asked[BLOCK * depth], scores[BLOCK * CHUNK], sums[BLOCK * width];
    __attribute__((aligned(64))) uint16_t halves[pairs ? BLOCK * CHUNK : LANES];
    float largest[BLOCK], total[BLOCK], factor[BLOCK];
    for (int64_t begin = 0; begin < rows; begin += BLOCK) {
        const int here = rows - begin < BLOCK ? (int)(rows - begin) : BLOCK;
        const Strips strips = strips_of(here);
        for (int r = 0; r < strips.rows; r++) {
            const int64_t row = r < here ? begin + r : begin; /* a strip is filled up with its first row again */
            const int64_t from = at + row / repeat * step + row % repeat * width;
            for (int64_t d = 0; d < depth; d += LANES) {
                const Floats elements = load_elements(query, from + d * per, width - d * per, type, pairs);
                store_f32(asked + r * depth + d, depth - d, elements);
            }
            largest[r] = UNSEEN;
            total[r] = 0;
        }
        memset(sums, 0, (size_t)(strips.rows * width) * sizeof(float));
        const int64_t oldest = one->start + begin / repeat, newest = one->start + (begin + here - 1) / repeat;
        int64_t first = 0;
        if (shape->window && !one->until && oldest >= shape->window) first = (oldest - shape->window + 1) / CHUNK * CHUNK;
        for (; first <= newest; first += CHUNK) {
            const int64_t keys = newest + 1 - first < CHUNK ? newest + 1 - first : CHUNK;
            const int64_t vectors = (keys + LANES - 1) / LANES;
            (pairs ? score_pairs : score_floats)(asked, strips, packed->keys + first * depth, depth, vectors, scores);
            for (int r = 0; r < strips.rows; r++) {
                const int64_t own = one->start + (r < here ? begin + r : begin) / repeat;
                factor[r] = share_out(one, shape, own, first, vectors, scores + r * CHUNK,
                                      halves + (pairs ? r * CHUNK : 0), scale, largest + r, total + r, pairs);
            }
            (pairs ? mix_pairs : mix_floats)(pairs ? (const float *)halves : scores, strips,
                                             packed->values + first / per * width, vectors * LANES / per, width, factor,
                                             sums);
        }
        for (int r = 0; r < here; r++) {
            const int64_t to = at + (begin + r) / repeat * step + (begin + r) % repeat * width;
            const Floats part = set(1.0f / total[r]);
            for (int64_t d = 0; d < width; d += LANES)
                store(out, to + d, LANES, load_f32(sums + r * width + d, LANES) * part, type);
        }
    }
}

/* What a call is about: see `attend`. */
typedef struct {
    const void *query, *key, *value;
    void *out;
    const Sequence *sequences;
    int64_t count;
    const void *const *link_keys, *const *link_values;
    const int64_t *link_lengths;
} Call;

INLINE void attend_all(const Call *call, const Shape *shape, const Packed *packed, const int type, const int pairs) {
    const int64_t width = shape->width, group = shape->heads / shape->kv_heads * width, depth = pairs ? width / 2 : width;
    const int64_t step = shape->kv_heads * width, line = shape->heads * width;
    for (int64_t head = 0; head < shape->kv_heads; head++)
        for (int64_t i = 0; i < call->count; i++) {
            const Sequence *one = call->sequences + i, *last = i ? one - 1 : NULL;
            int64_t at = 0;
            for (int64_t l = 0; l < one->links; l++) {
                const int64_t here = one->link + l, length = call->link_lengths[here];
                /* What the sequence before has of the same beginnings is packed already. */
                if (last && l < last->links && call->link_keys[last->link + l] == call->link_keys[here] &&
                    call->link_lengths[last->link + l] == length) {
                    at += length;
                    continue;
                }
                last = NULL;
                pack_keys(packed->keys, at, call->link_keys[here], head * width, length, step, depth, type, pairs);
                pack_values(packed->values, at, call->link_values[here], head * width, length, step, width, type, pairs);
                at += length;
            }
            const int64_t own = one->offset * step + head * width;
            pack_keys(packed->keys, at, call->key, own, one->length, step, depth, type, pairs);
            pack_values(packed->values, at, call->value, own, one->length, step, width, type, pairs);
            close_packed(packed, one->start + one->length, width, pairs);
            attend_head(one, shape, packed, call->query, call->out, one->offset * line + head * group, type, pairs);
        }
}

/* query, out [tokens, heads, width], key, value [tokens, kv_heads, width], of one type; sequences in the order of their
 * tokens; link_keys, link_values: [length, kv_heads, width] of each link, link_lengths: their lengths. Tokens of no
 * sequence get zeros. Returns 0, or 1 where memory is short. */
EXPORT(int, attend)(const void *query, const void *key, const void *value, void *out, int64_t tokens,
                    const Sequence *sequences, int64_t count, const void *const *link_keys,
                    const void *const *link_values, const int64_t *link_lengths, const Shape *shape, int type) {
    const int64_t line = shape->heads * shape->width * bytes_of(type);
    int64_t longest = 0, done = 0;
    for (int64_t i = 0; i <= count; i++) { /* gaps between the sequences */
        const int64_t until = i < count ? sequences[i].offset : tokens;
        memset((char *)out + done * line, 0, (size_t)((until - done) * line));
        if (i == count) break;
        done = until + sequences[i].length;
        if (sequences[i].start + sequences[i].length > longest) longest = sequences[i].start + sequences[i].length;
    }
    const int64_t elements = type == BF16 && HAS_PAIRS ? shape->width / 2 : shape->width;
    const int64_t room = (longest + LANES - 1) / LANES * LANES * elements;
    float *memory = aligned_alloc(64, ((size_t)room * 2 * sizeof(float) + 63) / 64 * 64);
    if (!memory) return 1;
    const Packed packed = {memory, memory + room};
    const Call call = {query, key, value, out, sequences, count, link_keys, link_values, link_lengths};
    if (type == BF16)
        attend_all(&call, shape, &packed, BF16, HAS_PAIRS);
    else if (type == F16)
        attend_all(&call, shape, &packed, F16, 0);
    else
        attend_all(&call, shape, &packed, F32, 0);
    free(memory);
    return 0;
}
