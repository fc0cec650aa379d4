/* What LoRA adapters add to the results of the base's products, each token its own adapter's: y += s (x A^T) B^T.
 *
 * Grouped as in Punica (arXiv:2310.18547): one call for all adapters of a pass, none waits for another's. A token's
 * result depends on the token and its adapter alone, to the last bit. Numbers become `elements` (common.h): pairs of
 * bfloat16 where the target multiplies these and x, A and B are such, else float32. */
#include "common.h"

#include <stdlib.h>

enum {
    ROWS = 4,                    /* times RANKS: sums that fill the registers, beside what is multiplied */
    RANKS = REGISTERS / 8,
    STRIP = 6,                   /* rows of the second product */
    WIDE = REGISTERS / 8,  /* its vectors */
    PART = 48,                   /* rows whose middle is held at once: a multiple of ROWS and STRIP */
};

/* The matrices of one adapter for one module: a [rank, in], b [out, rank], of one type. a is NULL where it has none. */
typedef struct {
    const void *a, *b;
    int64_t rank;
    double scaling;
    int64_t type;
} Pair;

typedef struct {
    int64_t start, stop; /* of its tokens in the pass */
} Span;

typedef struct {
    int64_t in, modules;
    int64_t outs[8], total; /* columns of y for each module, side by side, and all of them */
} Layout;

/* sums [ROWS][RANKS] = x a^T, of `rows` rows x.. and `ranks` rows a..; what is missing is the last one again. */
INLINE void first_strip(const void *x, int64_t row, int64_t rows, const void *a, int64_t rank, int64_t ranks, int64_t in,
                        float *sums, const int x_type, const int a_type, const int pairs) {
    const int per = pairs ? 2 : 1;
    const char *left[ROWS], *right[RANKS];
    for (int64_t i = 0; i < ROWS; i++)
        left[i] = (const char *)x + (row + (i < rows ? i : rows - 1)) * in * bytes_of(x_type);
    for (int64_t j = 0; j < RANKS; j++)
        right[j] = (const char *)a + (rank + (j < ranks ? j : ranks - 1)) * in * bytes_of(a_type);
    Floats sum[ROWS][RANKS];
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < RANKS; j++) sum[i][j] = set(0);
    for (int64_t d = 0; d < in; d += LANES * per) {
        Floats given[ROWS];
        for (int i = 0; i < ROWS; i++) {
            look_ahead(left[i] + d * bytes_of(x_type));
            given[i] = load_elements(left[i], d, in - d, x_type, pairs);
        }
        for (int j = 0; j < RANKS; j++) {
            const Floats factor = load_elements(right[j], d, in - d, a_type, pairs);
            for (int i = 0; i < ROWS; i++) sum[i][j] = dot(sum[i][j], given[i], factor, pairs);
        }
    }
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < RANKS; j++) sums[i * RANKS + j] = sum_of(sum[i][j]);
}

/* middle [rows, elements of a rank] = scaling * x a^T, rounded where these are pairs; zeros behind an odd rank. */
INLINE void first_product(const void *x, int64_t row, int64_t rows, const Pair *pair, int64_t in, float *middle,
                          const int x_type, const int a_type, const int pairs) {
    const int64_t width = pairs ? (pair->rank + 1) / 2 * 2 : pair->rank;
    float sums[ROWS * RANKS];
    for (int64_t i = 0; i < rows; i += ROWS)
        for (int64_t j = 0; j < pair->rank; j += RANKS) {
            const int64_t ranks = pair->rank - j < RANKS ? pair->rank - j : RANKS;
            const int64_t here = rows - i < ROWS ? rows - i : ROWS;
            first_strip(x, row + i, here, pair->a, j, ranks, in, sums, x_type, a_type, pairs);
            for (int64_t r = 0; r < here; r++) {
                const Floats scaled = load_f32(sums + r * RANKS, ranks) * set((float)pair->scaling);
                const int64_t columns = width - j < RANKS ? width - j : RANKS;
                store(middle, (i + r) * width + j, columns, scaled, pairs ? BF16 : F32);
            }
        }
}

/* turned [elements of a rank][out]: b [out, rank], a zero behind an odd rank of pairs. */
INLINE void turn_type(const Pair *pair, int64_t out, float *turned, const int type, const int pairs) {
    const int64_t per = pairs ? 2 : 1, rank = pair->rank, depth = (rank + per - 1) / per;
    for (int64_t o = 0; o < out; o += LANES) {
        const int64_t here = out - o < LANES ? out - o : LANES;
        for (int64_t d = 0; d < depth; d += LANES) {
            const int64_t left = depth - d < LANES ? depth - d : LANES;
            Floats rows[LANES];
            for (int64_t r = 0; r < LANES; r++)
                rows[r] = r < here ? load_elements(pair->b, (o + r) * rank + d * per, rank - d * per, type, pairs) : set(0);
            transpose(rows);
            for (int64_t r = 0; r < LANES; r++)
                if (r < left) store_f32(turned + (d + r) * out + o, here, rows[r]);
        }
    }
}

NO_INLINE void turn_factors(const Pair *pair, int64_t out, float *turned, int pairs) {
    if (HAS_PAIRS && pairs) {
        turn_type(pair, out, turned, BF16, HAS_PAIRS);
        return;
    }
#define CALL(type) turn_type(pair, out, turned, type, 0)
    FOR_TYPE(pair->type, CALL)
#undef CALL
}

/* y [STRIP rows of `total`], from number `at`: += middle times turned, `wide` vectors of them, `columns` numbers. */
INLINE void second_strip(const float *middle, int64_t rows, const float *turned, int64_t depth, int64_t out, void *y,
                         int64_t at, int64_t total, int64_t columns, const int wide, const int y_type, const int pairs) {
    Floats sum[STRIP][WIDE];
    const float *share[STRIP];
    for (int r = 0; r < STRIP; r++) {
        share[r] = middle + (r < rows ? r : rows - 1) * depth;
        for (int v = 0; v < wide; v++) sum[r][v] = set(0);
    }
    for (int64_t r = 0; r < STRIP; r++) /* the rows that come next; what is added to is read last */
        for (int64_t v = 0; v < wide * LANES * bytes_of(y_type); v += 64)
            __builtin_prefetch((const char *)y + (at + (r + STRIP) * total) * bytes_of(y_type) + v);
    for (int64_t d = 0; d < depth; d++) {
        Floats factor[WIDE];
        for (int v = 0; v < wide; v++)
            factor[v] = load_f32(turned + d * out + v * LANES, v + 1 < wide ? LANES : columns - v * LANES);
        for (int r = 0; r < STRIP; r++) {
            const Floats given = set(share[r][d]);
            for (int v = 0; v < wide; v++) sum[r][v] = dot(sum[r][v], factor[v], given, pairs);
        }
    }
    for (int r = 0; r < STRIP && r < rows; r++)
        for (int v = 0; v < wide; v++) {
            const int64_t place = at + r * total + v * LANES, left = v + 1 < wide ? LANES : columns - v * LANES;
            store(y, place, left, load(y, place, left, y_type) + sum[r][v], y_type);
        }
}

INLINE void second_type(const float *middle, int64_t rows, const float *turned, int64_t depth, int64_t out, void *y,
                        int64_t at, int64_t total, const int y_type, const int pairs) {
    for (int64_t o = 0; o < out; o += WIDE * LANES)
        for (int64_t r = 0; r < rows; r += STRIP) {
            const float *from = middle + r * depth;
            const int64_t to = at + r * total + o, left = out - o;
            if (left >= WIDE * LANES)
                second_strip(from, rows - r, turned + o, depth, out, y, to, total, WIDE * LANES, WIDE, y_type, pairs);
            else
                for (int64_t d = 0; d < left; d += LANES)
                    second_strip(from, rows - r, turned + o + d, depth, out, y, to + d, total, left - d, 1, y_type, pairs);
        }
}

NO_INLINE void second_product(const float *middle, int64_t rows, const float *turned, int64_t depth, int64_t out, void *y,
                              int64_t at, int64_t total, int y_type, int pairs) {
#define FLOATS(type) second_type(middle, rows, turned, depth, out, y, at, total, type, 0)
#define PAIRS(type) second_type(middle, rows, turned, depth, out, y, at, total, type, HAS_PAIRS)
    if (!HAS_PAIRS || !pairs) {
        FOR_TYPE(y_type, FLOATS)
    } else if (y_type == F32) {
        PAIRS(F32);
    } else {
        PAIRS(BF16);
    }
#undef PAIRS
#undef FLOATS
}

/* One span, tokens row..stop of x and y, and one module of it, whose columns of y begin at `column`. */
typedef struct {
    const void *x;
    void *y;
    int64_t row, stop, in, out, column, total;
} Update;

INLINE void add_update(const Update *update, const Pair *pair, float *turned, float *middle, const int x_type,
                       const int a_type, int y_type, const int pairs) {
    const int64_t depth = pairs ? (pair->rank + 1) / 2 : pair->rank;
    turn_factors(pair, update->out, turned, pairs);
    for (int64_t row = update->row; row < update->stop; row += PART) {
        const int64_t rows = update->stop - row < PART ? update->stop - row : PART;
        first_product(update->x, row, rows, pair, update->in, middle, x_type, a_type, pairs);
        second_product(middle, rows, turned, depth, update->out, update->y, row * update->total + update->column,
                       update->total, y_type, pairs);
    }
}

/* x [rows, in] are tokens first.. of the pass; y [rows, total] gets what their adapters add. pairs: of each span, one
 * for each module, of the type of x or, where y is float32, of any; y is float32 or of the type of x. Returns 0, or 1
 * where memory is short. */
EXPORT(int, add_updates)(const void *x, void *y, int64_t first, int64_t rows, const Span *spans, int64_t count,
                         const Pair *pairs, const Layout *layout, int x_type, int y_type) {
    int64_t widest = 0, highest = 0;
    for (int64_t m = 0; m < layout->modules; m++)
        if (layout->outs[m] > widest) widest = layout->outs[m];
    for (int64_t i = 0; i < count * layout->modules; i++)
        if (pairs[i].a && pairs[i].rank > highest) highest = pairs[i].rank;
    if (!highest) return 0;
    float *memory = aligned_alloc(64, (size_t)((highest + 1) * (widest + PART) * 4 + 63) / 64 * 64);
    if (!memory) return 1;
    float *middle = memory + highest * widest;
    for (int64_t i = 0; i < count; i++) {
        const int64_t start = spans[i].start > first ? spans[i].start : first;
        const int64_t stop = spans[i].stop < first + rows ? spans[i].stop : first + rows;
        int64_t column = 0;
        for (int64_t m = 0; m < layout->modules && start < stop; column += layout->outs[m], m++) {
            const Pair *pair = pairs + i * layout->modules + m;
            if (!pair->a) continue;
            const Update update = {x, y, start - first, stop - first, layout->in, layout->outs[m], column, layout->total};
#define CALL(type) add_update(&update, pair, memory, middle, F32, type, F32, 0)
            if (x_type == F32) {
                FOR_TYPE(pair->type, CALL)
            } else if (x_type == F16) {
                add_update(&update, pair, memory, middle, F16, F16, y_type, 0);
            } else {
                add_update(&update, pair, memory, middle, BF16, BF16, y_type, HAS_PAIRS);
            }
#undef CALL
        }
    }
    free(memory);
    return 0;
}
