/* Weights in few bits, restored a few rows at a time: these stay in the processor's own cache until they are multiplied,
 * so that only the few bits are read from memory. Scales are of the type to which weights are restored. */
#include "common.h"

enum { HALF = 16, PAIR = 2 * HALF }; /* 4 bits: 16 bytes hold 32 weights, the first 16 in their lower halves */

INLINE float number(const void *from, int64_t at, const int type) {
    float first[LANES];
    store_f32(first, LANES, load(from, at, 1, type));
    return first[0];
}

INLINE void restore_int8(const int8_t *codes, const void *scales, void *to, int64_t rows, int64_t width,
                         const int type) {
    for (int64_t row = 0; row < rows; row++) {
        const Floats scale = set(number(scales, row, type));
        for (int64_t d = 0; d < width; d += LANES) {
            const int64_t at = row * width + d;
            store(to, at, width - d, to_floats(load_i8(codes + at, width - d)) * scale, type);
        }
    }
}

/* to [rows, width] = codes [rows, width] * scales [rows]. */
EXPORT(void, restore_int8)(const int8_t *codes, const void *scales, void *to, int64_t rows, int64_t width, int type) {
#define CALL(type) restore_int8(codes, scales, to, rows, width, type)
    FOR_TYPE(type, CALL)
#undef CALL
}

INLINE void restore_int4(const uint8_t *codes, const void *scales, void *to, int64_t rows, int64_t width,
                         int64_t group, const int type) {
    const int64_t groups = width / group;
    for (int64_t part = 0; part < rows * groups; part++) {
        const Floats scale = set(number(scales, 2 * part, type)), least = set(number(scales, 2 * part + 1, type));
        for (int64_t d = part * group; d < (part + 1) * group; d += PAIR)
            for (int64_t i = 0; i < HALF; i += LANES) {
                const Ints nibbles = load_u8(codes + d / 2 + i);
                store(to, d + i, LANES, fma_of(to_floats(nibbles & 15), scale, least), type);
                store(to, d + HALF + i, LANES, fma_of(to_floats(nibbles >> 4), scale, least), type);
            }
    }
}

/* to [rows, width] = codes * scale + least, both [rows, width / group] in scales, side by side. group: a multiple of 32,
 * which divides width. */
EXPORT(void, restore_int4)(const uint8_t *codes, const void *scales, void *to, int64_t rows, int64_t width,
                           int64_t group, int type) {
#define CALL(type) restore_int4(codes, scales, to, rows, width, group, type)
    FOR_TYPE(type, CALL)
#undef CALL
}
