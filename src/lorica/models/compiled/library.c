/* What the library is made of, and which instructions this processor has. Compiled once, for every processor. */
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))

EXPORT const char *lorica_digest(void) {
    return LORICA_DIGEST;
}

/* The names of the targets that were compiled, separated by commas. */
EXPORT const char *lorica_targets(void) {
    return LORICA_TARGETS;
}

#ifdef __x86_64__
#include <cpuid.h>

enum { VECTORS_256 = 0x6, VECTORS_512 = 0xE6 }; /* registers that the operating system saves */

static int has(uint32_t word, uint32_t bits) {
    return (word & bits) == bits;
}

#define BIT(n) (1u << (n))

/* Bit sets of Intel's manual (volume 2, CPUID): bit 0: AVX2, FMA and F16C; 1: AVX-VNNI; 2: AVX-512 F, BW, VL and DQ; 3:
 * AVX-512 VNNI and BF16; 4: NEON. */
EXPORT int lorica_features(void) {
    uint32_t eax, ebx, ecx, edx, low, high;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !has(ecx, BIT(27) | BIT(28) | BIT(12) | BIT(29))) return 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if (!has(low, VECTORS_256) || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return 0;
    if (!has(ebx, BIT(5))) return 0;
    int features = 1;
    const int avx512 = has(ebx, BIT(16) | BIT(17) | BIT(30) | BIT(31)) && has(low, VECTORS_512), vnni = has(ecx, BIT(11));
    features |= avx512 << 2;
    if (eax >= 1 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx))
        features |= has(eax, BIT(4)) << 1 | (avx512 && vnni && has(eax, BIT(5))) << 3;
    return features;
}
#else
EXPORT int lorica_features(void) {
    return 1 << 4; /* every AArch64 processor has it */
}
#endif
