/* Products of linear layers, y = x W^T, for weights that are held in few bytes: two arithmetics on one layout.
 *
 * Weights lie in panels of COLUMNS outputs, so that a tile of rows and a panel are multiplied in registers alone. A
 * panel is expanded, some inputs at a time, into a buffer that stays in the first cache: to float32 (weights in bfloat16
 * or float16), or to int16 (codes of 8 or 4 bits; those of 16 lie so already). Products with int16 activations are
 * summed exactly in int32 over GROUP inputs, which share a scale. Sums are taken in the order of the inputs, whatever
 * the other rows and the threads, so that the bits of a result depend on its own row alone. */
#include "tiles.h"

#include <string.h>

enum {
    GROUP = 64, /* inputs; as in products.py */
    DEPTH = 512, /* inputs that are expanded at once: 16 KiB of int16 in AVX2, half a first cache */
    FLOAT_DEPTH = 256,
    ROWS_AT_ONCE = 96, /* at most: share an expanded panel, and stay in the second cache until all panels met them */
    PANELS_AT_ONCE = 4 /* that a thread takes */
};

typedef struct {
    const void *x;           /* [rows, in] float32, or int16 codes */
    const float *row_scale;  /* [rows] of codes, else NULL */
    const float *group_sums; /* [rows, in / GROUP], of the codes of each group; where weights have minima */
    const void *weight;      /* [panels, in, COLUMNS], or codes [panels, in / 2, COLUMNS, 2] */
    const float *scale;      /* [panels, in / GROUP, COLUMNS] of codes, else NULL */
    const float *minimum;    /* alike, NULL where groups have none */
    const float *bias;       /* [out] or NULL */
    float *y;                /* [rows, out] */
    int64_t rows, in, out;   /* in: of codes a multiple of GROUP */
    int64_t type;            /* of the weights: BF16, F16, or the bits of a code: 4, 8, 16 */
    int64_t next;            /* the first task that no thread has taken: some rows times some panels */
} Product;

/* sums [rows][2] += the pairs of codes at x [rows, stride] times those at w [2, LANES, 2]. */
INLINE void add_pairs(Ints sums[][2], const int16_t *x, int64_t stride, const int16_t *w, const int rows) {
    Ints first, second;
    memcpy(&first, w, sizeof first);
    memcpy(&second, w + COLUMNS, sizeof second);
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
        int32_t pair;
        memcpy(&pair, x + r * stride, sizeof pair);
        const Ints both = pair - (Ints){0};
        sums[r][0] = multiply_pairs(sums[r][0], both, first);
        sums[r][1] = multiply_pairs(sums[r][1], both, second);
    }
}

/* part [rows, COLUMNS] += x [rows, stride] codes times w [groups, GROUP / 2, 2, LANES, 2], each group by its scale. */
INLINE void multiply_codes(const int16_t *x, int64_t stride, const int16_t *w, int64_t groups, const float *scale,
                           float *part, const int rows) {
    for (int64_t g = 0; g < groups; g++) {
        Ints sums[TILE][2];
        for (int r = 0; r < rows; r++) sums[r][0] = sums[r][1] = (Ints){0};
        const int16_t *value = x + g * GROUP, *column = w + g * GROUP * COLUMNS;
        for (int64_t k = 0; k < GROUP; k += 2) add_pairs(sums, value + k, stride, column + k * COLUMNS, rows);
        const Floats low = load_f32(scale + g * COLUMNS, LANES), high = load_f32(scale + g * COLUMNS + LANES, LANES);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            float *to = part + r * COLUMNS;
            store_f32(to, LANES, fma_of(to_floats(sums[r][0]), low, load_f32(to, LANES)));
            store_f32(to + LANES, LANES, fma_of(to_floats(sums[r][1]), high, load_f32(to + LANES, LANES)));
        }
    }
}

/* to [count] int16 = the codes of a panel. Of 4 bits, the second half of a pair of inputs lies in the high nibbles. */
INLINE void expand_codes(const uint8_t *from, int64_t count, int16_t *to, const int bits) {
    const int step = 2 * LANES;
    for (int64_t i = 0; i < count; i += 2 * step) {
        Bytes low, high;
        if (bits == 8) {
            memcpy(&low, from + i, sizeof low);
            memcpy(&high, from + i + step, sizeof high);
        } else {
            Bytes both;
            memcpy(&both, from + i / 2, sizeof both);
            low = LOW_HALVES(both), high = LOW_HALVES(SHIFTED(both));
        }
        const Ints first = (Ints)WIDEN(low), second = (Ints)WIDEN(high);
        memcpy(to + i, &first, sizeof first);
        memcpy(to + i + step, &second, sizeof second);
    }
}

INLINE void finish_panel(const Product *p, int64_t panel, int64_t row, int64_t rows, const float *part) {
    for (int v = 0; v < 2; v++) {
        const int64_t column = panel * COLUMNS + v * LANES, count = p->out - column;
        if (count <= 0) break;
        const Floats shift = p->bias ? load_f32(p->bias + column, count) : set(0);
        for (int64_t r = 0; r < rows; r++) {
            const Floats sum = load_f32(part + r * COLUMNS + v * LANES, LANES);
            const Floats factor = set(p->row_scale ? p->row_scale[row + r] : 1.0f);
            store_f32(p->y + (row + r) * p->out + column, count, fma_of(sum, factor, shift));
        }
    }
}

/* part [rows, COLUMNS] = the minima of the groups times the sums of the codes that they are added to. */
INLINE void start_codes(const Product *p, int64_t panel, int64_t row, int64_t rows, float *part) {
    memset(part, 0, (size_t)(rows * COLUMNS) * sizeof(float));
    if (!p->minimum) return;
    const int64_t groups = p->in / GROUP;
    for (int64_t r = 0; r < rows; r++) {
        Floats first = set(0), second = set(0);
        for (int64_t g = 0; g < groups; g++) {
            const float *least = p->minimum + (panel * groups + g) * COLUMNS;
            const Floats sum = set(p->group_sums[(row + r) * groups + g]);
            first = fma_of(load_f32(least, LANES), sum, first);
            second = fma_of(load_f32(least + LANES, LANES), sum, second);
        }
        store_f32(part + r * COLUMNS, LANES, first);
        store_f32(part + r * COLUMNS + LANES, LANES, second);
    }
}

INLINE void multiply_code_panel(const Product *p, int64_t panel, int64_t row, int64_t rows, const int bits) {
    _Alignas(64) float part[ROWS_AT_ONCE * COLUMNS];
    _Alignas(64) int16_t expanded[DEPTH * COLUMNS];
    start_codes(p, panel, row, rows, part);
    for (int64_t k = 0; k < p->in; k += DEPTH) {
        const int64_t depth = p->in - k < DEPTH ? p->in - k : DEPTH, offset = (panel * p->in + k) * COLUMNS;
        const uint8_t *codes = (const uint8_t *)p->weight + offset * bits / 8;
        if (bits < 16) expand_codes(codes, depth * COLUMNS, expanded, bits);
        const int16_t *panel_codes = bits < 16 ? expanded : (const int16_t *)codes;
        const float *scale = p->scale + (panel * p->in + k) / GROUP * COLUMNS;
        for (int64_t r = 0; r < rows; r += TILE) {
            const int16_t *x = (const int16_t *)p->x + (row + r) * p->in + k;
#define CALL(count) multiply_codes(x, p->in, panel_codes, depth / GROUP, scale, part + r * COLUMNS, count)
            FOR_ROWS(rows - r, CALL)
#undef CALL
        }
    }
    finish_panel(p, panel, row, rows, part);
}

INLINE void multiply_float_panel(const Product *p, int64_t panel, int64_t row, int64_t rows, const int type) {
    _Alignas(64) float part[ROWS_AT_ONCE * COLUMNS];
    _Alignas(64) float expanded[FLOAT_DEPTH * COLUMNS];
    memset(part, 0, (size_t)(rows * COLUMNS) * sizeof(float));
    for (int64_t k = 0; k < p->in; k += FLOAT_DEPTH) {
        const int64_t depth = p->in - k < FLOAT_DEPTH ? p->in - k : FLOAT_DEPTH, offset = (panel * p->in + k) * COLUMNS;
        for (int64_t i = 0; i < depth * COLUMNS; i += LANES)
            store_f32(expanded + i, LANES, load(p->weight, offset + i, LANES, type));
        for (int64_t r = 0; r < rows; r += TILE) {
            const float *x = (const float *)p->x + (row + r) * p->in + k;
#define CALL(count) multiply_floats(x, p->in, expanded, depth, part + r * COLUMNS, COLUMNS, COLUMNS, count, 0)
            FOR_ROWS(rows - r, CALL)
#undef CALL
        }
    }
    finish_panel(p, panel, row, rows, part);
}

static void multiply_panel(const Product *p, int64_t panel, int64_t row, int64_t rows) {
    switch (p->type) {
    case BF16: multiply_float_panel(p, panel, row, rows, BF16); break;
    case F16: multiply_float_panel(p, panel, row, rows, F16); break;
    case 4: multiply_code_panel(p, panel, row, rows, 4); break;
    case 16: multiply_code_panel(p, panel, row, rows, 16); break;
    default: multiply_code_panel(p, panel, row, rows, 8);
    }
}

/* Blocks of about equal rows, whole tiles but for the last, so that no block ends in a small tile but the last. */
static void multiply_panels(void *argument) {
    Product *p = argument;
    const int64_t panels = (p->out + COLUMNS - 1) / COLUMNS, parts = (panels + PANELS_AT_ONCE - 1) / PANELS_AT_ONCE;
    const int64_t tiles = (p->rows + TILE - 1) / TILE, blocks = (p->rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
    const int64_t block_rows = blocks ? (tiles + blocks - 1) / blocks * TILE : 1;
    for (;;) {
        const int64_t task = __atomic_fetch_add(&p->next, 1, __ATOMIC_RELAXED);
        const int64_t row = task / parts * block_rows, first = task % parts * PANELS_AT_ONCE;
        if (row >= p->rows) return;
        const int64_t rows = p->rows - row < block_rows ? p->rows - row : block_rows;
        for (int64_t panel = first; panel < panels && panel < first + PANELS_AT_ONCE; panel++)
            multiply_panel(p, panel, row, rows);
    }
}

EXPORT(void, multiply)(Product *product, Parallel parallel, unsigned threads) {
    if (parallel && threads > 1)
        parallel(multiply_panels, product, threads, 0);
    else
        multiply_panels(product);
}

EXPORT(int64_t, panel_columns)(void) {
    return COLUMNS;
}

typedef int16_t Shorts __attribute__((vector_size(2 * LANES)));

/* Of activations: with weights of 2047 levels, a group's sum is below 2^31. */
#define LEVELS 16383.0f
#define SMALLEST 1e-30f /* a row of zeros has this as its largest */

/* codes [rows, padded] int16 of x [rows, width], zeros behind; the step of each row, NaN where it holds any; and sums
 * [rows, padded / GROUP] (unless NULL) of the codes of each group. */
INLINE void quantize(const void *x, int16_t *codes, float *steps, float *sums, int64_t rows, int64_t width,
                     int64_t padded, const int type) {
    for (int64_t row = 0; row < rows; row++) {
        Floats most = set(0), nothing = set(0);
        for (int64_t d = 0; d < width; d += LANES) {
            const Floats value = load(x, row * width + d, width - d, type);
            most = larger(absolute(value), most);
            nothing = fma_of(value, set(0), nothing); /* a maximum hides NaN, a sum shows it */
        }
        const float peak = max_of(most) > SMALLEST ? max_of(most) : SMALLEST;
        const Floats factor = set(LEVELS / peak);
        for (int64_t g = 0; g < padded; g += GROUP) {
            Ints sum = {0};
            for (int64_t d = g; d < g + GROUP; d += LANES) {
                const Ints code = to_ints(load(x, row * width + d, width - d, type) * factor);
                const Shorts narrow = __builtin_convertvector(code, Shorts);
                memcpy(codes + row * padded + d, &narrow, sizeof narrow);
                sum += code;
            }
            if (sums) sums[(row * padded + g) / GROUP] = sum_of(to_floats(sum));
        }
        steps[row] = peak / LEVELS + sum_of(nothing);
    }
}

EXPORT(void, quantize_int16)(const void *x, int16_t *codes, float *steps, float *sums, int64_t rows, int64_t width,
                             int64_t padded, int type) {
#define CALL(type) quantize(x, codes, steps, sums, rows, width, padded, type)
    FOR_TYPE(type, CALL)
#undef CALL
}
