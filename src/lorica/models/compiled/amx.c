/* Products of linear layers in bfloat16 by AMX, the matrix tiles of Intel's processors since Sapphire Rapids: y = x W^T.
 *
 * oneDNN multiplies by the same tiles, but cuts the inputs into pieces by the number of rows, and rounds between them:
 * there a row's bits depend on the other rows of its batch. Here a row's sums are taken in the order of the inputs, 32
 * at a time, whatever the other rows and the threads. */
#include "tiles.h"

#include <string.h>

enum { BLOCK_INPUTS = 32, BLOCK_ROWS = 16, AMX_COLUMNS = 32, CACHED_BYTES = 1 << 20 };

typedef struct {
    const uint16_t *x;      /* [rows, in] bfloat16 */
    const uint16_t *weight; /* [panels, in / 2, AMX_COLUMNS, 2] bfloat16 */
    const float *bias;      /* [out] or NULL */
    uint16_t *y;            /* [rows, out] bfloat16 */
    int64_t rows, in, out;  /* in: a multiple of BLOCK_INPUTS */
    int64_t at_once;        /* panels that a thread takes: they stay in its second-level cache while all rows pass by */
    int64_t next;           /* the first panel that no thread has taken */
} TileProduct;

#if defined(__AVX512BF16__) && defined(__linux__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#include <cpuid.h>

#define WITH_TILES __attribute__((target("amx-tile,amx-bf16")))

/* Tiles 0..3: sums of two blocks of rows by two of columns; 4, 5: rows of x; 6, 7: columns of W. */
typedef struct {
    uint8_t palette, start, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} Configuration;

WITH_TILES static void configure(int first, int second) {
    Configuration configuration = {.palette = 1};
    const int rows[8] = {first, first, second, second, first, second, BLOCK_ROWS, BLOCK_ROWS};
    for (int tile = 0; tile < 8; tile++)
        if (rows[tile]) configuration.rows[tile] = (uint8_t)rows[tile], configuration.row_bytes[tile] = 64;
    _tile_loadconfig(&configuration);
}

static void finish(const TileProduct *p, int64_t panel, int64_t row, int64_t rows, const float *sums) {
    for (int half = 0; half < 2; half++) {
        const int64_t column = panel * AMX_COLUMNS + half * LANES, count = p->out - column;
        if (count <= 0) return;
        const Floats shift = p->bias ? load_f32(p->bias + column, count) : set(0);
        for (int64_t r = 0; r < rows; r++)
            store_bf16(p->y + (row + r) * p->out + column, count,
                       load_f32(sums + half * BLOCK_ROWS * LANES + r * LANES, LANES) + shift);
    }
}

/* Rows row.. of a panel: the first block, and, `two`, the one behind it. */
WITH_TILES static void multiply_tiles(const TileProduct *p, int64_t panel, int64_t row, int64_t rows, const int two) {
    _Alignas(64) float sums[4][BLOCK_ROWS * LANES];
    const uint16_t *w = p->weight + panel * p->in * AMX_COLUMNS, *x = p->x + row * p->in;
    const int64_t stride = p->in * 2, step = BLOCK_INPUTS * AMX_COLUMNS;
    _tile_zero(0);
    _tile_zero(1);
    if (two) {
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t k = 0; k < p->in; k += BLOCK_INPUTS, w += step) {
        _tile_loadd(6, w, 4 * AMX_COLUMNS);
        _tile_loadd(4, x + k, stride);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, w + 2 * LANES, 4 * AMX_COLUMNS);
        _tile_dpbf16ps(1, 4, 7);
        if (two) {
            _tile_loadd(5, x + BLOCK_ROWS * p->in + k, stride);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, sums[0], 4 * LANES);
    _tile_stored(1, sums[1], 4 * LANES);
    if (two) {
        _tile_stored(2, sums[2], 4 * LANES);
        _tile_stored(3, sums[3], 4 * LANES);
        finish(p, panel, row + BLOCK_ROWS, rows - BLOCK_ROWS, sums[2]);
    }
    finish(p, panel, row, two ? BLOCK_ROWS : rows, sums[0]);
}

WITH_TILES static void multiply_panels(void *argument) {
    TileProduct *p = argument;
    const int64_t panels = (p->out + AMX_COLUMNS - 1) / AMX_COLUMNS;
    const int64_t whole = p->rows / (2 * BLOCK_ROWS) * (2 * BLOCK_ROWS), rest = p->rows - whole;
    for (;;) {
        const int64_t first = __atomic_fetch_add(&p->next, p->at_once, __ATOMIC_RELAXED);
        if (first >= panels) break;
        const int64_t stop = first + p->at_once < panels ? first + p->at_once : panels;
        if (whole) {
            configure(BLOCK_ROWS, BLOCK_ROWS);
            for (int64_t row = 0; row < whole; row += 2 * BLOCK_ROWS)
                for (int64_t panel = first; panel < stop; panel++)
                    multiply_tiles(p, panel, row, 2 * BLOCK_ROWS, 1);
        }
        if (rest) {
            const int two = rest > BLOCK_ROWS;
            configure(two ? BLOCK_ROWS : (int)rest, two ? (int)rest - BLOCK_ROWS : 0);
            for (int64_t panel = first; panel < stop; panel++) multiply_tiles(p, panel, whole, rest, two);
        }
    }
    _tile_release();
}

/* The processor's bits (Intel's manual, CPUID leaf 7 and XCR0), and Linux's permission to use the tiles' registers. */
EXPORT(int, has_tiles)(void) {
    enum { TILE_STATE = 0x60000, TILE_BITS = 1 << 22 | 1 << 24, ARCH_PRCTL = 158, REQUEST = 0x1023, TILE_DATA = 18 };
    uint32_t eax, ebx, ecx, edx, low, high;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || (edx & TILE_BITS) != TILE_BITS) return 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & TILE_STATE) != TILE_STATE) return 0;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "0"((long)ARCH_PRCTL), "D"((long)REQUEST), "S"((long)TILE_DATA)
                     : "rcx", "r11", "memory");
    return result == 0;
}
#else
static void multiply_panels(void *argument) {
    (void)argument;
}

EXPORT(int, has_tiles)(void) {
    return 0;
}
#endif

EXPORT(void, multiply_by_tiles)(TileProduct *product, Parallel parallel, unsigned threads) {
    const int64_t panels = (product->out + AMX_COLUMNS - 1) / AMX_COLUMNS;
    const int64_t cached = CACHED_BYTES / (2 * AMX_COLUMNS * product->in);
    const int64_t shared = panels / (4 * (threads ? threads : 1)); /* few, so that no thread waits long for another */
    product->at_once = cached < shared ? cached : shared;
    if (product->at_once < 1) product->at_once = 1;
    if (parallel && threads > 1)
        parallel(multiply_panels, product, threads, 0);
    else
        multiply_panels(product);
}
