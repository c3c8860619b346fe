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

#define MAX_SUMS          64   /* vectors of a matrix: 4 KB, which stay in the first-level cache */
#define PREFETCH_FIRST    4096 /* bytes of each matrix in a thread's next chunk */
#define CHUNKS_PER_THREAD 8
#define MAX_CHUNK_BYTES   (1 << 20)
_Static_assert(MAX_SUMS % TILE_TOKENS == 0, "activations are cut between tiles");

struct product {
    const struct expert_op *op;
    const struct panel_functions *functions;
    struct routing routing;
    uint8_t *quantised;             /* pairs by place, in tiles of up to TILE_TOKENS pairs of one expert */
    int64_t n_blocks, n_panels;     /* blocks of a row; panels of an expert's result */
    int64_t panel_bytes, act_bytes; /* of the weights of a panel; of a pair's quantised activations */
    int64_t n_parts;                /* work chunks of an expert */
};

/* Whether shapes are those of a product by expert. Upstream asserts most of this. */
static bool has_known_shape(const struct ggml_tensor *result) {
    const struct ggml_tensor *weights = result->src[0], *activations = result->src[1], *ids = result->src[2];
    return ids && ids->type == GGML_TYPE_I32 && ids->ne[2] == 1 && ids->ne[3] == 1 && weights->ne[3] == 1 &&
           activations->type == GGML_TYPE_F32 && activations->nb[0] == sizeof(float) && activations->ne[3] == 1 &&
           activations->ne[0] == weights->ne[0] && activations->ne[1] > 0 && activations->ne[2] == ids->ne[1] &&
           result->type == GGML_TYPE_F32 && result->nb[0] == sizeof(float) && result->ne[0] == weights->ne[1] &&
           result->ne[1] == ids->ne[0] && result->ne[2] == ids->ne[1] && result->ne[3] == 1;
}

INLINE int64_t n_pairs_of(const struct ggml_tensor *ids) { return ids->ne[0] * ids->ne[1]; }

static size_t quantised_bytes(enum format format, const struct ggml_tensor *activations,
                              const struct ggml_tensor *ids) {
    const int64_t n_blocks = activations->ne[0] / traits_of(format).weights;
    return (size_t)(n_pairs_of(ids) * n_blocks * act_block_bytes(format) + 63) / 64 * 64;
}

size_t expert_work_bytes(int n_threads, const struct ggml_tensor *result) {
    enum format format;
    if (!find_format(result->src[0]->type, &format) || !has_known_shape(result)) return 0;
    return 64 + quantised_bytes(format, result->src[1], result->src[2]) +
           (size_t)n_threads * routing_bytes(result->src[0]->ne[2], n_pairs_of(result->src[2]));
}

bool can_compute_expert_op(const struct expert_op *op, int n_threads, size_t work_bytes) {
    const size_t needed = expert_work_bytes(n_threads, op->product);
    for (int m = 0; m < op->n_matrices; m++)
        if (op->matrices[m].first_row % GROUP_ROWS || op->matrices[m].expert_rows % GROUP_ROWS) return false;
    return needed && needed <= work_bytes && op->result->ne[0] % GROUP_ROWS == 0 &&
           op->result->nb[0] == sizeof(float) && op->result->ne[1] == op->ids->ne[0] &&
           op->result->ne[2] == op->ids->ne[1] &&
           (n_threads == 1 || can_share_work(&(struct ggml_compute_params){.nth = n_threads}));
}

INLINE float *out_of(const struct ggml_tensor *result, struct pair pair) {
    return (float *)((char *)result->data + pair.used * (int64_t)result->nb[1] + pair.token * (int64_t)result->nb[2]);
}

/* ---- Activations ------------------------------------------------------------------------------------------------- */

/* Quantise this thread's share of the blocks of all pairs. */
static void quantise_share(const struct ggml_compute_params *params, const struct product *p) {
    const struct routing *routing = &p->routing;
    const struct ggml_tensor *activations = p->op->activations;
    const int64_t n_blocks = p->n_blocks, total = routing->begins[p->op->n_experts] * n_blocks;
    const int64_t begin = total * params->ith / params->nth, end = total * (params->ith + 1) / params->nth;
    for (int64_t c = 0; c < routing->n_chosen; c++) {
        const int32_t first = routing->begins[routing->chosen[c]], last = routing->begins[routing->chosen[c] + 1];
        if (last * n_blocks <= begin || first * n_blocks >= end) continue;
        for (int64_t place = first; place < last; place++) {
            const int64_t from = begin - place * n_blocks, till = end - place * n_blocks;
            if (till <= 0 || from >= n_blocks) continue;
            const struct pair pair = routing->pairs[place];
            const int64_t tile = first + (place - first) / TILE_TOKENS * TILE_TOKENS;
            const char *x = (const char *)activations->data +
                            pair.used % activations->ne[1] * (int64_t)activations->nb[1] +
                            pair.token * (int64_t)activations->nb[2];
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

static const uint8_t *panel_at(const struct product *p, int m, int64_t expert, int64_t panel) {
    const struct expert_matrix *matrix = p->op->matrices + m;
    return matrix->weights->data +
           ((expert * matrix->expert_rows + matrix->first_row) / GROUP_ROWS + panel) * p->panel_bytes;
}

static void prefetch_panel(const struct product *p, int64_t expert, int64_t panel) {
    for (int m = 0; m < p->op->n_matrices; m++) prefetch_l2(panel_at(p, m, expert, panel), PREFETCH_FIRST);
}

static void add_bias(const struct expert_matrix *matrix, int64_t expert, int64_t panel, int64_t count, float *sums) {
    const float *bias = (const float *)((const char *)matrix->bias->data + expert * (int64_t)matrix->bias->nb[1]) +
                        matrix->first_row + panel * GROUP_ROWS;
    for (int64_t j = 0; j < count; j++)
        for (int r = 0; r < GROUP_ROWS; r++) sums[j * GROUP_ROWS + r] += bias[r];
}

/* x / (1 + e^-(factor x)) */
INLINE vf sigmoid_times(vf x, float factor) {
    const vf power = vf_exp2(vf_mul(x, vf_set1(-1.44269504f * factor)));
    return vf_div(x, vf_add(vf_set1(1), power));
}

/* The gated numbers of a panel, in the place of those of the gate. */
static void apply_gate(const struct expert_op *op, int64_t count, float *gate, const float *up) {
    const vf limit = vf_set1(op->limit), below = vf_set1(-op->limit);
    for (int64_t i = 0; i < count * GROUP_ROWS; i += VF_LANES) {
        vf x = vf_loadu(gate + i), y = vf_loadu(up + i);
        if (op->gate == SWIGLU_OAI) {
            x = vf_min(limit, x), y = vf_max(below, vf_min(limit, y)); /* of NaN and a number, the second operand */
            x = sigmoid_times(x, op->alpha), y = vf_add(y, vf_set1(1));
        } else {
            x = sigmoid_times(x, 1);
        }
        vf_storeu(gate + i, vf_mul(x, y));
    }
}

/* Panels `begin` to `end` by pairs `first` to `first` + `count`, whose sums fit into MAX_SUMS vectors. All panels of a
 * matrix come before those of the other: memory that is read in order is 1.2 times as fast at one stream. */
static void compute_panels(const struct product *p, panel_function *function, int64_t expert, int64_t begin,
                           int64_t end, int64_t first, int64_t count) {
    float sums[2][MAX_SUMS * GROUP_ROWS];
    for (int m = 0; m < p->op->n_matrices; m++)
        for (int64_t panel = begin; panel < end; panel++) {
            float *out = sums[m] + (panel - begin) * count * GROUP_ROWS;
            function(p->n_blocks, panel_at(p, m, expert, panel), p->quantised + first * p->act_bytes, count, out,
                     GROUP_ROWS);
            if (p->op->matrices[m].bias) add_bias(p->op->matrices + m, expert, panel, count, out);
        }
    if (p->op->gate != NO_GATE) apply_gate(p->op, (end - begin) * count, sums[0], sums[1]);
    for (int64_t panel = begin; panel < end; panel++)
        for (int64_t j = 0; j < count; j++)
            memcpy(out_of(p->op->result, p->routing.pairs[first + j]) + panel * GROUP_ROWS,
                   sums[0] + ((panel - begin) * count + j) * GROUP_ROWS, GROUP_ROWS * sizeof(float));
}

static void compute_chunk(const struct product *p, panel_function *function, struct chunk chunk) {
    const int64_t first = p->routing.begins[chunk.expert], last = p->routing.begins[chunk.expert + 1];
    const int64_t n_panels = last - first < MAX_SUMS ? MAX_SUMS / (last - first) : 1;
    for (int64_t begin = chunk.begin; begin < chunk.end; begin += n_panels) {
        const int64_t end = begin + n_panels < chunk.end ? begin + n_panels : chunk.end;
        for (int64_t j = first; j < last; j += MAX_SUMS)
            compute_panels(p, function, chunk.expert, begin, end, j, last - j < MAX_SUMS ? last - j : MAX_SUMS);
    }
}

/* Work chunks of this thread until none is left. */
static void compute_chunks(const struct ggml_compute_params *params, const struct product *p) {
    panel_function *function =
        p->functions->panel[repacked_is_cached(p->op->matrices[0].weights->format) ? CACHE : MEMORY];
    const int64_t n_chunks = p->routing.n_chosen * p->n_parts;
    for (int64_t number = params->ith; number < n_chunks;) {
        struct chunk chunk = chunk_of(p, number);
        number = params->nth > 1 ? upstream.ggml_threadpool_chunk_add(params->threadpool, 1) : number + 1;
        if (number < n_chunks) {
            const struct chunk next = chunk_of(p, number);
            prefetch_panel(p, next.expert, next.begin);
        }
        compute_chunk(p, function, chunk);
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

void compute_expert_op(const struct ggml_compute_params *params, const struct expert_op *op) {
    const struct repacked *weights = op->matrices[0].weights;
    const enum format format = weights->format;
    uint8_t *work = (uint8_t *)(((uintptr_t)params->wdata + 63) & ~(uintptr_t)63);
    struct product p = {.op = op,
                        .functions = panel_functions_of(format),
                        .quantised = work,
                        .n_blocks = weights->n_blocks,
                        .n_panels = op->result->ne[0] / GROUP_ROWS,
                        .panel_bytes = weights->n_blocks * group_bytes(format),
                        .act_bytes = weights->n_blocks * act_block_bytes(format)};
    work += quantised_bytes(format, op->activations, op->ids) +
            (size_t)params->ith * routing_bytes(op->n_experts, n_pairs_of(op->ids));
    p.routing = group_pairs(op->ids, op->n_experts, work);
    if (p.routing.n_chosen) {
        p.n_parts = parts_of_expert(&p, params->nth);
        if (params->ith < p.routing.n_chosen * p.n_parts) {
            const struct chunk first = chunk_of(&p, params->ith);
            prefetch_panel(&p, first.expert, first.begin);
        }
        quantise_share(params, &p);
    }
    if (params->ith == 0 && params->nth > 1) upstream.ggml_threadpool_chunk_set(params->threadpool, params->nth);
    /* From here on no activations are read: the result may be in their memory. */
    if (params->nth > 1) ggml_barrier(params->threadpool);
    if (params->ith == 0) refuse_unknown_experts(&p);
    if (p.routing.n_chosen) compute_chunks(params, &p);
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
                                 .matrices = {{repacked, 0, 0, weights->ne[1]}}};
    if (!repacked || !can_compute_expert_op(&op, params->nth, params->wsize)) return false;
    compute_expert_op(params, &op);
    return true;
}
