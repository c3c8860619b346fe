/* Products by expert: see expert_products.h.
 *
 * Pairs are grouped by expert, quantised in that order, and multiplied in one pass over the chosen experts. The threads
 * take work chunks of all experts from one counter, so they end together though experts have different numbers of
 * tokens. */
#include "experts/product_by_expert.h"

#include "loading/repack.h"
#include "products/file_order.h"
#include "products/panels.h"
#include "products/product_counts.h"

#define MAX_SUMS          64   /* vectors of a matrix: 4 KB, which stay in the first-level cache */
#define PREFETCH_FIRST    4096 /* bytes of the panels that a thread reads next, where they lie elsewhere */
#define CHUNKS_PER_THREAD 8
#define MAX_CHUNK_BYTES   (1 << 20)
/* Tokens of each expert from which upstream's tiles for super-blocks in file order are faster. */
#define MIN_UPSTREAM_TILED_TOKENS 16
_Static_assert(MAX_SUMS % TILE_TOKENS == 0, "activations are cut between tiles");

/* Whether shapes are those of a product by expert. Upstream asserts most of this. */
static bool has_known_shape(const struct ggml_tensor *result) {
    const struct ggml_tensor *weights = result->src[0], *activations = result->src[1], *ids = result->src[2];
    return ids && ids->type == GGML_TYPE_I32 && ids->ne[2] == 1 && ids->ne[3] == 1 && weights->ne[3] == 1 &&
           activations->type == GGML_TYPE_F32 && activations->nb[0] == sizeof(float) && activations->ne[3] == 1 &&
           activations->ne[0] == weights->ne[0] && activations->ne[1] > 0 && activations->ne[2] == ids->ne[1] &&
           result->type == GGML_TYPE_F32 && result->nb[0] == sizeof(float) && result->ne[0] == weights->ne[1] &&
           result->ne[1] == ids->ne[0] && result->ne[2] == ids->ne[1] && result->ne[3] == 1;
}

static int64_t act_bytes_of(enum format format, bool in_file_order, int64_t n_blocks) {
    return n_blocks * (in_file_order ? traits_of(format).activation_bytes : act_block_bytes(format));
}

static size_t quantised_bytes(enum format format, bool in_file_order, const struct ggml_tensor *activations,
                              const struct ggml_tensor *ids) {
    const int64_t n_blocks = activations->ne[0] / traits_of(format).weights;
    return (size_t)(n_pairs_of(ids) * act_bytes_of(format, in_file_order, n_blocks) + 63) / 64 * 64;
}

size_t expert_work_bytes(int n_threads, const struct ggml_tensor *result) {
    enum format format;
    if (!find_format(result->src[0]->type, &format) || !has_known_shape(result)) return 0;
    const size_t own = quantised_bytes(format, false, result->src[1], result->src[2]);
    const size_t upstreams = quantised_bytes(format, true, result->src[1], result->src[2]);
    return 64 + (own > upstreams ? own : upstreams) +
           (size_t)n_threads * routing_bytes(result->src[0]->ne[2], n_pairs_of(result->src[2])) +
           expert_tile_bytes(n_threads, result);
}

bool can_compute_expert_op(const struct expert_op *op, int n_threads, size_t work_bytes) {
    const size_t needed = expert_work_bytes(n_threads, op->product);
    for (int m = 0; m < op->n_matrices; m++)
        if (op->matrices[m].repacked && (op->matrices[m].first_row % GROUP_ROWS ||
                                         op->matrices[m].expert_rows % GROUP_ROWS || op->result->ne[0] % GROUP_ROWS))
            return false;
    return needed && needed <= work_bytes && op->result->nb[0] == sizeof(float) &&
           op->result->ne[1] == op->ids->ne[0] && op->result->ne[2] == op->ids->ne[1] &&
           (n_threads == 1 || can_share_work(&(struct ggml_compute_params){.nth = n_threads}));
}

/* ---- Activations ------------------------------------------------------------------------------------------------- */

/* Quantise blocks `begin` to `end` of a pair as upstream does it. A scale becomes NaN where a number is, which upstream
 * makes a number of. */
static void quantise_as_upstream(enum format format, const float *x, int64_t begin, int64_t end, uint8_t *blocks) {
    const struct format_traits t = traits_of(format);
    uint8_t *to = blocks + begin * t.activation_bytes;
    x += begin * t.weights;
    const int64_t n = (end - begin) * t.weights;
    upstream.ggml_get_type_traits_cpu(t.activation_type)->from_float(x, to, n);
    bool has_nan = false;
    for (int64_t i = 0; i < n; i += VF_LANES) has_nan |= vm_any(vf_is_nan(vf_loadu(x + i)));
    const float nan_f32 = NAN;
    const uint16_t nan_f16 = 0x7e00;
    if (has_nan && t.activation_type == GGML_TYPE_Q8_K) memcpy(to, &nan_f32, sizeof nan_f32);
    else if (has_nan) memcpy(to, &nan_f16, sizeof nan_f16);
}

/* Quantise this thread's share of the blocks of all pairs. */
static void quantise_share(const struct ggml_compute_params *params, const struct product *p) {
    const struct routing *routing = &p->routing;
    const struct ggml_tensor *activations = p->op->activations;
    const int64_t n_blocks = p->n_blocks, total = routing->begins[p->op->n_experts] * n_blocks;
    const int64_t begin = total * params->ith / params->nth, end = total * (params->ith + 1) / params->nth;
    for (int64_t c = 0; c < routing->n_chosen; c++) {
        const bool in_tiles = is_in_tiles(p, routing->chosen[c]);
        const int32_t first = routing->begins[routing->chosen[c]], last = routing->begins[routing->chosen[c] + 1];
        if (last * n_blocks <= begin || first * n_blocks >= end) continue;
        for (int64_t place = first; place < last; place++) {
            const int64_t from = begin - place * n_blocks, till = end - place * n_blocks;
            if (till <= 0 || from >= n_blocks) continue;
            const struct pair pair = routing->pairs[place];
            const int64_t tile = first + (place - first) / TILE_TOKENS * TILE_TOKENS;
            const int64_t begin_block = from > 0 ? from : 0, end_block = till < n_blocks ? till : n_blocks;
            const char *x = (const char *)activations->data +
                            pair.used % activations->ne[1] * (int64_t)activations->nb[1] +
                            pair.token * (int64_t)activations->nb[2];
            if (in_tiles) {
                if (!begin_block) pack_pair(p, routing->chosen[c], place, (const float *)x);
                continue;
            }
            if (p->in_file_order) {
                quantise_as_upstream(p->format, (const float *)x, begin_block, end_block,
                                     p->quantised + place * p->act_bytes);
                continue;
            }
            panel_functions_of(p->format)->quantise(
                (const float *)x, begin_block, end_block, p->quantised + tile * p->act_bytes,
                (int)(last - tile < TILE_TOKENS ? last - tile : TILE_TOKENS), (int)(place - tile));
        }
    }
}

/* ---- Panels ------------------------------------------------------------------------------------------------------ */

static struct chunk chunk_of(const struct product *p, int64_t number) {
    const int64_t part = number % p->n_parts;
    return (struct chunk){p->routing.chosen[number / p->n_parts], p->n_panels * part / p->n_parts,
                          p->n_panels * (part + 1) / p->n_parts};
}

/* The first weights of a work chunk. */
static const uint8_t *start_of(const struct product *p, int64_t number) {
    const struct chunk chunk = chunk_of(p, number);
    return panel_at(p, 0, chunk.expert, chunk.begin);
}

/* Panels `begin` to `end` by pairs `first` to `first` + `count`, whose sums fit into MAX_SUMS vectors. All panels of a
 * matrix come before those of the other: memory that is read in order is 1.2 times as fast at one stream. Before the last
 * panel of each, the start of what is read next is prefetched; `following` is read after all of these. */
static void compute_panels(const struct product *p, panel_function *function, int64_t expert, int64_t begin,
                           int64_t end, int64_t first, int64_t count, const uint8_t *following) {
    float sums[2][MAX_SUMS * GROUP_ROWS];
    const struct expert_op *op = p->op;
    const int64_t row = begin * GROUP_ROWS, left = op->result->ne[0] - row;
    const int64_t n_rows = left < (end - begin) * GROUP_ROWS ? left : (end - begin) * GROUP_ROWS;
    const uint8_t *activations = p->quantised + first * p->act_bytes;
    for (int m = 0; m < op->n_matrices; m++) {
        const uint8_t *next = m + 1 < op->n_matrices ? panel_at(p, m + 1, expert, begin) : following;
        if (p->in_file_order) {
            if (next) prefetch_l2(next, PREFETCH_FIRST);
            multiply_file_order(p->format, p->n_blocks, panel_at(p, m, expert, begin),
                                (int64_t)op->matrices[m].weights->nb[1], n_rows, activations, p->act_bytes, count,
                                sums[m], n_rows);
        } else {
            for (int64_t panel = begin; panel < end; panel++) {
                if (panel + 1 == end && next) prefetch_l2(next, PREFETCH_FIRST);
                function(p->n_blocks, panel_at(p, m, expert, panel), activations, count,
                         sums[m] + (panel - begin) * GROUP_ROWS, n_rows);
            }
        }
        if (op->matrices[m].bias) add_bias(op->matrices + m, expert, row, n_rows, count, sums[m]);
    }
    if (op->gate != NO_GATE) apply_gate(op, count * n_rows, sums[0], sums[1]);
    store_results(p, first, count, row, n_rows, sums[0]);
}

/* A work chunk; `following` is the start of the thread's next one, or 0. */
static void compute_chunk(const struct product *p, panel_function *function, struct chunk chunk,
                          const uint8_t *following) {
    const int64_t first = p->routing.begins[chunk.expert], last = p->routing.begins[chunk.expert + 1];
    const int64_t n_panels = last - first < MAX_SUMS ? MAX_SUMS / (last - first) : 1;
    for (int64_t begin = chunk.begin; begin < chunk.end; begin += n_panels) {
        const int64_t end = begin + n_panels < chunk.end ? begin + n_panels : chunk.end;
        const uint8_t *next = end < chunk.end ? panel_at(p, 0, chunk.expert, end) : following;
        for (int64_t j = first; j < last; j += MAX_SUMS)
            compute_panels(p, function, chunk.expert, begin, end, j, last - j < MAX_SUMS ? last - j : MAX_SUMS, next);
    }
}

/* Work chunks of this thread until none is left. */
static void compute_chunks(const struct ggml_compute_params *params, const struct product *p) {
    const int64_t mean_tokens = p->routing.begins[p->op->n_experts] / p->routing.n_chosen;
    panel_function *function =
        p->in_file_order ? 0 : panel_functions_of(p->format)->panel[repacked_come_from(p->format, mean_tokens)];
    const int64_t n_chunks = p->routing.n_chosen * p->n_parts;
    for (int64_t number = params->ith; number < n_chunks;) {
        struct chunk chunk = chunk_of(p, number);
        number = params->nth > 1 ? upstream.ggml_threadpool_chunk_add(params->threadpool, 1) : number + 1;
        const uint8_t *following = number < n_chunks ? start_of(p, number) : 0;
        if (is_in_tiles(p, chunk.expert)) compute_tile_chunk(p, &chunk, following);
        else compute_chunk(p, function, chunk, following);
    }
}

static void refuse_unknown_experts(const struct product *p) {
    const struct expert_op *op = p->op;
    if (p->routing.begins[op->n_experts] == n_pairs_of(op->ids)) return;
    for (int32_t token = 0; token < op->ids->ne[1]; token++)
        for (int32_t used = 0; used < op->ids->ne[0]; used++) {
            const int32_t expert = expert_of(op->ids, used, token);
            if (expert >= 0 && expert < op->n_experts) continue;
            float *out = out_of(op->result, (struct pair){used, token});
            for (int64_t i = 0; i < op->result->ne[0]; i++) out[i] = NAN;
        }
}

/* Work chunks of an expert: enough for the threads to end together, none larger than MAX_CHUNK_BYTES. */
static int64_t parts_of_expert(const struct product *p, int n_threads) {
    const int64_t bytes = p->n_panels * p->panel_bytes * p->op->n_matrices;
    const int64_t enough = (CHUNKS_PER_THREAD * n_threads + p->routing.n_chosen - 1) / p->routing.n_chosen;
    const int64_t parts = enough > bytes / MAX_CHUNK_BYTES ? enough : bytes / MAX_CHUNK_BYTES;
    return parts < p->n_panels ? parts : p->n_panels;
}

static void count_products(const struct expert_op *op) {
    struct product_counts *counts = product_counts + EXPERTS;
    *(op->matrices[0].repacked ? &counts->repacked : &counts->in_file_order) += op->n_matrices;
}

void compute_expert_op(const struct ggml_compute_params *params, const struct expert_op *op) {
    const struct ggml_tensor *weights = op->matrices[0].weights;
    if (params->ith == 0) count_products(op);
    struct product p = {.op = op,
                        .in_file_order = !op->matrices[0].repacked,
                        .n_panels = (op->result->ne[0] + GROUP_ROWS - 1) / GROUP_ROWS};
    if (!find_format(weights->type, &p.format)) return; /* can_compute_expert_op has found it. */
    p.n_blocks = weights->ne[0] / traits_of(p.format).weights;
    p.panel_bytes = p.in_file_order ? GROUP_ROWS * (int64_t)weights->nb[1] : p.n_blocks * group_bytes(p.format);
    p.act_bytes = act_bytes_of(p.format, p.in_file_order, p.n_blocks);
    uint8_t *work = p.quantised = (uint8_t *)(((uintptr_t)params->wdata + 63) & ~(uintptr_t)63);
    const size_t own_routing = routing_bytes(op->n_experts, n_pairs_of(op->ids));
    work += quantised_bytes(p.format, p.in_file_order, op->activations, op->ids);
    p.routing = group_pairs(op->ids, op->n_experts, work + (size_t)params->ith * own_routing);
    if (!p.in_file_order)
        p.tiles = expert_tiles_in(work + (size_t)params->nth * own_routing, expert_tile_bytes(params->nth, op->product),
                                  params->ith, params->nth);
    if (p.routing.n_chosen) {
        p.n_parts = parts_of_expert(&p, params->nth);
        if (params->ith < p.routing.n_chosen * p.n_parts) prefetch_l2(start_of(&p, params->ith), PREFETCH_FIRST);
        quantise_share(params, &p);
    }
    if (params->ith == 0 && params->nth > 1) upstream.ggml_threadpool_chunk_set(params->threadpool, params->nth);
    /* From here on no activations are read: the result may be in their memory. */
    if (params->nth > 1) ggml_barrier(params->threadpool);
    if (params->ith == 0) refuse_unknown_experts(&p);
    if (p.routing.n_chosen) compute_chunks(params, &p);
}

/* Whether weights that lie as the file has them are multiplied here. */
static bool is_fast_in_file_order(const struct ggml_tensor *result) {
    const struct ggml_tensor *weights = result->src[0];
    enum format format;
    if (!upstream.ggml_get_type_traits_cpu || !find_format(weights->type, &format)) return false;
    const struct format_traits t = traits_of(format);
    return weights->nb[0] == (size_t)t.bytes && fits_file_order(format, weights->ne[0] / t.weights) &&
           (!is_super_block(format) || n_pairs_of(result->src[2]) < MIN_UPSTREAM_TILED_TOKENS * weights->ne[2]);
}

bool expert_product(const struct ggml_compute_params *params, struct ggml_tensor *result) {
    if (!has_known_shape(result)) return false;
    const struct ggml_tensor *weights = result->src[0];
    const struct repacked *repacked = find_repacked(params, weights);
    const struct expert_op op = {.product = result,
                                 .activations = result->src[1],
                                 .ids = result->src[2],
                                 .result = result,
                                 .n_experts = weights->ne[2],
                                 .n_matrices = 1,
                                 .matrices = {{weights, repacked, 0, 0, weights->ne[1]}}};
    if (!can_compute_expert_op(&op, params->nth, params->wsize) || (!repacked && !is_fast_in_file_order(result)))
        return false;
    compute_expert_op(params, &op);
    return true;
}
