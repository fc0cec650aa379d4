/* Tiles of a product y = x W^T: a few rows of x times a panel, COLUMNS outputs of W side by side, summed in registers. */
#ifndef LORICA_TILES_H
#define LORICA_TILES_H

#include "common.h"

enum { COLUMNS = 2 * LANES };

/* Calls `call` with the number of rows of a tile, a constant: each has two accumulators in registers. */
#if REGISTERS == 32
enum { TILE = 12 };
#define FOR_SIX_AND_MORE(call)                                                                                        \
    case 6: call(6); break;                                                                                           \
    case 7: call(7); break;                                                                                           \
    case 8: call(8); break;                                                                                           \
    case 9: call(9); break;                                                                                           \
    case 10: call(10); break;                                                                                         \
    case 11: call(11); break;                                                                                         \
    default: call(12)
#else
enum { TILE = 6 };
#define FOR_SIX_AND_MORE(call) default: call(6)
#endif
#define FOR_ROWS(rows, call)                                                                                          \
    switch (rows) {                                                                                                   \
    case 1: call(1); break;                                                                                           \
    case 2: call(2); break;                                                                                           \
    case 3: call(3); break;                                                                                           \
    case 4: call(4); break;                                                                                           \
    case 5: call(5); break;                                                                                           \
        FOR_SIX_AND_MORE(call);                                                                                       \
    }

/* GOMP_parallel of the OpenMP that the process has loaded already, so that its threads are used, not more. */
typedef void (*Parallel)(void (*)(void *), void *, unsigned, unsigned);

/* y [rows, y_stride] += x [rows, x_stride] times w [depth, COLUMNS], of which the first `columns` are wanted. Elements
 * of x and w are float32 numbers, or, `pairs`, two of bfloat16 each. */
INLINE void multiply_floats(const float *x, int64_t x_stride, const float *w, int64_t depth, float *y, int64_t y_stride,
                            int64_t columns, const int rows, const int pairs) {
    Floats sums[TILE][2];
    for (int r = 0; r < rows; r++) sums[r][0] = sums[r][1] = set(0);
    for (int64_t k = 0; k < depth; k++) {
        const Floats first = load_f32(w + k * COLUMNS, LANES), second = load_f32(w + k * COLUMNS + LANES, LANES);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            const Floats value = set(x[r * x_stride + k]);
            sums[r][0] = dot(sums[r][0], value, first, pairs);
            sums[r][1] = dot(sums[r][1], value, second, pairs);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
        float *to = y + r * y_stride;
        store_f32(to, columns, load_f32(to, columns) + sums[r][0]);
        if (columns > LANES)
            store_f32(to + LANES, columns - LANES, load_f32(to + LANES, columns - LANES) + sums[r][1]);
    }
}

#endif
