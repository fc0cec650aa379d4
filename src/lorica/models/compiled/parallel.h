/* Work on rows, shared among the threads of torch. */
#ifndef LORICA_PARALLEL_H
#define LORICA_PARALLEL_H

#include <stdint.h>

/* torch's OpenMP, where it has one: its threads are warm, and a second pool would fight with them for the cores. */
extern void GOMP_parallel(void (*)(void *), void *, unsigned, unsigned) __attribute__((weak));
extern int omp_get_thread_num(void) __attribute__((weak));
extern int omp_get_num_threads(void) __attribute__((weak));

/* Computes rows first..last (exclusive). */
typedef void Work(const void *job, int64_t first, int64_t last);

typedef struct {
    Work *work;
    const void *job;
    int64_t rows;
} Shared;

static void take_share(void *data) {
    const Shared *shared = data;
    const int64_t threads = omp_get_num_threads(), thread = omp_get_thread_num();
    shared->work(shared->job, shared->rows * thread / threads, shared->rows * (thread + 1) / threads);
}

static void run(Work *work, const void *job, int64_t rows, int64_t threads) {
    Shared shared = {work, job, rows};
    if (threads > 1 && GOMP_parallel && omp_get_thread_num && omp_get_num_threads)
        GOMP_parallel(take_share, &shared, (unsigned)threads, 0);
    else
        work(job, 0, rows);
}

#endif
