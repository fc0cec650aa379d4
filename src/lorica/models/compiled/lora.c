/* What LoRA adapters add to the results of the base's products, each token its own adapter's: y += s (x A^T) B^T.
 *
 * Grouped as in Punica (arXiv:2310.18547): one call for all adapters of a pass, none waits for another's. A token's
 * result depends on the token and its adapter alone, to the last bit. */
#include "common.h"

#include <stdlib.h>

enum {
    ROWS = 4,   /* times RANKS: sums that fill the registers, beside what is multiplied */
    RANKS = 4,
    STRIP = 6,  /* rows of the second product */
    WIDE = 4,   /* its vectors */
    PART = 48,  /* rows whose middle is held at once: a multiple of ROWS and STRIP */
};

/* The matrices of one adapter for one module: a [rank, in], b [out, rank]. a is NULL where it has none. */
typedef struct {
    const bf16 *a, *b;
    int64_t rank;
    double scaling;
} Pair;

typedef struct {
    int64_t start, stop; /* of its tokens in the pass */
} Span;

typedef struct {
    int64_t in, modules;
    int64_t outs[8], total; /* columns of y for each module, side by side, and all of them */
} Layout;

/* sums [ROWS][RANKS] = x a^T, of `rows` rows and `ranks` ranks; what is missing is the last one again. */
INLINE void first_strip(const bf16 *x, int64_t rows, const bf16 *a, int64_t ranks, int64_t in, float *sums) {
    const bf16 *left[ROWS], *right[RANKS];
    for (int64_t i = 0; i < ROWS; i++) left[i] = x + (i < rows ? i : rows - 1) * in;
    for (int64_t j = 0; j < RANKS; j++) right[j] = a + (j < ranks ? j : ranks - 1) * in;
    __m512 sum[ROWS][RANKS];
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < RANKS; j++) sum[i][j] = _mm512_setzero_ps();
    for (int64_t d = 0; d < in; d += 2 * LANES) {
        const __mmask32 lanes = in - d >= 2 * LANES ? 0xFFFFFFFFu : (1u << (in - d)) - 1;
        __m512bh given[ROWS];
        for (int i = 0; i < ROWS; i++) {
            look_ahead(left[i] + d);
            given[i] = (__m512bh)_mm512_maskz_loadu_epi16(lanes, left[i] + d);
        }
        for (int j = 0; j < RANKS; j++) {
            const __m512bh factor = (__m512bh)_mm512_maskz_loadu_epi16(lanes, right[j] + d);
            for (int i = 0; i < ROWS; i++) sum[i][j] = _mm512_dpbf16_ps(sum[i][j], given[i], factor);
        }
    }
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < RANKS; j++) sums[i * RANKS + j] = _mm512_reduce_add_ps(sum[i][j]);
}

/* middle [rows, pairs * 2] = scaling * x a^T, rounded; a column of zeros behind an odd rank. */
TARGET static void first_product(const bf16 *x, int64_t rows, const Pair *pair, int64_t in, uint32_t *middle) {
    const int64_t width = (pair->rank + 1) / 2 * 2;
    bf16 *to = (bf16 *)middle;
    float sums[ROWS * RANKS];
    for (int64_t i = 0; i < rows; i += ROWS)
        for (int64_t j = 0; j < pair->rank; j += RANKS) {
            const int64_t ranks = pair->rank - j < RANKS ? pair->rank - j : RANKS;
            const int64_t here = rows - i < ROWS ? rows - i : ROWS;
            first_strip(x + i * in, here, pair->a + j * in, ranks, in, sums);
            for (int64_t r = 0; r < here; r++) {
                const __m512 scaled = _mm512_mul_ps(_mm512_maskz_loadu_ps(first_lanes(ranks), sums + r * RANKS),
                                                    _mm512_set1_ps((float)pair->scaling));
                store_bf16(to + (i + r) * width + j, first_lanes(width - j < RANKS ? width - j : RANKS), scaled);
            }
        }
}

/* turned [pairs][out]: pairs of ranks of b [out, rank], a zero behind an odd one. */
TARGET static void turn_pairs(const Pair *pair, int64_t out, uint32_t *turned) {
    const int64_t rank = pair->rank, pairs = (rank + 1) / 2;
    const __m512i lines =
        _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), _mm512_set1_epi32((int)rank));
    for (int64_t o = 0; o < out; o += LANES) {
        const int64_t here = out - o < LANES ? out - o : LANES;
        for (int64_t p = 0; p < pairs; p++) {
            const bf16 *from = pair->b + o * rank + 2 * p;
            if (rank % 2 == 0 && here == LANES) {
                _mm512_storeu_si512(turned + p * out + o, _mm512_i32gather_epi32(lines, from, 2));
                continue;
            }
            for (int64_t l = 0; l < here; l++) {
                const uint32_t high = 2 * p + 1 < rank ? from[l * rank + 1] : 0;
                turned[p * out + o + l] = from[l * rank] | high << 16;
            }
        }
    }
}

/* y [STRIP rows of `total`], from column 0: += middle times turned, `wide` vectors of them, the last one `lanes`. */
INLINE void second_strip(const uint32_t *middle, int64_t rows, const uint32_t *turned, int64_t pairs, int64_t out,
                         void *y, int64_t at, int64_t total, __mmask16 lanes, const int wide, const int floats) {
    __m512 sum[STRIP][WIDE];
    const uint32_t *share[STRIP];
    for (int r = 0; r < STRIP; r++) {
        share[r] = middle + (r < rows ? r : rows - 1) * pairs;
        for (int v = 0; v < wide; v++) sum[r][v] = _mm512_setzero_ps();
    }
    for (int64_t r = 0; r < STRIP; r++) /* the rows that come next; what is added to is read last */
        for (int v = 0; v < wide; v += 2) {
            const int64_t place = at + (r + STRIP) * total + v * LANES;
            _mm_prefetch(floats ? (const char *)((float *)y + place) : (const char *)((bf16 *)y + place), _MM_HINT_T0);
        }
    for (int64_t p = 0; p < pairs; p++) {
        __m512bh factor[WIDE];
        for (int v = 0; v < wide; v++)
            factor[v] = (__m512bh)_mm512_maskz_loadu_epi32(v + 1 < wide ? 0xFFFF : lanes, turned + p * out + v * LANES);
        for (int r = 0; r < STRIP; r++) {
            const __m512bh given = (__m512bh)_mm512_set1_epi32((int)share[r][p]);
            for (int v = 0; v < wide; v++) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], factor[v], given);
        }
    }
    for (int r = 0; r < STRIP && r < rows; r++)
        for (int v = 0; v < wide; v++) {
            const __mmask16 some = v + 1 < wide ? 0xFFFF : lanes;
            const int64_t place = at + r * total + v * LANES;
            if (floats) {
                float *to = (float *)y + place;
                _mm512_mask_storeu_ps(to, some, _mm512_add_ps(_mm512_maskz_loadu_ps(some, to), sum[r][v]));
            } else {
                bf16 *to = (bf16 *)y + place;
                store_bf16(to, some, _mm512_add_ps(load_bf16(to, some), sum[r][v]));
            }
        }
}

INLINE void second_product(const uint32_t *middle, int64_t rows, const uint32_t *turned, int64_t pairs, int64_t out,
                           void *y, int64_t at, int64_t total, const int floats) {
    for (int64_t o = 0; o < out; o += WIDE * LANES)
        for (int64_t r = 0; r < rows; r += STRIP) {
            const int64_t left = out - o, vectors = (left + LANES - 1) / LANES;
            const __mmask16 lanes = first_lanes(vectors > WIDE ? LANES : left - (vectors - 1) * LANES);
            const uint32_t *from = middle + r * pairs;
            const int64_t to = at + r * total + o;
            switch (vectors) {
            case 1: second_strip(from, rows - r, turned + o, pairs, out, y, to, total, lanes, 1, floats); break;
            case 2: second_strip(from, rows - r, turned + o, pairs, out, y, to, total, lanes, 2, floats); break;
            case 3: second_strip(from, rows - r, turned + o, pairs, out, y, to, total, lanes, 3, floats); break;
            default: second_strip(from, rows - r, turned + o, pairs, out, y, to, total, lanes, WIDE, floats);
            }
        }
}

/* x [rows, in] are tokens first.. of the pass; y [rows, total] gets what their adapters add. pairs: of each span, one
 * for each module. Returns 0, or 1 where memory is short. */
EXPORT int lorica_add_updates(const bf16 *x, void *y, int64_t first, int64_t rows, const Span *spans, int64_t count,
                              const Pair *pairs, const Layout *layout, int floats) {
    int64_t widest = 0, highest = 0;
    for (int64_t m = 0; m < layout->modules; m++)
        if (layout->outs[m] > widest) widest = layout->outs[m];
    for (int64_t i = 0; i < count * layout->modules; i++)
        if (pairs[i].a && pairs[i].rank > highest) highest = pairs[i].rank;
    if (!highest) return 0;
    const int64_t most = (highest + 1) / 2;
    uint32_t *memory = aligned_alloc(64, (size_t)((most * (widest + PART) * 4 + 63) / 64 * 64));
    if (!memory) return 1;
    uint32_t *middle = memory + most * widest;
    for (int64_t i = 0; i < count; i++) {
        const int64_t start = spans[i].start > first ? spans[i].start : first;
        const int64_t stop = spans[i].stop < first + rows ? spans[i].stop : first + rows;
        int64_t column = 0;
        for (int64_t m = 0; m < layout->modules && start < stop; column += layout->outs[m], m++) {
            const Pair *pair = pairs + i * layout->modules + m;
            const int64_t out = layout->outs[m], half = (pair->rank + 1) / 2;
            if (!pair->a) continue;
            turn_pairs(pair, out, memory);
            for (int64_t row = start - first; row < stop - first; row += PART) {
                const int64_t here = stop - first - row < PART ? stop - first - row : PART;
                const int64_t at = row * layout->total + column;
                first_product(x + row * layout->in, here, pair, layout->in, middle);
                if (floats)
                    second_product(middle, here, memory, half, out, y, at, layout->total, 1);
                else
                    second_product(middle, here, memory, half, out, y, at, layout->total, 0);
            }
        }
    }
    free(memory);
    return 0;
}
