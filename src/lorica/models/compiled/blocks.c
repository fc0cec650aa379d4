/* Rows in ggml's blocks, restored a few at a time: 32 or 256 weights as codes of few bits with float16 scales. The values are
 * those of ggml's reference: each product is exact, so that a sum rounds once however it is computed. */
#include "common.h"
#include <string.h>

enum { PLAIN_F32 = 0, PLAIN_F16 = 1, PLAIN_BF16 = 30 }; /* as a file numbers them: numbers as they are, */
enum { Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q4_K = 12, Q5_K = 13, Q6_K = 14 }; /* and blocks */

INLINE float half_float(const uint8_t *from) {
#ifdef __aarch64__
    __fp16 half;
    memcpy(&half, from, 2);
    return half;
#else
    uint16_t bits;
    memcpy(&bits, from, 2);
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)));
#endif
}

/* to[at .. at + count] = (codes - zero) * scale + least; count: a multiple of 16. */
INLINE void put(void *to, int64_t at, const uint8_t *codes, int64_t count, int32_t zero, float scale, float least,
                const int type) {
    for (int64_t i = 0; i < count; i += LANES)
        store(to, at + i, LANES, fma_of(to_floats(load_u8(codes + i) - zero), set(scale), set(least)), type);
}

typedef uint8_t Bytes16 __attribute__((vector_size(16)));
typedef uint8_t Bytes32 __attribute__((vector_size(32)));

/* 16 where a bit of two bytes is set, for each of the 16. */
INLINE Bytes16 fifth_bits(uint8_t first, uint8_t second) {
    const Bytes16 each = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const Bytes16 both = {first,  first,  first,  first,  first,  first,  first,  first,
                          second, second, second, second, second, second, second, second};
    return (Bytes16)((both & each) == each) & 16;
}

/* The lower halves of 16 bytes, then the upper ones, each with a fifth bit from `bits` (unless NULL). */
INLINE void nibbles(const uint8_t *packed, const uint8_t *bits, uint8_t codes[32]) {
    Bytes16 bytes;
    memcpy(&bytes, packed, sizeof bytes);
    Bytes16 low = bytes & 15, high = bytes >> 4;
    if (bits) low |= fifth_bits(bits[0], bits[1]), high |= fifth_bits(bits[2], bits[3]);
    memcpy(codes, &low, sizeof low);
    memcpy(codes + 16, &high, sizeof high);
}

INLINE void small_block(const uint8_t *block, void *to, int64_t at, const int block_type, const int type) {
    const float scale = half_float(block);
    uint8_t codes[32];
    if (block_type == Q8_0) {
        for (int64_t i = 0; i < 32; i += LANES)
            store(to, at + i, LANES, to_floats(load_i8((const int8_t *)block + 2 + i, LANES)) * set(scale), type);
        return;
    }
    const int has_least = block_type == Q4_1 || block_type == Q5_1, has_fifth = block_type == Q5_0 || block_type == Q5_1;
    const uint8_t *rest = block + (has_least ? 4 : 2);
    nibbles(rest + (has_fifth ? 4 : 0), has_fifth ? rest : NULL, codes);
    put(to, at, codes, 32, has_least ? 0 : has_fifth ? 16 : 8, scale, has_least ? half_float(block + 2) : 0.0f, type);
}

/* Eight sub-blocks with a scale and a minimum of 6 bits each, packed into 12 bytes. */
INLINE void k_block(const uint8_t *block, void *to, int64_t at, const int block_type, const int type) {
    const float scale = half_float(block), least = half_float(block + 2);
    const uint8_t *packed = block + 4, *fifth = block + 16, *halves = block + (block_type == Q5_K ? 48 : 16);
    Bytes32 bits, bytes;
    if (block_type == Q5_K) memcpy(&bits, fifth, sizeof bits);
    for (int j = 0; j < 8; j++) {
        const int steps = j < 4 ? packed[j] & 63 : (packed[j + 4] & 15) | packed[j - 4] >> 6 << 4;
        const int offset = j < 4 ? packed[j + 4] & 63 : packed[j + 4] >> 4 | packed[j] >> 6 << 4;
        memcpy(&bytes, halves + j / 2 * 32, sizeof bytes);
        bytes = j % 2 ? bytes >> 4 : bytes & 15;
        if (block_type == Q5_K) bytes |= (bits >> j & 1) << 4;
        put(to, at + 32 * j, (const uint8_t *)&bytes, 32, 0, scale * (float)steps, -(least * (float)offset), type);
    }
}

/* Twice 128 weights: 64 bytes with the lower four bits, 32 with the upper two; a scale for each 16 weights. */
INLINE void q6_block(const uint8_t *block, void *to, int64_t at, const int type) {
    const float scale = half_float(block + 208);
    const int8_t *scales = (const int8_t *)block + 192;
    Bytes32 low, high;
    for (int j = 0; j < 8; j++) {
        memcpy(&low, block + j / 4 * 64 + j % 2 * 32, sizeof low);
        memcpy(&high, block + 128 + j / 4 * 32, sizeof high);
        const Bytes32 codes = (j % 4 < 2 ? low & 15 : low >> 4) | (high >> (j % 4 * 2) & 3) << 4;
        for (int i = 0; i < 2; i++)
            put(to, at + 32 * j + 16 * i, (const uint8_t *)&codes + 16 * i, 16, 32, scale * (float)scales[2 * j + i], 0.0f, type);
    }
}

INLINE void copy_plain(const void *from, void *to, int64_t count, const int from_type, const int type) {
    for (int64_t i = 0; i < count; i += LANES) store(to, i, count - i, load(from, i, count - i, from_type), type);
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
    case PLAIN_F32: copy_plain(blocks, to, count, F32, type); return;
    case PLAIN_F16: copy_plain(blocks, to, count, F16, type); return;
    case PLAIN_BF16: copy_plain(blocks, to, count, BF16, type); return;
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

/* to = the weights of `count` blocks, or so many numbers, one behind the other. */
EXPORT(void, restore_blocks)(const uint8_t *blocks, void *to, int64_t count, int block_type, int type) {
#define CALL(type) restore_blocks(blocks, to, count, block_type, type)
    FOR_TYPE(type, CALL)
#undef CALL
}
