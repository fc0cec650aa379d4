/* Products of linear layers, y = x W^T, with W in ggml's blocks, as a file has them: a panel of outputs is restored some
 * inputs at a time, turned so that its outputs lie side by side, and stays in the first cache until all rows were
 * multiplied with it. Nothing is kept. Sums are taken in the order of the inputs, whatever the other rows and the threads,
 * so that the bits of a result depend on its own row alone. */
#include "tiles.h"

#include <string.h>

enum { DEPTH = 256 /* inputs that are restored at once: whole blocks of every type */ };

typedef struct {
    const void *x;         /* [rows, in]: float32, or, where HAS_PAIRS, bfloat16 */
    const uint8_t *weight; /* [out, row_bytes] */
    const int64_t *order;  /* [out]: which of these rows is each output's; NULL: they lie in order */
    const float *bias;     /* [out] or NULL */
    float *y;              /* [rows, y_stride]; the first `out` columns are written */
    int64_t rows, in, out, row_bytes, y_stride; /* in: a multiple of 32 */
    int64_t block_type, block_weights, block_bytes;
    int64_t next;          /* the first panel that no thread has taken */
} BlockProduct;

EXPORT(void, restore_blocks)(const uint8_t *blocks, void *to, int64_t count, int block_type, int type);

enum { ELEMENTS = HAS_PAIRS ? DEPTH / 2 : DEPTH }; /* of 32 bits */

/* expanded [elements, COLUMNS] = the inputs k.. of a panel, zeros for outputs that there are not. */
static void expand_panel(const BlockProduct *p, int64_t panel, int64_t k, int64_t depth, float *expanded) {
    _Alignas(64) float lines[LANES][ELEMENTS];
    const int64_t count = depth / p->block_weights, elements = depth * ELEMENTS / DEPTH;
    const uint8_t *blocks = p->weight + k / p->block_weights * p->block_bytes;
    for (int half = 0; half < 2; half++) {
        const int64_t first = panel * COLUMNS + half * LANES;
        for (int lane = 0; lane < LANES; lane++)
            if (first + lane < p->out) {
                const int64_t row = p->order ? p->order[first + lane] : first + lane;
                JOIN(restore_blocks, LORICA_TARGET)(blocks + row * p->row_bytes, lines[lane], count, (int)p->block_type,
                                                    HAS_PAIRS ? BF16 : F32);
            } else
                memset(lines[lane], 0, sizeof lines[lane]);
        for (int64_t element = 0; element < elements; element += LANES) {
            Floats square[LANES];
            for (int lane = 0; lane < LANES; lane++) square[lane] = load_f32(lines[lane] + element, LANES);
            transpose(square);
            for (int i = 0; i < LANES; i++)
                store_f32(expanded + (element + i) * COLUMNS + half * LANES, LANES, square[i]);
        }
    }
}

static void multiply_panel(const BlockProduct *p, int64_t panel) {
    _Alignas(64) float expanded[ELEMENTS * COLUMNS];
    const int64_t column = panel * COLUMNS, x_stride = p->in * ELEMENTS / DEPTH;
    const int64_t columns = p->out - column < COLUMNS ? p->out - column : COLUMNS;
    for (int64_t r = 0; r < p->rows; r++)
        for (int64_t c = 0; c < columns; c += LANES)
            store_f32(p->y + r * p->y_stride + column + c, columns - c,
                      p->bias ? load_f32(p->bias + column + c, columns - c) : set(0));
    for (int64_t k = 0; k < p->in; k += DEPTH) {
        const int64_t depth = p->in - k < DEPTH ? p->in - k : DEPTH, elements = depth * ELEMENTS / DEPTH;
        expand_panel(p, panel, k, depth, expanded);
        for (int64_t r = 0; r < p->rows; r += TILE) {
            const float *x = (const float *)p->x + r * x_stride + k * ELEMENTS / DEPTH;
            float *y = p->y + r * p->y_stride + column;
#define CALL(count) multiply_floats(x, x_stride, expanded, elements, y, p->y_stride, columns, count, HAS_PAIRS)
            FOR_ROWS(p->rows - r, CALL)
#undef CALL
        }
    }
}

static void multiply_panels(void *argument) {
    BlockProduct *p = argument;
    const int64_t panels = (p->out + COLUMNS - 1) / COLUMNS;
    for (;;) {
        const int64_t panel = __atomic_fetch_add(&p->next, 1, __ATOMIC_RELAXED);
        if (panel >= panels) return;
        multiply_panel(p, panel);
    }
}

EXPORT(void, multiply_blocks)(BlockProduct *product, Parallel parallel, unsigned threads) {
    if (parallel && threads > 1)
        parallel(multiply_panels, product, threads, 0);
    else
        multiply_panels(product);
}

/* Whether x is to be bfloat16. */
EXPORT(int, multiplies_pairs)(void) {
    return HAS_PAIRS;
}
