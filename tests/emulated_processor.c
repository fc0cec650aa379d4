/* Calls functions of a library for a process of another architecture: calls come in by the standard input, what they left
 * in memory goes out by the standard output (emulated_processor.py). All numbers are 64 bits wide. */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NUMBER, FRACTION, ADDRESS, PARALLEL }; /* kinds of arguments */
enum { NAME = 64, ARGUMENTS = 12, BUFFERS = 1024 };

/* AAPCS64 passes whole numbers and fractions in registers of their own, so that one type calls every kernel. */
typedef int64_t Function(int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t,
                         int64_t, float);

static void receive(void *to, int64_t size) {
    if (fread(to, 1, (size_t)size, stdin) != (size_t)size) exit(0); /* the other process has ended */
}

static int64_t number(void) {
    int64_t value;
    receive(&value, sizeof value);
    return value;
}

int main(int count, char **arguments) {
    static char *buffers[BUFFERS];
    static int64_t sizes[BUFFERS];
    dlopen("libgomp.so.1", RTLD_NOW | RTLD_GLOBAL); /* threads, where there are any */
    void *library = count > 1 ? dlopen(arguments[1], RTLD_NOW) : NULL;
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    for (;;) {
        char name[NAME];
        int64_t whole[ARGUMENTS] = {0}, used = 0;
        float fraction = 0;
        receive(name, sizeof name);
        const int64_t buffer_count = number();
        if (buffer_count > BUFFERS) return 2;
        for (int64_t i = 0; i < buffer_count; i++) {
            sizes[i] = number();
            buffers[i] = aligned_alloc(64, (size_t)(sizes[i] + 127) / 64 * 64);
            receive(buffers[i], sizes[i]);
        }
        for (int64_t links = number(); links > 0; links--) { /* words that point into another buffer */
            const int64_t buffer = number(), at = number(), target = number(), offset = number();
            const char *address = buffers[target] + offset;
            memcpy(buffers[buffer] + at, &address, sizeof address);
        }
        for (int64_t left = number(); left > 0; left--)
            switch (number()) {
            case NUMBER: whole[used++] = number(); break;
            case FRACTION: receive(&fraction, sizeof fraction); break;
            case PARALLEL: whole[used++] = (int64_t)dlsym(RTLD_DEFAULT, "GOMP_parallel"); break;
            default: {
                const int64_t target = number(), offset = number();
                whole[used++] = (int64_t)(buffers[target] + offset);
            }
            }
        Function *function = (Function *)dlsym(library, name);
        if (!function) return 3;
        const int64_t *w = whole;
        const int64_t result =
            function(w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8], w[9], w[10], w[11], fraction);
        fwrite(&result, sizeof result, 1, stdout);
        for (int64_t i = 0; i < buffer_count; i++) {
            fwrite(buffers[i], 1, (size_t)sizes[i], stdout);
            free(buffers[i]);
        }
        fflush(stdout);
    }
}
