/* ggml_compute_forward_flash_attn_ext: attention over the keys and values of a KV cache, see cache_types.h.
 *
 * Upstream goes through the cells once for each query and computes one exponential at a time. Here the queries that
 * look at the same keys (the query heads of a key head, and several tokens of a prompt) go through them together in
 * tiles of 64 cells: scores, one vector exponential for 16 of them, then the weighted values. All of it is in single
 * precision with an online softmax (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018; Dao et
 * al., "FlashAttention", 2022). Cells that the mask hides are not read. */
#include "simd.h"

#if HAS_AVX512
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "attention/attend_group.h"

#define MAX_SPLIT_TOKENS 8 /* tokens of each KV stream up to which threads share cells and not queries */

static _Thread_local struct scratch thread_scratch __attribute__((aligned(64)));

/* How many tokens of a pass, the first ones, have results that don't depend on how many are computed together: draft
 * tokens are accepted if they are what sampling would have chosen. Rows are independent, but AMX tiles round, and the
 * order of sums depends on how work is shared out. */
static int64_t exact_tokens;
EXPORT void tailrace_kernels_set_exact_tokens(int64_t n_tokens) { exact_tokens = n_tokens; }

typedef void attend_function(struct scratch *, const struct query_group *, int part, int n_parts);

#define ATTEND(HEAD_DIM)                                                                                               \
    OUT_OF_LINE void attend_##HEAD_DIM(struct scratch *scratch, const struct query_group *g, int part, int n_parts) {  \
        attend_group(scratch, HEAD_DIM, g, part, n_parts, exact_tokens);                                               \
    }
ATTEND(64)
ATTEND(96)
ATTEND(128)
ATTEND(256)

_Static_assert(GGML_MAX_SRC > 4 && GGML_MAX_OP_PARAMS >= 3 * sizeof(float), "query, keys, values, mask and sinks");

/* ggml's number of the cache type `index` that attention is computed over; -1 behind the last. */
EXPORT int tailrace_kernels_cache_type(int index) {
    return index >= 0 && index < N_CACHE_TYPES ? (int)ggml_cache_types[index] : -1;
}

/* The function for an operation; 0 where it isn't computed here. */
static attend_function *attend_function_of(const struct ggml_tensor *result) {
    const struct ggml_tensor *q = result->src[0], *k = result->src[1], *v = result->src[2], *mask = result->src[3];
    const struct ggml_tensor *sinks = result->src[4];
    float params[3];
    memcpy(params, result->op_params, sizeof params);
    const float alibi_bias = params[1], softcap = params[2]; /* params[0] is the scale */
    if (alibi_bias != 0 || softcap != 0 || sinks) return 0;
    if (q->type != GGML_TYPE_F32 || cache_type_of(k) == N_CACHE_TYPES || cache_type_of(v) == N_CACHE_TYPES) return 0;
    if (k->ne[0] != v->ne[0] || k->ne[2] != v->ne[2] || k->ne[3] != v->ne[3]) return 0;
    if (k->ne[1] % 16 || q->ne[2] % k->ne[2] || q->ne[3] % k->ne[3]) return 0;
    if (mask && (mask->type != GGML_TYPE_F16 || mask->ne[2] != 1)) return 0;
    switch (k->ne[0]) {
        case 64: return attend_64;
        case 96: return attend_96;
        case 128: return attend_128;
        case 256: return attend_256;
        default: return 0;
    }
}

/* ---- Work units -------------------------------------------------------------------------------------------------- */

/* How an operation is cut into units, each of which is one query group. */
struct work_split {
    int64_t streams, bundles, parts,
        blocks;                     /* bundles of key heads, parts of the query heads of a key head, blocks of tokens */
    int heads, n_tokens, key_heads; /* in each unit */
};

INLINE int64_t n_units(struct work_split s) { return s.streams * s.bundles * s.parts * s.blocks; }

/* A unit is as many query heads of a key head, and as many tokens, as the scratch buffers hold. With `bundled`, it is
 * also as many key heads: where units aren't shared out to threads, that is fastest. */
static struct work_split split_work(const struct ggml_tensor *result, bool bundled) {
    const struct ggml_tensor *q = result->src[0], *k = result->src[1];
    const int rows = max_rows(cache_type_of(k), cache_type_of(result->src[2]));
    const int64_t heads = q->ne[2] / k->ne[2], key_heads = k->ne[2];
    struct work_split s = {.streams = q->ne[3], .key_heads = 1};
    s.heads = heads < rows ? (int)heads : rows;
    s.n_tokens = rows / s.heads;
    if (s.n_tokens > q->ne[1]) s.n_tokens = (int)q->ne[1];
    s.parts = (heads + s.heads - 1) / s.heads;
    s.blocks = (q->ne[1] + s.n_tokens - 1) / s.n_tokens;
    if (bundled && s.parts == 1) {
        const int64_t fit = STATE_FLOATS / ((s.n_tokens * heads + 15) / 16 * 16 * q->ne[0]); /* tiles have 16 rows */
        s.key_heads = (int)(fit < key_heads ? fit : key_heads);
    }
    s.bundles = (key_heads + s.key_heads - 1) / s.key_heads;
    return s;
}

static struct query_group unit_of(const struct ggml_tensor *result, struct work_split s, int64_t unit) {
    const struct ggml_tensor *q = result->src[0], *k = result->src[1];
    const int64_t heads = q->ne[2] / k->ne[2];
    struct query_group g = {.q = q, .k = k, .v = result->src[2], .mask = result->src[3]};
    g.k_type = cache_type_of(g.k), g.v_type = cache_type_of(g.v);
    memcpy(&g.scale, result->op_params, sizeof g.scale);
    const int64_t part = unit % s.parts, block = unit / s.parts % s.blocks;
    g.key_head = unit / s.parts / s.blocks % s.bundles * s.key_heads;
    g.key_heads = k->ne[2] - g.key_head < s.key_heads ? (int)(k->ne[2] - g.key_head) : s.key_heads;
    g.stream = unit / s.parts / s.blocks / s.bundles;
    g.token = block * s.n_tokens;
    g.n_tokens = q->ne[1] - g.token < s.n_tokens ? (int)(q->ne[1] - g.token) : s.n_tokens;
    g.head = g.key_head * heads + part * s.heads;
    g.heads = heads - part * s.heads < s.heads ? (int)(heads - part * s.heads) : s.heads;
    return g;
}

/* ---- Results ----------------------------------------------------------------------------------------------------- */

static float *result_of(const struct ggml_tensor *t, int64_t head, int64_t token, int64_t stream) {
    return (float *)((char *)t->data + head * t->nb[1] + token * t->nb[2] + stream * t->nb[3]);
}

/* What a thread stores of a row whose cells are split: row_max, row_sum, and acc. */
INLINE int64_t partial_floats(int64_t head_dim) { return head_dim + 2; }

/* Store a unit's rows: in the result, or in this thread's part of the work memory. */
static void store_unit(const struct ggml_compute_params *params, struct ggml_tensor *result,
                       const struct scratch *scratch, const struct query_group *g, bool split) {
    const struct ggml_tensor *q = result->src[0];
    const int64_t head_dim = q->ne[0];
    float *partials = params->wdata;
    int r = 0;
    for (int kh = 0; kh < g->key_heads; kh++)
        for (int t = 0; t < g->n_tokens; t++)
            for (int h = 0; h < g->heads; h++, r++) {
                const int64_t head = g->head + kh * g->heads + h;
                if (split) {
                    const int64_t row = (g->stream * q->ne[1] + g->token + t) * q->ne[2] + head;
                    float *partial = partials + (row * params->nth + params->ith) * partial_floats(head_dim);
                    partial[0] = scratch->row_max[r];
                    partial[1] = scratch->row_sum[r];
                    memcpy(partial + 2, scratch->acc + r * head_dim, (size_t)head_dim * sizeof(float));
                } else {
                    float *out = result_of(result, head, g->token + t, g->stream);
                    const float by = scratch->row_sum[r] == 0 ? 0 : 1 / scratch->row_sum[r];
                    for (int64_t d = 0; d < head_dim; d++) out[d] = scratch->acc[r * head_dim + d] * by;
                }
            }
}

/* Merge what the threads have stored of each row. */
static void merge_rows(const struct ggml_compute_params *params, struct ggml_tensor *result) {
    const struct ggml_tensor *q = result->src[0];
    const int64_t head_dim = q->ne[0], n_rows = q->ne[1] * q->ne[2] * q->ne[3], each = partial_floats(head_dim);
    for (int64_t row = params->ith; row < n_rows; row += params->nth) {
        const float *partial = (const float *)params->wdata + row * params->nth * each;
        float max = -INFINITY, sum = 0;
        for (int i = 0; i < params->nth; i++) max = fmaxf(max, partial[i * each]);
        float *out = result_of(result, row % q->ne[2], row / q->ne[2] % q->ne[1], row / q->ne[2] / q->ne[1]);
        if (max == -INFINITY) {
            /* The row sees no cells, and all sums are 0. Or all that it sees is NaN, and so are the sums. */
            for (int i = 0; i < params->nth; i++) sum += partial[i * each + 1];
            for (int64_t d = 0; d < head_dim; d++) out[d] = sum;
            continue;
        }
        memset(out, 0, (size_t)head_dim * sizeof(float));
        for (int i = 0; i < params->nth; i++) sum += partial[i * each + 1] * exp2f(partial[i * each] - max);
        for (int i = 0; i < params->nth; i++) {
            const float by = exp2f(partial[i * each] - max) / sum;
            for (int64_t d = 0; d < head_dim; d++) out[d] += partial[i * each + 2 + d] * by;
        }
    }
}

/* ---- Operations -------------------------------------------------------------------------------------------------- */

/* Operations that were computed here and that were delegated to upstream. */
static long n_own, n_upstream;
EXPORT void tailrace_kernels_attention_counts(long *own, long *delegated) { *own = n_own, *delegated = n_upstream; }

static void attend(const struct ggml_compute_params *params, struct ggml_tensor *result, attend_function *attend_unit) {
    struct scratch *scratch = TLS_PTR(thread_scratch);
    const struct ggml_tensor *q = result->src[0];
    struct work_split s = split_work(result, false);
    /* Few units, and those of sequences whose lengths may differ much, are split by cells: each thread computes every
     * n-th tile of all units, and then the parts are merged. */
    const bool few = q->ne[1] <= MAX_SPLIT_TOKENS || q->ne[1] <= exact_tokens || n_units(s) < 4 * params->nth;
    const int64_t floats = q->ne[1] * q->ne[2] * q->ne[3] * params->nth * partial_floats(q->ne[0]);
    const bool split = few && params->nth > 1 && (size_t)floats * sizeof(float) <= params->wsize;
    const bool chunked = !split && params->nth > 1;
    if (!chunked) s = split_work(result, true);
    if (chunked) {
        if (params->ith == 0) upstream.ggml_threadpool_chunk_set(params->threadpool, params->nth);
        ggml_barrier(params->threadpool);
    }
    int64_t unit = split ? 0 : params->ith;
    while (unit < n_units(s)) {
        const struct query_group g = unit_of(result, s, unit);
        attend_unit(scratch, &g, split ? params->ith : 0, split ? params->nth : 1);
        store_unit(params, result, scratch, &g, split);
        unit = chunked ? upstream.ggml_threadpool_chunk_add(params->threadpool, 1) : unit + 1;
    }
    if (!split) return;
    ggml_barrier(params->threadpool);
    merge_rows(params, result);
}

EXPORT void ggml_compute_forward_flash_attn_ext(const struct ggml_compute_params *params, struct ggml_tensor *result) {
    attend_function *attend_unit = can_share_work(params) ? attend_function_of(result) : 0;
    if (params->ith == 0) (attend_unit ? n_own++ : n_upstream++);
    if (attend_unit) {
        attend(params, result, attend_unit);
        return;
    }
    if (!upstream.ggml_compute_forward_flash_attn_ext) {
        fputs("tailrace: llama.cpp has no ggml_compute_forward_flash_attn_ext\n", stderr);
        abort();
    }
    upstream.ggml_compute_forward_flash_attn_ext(params, result);
}
#endif
