/* ggml_compute_forward_flash_attn_ext: attention over the keys and values of a KV cache, see cache_types.h.
 *
 * Upstream goes through the cells once for each query and computes one exponential at a time. Here the queries that
 * look at the same keys (the query heads of a key head, and several tokens of a prompt) go through them together in
 * tiles of 64 cells: scores, one vector exponential for 16 of them, then the weighted values. All of it is in single
 * precision with an online softmax (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018; Dao et
 * al., "FlashAttention", 2022). Cells that the mask hides are not read. */
#include <math.h>

#include "attention/attend_group.h"

#define MAX_SPLIT_TOKENS 8 /* tokens of each KV stream up to which threads share cells and not queries */

static _Thread_local struct scratch thread_scratch __attribute__((aligned(64)));

/* How many tokens of a pass, the first ones, have results that don't depend on how many are computed together: draft
 * tokens are accepted if they are what sampling would have chosen. Rows are independent, but AMX tiles round, and the
 * order of sums depends on how work is shared out. */
static int64_t exact_tokens;
EXPORT void tailrace_kernels_set_exact_tokens(int64_t n_tokens) { exact_tokens = n_tokens; }

_Static_assert(GGML_MAX_SRC > 4 && GGML_MAX_OP_PARAMS >= 3 * sizeof(float), "query, keys, values, mask and sinks");

/* ggml's number of the cache type `index` that attention is computed over; -1 behind the last. */
EXPORT int tailrace_kernels_cache_type(int index) {
    return index >= 0 && index < N_CACHE_TYPES ? (int)ggml_cache_types[index] : -1;
}

/* Keys or values: VF_LANES numbers can be loaded at once, and the scratch buffers hold them. */
static bool has_readable_cells(const struct ggml_tensor *t) {
    const enum cache_type type = cache_type_of(t);
    if (type == N_CACHE_TYPES || t->ne[0] <= 0 || t->ne[0] > MAX_HEAD_DIM) return false;
    if (is_quantised(type)) return t->ne[0] % QUANT_BLOCK == 0 && t->nb[0] == (size_t)cache_bytes(type, QUANT_BLOCK);
    return t->ne[0] % 8 == 0 && t->nb[0] == 2;
}

/* Whether an operation is computed here. */
static bool is_computed_here(const struct ggml_tensor *result) {
    const struct ggml_tensor *q = result->src[0], *k = result->src[1], *v = result->src[2], *mask = result->src[3];
    const struct ggml_tensor *sinks = result->src[4];
    if (q->type != GGML_TYPE_F32 || q->nb[0] != sizeof(float) || result->nb[0] != sizeof(float)) return false;
    if (!has_readable_cells(k) || !has_readable_cells(v) || q->ne[0] != k->ne[0] || result->ne[0] != v->ne[0])
        return false;
    if (k->ne[1] != v->ne[1] || k->ne[2] != v->ne[2] || k->ne[3] != v->ne[3]) return false;
    if (q->ne[1] < 1 || q->ne[2] < 1 || k->ne[2] < 1 || k->ne[3] < 1) return false;
    if (q->ne[2] % k->ne[2] || q->ne[3] % k->ne[3]) return false;
    if (sinks && (sinks->type != GGML_TYPE_F32 || sinks->ne[0] != q->ne[2])) return false;
    float params[2];
    memcpy(params, result->op_params, sizeof params);
    const bool alibi = params[1] != 0; /* params[0] is the scale */
    if (!mask) return !alibi;
    return mask->type == GGML_TYPE_F16 && mask->nb[0] == sizeof(uint16_t) && mask->ne[2] == 1 &&
           mask->ne[0] >= k->ne[1] && mask->ne[1] >= q->ne[1];
}

/* ---- Work units -------------------------------------------------------------------------------------------------- */

/* How an operation, or a block of its tokens, is cut into units, each of which is one query group. */
struct work_split {
    int64_t first_token, end_token;
    int64_t streams, bundles, parts,
        blocks;                     /* bundles of key heads, parts of the query heads of a key head, blocks of tokens */
    int heads, n_tokens, key_heads; /* in each unit */
};

INLINE int64_t n_units(struct work_split s) { return s.streams * s.bundles * s.parts * s.blocks; }

/* What all query groups of an operation share. Its heads are those of a key head. */
static struct query_group common_group(const struct ggml_tensor *result) {
    const struct ggml_tensor *q = result->src[0], *k = result->src[1], *v = result->src[2];
    float params[3];
    memcpy(params, result->op_params, sizeof params);
    return (struct query_group){.q = q,
                                .k = k,
                                .v = v,
                                .mask = result->src[3],
                                .k_type = cache_type_of(k),
                                .v_type = cache_type_of(v),
                                .k_dim = (int)k->ne[0],
                                .v_dim = (int)v->ne[0],
                                .k_row = padded(k->ne[0]),
                                .v_row = padded(v->ne[0]),
                                .values_are_keys = v->data == k->data && v->type == k->type && v->ne[0] <= k->ne[0] &&
                                                   !memcmp(v->nb, k->nb, sizeof v->nb),
                                .scale = params[0],
                                .alibi_bias = params[1],
                                .softcap = params[2],
                                .heads = (int)(q->ne[2] / k->ne[2])};
}

/* A unit is as many query heads of a key head, and as many tokens, as the scratch buffers hold. With `bundled`, it is
 * also as many key heads: where units aren't shared out to threads, that is fastest. */
static struct work_split split_work(const struct query_group *all, int64_t first_token, int64_t end_token,
                                    bool bundled) {
    const int rows = max_rows(all), heads = all->heads;
    const int64_t key_heads = all->k->ne[2], tokens = end_token - first_token;
    struct work_split s = {
        .first_token = first_token, .end_token = end_token, .streams = all->q->ne[3], .key_heads = 1};
    s.heads = heads < rows ? heads : rows;
    s.n_tokens = rows / s.heads;
    if (s.n_tokens > tokens) s.n_tokens = (int)tokens;
    s.parts = (heads + s.heads - 1) / s.heads;
    s.blocks = (tokens + s.n_tokens - 1) / s.n_tokens;
    if (bundled && s.parts == 1) {
        const int fit = fitting_key_heads(all, s.n_tokens * heads);
        s.key_heads = (int)(fit < key_heads ? fit : key_heads);
    }
    s.bundles = (key_heads + s.key_heads - 1) / s.key_heads;
    return s;
}

static struct query_group unit_of(const struct query_group *all, struct work_split s, int64_t unit) {
    const int heads = all->heads;
    const int64_t key_heads = all->k->ne[2];
    struct query_group g = *all;
    const int64_t part = unit % s.parts, block = unit / s.parts % s.blocks;
    g.key_head = unit / s.parts / s.blocks % s.bundles * s.key_heads;
    g.key_heads = key_heads - g.key_head < s.key_heads ? (int)(key_heads - g.key_head) : s.key_heads;
    g.stream = unit / s.parts / s.blocks / s.bundles;
    g.token = s.first_token + block * s.n_tokens;
    g.n_tokens = s.end_token - g.token < s.n_tokens ? (int)(s.end_token - g.token) : s.n_tokens;
    g.head = g.key_head * heads + part * s.heads;
    g.heads = heads - part * s.heads < s.heads ? (int)(heads - part * s.heads) : s.heads;
    return g;
}

/* ---- Results ----------------------------------------------------------------------------------------------------- */

static float *result_of(const struct ggml_tensor *t, int64_t head, int64_t token, int64_t stream) {
    return (float *)((char *)t->data + head * t->nb[1] + token * t->nb[2] + stream * t->nb[3]);
}

/* What a thread stores of a row whose cells are split. `acc` has a number for each of the value's. */
struct partial {
    float row_max, row_sum;
    int32_t first_part;
    float acc[];
};
INLINE size_t partial_bytes(const struct query_group *all) {
    return sizeof(struct partial) + (size_t)all->v_dim * sizeof(float);
}
/* Of row (stream, token of the block, head), by thread i. */
static struct partial *partial_of(const struct ggml_compute_params *params, const struct query_group *all,
                                  struct work_split s, int64_t stream, int64_t token, int64_t head, int i) {
    const int64_t row = (stream * (s.end_token - s.first_token) + token - s.first_token) * all->q->ne[2] + head;
    return (struct partial *)((char *)params->wdata + (size_t)(row * params->nth + i) * partial_bytes(all));
}

/* Write a row: what is accumulated, and the head's sink, which is a score without a value (gpt-oss). */
static void write_row(struct ggml_tensor *result, int64_t head, int64_t token, int64_t stream, float max, float sum,
                      const float *acc) {
    float *out = result_of(result, head, token, stream), by = 1;
    if (result->src[4] && sum != 0) {
        const float sink = ((const float *)result->src[4]->data)[head] * LOG2_E;
        if (sink > max) by = exp2f(max - sink), sum = sum * by + 1;
        else sum += exp2f(sink - max);
    }
    by = sum == 0 ? 0 : by / sum;
    for (int64_t d = 0; d < result->ne[0]; d++) out[d] = acc[d] * by;
}

/* Store a unit's rows: in the result, or in this thread's part of the work memory. */
static void store_unit(const struct ggml_compute_params *params, struct ggml_tensor *result,
                       const struct scratch *scratch, const struct query_group *all, const struct query_group *g,
                       struct work_split s, bool split) {
    int r = 0;
    for (int kh = 0; kh < g->key_heads; kh++)
        for (int t = 0; t < g->n_tokens; t++)
            for (int h = 0; h < g->heads; h++, r++) {
                const int64_t head = g->head + kh * all->heads + h, token = g->token + t;
                const float *acc = scratch->acc + r * g->v_row;
                if (!split) {
                    write_row(result, head, token, g->stream, scratch->row_max[r], scratch->row_sum[r], acc);
                    continue;
                }
                struct partial *to = partial_of(params, all, s, g->stream, token, head, params->ith);
                to->row_max = scratch->row_max[r], to->row_sum = scratch->row_sum[r];
                to->first_part = scratch->first_part[t];
                memcpy(to->acc, acc, (size_t)g->v_dim * sizeof(float));
            }
}

/* Merge what the threads have stored of each row, in the order of its tiles. */
static void merge_rows(const struct ggml_compute_params *params, struct ggml_tensor *result,
                       const struct query_group *all, struct work_split s) {
    const int64_t tokens = s.end_token - s.first_token, heads = all->q->ne[2], n_rows = s.streams * tokens * heads;
    const int n = params->nth;
    for (int64_t row = params->ith; row < n_rows; row += n) {
        const int64_t head = row % heads, token = s.first_token + row / heads % tokens, stream = row / heads / tokens;
        struct partial *first = partial_of(params, all, s, stream, token, head, 0);
        const int first_part = first->first_part;
        float max = -INFINITY, sum = 0;
        for (int i = 0; i < n; i++) max = fmaxf(max, partial_of(params, all, s, stream, token, head, i)->row_max);
        float acc[MAX_HEAD_DIM] = {0};
        for (int i = 0; i < n; i++) {
            const struct partial *p = partial_of(params, all, s, stream, token, head, (first_part + i) % n);
            /* The row sees no cells, and all sums are 0. Or all that it sees is NaN, and so are the sums. */
            const float by = max == -INFINITY ? 1 : exp2f(p->row_max - max);
            sum += p->row_sum * by;
            for (int d = 0; d < all->v_dim; d++) acc[d] += p->acc[d] * by;
        }
        write_row(result, head, token, stream, max, sum, acc);
    }
}

/* ---- Operations -------------------------------------------------------------------------------------------------- */

/* Operations that were computed here and that were delegated to upstream. */
static long n_own, n_upstream;
EXPORT void tailrace_kernels_attention_counts(long *own, long *delegated) { *own = n_own, *delegated = n_upstream; }

/* All tokens, unit by unit: each thread computes the next one. */
static void attend_units(const struct ggml_compute_params *params, struct ggml_tensor *result, struct scratch *scratch,
                         const struct query_group *all) {
    const bool chunked = params->nth > 1;
    const struct work_split s = split_work(all, 0, all->q->ne[1], !chunked);
    if (chunked) {
        if (params->ith == 0) upstream.ggml_threadpool_chunk_set(params->threadpool, params->nth);
        ggml_barrier(params->threadpool);
    }
    int64_t unit = params->ith;
    while (unit < n_units(s)) {
        const struct query_group g = unit_of(all, s, unit);
        attend_group(scratch, &g, 0, 1, exact_tokens);
        store_unit(params, result, scratch, all, &g, s, false);
        unit = chunked ? upstream.ggml_threadpool_chunk_add(params->threadpool, 1) : unit + 1;
    }
}

/* Each thread computes every n-th tile of all units, and then the parts are merged: for as many tokens at a time as
 * the work memory holds. */
static void attend_split(const struct ggml_compute_params *params, struct ggml_tensor *result, struct scratch *scratch,
                         const struct query_group *all, int64_t fitting_tokens) {
    const int64_t tokens = all->q->ne[1];
    for (int64_t first = 0; first < tokens; first += fitting_tokens) {
        const int64_t end = tokens - first < fitting_tokens ? tokens : first + fitting_tokens;
        const struct work_split s = split_work(all, first, end, true);
        if (first) ggml_barrier(params->threadpool);
        for (int64_t unit = 0; unit < n_units(s); unit++) {
            const struct query_group g = unit_of(all, s, unit);
            attend_group(scratch, &g, params->ith, params->nth, exact_tokens);
            store_unit(params, result, scratch, all, &g, s, true);
        }
        ggml_barrier(params->threadpool);
        merge_rows(params, result, all, s);
    }
}

static void attend(const struct ggml_compute_params *params, struct ggml_tensor *result) {
    struct scratch *scratch = TLS_PTR(thread_scratch);
    const struct query_group all = common_group(result);
    const int64_t tokens = all.q->ne[1];
    /* Few units, and those of sequences whose lengths may differ much, are split by cells. */
    const bool few = tokens <= MAX_SPLIT_TOKENS || tokens <= exact_tokens ||
                     n_units(split_work(&all, 0, tokens, false)) < 4 * params->nth;
    const size_t token_bytes = (size_t)(all.q->ne[2] * all.q->ne[3] * params->nth) * partial_bytes(&all);
    const int64_t fitting_tokens = (int64_t)(params->wsize / token_bytes);
    if (few && params->nth > 1 && fitting_tokens > 0) attend_split(params, result, scratch, &all, fitting_tokens);
    else attend_units(params, result, scratch, &all);
}

EXPORT void ggml_compute_forward_flash_attn_ext(const struct ggml_compute_params *params, struct ggml_tensor *result) {
    const bool own = can_share_work(params) && is_computed_here(result);
    if (params->ith == 0) (own ? n_own++ : n_upstream++);
    if (own) {
        attend(params, result);
        return;
    }
    if (!upstream.ggml_compute_forward_flash_attn_ext) abort_without("ggml_compute_forward_flash_attn_ext");
    upstream.ggml_compute_forward_flash_attn_ext(params, result);
}
