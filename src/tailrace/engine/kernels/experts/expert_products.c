/* Products by expert: see expert_products.h.
 *
 * Pairs are grouped by expert, quantised in that order, and multiplied in one pass over the chosen experts. The threads
 * take work chunks of all experts from one counter, so they end together though experts have different numbers of
 * tokens. */
#include "experts/expert_products.h"

#include <math.h>

#include "experts/routing.h"
#include "loading/repack.h"
#include "products/panels.h"

#define TOKENS_AT_ONCE    64   /* of an expert: 4 KB of sums, which stay in the first-level cache */
#define PREFETCH_FIRST    4096 /* bytes of a thread's next chunk, while it computes the last panel of a chunk */
#define CHUNKS_PER_THREAD 8
#define MAX_CHUNK_BYTES   (1 << 20)
_Static_assert(TOKENS_AT_ONCE % TILE_TOKENS == 0, "activations are cut between tiles");

struct product {
    const struct repacked *weights; /* of all experts, one after the other */
    const struct panel_functions *functions;
    const struct ggml_tensor *activations, *ids;
    struct ggml_tensor *result;
    struct routing routing;
    uint8_t *quantised;             /* pairs by place, in tiles of up to TILE_TOKENS pairs of one expert */
    int64_t n_experts, n_panels;    /* panels: of an expert */
    int64_t panel_bytes, act_bytes; /* of the weights of a panel; of a pair's quantised activations */
    int64_t n_parts;                /* work chunks of an expert */
};

/* Whether shapes are those of a product by expert of `n_experts` matrices. Upstream asserts most of this. */
static bool has_known_shape(const struct ggml_tensor *result) {
    const struct ggml_tensor *weights = result->src[0], *activations = result->src[1], *ids = result->src[2];
    return ids && ids->type == GGML_TYPE_I32 && ids->ne[2] == 1 && ids->ne[3] == 1 && weights->ne[3] == 1 &&
           activations->type == GGML_TYPE_F32 && activations->nb[0] == sizeof(float) && activations->ne[3] == 1 &&
           activations->ne[0] == weights->ne[0] && activations->ne[1] > 0 && activations->ne[2] == ids->ne[1] &&
           result->type == GGML_TYPE_F32 && result->nb[0] == sizeof(float) && result->ne[0] == weights->ne[1] &&
           result->ne[1] == ids->ne[0] && result->ne[2] == ids->ne[1] && result->ne[3] == 1;
}

INLINE int64_t n_pairs_of(const struct ggml_tensor *result) { return result->ne[1] * result->ne[2]; }

static size_t quantised_bytes(enum format format, const struct ggml_tensor *result) {
    const int64_t n_blocks = result->src[0]->ne[0] / traits_of(format).weights;
    return (size_t)(n_pairs_of(result) * n_blocks * act_block_bytes(format) + 63) / 64 * 64;
}

size_t expert_work_bytes(int n_threads, const struct ggml_tensor *result) {
    enum format format;
    if (!find_format(result->src[0]->type, &format) || !traits_of(format).repacked || !has_known_shape(result)) return 0;
    return 64 + quantised_bytes(format, result) +
           (size_t)n_threads * routing_bytes(result->src[0]->ne[2], n_pairs_of(result));
}

INLINE float *out_of(const struct ggml_tensor *result, struct pair pair) {
    return (float *)((char *)result->data + pair.used * (int64_t)result->nb[1] + pair.token * (int64_t)result->nb[2]);
}

/* ---- Activations ------------------------------------------------------------------------------------------------- */

/* Quantise this thread's share of the blocks of all pairs. */
static void quantise_share(const struct ggml_compute_params *params, const struct product *p) {
    const struct routing *routing = &p->routing;
    const int64_t n_blocks = p->weights->n_blocks, total = routing->begins[p->n_experts] * n_blocks;
    const int64_t begin = total * params->ith / params->nth, end = total * (params->ith + 1) / params->nth;
    for (int64_t c = 0; c < routing->n_chosen; c++) {
        const int32_t first = routing->begins[routing->chosen[c]], last = routing->begins[routing->chosen[c] + 1];
        if (last * n_blocks <= begin || first * n_blocks >= end) continue;
        for (int64_t place = first; place < last; place++) {
            const int64_t from = begin - place * n_blocks, till = end - place * n_blocks;
            if (till <= 0 || from >= n_blocks) continue;
            const struct pair pair = routing->pairs[place];
            const int64_t tile = first + (place - first) / TILE_TOKENS * TILE_TOKENS;
            const char *x = (const char *)p->activations->data +
                            pair.used % p->activations->ne[1] * (int64_t)p->activations->nb[1] +
                            pair.token * (int64_t)p->activations->nb[2];
            p->functions->quantise((const float *)x, from > 0 ? from : 0, till < n_blocks ? till : n_blocks,
                                   p->quantised + tile * p->act_bytes,
                                   (int)(last - tile < TILE_TOKENS ? last - tile : TILE_TOKENS), (int)(place - tile));
        }
    }
}

/* ---- Panels ------------------------------------------------------------------------------------------------------ */

/* The panels of a work chunk, which are numbered expert by expert. */
struct chunk {
    int64_t expert, begin, end;
};

static struct chunk chunk_of(const struct product *p, int64_t number) {
    const int64_t part = number % p->n_parts;
    return (struct chunk){p->routing.chosen[number / p->n_parts], p->n_panels * part / p->n_parts,
                          p->n_panels * (part + 1) / p->n_parts};
}

static const uint8_t *panel_at(const struct product *p, int64_t expert, int64_t panel) {
    return p->weights->data + (expert * p->n_panels + panel) * p->panel_bytes;
}

static void compute_panel(const struct product *p, panel_function *function, int64_t expert, int64_t panel) {
    const int64_t last = p->routing.begins[expert + 1];
    for (int64_t first = p->routing.begins[expert]; first < last; first += TOKENS_AT_ONCE) {
        float sums[TOKENS_AT_ONCE * GROUP_ROWS];
        const int64_t count = last - first < TOKENS_AT_ONCE ? last - first : TOKENS_AT_ONCE;
        function(p->weights->n_blocks, panel_at(p, expert, panel), p->quantised + first * p->act_bytes, count, sums,
                 GROUP_ROWS);
        for (int64_t j = 0; j < count; j++)
            memcpy(out_of(p->result, p->routing.pairs[first + j]) + panel * GROUP_ROWS, sums + j * GROUP_ROWS,
                   GROUP_ROWS * sizeof(float));
    }
}

/* Work chunks of this thread until none is left. */
static void compute_chunks(const struct ggml_compute_params *params, const struct product *p) {
    panel_function *function = p->functions->panel[repacked_is_cached() ? CACHE : MEMORY];
    const int64_t n_chunks = p->routing.n_chosen * p->n_parts;
    for (int64_t number = params->ith; number < n_chunks;) {
        const struct chunk chunk = chunk_of(p, number);
        number = params->nth > 1 ? upstream.ggml_threadpool_chunk_add(params->threadpool, 1) : number + 1;
        for (int64_t panel = chunk.begin; panel < chunk.end; panel++) {
            if (panel + 1 == chunk.end && number < n_chunks) {
                const struct chunk next = chunk_of(p, number);
                prefetch_l2(panel_at(p, next.expert, next.begin), PREFETCH_FIRST);
            }
            compute_panel(p, function, chunk.expert, panel);
        }
    }
}

static void refuse_unknown_experts(const struct product *p) {
    if (p->routing.begins[p->n_experts] == n_pairs_of(p->result)) return;
    for (int32_t token = 0; token < p->ids->ne[1]; token++)
        for (int32_t used = 0; used < p->ids->ne[0]; used++) {
            const int32_t expert = expert_of(p->ids, used, token);
            if (expert >= 0 && expert < p->n_experts) continue;
            float *out = out_of(p->result, (struct pair){used, token});
            for (int64_t i = 0; i < p->result->ne[0]; i++) out[i] = NAN;
        }
}

bool expert_product(const struct ggml_compute_params *params, const struct repacked *weights,
                    struct ggml_tensor *result) {
    const enum format format = weights->format;
    if (!has_known_shape(result) || !can_share_work(params) || result->src[0]->ne[1] % GROUP_ROWS) return false;
    if (params->wsize < expert_work_bytes(params->nth, result)) return false;
    uint8_t *work = (uint8_t *)(((uintptr_t)params->wdata + 63) & ~(uintptr_t)63);
    const int64_t n_experts = result->src[0]->ne[2];
    struct product p = {.weights = weights,
                        .functions = panel_functions_of(format),
                        .activations = result->src[1],
                        .ids = result->src[2],
                        .result = result,
                        .quantised = work,
                        .n_experts = n_experts,
                        .n_panels = weights->n_rows / n_experts / GROUP_ROWS,
                        .panel_bytes = weights->n_blocks * group_bytes(format),
                        .act_bytes = weights->n_blocks * act_block_bytes(format)};
    work += quantised_bytes(format, result) + (size_t)params->ith * routing_bytes(n_experts, n_pairs_of(result));
    p.routing = group_pairs(p.ids, n_experts, work);
    if (params->ith == 0) refuse_unknown_experts(&p);
    if (!p.routing.n_chosen) return true;

    const int64_t expert_bytes = p.n_panels * p.panel_bytes;
    p.n_parts = (CHUNKS_PER_THREAD * params->nth + p.routing.n_chosen - 1) / p.routing.n_chosen;
    if (p.n_parts < expert_bytes / MAX_CHUNK_BYTES) p.n_parts = expert_bytes / MAX_CHUNK_BYTES;
    if (p.n_parts > p.n_panels) p.n_parts = p.n_panels;

    if (params->ith < p.routing.n_chosen * p.n_parts) {
        const struct chunk first = chunk_of(&p, params->ith);
        prefetch_l2(panel_at(&p, first.expert, first.begin), PREFETCH_FIRST);
    }
    if (params->ith == 0 && params->nth > 1) upstream.ggml_threadpool_chunk_set(params->threadpool, params->nth);
    quantise_share(params, &p);
    if (params->nth > 1) ggml_barrier(params->threadpool);
    compute_chunks(params, &p);
    return true;
}
