/* Rows in ggml's blocks, restored a few at a time: 32 or 256 weights as codes of few bits with float16 scales. The values are
 * those of ggml's reference: each product is exact, so that a sum rounds once however it is computed. */
#include "common.h"
#include <string.h>

enum { Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q4_K = 12, Q5_K = 13, Q6_K = 14 }; /* as a file numbers them */

INLINE float half_float(const uint8_t *from) {
    uint16_t bits;
    memcpy(&bits, from, 2);
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)));
}

/* to[at .. at + count] = (codes - zero) * scale + least; count: a multiple of 16. */
INLINE void put(void *to, int64_t at, const uint8_t *codes, int64_t count, int32_t zero, float scale, float least,
                const int type) {
    for (int64_t i = 0; i < count; i += LANES)
        store(to, at + i, LANES, fma_of(to_floats(load_u8(codes + i) - zero), set(scale), set(least)), type);
}

/* The lower halves of 16 bytes, then the upper ones, each with a fifth bit from `bits`. */
INLINE void nibbles(const uint8_t *packed, uint32_t bits, uint8_t codes[32]) {
    for (int i = 0; i < 16; i++) {
        codes[i] = (uint8_t)((packed[i] & 15) | (bits >> i & 1) << 4);
        codes[i + 16] = (uint8_t)(packed[i] >> 4 | (bits >> (i + 16) & 1) << 4);
    }
}

INLINE void small_block(const uint8_t *block, void *to, int64_t at, const int block_type, const int type) {
    const float scale = half_float(block);
    uint8_t codes[32];
    uint32_t bits = 0;
    if (block_type == Q8_0) {
        for (int64_t i = 0; i < 32; i += LANES)
            store(to, at + i, LANES, to_floats(load_i8((const int8_t *)block + 2 + i, LANES)) * set(scale), type);
        return;
    }
    const int has_least = block_type == Q4_1 || block_type == Q5_1, has_fifth = block_type == Q5_0 || block_type == Q5_1;
    if (has_fifth) memcpy(&bits, block + (has_least ? 4 : 2), 4);
    nibbles(block + (has_least ? 4 : 2) + (has_fifth ? 4 : 0), bits, codes);
    put(to, at, codes, 32, has_least ? 0 : has_fifth ? 16 : 8, scale, has_least ? half_float(block + 2) : 0.0f, type);
}

/* Eight sub-blocks with a scale and a minimum of 6 bits each, packed into 12 bytes. */
INLINE void k_block(const uint8_t *block, void *to, int64_t at, const int block_type, const int type) {
    const float scale = half_float(block), least = half_float(block + 2);
    const uint8_t *packed = block + 4, *fifth = block + 16, *halves = block + (block_type == Q5_K ? 48 : 16);
    uint8_t codes[32];
    for (int j = 0; j < 8; j++) {
        const int steps = j < 4 ? packed[j] & 63 : (packed[j + 4] & 15) | packed[j - 4] >> 6 << 4;
        const int offset = j < 4 ? packed[j + 4] & 63 : packed[j + 4] >> 4 | packed[j] >> 6 << 4;
        for (int i = 0; i < 32; i++) {
            codes[i] = j % 2 ? halves[j / 2 * 32 + i] >> 4 : halves[j / 2 * 32 + i] & 15;
            if (block_type == Q5_K) codes[i] |= (uint8_t)((fifth[i] >> j & 1) << 4);
        }
        put(to, at + 32 * j, codes, 32, 0, scale * (float)steps, -(least * (float)offset), type);
    }
}

/* Twice 128 weights: 64 bytes with the lower four bits, 32 with the upper two; a scale for each 16 weights. */
INLINE void q6_block(const uint8_t *block, void *to, int64_t at, const int type) {
    const float scale = half_float(block + 208);
    const int8_t *scales = (const int8_t *)block + 192;
    uint8_t codes[32];
    for (int j = 0; j < 8; j++) {
        const uint8_t *low = block + j / 4 * 64 + j % 2 * 32, *high = block + 128 + j / 4 * 32;
        for (int i = 0; i < 32; i++)
            codes[i] = (uint8_t)((j % 4 < 2 ? low[i] & 15 : low[i] >> 4) | (high[i] >> (j % 4 * 2) & 3) << 4);
        for (int i = 0; i < 2; i++)
            put(to, at + 32 * j + 16 * i, codes + 16 * i, 16, 32, scale * (float)scales[2 * j + i], 0.0f, type);
    }
}

INLINE void restore_blocks(const uint8_t *blocks, void *to, int64_t count, int block_type, const int type) {
#define EACH(number, bytes, weights, call)                                                                            \
    case number:                                                                                                      \
        for (int64_t i = 0; i < count; i++) {                                                                         \
            const uint8_t *block = blocks + i * (bytes);                                                              \
            const int64_t at = i * (weights);                                                                         \
            call;                                                                                                     \
        }                                                                                                             \
        return;
    switch (block_type) {
        EACH(Q4_0, 18, 32, small_block(block, to, at, Q4_0, type))
        EACH(Q4_1, 20, 32, small_block(block, to, at, Q4_1, type))
        EACH(Q5_0, 22, 32, small_block(block, to, at, Q5_0, type))
        EACH(Q5_1, 24, 32, small_block(block, to, at, Q5_1, type))
        EACH(Q8_0, 34, 32, small_block(block, to, at, Q8_0, type))
        EACH(Q4_K, 144, 256, k_block(block, to, at, Q4_K, type))
        EACH(Q5_K, 176, 256, k_block(block, to, at, Q5_K, type))
        EACH(Q6_K, 210, 256, q6_block(block, to, at, type))
    }
#undef EACH
}

/* to = the weights of `count` blocks, one behind the other. */
EXPORT(void, restore_blocks)(const uint8_t *blocks, void *to, int64_t count, int block_type, int type) {
#define CALL(type) restore_blocks(blocks, to, count, block_type, type)
    FOR_TYPE(type, CALL)
#undef CALL
}
