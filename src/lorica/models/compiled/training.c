/* What training computes between the products, forward and backward, each in one pass over memory: dropout, gates,
 * residual sums with their norms, and rotations. Arithmetic is in float32; a result depends on its own row alone. */
#include "common.h"
#include "parallel.h"

/* --- Dropout: 16 random bits for each element, a function of a seed and the element's number. --- */

typedef uint32_t Words __attribute__((vector_size(sizeof(Floats))));
enum { BLOCK = 32, WORDS = BLOCK / 2 }; /* elements whose bits are drawn together, on every target */

typedef struct {
    const void *from;
    void *to;
    int64_t count;
    uint64_t seed;
    uint32_t threshold; /* of 2^16: an element whose bits are below is dropped */
    int type, add;
} Dropout;

/* Random bits for the numbers first..: two rounds of multiplication and shifts mix a counter and the seed
 * (https://github.com/skeeto/hash-prospector, lowbias32). */
INLINE Words random_words(uint32_t first, uint64_t seed) {
    Words x;
    for (int lane = 0; lane < LANES; lane++) x[lane] = first + (uint32_t)lane;
    x += (uint32_t)seed;
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x ^= (uint32_t)(seed >> 32);
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

INLINE void drop_elements(const Dropout *job, int64_t at, Words bits, const int type, const int add) {
    const int64_t left = job->count - at;
    if (left <= 0) return;
    const Ints keep = (Ints)(bits >= job->threshold);
    Floats x = (Floats)(keep & (Ints)load(job->from, at, left, type));
    if (add) x += load(job->to, at, left, type);
    store(job->to, at, left, x, type);
}

INLINE void drop_blocks(const Dropout *job, int64_t first, int64_t last, const int type, const int add) {
    for (int64_t block = first; block < last; block++)
        for (int64_t half = 0; half < WORDS; half += LANES) {
            const Words words = random_words((uint32_t)(block * WORDS + half), job->seed);
            drop_elements(job, block * BLOCK + half, words & 0xFFFF, type, add);
            drop_elements(job, block * BLOCK + WORDS + half, words >> 16, type, add);
        }
}

static void drop_share(const void *data, int64_t first, int64_t last) {
    const Dropout *job = data;
#define CALL(type) job->add ? drop_blocks(job, first, last, type, 1) : drop_blocks(job, first, last, type, 0)
    FOR_TYPE(job->type, CALL)
#undef CALL
}

/* to [count] = from where an element is kept, 0 elsewhere; with `add`, to += that. */
EXPORT(void, drop)(const void *from, void *to, int64_t count, uint64_t seed, int64_t threshold, int type, int add,
                   int64_t threads) {
    const Dropout job = {from, to, count, seed, (uint32_t)threshold, type, add};
    run(drop_share, &job, (count + BLOCK - 1) / BLOCK, threads);
}

/* --- Gate: silu(gate) * up, [rows, width]; gate and up lie in wider rows. --- */

typedef struct {
    const void *gradient, *gate, *up; /* gradient: NULL forward */
    void *output, *gate_gradient, *up_gradient;
    int64_t width, stride;
    int type;
} Gate;

INLINE void gate_rows(const Gate *job, int64_t first, int64_t last, const int type) {
    for (int64_t row = first; row < last; row++)
        for (int64_t d = 0; d < job->width; d += LANES) {
            const int64_t left = job->width - d, at = row * job->stride + d, own = row * job->width + d;
            const Floats gate = load(job->gate, at, left, type), up = load(job->up, at, left, type);
            const Floats sigmoid = set(1.0f) / (set(1.0f) + exp2_of(gate * set(-LOG2_E), 0));
            if (!job->gradient) {
                store(job->output, own, left, gate * sigmoid * up, type);
                continue;
            }
            const Floats gradient = load(job->gradient, own, left, type) * sigmoid;
            const Floats slope = fma_of(gate, set(1.0f) - sigmoid, set(1.0f));
            store(job->gate_gradient, at, left, gradient * up * slope, type);
            store(job->up_gradient, at, left, gradient * gate, type);
        }
}

static void gate_share(const void *data, int64_t first, int64_t last) {
    const Gate *job = data;
#define CALL(type) gate_rows(job, first, last, type)
    FOR_TYPE(job->type, CALL)
#undef CALL
}

EXPORT(void, train_gate)(const void *gate, const void *up, void *output, int64_t rows, int64_t width, int64_t stride,
                         int type, int64_t threads) {
    const Gate job = {NULL, gate, up, output, NULL, NULL, width, stride, type};
    run(gate_share, &job, rows, threads);
}

EXPORT(void, train_gate_backward)(const void *gradient, const void *gate, const void *up, void *gate_gradient,
                                  void *up_gradient, int64_t rows, int64_t width, int64_t stride, int type,
                                  int64_t threads) {
    const Gate job = {gradient, gate, up, NULL, gate_gradient, up_gradient, width, stride, type};
    run(gate_share, &job, rows, threads);
}

/* --- Residual sum and its root-mean-square norm, [rows, width]; states and weight are float32. --- */

typedef struct {
    const float *x;
    const void *added; /* or NULL */
    const float *weight;
    float *sum; /* where there is something to add */
    void *normed;
    const float *sum_gradient; /* or NULL; of the states behind */
    const void *normed_gradient;
    float *x_gradient;
    void *added_gradient; /* the same in `type`, or NULL */
    int64_t width;
    float eps;
    int type; /* of added and normed */
} Norm;

INLINE void norm_rows(const Norm *job, int64_t first, int64_t last, const int type) {
    for (int64_t row = first; row < last; row++) {
        const int64_t at = row * job->width;
        const float *x = job->x + at;
        if (job->added) {
            for (int64_t d = 0; d < job->width; d += LANES) {
                const int64_t left = job->width - d;
                store_f32(job->sum + at + d, left, load_f32(x + d, left) + load(job->added, at + d, left, type));
            }
            x = job->sum + at;
        }
        const Floats factor = inverse_length(x, 0, job->width, job->eps, F32);
        for (int64_t d = 0; d < job->width; d += LANES) {
            const int64_t left = job->width - d;
            store(job->normed, at + d, left, load_f32(x + d, left) * factor * load_f32(job->weight + d, left), type);
        }
    }
}

/* dx = ds + f * (w * dn) - x * f^3 / width * sum(w * dn * x), f: 1 / the root of the mean square. */
INLINE void norm_rows_backward(const Norm *job, int64_t first, int64_t last, const int type) {
    for (int64_t row = first; row < last; row++) {
        const int64_t at = row * job->width;
        const float *x = job->x + at;
        const Floats factor = inverse_length(x, 0, job->width, job->eps, F32);
        Floats products = set(0);
        for (int64_t d = 0; d < job->width; d += LANES) {
            const int64_t left = job->width - d;
            const Floats gradient = load(job->normed_gradient, at + d, left, type) * load_f32(job->weight + d, left);
            products = fma_of(gradient, load_f32(x + d, left), products);
        }
        const Floats shrink = set(sum_of(products) / (float)job->width) * factor * factor * factor;
        for (int64_t d = 0; d < job->width; d += LANES) {
            const int64_t left = job->width - d;
            const Floats gradient = load(job->normed_gradient, at + d, left, type) * load_f32(job->weight + d, left);
            Floats total = gradient * factor - load_f32(x + d, left) * shrink;
            if (job->sum_gradient) total += load_f32(job->sum_gradient + at + d, left);
            store_f32(job->x_gradient + at + d, left, total);
            if (job->added_gradient) store(job->added_gradient, at + d, left, total, type);
        }
    }
}

static void norm_share(const void *data, int64_t first, int64_t last) {
    const Norm *job = data;
#define CALL(type) job->normed_gradient ? norm_rows_backward(job, first, last, type) : norm_rows(job, first, last, type)
    FOR_TYPE(job->type, CALL)
#undef CALL
}

EXPORT(void, train_norm)(const float *x, const void *added, const float *weight, float *sum, void *normed, int64_t rows,
                         int64_t width, float eps, int type, int64_t threads) {
    const Norm job = {x, added, weight, sum, normed, NULL, NULL, NULL, NULL, width, eps, type};
    run(norm_share, &job, rows, threads);
}

EXPORT(void, train_norm_backward)(const float *x, const float *weight, const float *sum_gradient,
                                  const void *normed_gradient, float *x_gradient, void *added_gradient, int64_t rows,
                                  int64_t width, float eps, int type, int64_t threads) {
    const Norm job = {x,    NULL,           weight, NULL, NULL, sum_gradient, normed_gradient, x_gradient, added_gradient,
                      width, eps, type};
    run(norm_share, &job, rows, threads);
}

/* --- Heads: each, [width], normed (where there is a weight) and turned by its token's position. --- */

typedef struct {
    const void *from;       /* rows of `stride` numbers; what was turned, also backward */
    const void *gradient;   /* [rows, heads, width], or NULL forward */
    void *to;               /* forward [rows, heads, width]; backward in rows of `to_stride` */
    const float *cosine, *sine; /* [rows, width]; of each row the first half is read */
    const float *weight;    /* [width], or NULL */
    int64_t heads, width, stride, to_stride;
    float eps;
    int from_type, to_type; /* backward: the gradient is of `to_type`, its result of `from_type` */
} Heads;

INLINE void turn_head(const Heads *job, int64_t from, int64_t to, int64_t row, const int in, const int out) {
    const int64_t half = job->width / 2;
    const float *cosine = job->cosine + row * job->width, *sine = job->sine + row * job->width;
    const Floats factor = job->weight ? inverse_length(job->from, from, job->width, job->eps, in) : set(1.0f);
    for (int64_t d = 0; d < half; d += LANES) {
        const int64_t left = half - d;
        Floats low = load(job->from, from + d, left, in), high = load(job->from, from + half + d, left, in);
        if (job->weight) {
            low = low * factor * load_f32(job->weight + d, left);
            high = high * factor * load_f32(job->weight + half + d, left);
        }
        const Floats c = load_f32(cosine + d, left), s = load_f32(sine + d, left);
        store(job->to, to + d, left, low * c - high * s, out);
        store(job->to, to + half + d, left, high * c + low * s, out);
    }
}

/* The gradient of a turned head, turned back, times the weight. */
INLINE void turn_back(const Heads *job, int64_t at, int64_t row, int64_t d, Floats *low, Floats *high, const int out) {
    const int64_t half = job->width / 2, left = half - d;
    const Floats c = load_f32(job->cosine + row * job->width + d, left);
    const Floats s = load_f32(job->sine + row * job->width + d, left);
    const Floats a = load(job->gradient, at + d, left, out), b = load(job->gradient, at + half + d, left, out);
    *low = a * c + b * s, *high = b * c - a * s;
    if (!job->weight) return;
    *low *= load_f32(job->weight + d, left), *high *= load_f32(job->weight + half + d, left);
}

INLINE void turn_head_backward(const Heads *job, int64_t from, int64_t at, int64_t to, int64_t row, const int in,
                               const int out) {
    const int64_t half = job->width / 2;
    Floats low, high, factor = set(1.0f), products = set(0), shrink = set(0);
    if (job->weight) {
        factor = inverse_length(job->from, from, job->width, job->eps, in);
        for (int64_t d = 0; d < half; d += LANES) {
            turn_back(job, at, row, d, &low, &high, out);
            products = fma_of(low, load(job->from, from + d, half - d, in), products);
            products = fma_of(high, load(job->from, from + half + d, half - d, in), products);
        }
        shrink = set(sum_of(products) / (float)job->width) * factor * factor * factor;
    }
    for (int64_t d = 0; d < half; d += LANES) {
        const int64_t left = half - d;
        turn_back(job, at, row, d, &low, &high, out);
        if (job->weight) {
            low = low * factor - load(job->from, from + d, left, in) * shrink;
            high = high * factor - load(job->from, from + half + d, left, in) * shrink;
        }
        store(job->to, to + d, left, low, in);
        store(job->to, to + half + d, left, high, in);
    }
}

INLINE void turn_rows(const Heads *job, int64_t first, int64_t last, const int in, const int out) {
    for (int64_t row = first; row < last; row++)
        for (int64_t head = 0; head < job->heads; head++) {
            const int64_t from = row * job->stride + head * job->width, own = (row * job->heads + head) * job->width;
            if (job->gradient)
                turn_head_backward(job, from, own, row * job->to_stride + head * job->width, row, in, out);
            else
                turn_head(job, from, own, row, in, out);
        }
}

static void turn_share(const void *data, int64_t first, int64_t last) {
    const Heads *job = data;
    if (job->from_type == F32)
        turn_rows(job, first, last, F32, F32);
    else if (job->to_type == F32)
        turn_rows(job, first, last, BF16, F32);
    else
        turn_rows(job, first, last, BF16, BF16);
}

/* gradient: NULL forward. shape: heads, width, stride, to_stride. Types: both float32 or bfloat16, or from the latter to
 * the former. */
EXPORT(void, train_heads)(const void *from, const void *gradient, void *to, const float *cosine, const float *sine,
                          const float *weight, int64_t rows, const int64_t *shape, float eps, int from_type, int to_type,
                          int64_t threads) {
    const Heads job = {from,     gradient, to,       cosine,   sine, weight,
                       shape[0], shape[1], shape[2], shape[3], eps,  from_type, to_type};
    run(turn_share, &job, rows, threads);
}
