/* Attention of training over a prefix tree of packed tokens (tree_attention.py), forward and backward, in float32.
 *
 * A unit of work is some queries of a span with the heads that share one key head. It gathers the keys and values of all
 * tokens that they continue, which are one row's beginning, and works in blocks of query rows: scores, shares and their
 * gradients lie in the second cache (FlashAttention, arXiv:2205.14135, without its blocks of keys: rows of training are
 * short). Backward, each unit leaves its part of the gradients of its keys and values in a place of its own, and those
 * are added up in the units' order: results depend on the tree alone, not on threads. */
#include "common.h"
#include "parallel.h"

#include <string.h>

enum {
    BLOCK_ROWS = 48,      /* query rows that are worked through together, or more: those of a token, at least */
    STRIP = 6,            /* rows whose sums fill the registers, beside WIDE vectors */
    WIDE = REGISTERS / 8,
};

/* Queries `first`..`stop` of the packed tokens. before: tokens that the first of them continues. segment, segments: where
 * the tokens from the row's beginning up to the last query lie, in the list of segments. partial: of its keys in the
 * gradients of keys and values by unit, counted in keys of one key head. */
typedef struct {
    int64_t first, stop, before, segment, segments, partial;
} Unit;

/* Packed tokens start..stop. */
typedef struct {
    int64_t start, stop;
} Segment;

typedef struct {
    const float *query, *key, *value; /* [tokens, heads, width], [tokens, kv_heads, width] twice */
    float *output, *log_sums;         /* [tokens, heads, width], [tokens, heads]: log2 of the sum of 2^score */
    const float *gradient;            /* of the output; NULL forward */
    float *query_gradient, *key_gradient, *value_gradient;
    float *partials; /* [2: keys, values][kv_heads][partial_keys, width] */
    float *scratch;  /* of every thread: scratch_size */
    const Unit *units;
    const Segment *segments;
    int64_t unit_count, tokens, heads, kv_heads, width, window, partial_keys, longest; /* longest: keys of a
                                                                                                * unit, whole vectors */
    float scale;
    int64_t *next; /* the first unit that no thread has taken */
} Attention;

/* c [high][wide vectors] = or += a [high][depth] times b [depth][wide vectors]; an element of a is at row * a_row + depth
 * * a_depth. */
INLINE void multiply_strip(const float *a, int64_t a_row, int64_t a_depth, const float *b, int64_t b_row, float *c,
                           int64_t c_row, int64_t depth, int add, const int high, const int wide) {
    Floats sums[STRIP][WIDE];
    for (int r = 0; r < high; r++)
        for (int v = 0; v < wide; v++) sums[r][v] = add ? load_f32(c + r * c_row + v * LANES, LANES) : set(0);
    for (int64_t d = 0; d < depth; d++) {
        Floats line[WIDE];
        for (int v = 0; v < wide; v++) line[v] = load_f32(b + d * b_row + v * LANES, LANES);
        for (int r = 0; r < high; r++) {
            const Floats factor = set(a[r * a_row + d * a_depth]);
            for (int v = 0; v < wide; v++) sums[r][v] = fma_of(line[v], factor, sums[r][v]);
        }
    }
    for (int r = 0; r < high; r++)
        for (int v = 0; v < wide; v++) store_f32(c + r * c_row + v * LANES, LANES, sums[r][v]);
}

INLINE void multiply_columns(const float *a, int64_t a_row, int64_t a_depth, const float *b, int64_t b_row, float *c,
                             int64_t c_row, int64_t rows, int64_t depth, int add, const int wide) {
    int64_t r = 0;
#define STRIPS(high)                                                                                                  \
    for (; r + (high) <= rows; r += (high))                                                                           \
    multiply_strip(a + r * a_row, a_row, a_depth, b, b_row, c + r * c_row, c_row, depth, add, high, wide)
    STRIPS(STRIP);
    STRIPS(3);
    STRIPS(1);
#undef STRIPS
}

/* c [rows][columns] = or += a [rows][depth] times b [depth][columns]; columns: a multiple of LANES. */
NO_INLINE void multiply(const float *a, int64_t a_row, int64_t a_depth, const float *b, int64_t b_row, float *c,
                        int64_t c_row, int64_t rows, int64_t columns, int64_t depth, int add) {
    int64_t j = 0;
    for (; j + WIDE * LANES <= columns; j += WIDE * LANES)
        multiply_columns(a, a_row, a_depth, b + j, b_row, c + j, c_row, rows, depth, add, WIDE);
    for (; j + 2 * LANES <= columns; j += 2 * LANES)
        multiply_columns(a, a_row, a_depth, b + j, b_row, c + j, c_row, rows, depth, add, 2);
    for (; j < columns; j += LANES)
        multiply_columns(a, a_row, a_depth, b + j, b_row, c + j, c_row, rows, depth, add, 1);
}

/* What a thread works with; keys are those of its unit, `line` a multiple of LANES not below their count. */
typedef struct {
    float *keys, *values;                 /* [keys][width] */
    float *turned_keys, *turned_values;   /* [width][line] */
    float *query, *output, *gradient;     /* [block_rows][width]: of a block's queries */
    float *shares, *share_gradients;      /* [block_rows][line] */
    int64_t line;
} Scratch;

/* Query rows of a block, at most. group: of a token, those that share a key head. */
static int64_t block_rows(int64_t group) {
    return group > BLOCK_ROWS ? group : BLOCK_ROWS;
}

/* Numbers of it. keys: of the longest unit, a multiple of LANES. */
static int64_t scratch_size(int64_t keys, int64_t width, int64_t group) {
    return 4 * keys * width + block_rows(group) * (3 * width + 2 * keys);
}

static int64_t whole_vectors(int64_t count) {
    return (count + LANES - 1) / LANES * LANES;
}

/* The scratch of a thread, in its part of the job's memory. */
static Scratch scratch_of(const Attention *job, int64_t thread) {
    const int64_t group = job->heads / job->kv_heads;
    const int64_t keys = job->longest * job->width, rows = block_rows(group) * job->width;
    const int64_t shares = block_rows(group) * job->longest;
    float *memory = job->scratch + thread * scratch_size(job->longest, job->width, group);
    Scratch scratch;
    float **const parts[] = {&scratch.keys,   &scratch.values,   &scratch.turned_keys, &scratch.turned_values, &scratch.query,
                             &scratch.output, &scratch.gradient, &scratch.shares,      &scratch.share_gradients};
    const int64_t sizes[] = {keys, keys, keys, keys, rows, rows, rows, shares, shares};
    for (int i = 0; i < 9; i++) {
        *parts[i] = memory;
        memory += sizes[i];
    }
    return scratch;
}

/* from [count][width] -> to [width][line], zeros behind the last of `line`. */
static void turn(const float *from, int64_t count, int64_t width, float *to, int64_t line) {
    for (int64_t k = 0; k < line; k += LANES)
        for (int64_t d = 0; d < width; d += LANES) {
            Floats rows[LANES];
            for (int64_t r = 0; r < LANES; r++) rows[r] = k + r < count ? load_f32(from + (k + r) * width + d, LANES) : set(0);
            transpose(rows);
            for (int64_t r = 0; r < LANES; r++) store_f32(to + (d + r) * line + k, LANES, rows[r]);
        }
}

/* The keys and values of a unit, in the order of its row; returns how many. */
static int64_t gather(const Attention *job, const Unit *unit, int64_t kv_head, Scratch *scratch) {
    const size_t bytes = (size_t)job->width * sizeof(float);
    int64_t count = 0;
    for (int64_t s = 0; s < unit->segments; s++) {
        const Segment segment = job->segments[unit->segment + s];
        for (int64_t token = segment.start; token < segment.stop; token++, count++) {
            const int64_t from = (token * job->kv_heads + kv_head) * job->width;
            memcpy(scratch->keys + count * job->width, job->key + from, bytes);
            memcpy(scratch->values + count * job->width, job->value + from, bytes);
        }
    }
    scratch->line = whole_vectors(count);
    turn(scratch->keys, count, job->width, scratch->turned_keys, scratch->line);
    if (job->gradient) turn(scratch->values, count, job->width, scratch->turned_values, scratch->line);
    return count;
}

/* A row's scores become shares of the keys from `lowest` to `own`, and 0 for all others up to `line`. log_sum: written
 * forward, else read. */
INLINE void share_out(float *scores, int64_t lowest, int64_t own, int64_t line, float scale, float *log_sum,
                      const int backward) {
    const Ints lane = NUMBERED;
    Floats most = set(-INFINITY), sum = set(0);
    const Floats factor = set(scale);
#define SEEN(k) ((Ints)(lane >= (int32_t)(lowest - (k))) & (Ints)(lane <= (int32_t)(own - (k))))
    const int64_t first = lowest / LANES * LANES, last = own / LANES * LANES;
    if (!backward) {
        for (int64_t k = first; k <= last; k += LANES) {
            const Floats score = load_f32(scores + k, LANES);
            most = larger(most, k == first || k == last ? choose(SEEN(k), score, set(-INFINITY)) : score);
        }
    }
    const float shift = backward ? *log_sum : max_of(most) * scale;
    for (int64_t k = 0; k < first; k += LANES) store_f32(scores + k, LANES, set(0));
    for (int64_t k = first; k <= last; k += LANES) {
        Floats share = exp2_of(fma_of(load_f32(scores + k, LANES), factor, set(-shift)), 0);
        if (k == first || k == last) share = choose(SEEN(k), share, set(0));
        sum += share;
        store_f32(scores + k, LANES, share);
    }
#undef SEEN
    for (int64_t k = last + LANES; k < line; k += LANES) store_f32(scores + k, LANES, set(0));
    if (backward) return;
    const float total = sum_of(sum);
    const Floats inverse = set(1.0f / total);
    for (int64_t k = first; k <= last; k += LANES) store_f32(scores + k, LANES, load_f32(scores + k, LANES) * inverse);
    *log_sum = shift + log2f(total);
}

/* Copies the rows of a block's queries, those of one key head, between [tokens, heads, width] and [rows, width]. */
INLINE void copy_rows(const Attention *job, int64_t token, int64_t tokens, int64_t kv_head, const float *from, float *to,
                      const int into_block) {
    const int64_t group = job->heads / job->kv_heads * job->width;
    for (int64_t t = 0; t < tokens; t++) {
        const int64_t outside = (token + t) * job->heads * job->width + kv_head * group, inside = t * group;
        memcpy(to + (into_block ? inside : outside), from + (into_block ? outside : inside), (size_t)group * sizeof(float));
    }
}

/* The gradients of a block, whose shares are there: of its queries, and added to `keys` and `values` [keys][width]. */
static void backward_block(const Attention *job, Scratch *scratch, int64_t rows, int64_t seen, float *keys, float *values) {
    const int64_t width = job->width, line = scratch->line, vectors = whole_vectors(seen);
    multiply(scratch->gradient, width, 1, scratch->turned_values, line, scratch->share_gradients, line, rows, vectors,
             width, 0);
    multiply(scratch->shares, 1, line, scratch->gradient, width, values, width, seen, width, rows, 1);
    for (int64_t r = 0; r < rows; r++) {
        Floats products = set(0);
        for (int64_t d = 0; d < width; d += LANES)
            products = fma_of(load_f32(scratch->output + r * width + d, LANES),
                              load_f32(scratch->gradient + r * width + d, LANES), products);
        const Floats mean = set(sum_of(products)), scale = set(job->scale);
        float *gradients = scratch->share_gradients + r * line;
        for (int64_t k = 0; k < vectors; k += LANES) {
            const Floats share = load_f32(scratch->shares + r * line + k, LANES);
            store_f32(gradients + k, LANES, share * (load_f32(gradients + k, LANES) - mean) * scale);
        }
    }
    multiply(scratch->share_gradients, 1, line, scratch->query, width, keys, width, seen, width, rows, 1);
    /* The queries are not needed any more: their gradients take their place. */
    multiply(scratch->share_gradients, line, 1, scratch->keys, width, scratch->query, width, rows, width, seen, 0);
}

static void compute_unit(const Attention *job, const Unit *unit, int64_t kv_head, Scratch *scratch) {
    const int64_t width = job->width, group = job->heads / job->kv_heads;
    const int64_t count = gather(job, unit, kv_head, scratch), line = scratch->line;
    const int64_t tokens = block_rows(group) / group; /* of a block */
    float *keys = NULL, *values = NULL;
    if (job->gradient) {
        keys = job->partials + (kv_head * job->partial_keys + unit->partial) * width;
        values = keys + job->kv_heads * job->partial_keys * width;
        memset(keys, 0, (size_t)(count * width) * sizeof(float));
        memset(values, 0, (size_t)(count * width) * sizeof(float));
    }
    for (int64_t first = unit->first; first < unit->stop; first += tokens) {
        const int64_t here = unit->stop - first < tokens ? unit->stop - first : tokens, rows = here * group;
        const int64_t seen = unit->before + first - unit->first + here; /* keys of the block's last query */
        copy_rows(job, first, here, kv_head, job->query, scratch->query, 1);
        multiply(scratch->query, width, 1, scratch->turned_keys, line, scratch->shares, line, rows, whole_vectors(seen),
                 width, 0);
        for (int64_t r = 0; r < rows; r++) {
            const int64_t token = first + r / group, own = unit->before + token - unit->first;
            const int64_t lowest = job->window && own >= job->window ? own - job->window + 1 : 0;
            float *log_sum = job->log_sums + token * job->heads + kv_head * group + r % group;
            float *scores = scratch->shares + r * line;
            if (job->gradient)
                share_out(scores, lowest, own, whole_vectors(seen), job->scale * LOG2_E, log_sum, 1);
            else
                share_out(scores, lowest, own, whole_vectors(seen), job->scale * LOG2_E, log_sum, 0);
        }
        if (!job->gradient) {
            multiply(scratch->shares, line, 1, scratch->values, width, scratch->output, width, rows, width, seen, 0);
            copy_rows(job, first, here, kv_head, scratch->output, job->output, 0);
            continue;
        }
        copy_rows(job, first, here, kv_head, job->output, scratch->output, 1);
        copy_rows(job, first, here, kv_head, job->gradient, scratch->gradient, 1);
        backward_block(job, scratch, rows, seen, keys, values);
        copy_rows(job, first, here, kv_head, scratch->query, job->query_gradient, 0);
    }
}

/* A thread: takes units until none is left. */
static void take_units(const void *data, int64_t first, int64_t last) {
    const Attention *job = data;
    Scratch scratch = scratch_of(job, first);
    (void)last;
    for (;;) {
        const int64_t item = __atomic_fetch_add(job->next, 1, __ATOMIC_RELAXED);
        if (item >= job->unit_count * job->kv_heads) return;
        compute_unit(job, job->units + item / job->kv_heads, item % job->kv_heads, &scratch);
    }
}

/* Some columns, of LANES numbers each, of the gradients of keys or of values: the units' parts, in their order. */
static void add_partials(const void *data, int64_t first, int64_t last) {
    const Attention *job = data;
    const int64_t width = job->width, columns = width / LANES;
    for (int64_t item = first; item < last; item++) {
        const int64_t kv_head = item / columns % job->kv_heads, of_values = item / columns / job->kv_heads;
        const int64_t d = item % columns * LANES;
        float *total = (of_values ? job->value_gradient : job->key_gradient) + kv_head * width + d;
        const float *partial = job->partials + (of_values * job->kv_heads + kv_head) * job->partial_keys * width + d;
        for (int64_t token = 0; token < job->tokens; token++) store_f32(total + token * job->kv_heads * width, LANES, set(0));
        for (int64_t u = 0; u < job->unit_count; u++) {
            const Unit *unit = job->units + u;
            for (int64_t s = 0; s < unit->segments; s++) {
                const Segment segment = job->segments[unit->segment + s];
                for (int64_t token = segment.start; token < segment.stop; token++, partial += width) {
                    float *sum = total + token * job->kv_heads * width;
                    store_f32(sum, LANES, load_f32(sum, LANES) + load_f32(partial, LANES));
                }
            }
        }
    }
}

/* Numbers of scratch that each thread needs. group: query heads of a key head. */
EXPORT(int64_t, train_attention_scratch)(int64_t longest, int64_t width, int64_t group) {
    return scratch_size(whole_vectors(longest), width, group);
}

/* tensors: query, key, value, output, log_sums, scratch, and backward the gradients of output, query, key, value, and
 * partials. shape: units, tokens, heads, kv_heads, width (a multiple of LANES), window (0: none), keys of all units, keys
 * of the longest. */
EXPORT(void, train_attention)(float *const *tensors, const int64_t *units, const int64_t *segments, const int64_t *shape,
                              float scale, int backward, int64_t threads) {
    int64_t next = 0;
    const Attention job = {
        .query = tensors[0],
        .key = tensors[1],
        .value = tensors[2],
        .output = tensors[3],
        .log_sums = tensors[4],
        .scratch = tensors[5],
        .gradient = backward ? tensors[6] : NULL,
        .query_gradient = backward ? tensors[7] : NULL,
        .key_gradient = backward ? tensors[8] : NULL,
        .value_gradient = backward ? tensors[9] : NULL,
        .partials = backward ? tensors[10] : NULL,
        .units = (const Unit *)units,
        .segments = (const Segment *)segments,
        .unit_count = shape[0],
        .tokens = shape[1],
        .heads = shape[2],
        .kv_heads = shape[3],
        .width = shape[4],
        .window = shape[5],
        .partial_keys = shape[6],
        .longest = whole_vectors(shape[7]),
        .scale = scale,
        .next = &next,
    };
    run(take_units, &job, threads, threads);
    if (backward) run(add_partials, &job, 2 * job.kv_heads * job.width / LANES, threads);
}
