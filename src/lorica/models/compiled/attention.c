/* Attention of packed sequences over [shared beginnings ; own part], in bfloat16 with float32 scores and sums.
 *
 * Online softmax over chunks of keys (FlashAttention-2, arXiv:2307.08691), the heads of one key head worked through as
 * further queries. Chunks are counted from a sequence's first key and every query has its own maximum and sum, so that
 * the bits of a result depend on its query and the keys it sees, and on nothing else. */
#include "common.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    CHUNK = 512, /* keys of one softmax step: what is computed of them stays in the cache */
    STRIP = 6,   /* rows whose sums fill the registers, beside four vectors of keys */
    BLOCK = 24,  /* rows worked through together */
    WIDE = 4,    /* vectors of one strip */
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

/* Keys and values of one key head in the order of the products. keys: [n / 16][width / 2][16][2], values:
 * [n / 2][width][2], zeros behind the last. */
typedef struct {
    uint32_t *keys, *values;
} Packed;

/* rows [16][16] of 32 bits, transposed in place. */
INLINE void transpose(__m512i rows[LANES]) {
    __m512i half[LANES];
    for (int i = 0; i < LANES; i += 2) { /* pairs of rows, then pairs of pairs, within each 128 bits */
        half[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        half[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < LANES; i += 4) {
        rows[i] = _mm512_unpacklo_epi64(half[i], half[i + 2]);
        rows[i + 1] = _mm512_unpackhi_epi64(half[i], half[i + 2]);
        rows[i + 2] = _mm512_unpacklo_epi64(half[i + 1], half[i + 3]);
        rows[i + 3] = _mm512_unpackhi_epi64(half[i + 1], half[i + 3]);
    }
    for (int i = 0; i < 4; i++) { /* then the blocks of 4 x 4 among each other */
        const __m512i a = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0x88);
        const __m512i b = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0xDD);
        const __m512i c = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0x88);
        const __m512i d = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0xDD);
        half[i] = _mm512_shuffle_i32x4(a, c, 0x88);
        half[i + 4] = _mm512_shuffle_i32x4(b, d, 0x88);
        half[i + 8] = _mm512_shuffle_i32x4(a, c, 0xDD);
        half[i + 12] = _mm512_shuffle_i32x4(b, d, 0xDD);
    }
    for (int i = 0; i < LANES; i++) rows[i] = half[i];
}

/* Puts `count` keys, `step` numbers apart, at places at.. of the packed ones. */
TARGET static void pack_keys(uint32_t *to, int64_t at, const bf16 *from, int64_t count, int64_t step, int64_t pairs) {
    for (int64_t i = 0; i < count;) {
        uint32_t *column = to + at / LANES * pairs * LANES + at % LANES;
        const int64_t here = at % LANES == 0 && count - i >= LANES ? LANES : 1;
        for (int64_t d = 0; d < pairs; d += LANES) {
            const __mmask16 lanes = first_lanes(pairs - d);
            if (here == 1) {
                const uint32_t *key = (const uint32_t *)(from + i * step) + d;
                for (int64_t p = 0; p < LANES && d + p < pairs; p++) column[(d + p) * LANES] = key[p];
                continue;
            }
            __m512i rows[LANES];
            for (int r = 0; r < LANES; r++)
                rows[r] = _mm512_maskz_loadu_epi32(lanes, (const uint32_t *)(from + (i + r) * step) + d);
            transpose(rows);
            for (int r = 0; r < LANES && d + r < pairs; r++) _mm512_storeu_si512(column + (d + r) * LANES, rows[r]);
        }
        i += here;
        at += here;
    }
}

/* The same of values: neighbours side by side. */
TARGET static void pack_values(uint32_t *to, int64_t at, const bf16 *from, int64_t count, int64_t step, int64_t width) {
    for (int64_t i = 0; i < count;) {
        uint32_t *line = to + at / 2 * width;
        const int odd = at % 2, here = odd || count - i < 2 ? 1 : 2;
        for (int64_t d = 0; d < width; d += LANES) {
            const bf16 *value = from + i * step + d;
            __m512i fresh = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)value));
            if (odd) {
                const __m512i older = _mm512_and_si512(_mm512_loadu_si512(line + d), _mm512_set1_epi32(0xFFFF));
                fresh = _mm512_or_si512(older, _mm512_slli_epi32(fresh, 16));
            } else if (here == 2) {
                const __m512i next = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(value + step)));
                fresh = _mm512_or_si512(fresh, _mm512_slli_epi32(next, 16));
            }
            _mm512_storeu_si512(line + d, fresh);
        }
        i += here;
        at += here;
    }
}

/* Zeros behind key `count`, until the vector of keys is whole. */
TARGET static void close_packed(const Packed *packed, int64_t count, int64_t width) {
    int64_t end = (count + LANES - 1) / LANES * LANES, pairs = width / 2;
    for (int64_t at = count; at < end; at++)
        for (int64_t d = 0; d < pairs; d++) packed->keys[(at / LANES * pairs + d) * LANES + at % LANES] = 0;
    int64_t whole = (count + 1) / 2; /* the last pair's second half is zero already */
    memset(packed->values + whole * width, 0, (size_t)((end / 2 - whole) * width * 4));
}

/* scores [STRIP][CHUNK], from column 0: rows of asked [STRIP][pairs] times `wide` vectors of keys. */
INLINE void score_strip(const uint32_t *asked, const uint32_t *keys, int64_t pairs, float *scores, const int wide) {
    __m512 sums[STRIP][WIDE];
    for (int r = 0; r < STRIP; r++)
        for (int v = 0; v < wide; v++) sums[r][v] = _mm512_setzero_ps();
    for (int64_t d = 0; d < pairs; d++) {
        __m512bh key[WIDE];
        for (int v = 0; v < wide; v++) key[v] = (__m512bh)_mm512_load_si512(keys + (v * pairs + d) * LANES);
        for (int r = 0; r < STRIP; r++) {
            __m512bh query = (__m512bh)_mm512_set1_epi32((int)asked[r * pairs + d]);
            for (int v = 0; v < wide; v++) sums[r][v] = _mm512_dpbf16_ps(sums[r][v], key[v], query);
        }
    }
    for (int r = 0; r < STRIP; r++)
        for (int v = 0; v < wide; v++) _mm512_store_ps(scores + r * CHUNK + v * LANES, sums[r][v]);
}

/* sums [STRIP][width], from column 0: times factor [STRIP], plus rows of shares [STRIP][CHUNK / 2] times values. */
INLINE void mix_strip(const uint32_t *shares, const uint32_t *values, int64_t pairs, int64_t width,
                      const float *factor, float *sums, const int wide) {
    __m512 sum[STRIP][WIDE];
    for (int r = 0; r < STRIP; r++)
        for (int v = 0; v < wide; v++)
            sum[r][v] = _mm512_mul_ps(_mm512_load_ps(sums + r * width + v * LANES), _mm512_set1_ps(factor[r]));
    for (int64_t p = 0; p < pairs; p++) {
        __m512bh value[WIDE];
        for (int v = 0; v < wide; v++) value[v] = (__m512bh)_mm512_load_si512(values + p * width + v * LANES);
        for (int r = 0; r < STRIP; r++) {
            __m512bh share = (__m512bh)_mm512_set1_epi32((int)shares[r * (CHUNK / 2) + p]);
            for (int v = 0; v < wide; v++) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], value[v], share);
        }
    }
    for (int r = 0; r < STRIP; r++)
        for (int v = 0; v < wide; v++) _mm512_store_ps(sums + r * width + v * LANES, sum[r][v]);
}

TARGET static void score_block(const uint32_t *asked, int strips, const uint32_t *keys, int64_t pairs, int64_t vectors,
                               float *scores) {
    for (int64_t v = 0; v < vectors; v += WIDE)
        for (int s = 0; s < strips; s++) {
            const uint32_t *rows = asked + s * STRIP * pairs, *from = keys + v * pairs * LANES;
            float *to = scores + s * STRIP * CHUNK + v * LANES;
            switch (vectors - v) {
            case 1: score_strip(rows, from, pairs, to, 1); break;
            case 2: score_strip(rows, from, pairs, to, 2); break;
            case 3: score_strip(rows, from, pairs, to, 3); break;
            default: score_strip(rows, from, pairs, to, WIDE);
            }
        }
}

TARGET static void mix_block(const uint32_t *shares, int strips, const uint32_t *values, int64_t pairs, int64_t width,
                             const float *factor, float *sums) {
    for (int64_t d = 0; d < width; d += WIDE * LANES)
        for (int s = 0; s < strips; s++) {
            const uint32_t *rows = shares + s * STRIP * (CHUNK / 2);
            float *to = sums + s * STRIP * width + d;
            switch ((width - d) / LANES) {
            case 1: mix_strip(rows, values + d, pairs, width, factor + s * STRIP, to, 1); break;
            case 2: mix_strip(rows, values + d, pairs, width, factor + s * STRIP, to, 2); break;
            case 3: mix_strip(rows, values + d, pairs, width, factor + s * STRIP, to, 3); break;
            default: mix_strip(rows, values + d, pairs, width, factor + s * STRIP, to, WIDE);
            }
        }
}

/* Which of the 16 keys `first`.. query number `query` of a sequence sees. */
INLINE __mmask16 seen_by(const Sequence *one, const Shape *shape, int64_t query, int64_t first) {
    __mmask16 seen = first_lanes(query + 1 - first);
    if (one->until) {
        __m512i until = _mm512_maskz_loadu_epi32(seen, one->until + first);
        seen = _mm512_mask_cmpgt_epi32_mask(seen, until, _mm512_set1_epi32((int)query));
        if (shape->window) {
            __m512i place = _mm512_maskz_loadu_epi32(seen, one->position + first);
            int oldest = one->position[query] - (int)shape->window;
            seen = _mm512_mask_cmpgt_epi32_mask(seen, place, _mm512_set1_epi32(oldest));
        }
    } else if (shape->window) {
        seen &= (__mmask16)~first_lanes(query - shape->window + 1 - first);
    }
    return seen;
}

/* One step of a row's online softmax: scores [vectors * 16] of keys first.. become shares in bfloat16; the row's
 * maximum and sum go on. Returns what the sums so far must be multiplied by. */
INLINE float share_out(const Sequence *one, const Shape *shape, int64_t query, int64_t first, int64_t vectors,
                       float *scores, bf16 *shares, float scale, float *largest, float *total) {
    int plain = !one->until && !shape->window;
    __m512 most = _mm512_set1_ps(UNSEEN);
    for (int64_t v = 0; v < vectors; v++) {
        __m512 score = _mm512_load_ps(scores + v * LANES);
        if (!plain || first + (v + 1) * LANES > query + 1) {
            __mmask16 seen = seen_by(one, shape, query, first + v * LANES);
            score = _mm512_mask_mov_ps(_mm512_set1_ps(UNSEEN), seen, score);
            _mm512_store_ps(scores + v * LANES, score);
        }
        most = _mm512_max_ps(most, score);
    }
    float now = _mm512_reduce_max_ps(most);
    if (now < *largest) now = *largest;
    if (now <= UNSEEN) { /* nothing is seen yet */
        memset(shares, 0, (size_t)(vectors * LANES * 2));
        return 1.0f;
    }
    __m512 sum = _mm512_setzero_ps(), factor = _mm512_set1_ps(scale), minus = _mm512_set1_ps(-now * scale);
    for (int64_t v = 0; v < vectors; v++) {
        __m512 share = exp2_of(_mm512_fmadd_ps(_mm512_load_ps(scores + v * LANES), factor, minus));
        sum = _mm512_add_ps(sum, share);
        store_bf16(shares + v * LANES, 0xFFFF, share);
    }
    float kept = *largest == now ? 1.0f : _mm512_cvtss_f32(exp2_of(_mm512_set1_ps((*largest - now) * scale)));
    *largest = now;
    *total = *total * kept + _mm512_reduce_add_ps(sum);
    return kept;
}

/* All queries of a sequence that ask one key head. query, out: of the sequence's first token and the first such head.
 */
TARGET static void attend_head(const Sequence *one, const Shape *shape, const Packed *packed, const bf16 *query,
                               bf16 *out) {
    const int64_t width = shape->width, pairs = width / 2, repeat = shape->heads / shape->kv_heads;
    const int64_t rows = one->length * repeat, step = shape->heads * width;
    const float scale = LOG2_E / sqrtf((float)width);
    __attribute__((aligned(64))) uint32_t asked[BLOCK * pairs], shares[BLOCK * CHUNK / 2];
    __attribute__((aligned(64))) float scores[BLOCK * CHUNK], sums[BLOCK * width];
    float largest[BLOCK], total[BLOCK], factor[BLOCK];
    for (int64_t begin = 0; begin < rows; begin += BLOCK) {
        const int here = rows - begin < BLOCK ? (int)(rows - begin) : BLOCK, strips = (here + STRIP - 1) / STRIP;
        for (int r = 0; r < strips * STRIP; r++) {
            const int64_t row = r < here ? begin + r : begin; /* a strip is filled up with its first row again */
            memcpy(asked + r * pairs, query + row / repeat * step + row % repeat * width, (size_t)(width * 2));
            largest[r] = UNSEEN;
            total[r] = 0;
        }
        memset(sums, 0, (size_t)(strips * STRIP * width) * sizeof(float));
        const int64_t oldest = one->start + begin / repeat, newest = one->start + (begin + here - 1) / repeat;
        int64_t first = 0;
        if (shape->window && !one->until && oldest >= shape->window) first = (oldest - shape->window + 1) / CHUNK * CHUNK;
        for (; first <= newest; first += CHUNK) {
            const int64_t keys = newest + 1 - first < CHUNK ? newest + 1 - first : CHUNK;
            const int64_t vectors = (keys + LANES - 1) / LANES;
            score_block(asked, strips, packed->keys + first * pairs, pairs, vectors, scores);
            for (int r = 0; r < strips * STRIP; r++) {
                const int64_t own = one->start + (r < here ? begin + r : begin) / repeat;
                factor[r] = share_out(one, shape, own, first, vectors, scores + r * CHUNK,
                                      (bf16 *)(shares + r * CHUNK / 2), scale, largest + r, total + r);
            }
            mix_block(shares, strips, packed->values + first / 2 * width, vectors * LANES / 2, width, factor, sums);
        }
        for (int r = 0; r < here; r++) {
            bf16 *to = out + (begin + r) / repeat * step + (begin + r) % repeat * width;
            const __m512 part = _mm512_set1_ps(1.0f / total[r]);
            for (int64_t d = 0; d < width; d += LANES)
                store_bf16(to + d, 0xFFFF, _mm512_mul_ps(_mm512_load_ps(sums + r * width + d), part));
        }
    }
}

/* query, out [tokens, heads, width], key, value [tokens, kv_heads, width]; sequences in the order of their tokens;
 * link_keys, link_values: [length, kv_heads, width] of each link, link_lengths: their lengths. Tokens of no sequence
 * get zeros. Returns 0, or 1 where memory is short. */
EXPORT int lorica_attend(const bf16 *query, const bf16 *key, const bf16 *value, bf16 *out, int64_t tokens,
                         const Sequence *sequences, int64_t count, const bf16 *const *link_keys,
                         const bf16 *const *link_values, const int64_t *link_lengths, const Shape *shape) {
    const int64_t width = shape->width, group = shape->heads / shape->kv_heads * width;
    const int64_t step = shape->kv_heads * width, line = shape->heads * width;
    for (int64_t i = 0, done = 0; i <= count; i++) { /* gaps between the sequences */
        int64_t until = i < count ? sequences[i].offset : tokens;
        memset(out + done * line, 0, (size_t)((until - done) * line) * sizeof(bf16));
        if (i < count) done = until + sequences[i].length;
    }
    int64_t longest = 0;
    for (int64_t i = 0; i < count; i++)
        if (sequences[i].start + sequences[i].length > longest) longest = sequences[i].start + sequences[i].length;
    const int64_t room = (longest + LANES - 1) / LANES * LANES * width / 2;
    uint32_t *memory = aligned_alloc(64, (size_t)room * 2 * sizeof(uint32_t));
    if (!memory) return 1;
    const Packed packed = {memory, memory + room};
    for (int64_t head = 0; head < shape->kv_heads; head++)
        for (int64_t i = 0; i < count; i++) {
            const Sequence *one = sequences + i, *last = i ? one - 1 : NULL;
            int64_t at = 0;
            for (int64_t l = 0; l < one->links; l++) {
                const int64_t here = one->link + l, length = link_lengths[here];
                /* What the sequence before has of the same beginnings is packed already. */
                if (last && l < last->links && link_keys[last->link + l] == link_keys[here] &&
                    link_lengths[last->link + l] == length) {
                    at += length;
                    continue;
                }
                last = NULL;
                pack_keys(packed.keys, at, link_keys[here] + head * width, length, step, width / 2);
                pack_values(packed.values, at, link_values[here] + head * width, length, step, width);
                at += length;
            }
            const int64_t own = one->offset * step + head * width;
            pack_keys(packed.keys, at, key + own, one->length, step, width / 2);
            pack_values(packed.values, at, value + own, one->length, step, width);
            close_packed(&packed, one->start + one->length, width);
            attend_head(one, shape, &packed, query + one->offset * line + head * group,
                        out + one->offset * line + head * group);
        }
    free(memory);
    return 0;
}
