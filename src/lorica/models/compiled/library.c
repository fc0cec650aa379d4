/* What the library is made of, and whether this processor runs it. */
#include "common.h"

__attribute__((visibility("default"))) const char *lorica_digest(void) {
    return LORICA_DIGEST;
}

__attribute__((visibility("default"))) int lorica_runs_here(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bf16");
}
